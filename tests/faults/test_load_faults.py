"""The load tester among faults of its own machine and servers that lie: each is counted under its own name."""

import itertools
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from bare_server import socket_count
from conftest import PATIENCE_S, RunningServer, Serve, wait_until
from scripted import ScriptedServer, lines_of
from witness import Witness

from kqnative.load import LoadPlan, LoadResult, run_load

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's prlimit() and network namespaces")


def kinds_of(errors: dict[str, int]) -> dict[str, int]:
    """The kinds of errors that there were."""
    return {kind: count for kind, count in errors.items() if count and kind != "total"}


# --- A machine that has no room for more connections ---

# In a network of its own, with 20 ports in all: the server takes none of them, and the tester's first look at it one.
PORTS = 20
FEW_PORTS = """
import fcntl, json, socket, struct, sys
from kqnative import Server
from kqnative.load import LoadPlan, run_load

with socket.socket() as any_socket:  # the loopback interface goes up
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
for name, value in (("ip_local_port_range", "41001 41020"), ("tcp_tw_reuse", "0")):
    with open(f"/proc/sys/net/ipv4/{name}", "w") as file:
        file.write(value)
with Server(host="127.0.0.1", port=8080, framing="line") as server:
    fields = json.loads(sys.argv[1])
    result = run_load(LoadPlan(target="127.0.0.1:8080", warmup=0, expect="system: {message}", **fields))
    print(json.dumps(result.to_json() | {"server": server.stats().answered}))
"""


def with_few_ports(**fields: Any) -> dict[str, Any]:
    """The report of a run, and under "server" what the server answered."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", FEW_PORTS, json.dumps(fields)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=True)
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


@needs_linux
@pytest.mark.tool("unshare")
def test_more_connections_than_ports_are_counted_as_such() -> None:
    """Connections for which there is no port are no_local_port, each attempt; the others get all their answers."""
    report = with_few_ports(connections=PORTS + 10, duration=0.3)
    errors = kinds_of(report["errors"])
    assert errors.keys() == {"no_local_port"}
    assert errors["no_local_port"] >= 11
    assert report["messages"] == report["server"] > 0


@needs_linux
@pytest.mark.tool("unshare")
def test_ports_in_time_wait_are_counted_as_such() -> None:
    """When each message's connection leaves its port in TIME_WAIT, the ports are used up, and that is what is said."""
    report = with_few_ports(connections=1, reconnect_every=1, duration=0.6)
    assert kinds_of(report["errors"]).keys() == {"no_local_port"}
    assert report["messages"] == report["server"] == PORTS - 1


class Loading:
    """`python -m kqnative load` in a process, and its JSON report."""

    def __init__(self, server: RunningServer, *args: str) -> None:
        command = [sys.executable, "-m", "kqnative", "load", server.address, "--json", "-", "--quiet", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def report(self) -> dict[str, Any]:
        """Once it has ended."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        report = json.loads(out)
        assert isinstance(report, dict)
        return report


@needs_linux
def test_descriptors_that_run_out_are_counted_as_such(serve: Serve) -> None:
    """A tester whose limit of descriptors is lowered under it counts no_descriptor, and the messages of the others."""
    server = serve("--framing", "line", "--log-rate", "0")
    without_clients = socket_count(server.process.pid)
    with Witness(server, framing="line"):
        load = Loading(server, "-c", "20", "-d", "0.5", "--warmup", "0", "--reconnect-every", "5")
        wait_until(lambda: socket_count(server.process.pid) > without_clients + 10, "the load is on")
        resource.prlimit(load.process.pid, resource.RLIMIT_NOFILE, (12, 1_000))
        report = load.report()
    assert load.process.returncode == 0  # errors alone fail a run only with --fail-if
    assert kinds_of(report["errors"]).keys() == {"no_descriptor"}
    assert report["messages"] > 0


# --- Servers that die, and servers that lie ---


def test_a_server_that_is_killed_ends_the_run(serve: Serve) -> None:
    """SIGKILL under load: what was in flight is reset or closed, then nobody listens; exit code 1, with a report."""
    server = serve("--framing", "line", "--log-rate", "0", exit_code=-signal.SIGKILL)
    without_clients = socket_count(server.process.pid)
    load = Loading(server, "-c", "10", "--depth", "4", "-d", "20", "--warmup", "0", "--connect-timeout", "0.3")
    wait_until(lambda: socket_count(server.process.pid) >= without_clients + 10, "all are connected")
    time.sleep(0.2)  # a while under load
    server.kill(signal.SIGKILL)
    report = load.report()
    assert load.process.returncode == 1
    assert report["ended_because"] == "no connection was open for 0.3 s"
    errors = kinds_of(report["errors"])
    assert errors.keys() <= {"reset", "closed", "short_answer", "refused", "timeout"}
    assert errors["refused"] >= 10
    lost = sum(errors.get(kind, 0) for kind in ("reset", "closed", "short_answer"))
    assert 0 < lost <= 40
    assert report["sent"] == report["messages"] + lost


MESSAGES = 4_000


def lied_to(timeout_s: float) -> LoadResult:
    """A run against a server that drops 1 answer in 1,000, corrupts a byte in 2 and delays 4 of them by 200 ms."""
    numbers = itertools.count(1)

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            number = next(numbers)
            if number % 1_000 == 0:
                continue
            if number % 500 == 250:
                line = line[:3] + bytes([line[3] ^ 1]) + line[4:]
            if number % 250 == 125:
                time.sleep(0.2)  # the lie itself
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        return run_load(
            LoadPlan(
                target=server.target,
                messages=MESSAGES,
                connections=8,
                timeout=timeout_s,
                message="hello {n}",
                expect="{message}",
            )
        )


def test_a_lying_server_is_reported_to_the_number() -> None:
    """What it dropped is timeout, what it corrupted is wrong_answer, what it delayed is in the latencies: exactly."""
    dropped, corrupted, delayed = MESSAGES // 1_000, MESSAGES // 500, MESSAGES // 250
    slow: list[int] = []
    while len(slow) < 3 and delayed not in slow:  # the machine's noise may delay another one
        result = lied_to(timeout_s=0.6)
        assert kinds_of(result.errors) == {"timeout": dropped, "wrong_answer": corrupted}
        assert result.sent == MESSAGES
        assert result.messages == len(result.latency) == MESSAGES - dropped - corrupted
        assert result.reconnects <= dropped
        slow.append(sum(count for end_us, count in result.latency.buckets() if end_us >= 200_000))
        assert slow[-1] >= delayed
    assert delayed in slow


def test_a_server_that_answers_late_is_slow_and_no_more() -> None:
    """200 ms for each answer are at least 200 ms at the minimum, in the response times of an open loop too."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            time.sleep(0.2)  # the lie itself
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        for plan in ({"messages": 8}, {"rate": 20, "duration": 0.4, "warmup": 0}):
            result = run_load(LoadPlan(target=server.target, connections=4, expect="{message}", **plan))
            assert kinds_of(result.errors) == {}
            fastest_us = result.latency_us["min"]
            assert fastest_us is not None
            assert fastest_us >= 199_000  # to three digits
            assert result.messages == 8
