"""--spin: a loop that looks for the next events before it sleeps; it answers as any other does."""

import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import (
    FRAMED,
    PATIENCE_S,
    RunningServer,
    Serve,
    check_stats,
    exchange,
    read_exactly,
    read_to_end,
    wait_until,
)
from figures import cpu_s
from witness import Witness

from kqnative import Server

TRIES = 3  # somebody else may be at work on the machine
IDLE_S = 1.0
IDLE_SHARE = 0.02


def answered(client: socket.socket, count: int, pause_s: float = 0.0) -> None:
    """So many lines in lock-step, with a pause after each answer."""
    for i in range(count):
        client.sendall(b"%d\n" % i)
        expected = b"system: %d\n" % i
        assert read_exactly(client, len(expected)) == expected
        time.sleep(pause_s)


def connect(server: Server) -> socket.socket:
    """A client of a server in this process."""
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


def spinning(seconds: float) -> Server:
    """A line server in this process."""
    return Server(host="127.0.0.1", port=0, framing="line", reply="system: {message}", spin=seconds)


@pytest.mark.parametrize("framing", ["stream", "line", "u32"])
def test_messages_are_answered_as_ever(framing: str, serve: Serve, poller: str) -> None:
    """In every framing and on every poller, one message at a time and a thousand at once."""
    server = serve("--framing", framing, "--poller", poller, "--spin", "5ms")
    framed = FRAMED[framing]
    with Witness(server, framing=framing) as witness:
        wait_until(lambda: witness.answered >= 20, "the witness is answered")
        texts = [b"%d" % i for i in range(1_000)]
        answers = server.exchange(b"".join(map(framed, texts)))
        if framing == "stream":
            assert answers.replace(b"system: ", b"") == b"".join(texts)
        else:
            assert answers == b"".join(framed(b"system: " + text) for text in texts)


def test_a_hook_is_called_as_ever(serve: Serve, tmp_path: Path) -> None:
    """Functions answer in order, and one that takes longer than the loop looks is no reason to look on."""
    (tmp_path / "slow.py").write_text(
        "import time\n\ndef reply(message):\n    time.sleep(0.02 * (message == b'slow'))\n"
        "    return b'system: ' + message\n"
    )
    server = serve("--framing", "line", "--spin", "5ms", "--hook", "slow:reply")
    with Witness(server, framing="line"):
        lines = b"".join(b"%d\n" % i for i in range(500)) + b"slow\n" * 5 + b"last\n"
        expected = b"".join(b"system: " + line for line in lines.splitlines(keepends=True))
        assert server.exchange(lines) == expected


def test_each_of_two_loops_takes_its_clients(serve: Serve, poller: str) -> None:
    """Clients are handed to a loop that looks, and to one that sleeps, and both answer."""
    server = serve("--framing", "line", "--poller", poller, "--spin", "5ms", "--loops", "2")
    with Witness(server, framing="line", connections=2):
        for _ in range(20):
            with server.connect() as one, server.connect() as other:
                answered(one, 5)
                answered(other, 5)
                assert exchange(other, b"last") == b"system: last"


def idle_share(server: RunningServer) -> float:
    """The share of a processor that it uses while nothing happens: the least of some tries."""
    least = 1.0
    for _ in range(TRIES):
        before_s = cpu_s(server.process.pid)
        time.sleep(IDLE_S)  # a while of doing nothing is what is measured
        least = min(least, (cpu_s(server.process.pid) - before_s) / IDLE_S)
        if least < IDLE_SHARE:
            break
    return least


@pytest.mark.skipif(sys.platform != "linux", reason="processor time is asked of Linux")
@pytest.mark.parametrize("loops", ["1", "2"])
def test_a_server_sleeps_soon_after_its_traffic_has_ended(loops: str, serve: Serve) -> None:
    """Its clients are still there, and it uses next to nothing of the processor."""
    server = serve("--framing", "line", "--spin", "5ms", "--loops", loops)
    with server.connect() as one, server.connect() as other:
        answered(one, 200)
        answered(other, 200)
        assert idle_share(server) < IDLE_SHARE


def turns_and_events(server: Server) -> tuple[int, int]:
    """How often its loop has waited, and for how many events."""
    stats = server.stats()
    return stats.turns, stats.events


def test_a_loop_looks_while_messages_follow_closely() -> None:
    """Between messages a millisecond apart it waits again and again, without sleep; without --spin once for each."""
    for spin, looks in ((0.05, True), (0.0, False)):
        with spinning(spin) as server, connect(server) as client:
            turns, events = turns_and_events(server)
            answered(client, 50, pause_s=0.001)
            turns_later, events_later = turns_and_events(server)
            assert (turns_later - turns > 20 * (events_later - events)) == looks


def test_messages_that_come_sparsely_are_slept_for() -> None:
    """Clients that send every 20 ms make a loop that is told to look for 5 ms wait about once for each message."""
    with spinning(0.005) as server, connect(server) as client:
        answered(client, 1)
        time.sleep(0.02)  # as far as its connecting and this message are from the next
        turns, events = turns_and_events(server)
        answered(client, 25, pause_s=0.02)
        turns_later, events_later = turns_and_events(server)
        assert events_later - events == 25
        assert turns_later - turns < 25 + 25 + 10  # sweeps and the journal's second have turns of their own


def test_counters_and_the_stop_come_while_it_looks() -> None:
    """Whoever asks waits no longer, though the loop would look for a second."""
    with spinning(1.0) as server:
        with connect(server) as client:
            answered(client, 100)
            begun = time.monotonic()
            assert server.stats().answered == 100
            assert time.monotonic() - begun < 0.5
        begun = time.monotonic()
        server.stop(5)
        assert time.monotonic() - begun < 0.5
        check_stats(server.stats())


def test_a_stop_in_the_middle_of_traffic_loses_no_answer() -> None:
    """What was sent before the stop is answered, and the connection ends, while another client keeps the loop awake."""
    with spinning(0.05) as server:
        with connect(server) as client, connect(server) as other:
            answered(other, 100)
            client.sendall(b"x\n" * 1_000)
            stopping = threading.Thread(target=server.stop, args=(5,))
            stopping.start()
            assert read_to_end(client) == b"system: x\n" * 1_000
            assert read_to_end(other) == b""
            client.close()
            other.close()
            stopping.join()
        check_stats(server.stats())


def test_deadlines_hold_while_it_looks(serve: Serve, poller: str) -> None:
    """An idle client is closed in time by a loop that another one keeps from sleeping."""
    server = serve("--framing", "line", "--poller", poller, "--spin", "1s", "--idle-timeout", "300ms")
    with Witness(server, framing="line"), server.connect() as client:
        begun = time.monotonic()
        assert read_to_end(client) == b""
        assert 0.25 <= time.monotonic() - begun < 1.3
    server.finish()
    assert server.closed("idle") == 1
