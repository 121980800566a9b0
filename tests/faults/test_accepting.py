"""Faults of accepting: no descriptor, no memory, clients that are gone already, and too many of them at once."""

import errno
import json
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import PATIENCE_S, RunningServer, Serve, read_exactly
from figures import cpu_s, own_bytes, record
from measures import linux, paused, traced, wait_until_read
from witness import Witness

RESETTING = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: on, for no time
QUIET = ("--log-rate", "0")  # lines about clients would be many
MIB = 1 << 20


def connect_all(stack: ExitStack, server: RunningServer, count: int) -> list[socket.socket]:
    """So many clients, each of which has sent `hi`."""
    clients = [stack.enter_context(server.connect()) for _ in range(count)]
    for client in clients:
        client.sendall(b"hi")
    return clients


def answered_within(timeout_s: float, clients: list[socket.socket], enough: int = sys.maxsize) -> list[socket.socket]:
    """Which of these clients are answered so soon; it returns at once when there are enough."""
    deadline = time.monotonic() + timeout_s
    waiting, answered = list(clients), []
    while waiting and len(answered) < enough and (left_s := deadline - time.monotonic()) > 0:
        poll = select.poll()
        for client in waiting:
            poll.register(client, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(left_s * 1_000)}
        for client in [one for one in waiting if one.fileno() in ready]:
            assert read_exactly(client, 10) == b"system: hi"
            waiting.remove(client)
            answered.append(client)
    return answered


def limit_descriptors(server: RunningServer, more: int) -> None:
    """It may open so many more, from now on."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (server.descriptor_count() + more, hard))


@linux
def test_without_descriptors_clients_wait_and_nothing_spins(serve: Serve) -> None:
    """Of 20 clients 2 are served; one more is when one goes, and all when the limit rises; meanwhile nothing spins."""
    server = serve(*QUIET)
    server.allow("EMFILE")
    with Witness(server) as witness, ExitStack() as stack:
        wait_until_read(witness)
        raised = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        limit_descriptors(server, 2)
        clients = connect_all(stack, server, 20)
        first = answered_within(0.5, clients)
        assert len(first) == 2
        waiting = [client for client in clients if client not in first]
        spent_s = cpu_s(server.process.pid)
        assert not answered_within(1, waiting)
        assert cpu_s(server.process.pid) - spent_s < 0.1  # the witness's share of it is the larger one
        first[0].close()
        (second,) = answered_within(1, waiting, 1)
        waiting.remove(second)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, raised)
        assert len(answered_within(1, waiting)) == 17
    server.finish()
    assert sum("cannot accept" in line for line in server.lines) <= 4  # in two seconds


# What accept() can say, and why it is not the end.
NOTHING_LEFT = ["ENFILE", "ENOBUFS", "ENOMEM"]
LISTENER_BROKEN = ["EBADF", "EINVAL", "ENOTSOCK"]
CLIENTS_OWN = ["ECONNABORTED", "EINTR", "EPROTO", "EPERM", "ENETDOWN", "EHOSTUNREACH", "EOPNOTSUPP"]


def accept_errors(server: RunningServer) -> dict[str, int]:
    """How often accept() failed, by errno."""
    return {name: int(count) for name, count in re.findall(r"accept_errors (\w+) (\d+)", server.lines[-1])}


def connect_while_accept_fails(server: RunningServer, error: str, log: Path) -> float:
    """A client comes, and accept() fails three times for this reason; how long it waits for its answer."""
    with traced(server, log, "accept4", f"accept4:error={error}:when=1..3"), server.connect() as client:
        begun = time.monotonic()
        client.sendall(b"hi")
        assert read_exactly(client, 10) == b"system: hi"
        return time.monotonic() - begun


@linux
@pytest.mark.tool("strace")
def test_accept_pauses_while_the_system_has_nothing_left(serve: Serve, tmp_path: Path) -> None:
    """Each failure is followed by a pause of 100 ms, one line a second says it, and the client is served after all."""
    server = serve(*QUIET)
    server.allow("cannot accept clients")
    errors = NOTHING_LEFT + LISTENER_BROKEN
    with Witness(server) as witness:
        wait_until_read(witness)
        for error in errors:
            waited_s = connect_while_accept_fails(server, error, tmp_path / "calls")
            assert 0.2 < waited_s < 1, error
            assert server.wait_for(f"^warning: cannot accept clients: {error}")
    server.finish()
    assert accept_errors(server) == dict.fromkeys(errors, 3)
    assert f"accept_pauses {3 * len(errors)}" in server.lines[-1]
    assert sum("cannot accept" in line for line in server.lines) == len(errors)


@linux
@pytest.mark.tool("strace")
def test_accept_goes_on_when_one_client_failed(serve: Serve, tmp_path: Path) -> None:
    """An errno of the client that was to be accepted is counted, and the next one is accepted without a pause."""
    server = serve(*QUIET)
    server.allow("cannot accept clients")
    with Witness(server) as witness:
        wait_until_read(witness)
        for error in CLIENTS_OWN:
            connect_while_accept_fails(server, error, tmp_path / "calls")
    server.finish()
    assert accept_errors(server) == {errno.errorcode[getattr(errno, name)]: 3 for name in CLIENTS_OWN}
    assert "accept_pauses" not in server.lines[-1]


@linux
@pytest.mark.tool("strace")
@pytest.mark.parametrize("error", ["ENOMEM", "ENOSPC"])
def test_a_client_that_epoll_refuses_is_closed(error: str, serve: Serve, tmp_path: Path) -> None:
    """Its end has the reason `error`; the listener listens on, and the next client is served."""
    server = serve()
    with Witness(server) as witness:
        wait_until_read(witness)
        with traced(server, tmp_path / "calls", "epoll_ctl", f"epoll_ctl:error={error}:when=1"):
            with server.connect() as refused:
                assert refused.recv(1) == b""
            assert server.exchange(b"hi") == b"system: hi"
    server.finish()
    assert server.closed("error") == 1


STORM = """
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
sys.stdin.read(1)
clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(count)]
for client in clients:
    client.sendall(b"hi")
for client in clients:
    assert client.recv(100) == b"system: hi"
print(len(clients))
"""
STORM_PROCESSES = 8
STORM_CONNECTS = 10_000 // STORM_PROCESSES


def storm_gap_s(server: RunningServer) -> float:
    """The longest that a witness waits while thousands connect at once and are all served."""
    args = ["nice", "-n", "19", sys.executable, "-c", STORM, str(server.port), str(STORM_CONNECTS)]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(STORM_PROCESSES)
        ]
        with Witness(server) as witness:
            for client in clients:
                assert client.stdin
                client.stdin.write(b"\n")
                client.stdin.flush()
            for client in clients:
                assert int(client.communicate()[0]) == STORM_CONNECTS
        return witness.longest_gap_s


@linux
def test_a_storm_of_connects_holds_up_nobody(serve: Serve) -> None:
    """10,000 connects from 8 processes delay a client that is served already by at most 100 ms; all are served."""
    needed = STORM_PROCESSES * STORM_CONNECTS + 100
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < needed:
        pytest.skip(f"this system allows a process fewer than {needed} descriptors")
    server = serve()
    gaps_s = []
    while len(gaps_s) < 3 and min(gaps_s, default=1) > 0.1:
        gaps_s.append(storm_gap_s(server))
        server.wait_until_idle()
    record(f"accept storm: {STORM_PROCESSES * STORM_CONNECTS:,} connects, a witness waited {min(gaps_s) * 1000:.0f} ms")
    assert min(gaps_s) <= 0.1


@linux
def test_clients_that_reset_before_they_are_accepted_are_resets(serve: Serve) -> None:
    """10,000 of them end as that and leave nothing behind; the lines about some show who they were."""
    server = serve("--log-format", "json", "--log-rate", "2k")
    ports = set()
    with Witness(server, most_gap_s=None):
        for _ in range(10):
            with paused(server):
                for _ in range(1_000):
                    client = server.connect()
                    ports.add(client.getsockname()[1])
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
                    client.close()
            assert server.exchange(b"hi") == b"system: hi"  # it stood behind them
    server.finish()
    assert (server.counter("accepted"), server.closed("reset")) == (10_011, 10_000)
    lines = [json.loads(line) for line in server.lines]
    assert {line["level"] for line in lines} == {"info"}
    assert {line["peer"] for line in lines if line.get("reason") == "reset"} <= {f"127.0.0.1:{port}" for port in ports}
    assert any(line.get("reason") == "reset" for line in lines)


@linux
def test_a_port_scan_costs_nothing(serve: Serve) -> None:
    """10,000 clients that only come and go take no memory, and no more lines than the rate allows."""
    server = serve("--log-rate", "10")
    begun = time.monotonic()

    def scan(count: int) -> None:
        for _ in range(count):
            server.connect().close()
        server.wait_until_idle()

    scan(1_000)
    before = own_bytes(server.process.pid)
    scan(9_000)
    assert own_bytes(server.process.pid) - before < MIB // 4
    server.finish()
    assert server.closed("eof") == 10_000
    about_clients = [line for line in server.lines if "FD" in line]
    assert len(about_clients) <= 10 * (int(time.monotonic() - begun) + 2)


def test_as_many_come_in_as_leave(serve: Serve) -> None:
    """At the limit, with four loops, ten places that become free are taken by ten that wait, within 100 ms."""
    server = serve("--max-connections", "20", "--loops", "4")
    with Witness(server), ExitStack() as stack:
        served = connect_all(stack, server, 19)
        assert len(answered_within(PATIENCE_S, served)) == 19
        waiting = connect_all(stack, server, 50)
        assert not answered_within(0.2, waiting)
        took_s = []
        for _ in range(3):
            begun = time.monotonic()
            for client in served[:10]:
                client.close()
            come_in = answered_within(PATIENCE_S, waiting, 10)
            took_s.append(time.monotonic() - begun)
            waiting = [client for client in waiting if client not in come_in]
            served = served[10:] + come_in
            assert not answered_within(0.2, waiting)
        assert min(took_s) < 0.1  # a busy machine may take longer twice


@pytest.mark.timeout(120)
def test_clients_are_spread_evenly(serve: Serve, tmp_path: Path) -> None:
    """Of 4,000 clients each of four loops serves 1,000, whatever the system thinks of sharing a port."""
    count = 4_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 100:
        pytest.skip(f"this system allows a process fewer than {count + 100} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 100), hard))
    (tmp_path / "who.py").write_text(
        "import threading\ndef reply(message):\n    return threading.current_thread().name[-1:].encode()\n"
    )
    server = serve("--loops", "4", "--hook", "who:reply", *QUIET)
    with ExitStack() as stack:
        clients = connect_all(stack, server, count)
        served = Counter(read_exactly(client, 1) for client in clients)
    assert set(served.values()) == {count // 4}
    assert len(served) == 4
