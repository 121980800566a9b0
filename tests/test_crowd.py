"""Load held: as many connections as a process may have, with messages on all of them."""

import sys

import pytest
from conftest import Serve
from crowd import hold, need_descriptors
from figures import record

RATE = 10_000  # messages a second
HELD_S = 3.0
MOST_SERVER_BYTES = 256  # of memory for each connection


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read in /proc, and each server has an address of 127/8")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("connections", [10_000, 19_000])
def test_a_crowd_is_answered(serve: Serve, connections: int) -> None:
    """So many connections are open in one process at once: all are answered, none is lost, and each costs little."""
    need_descriptors(connections)
    crowd = hold([serve("--framing", "line")], connections, RATE, HELD_S)
    record(f"crowd: {connections:,} connections to one process, {crowd}")
    assert crowd.connections == connections
    assert crowd.server_bytes <= MOST_SERVER_BYTES
