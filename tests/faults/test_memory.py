"""Memory that is refused, memory that must not grow, and work that must not grow faster than what it is for."""

import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from bare_server import socket_count
from conftest import RunningServer, Serve, exchange, read_exactly, read_to_end, wait_until
from figures import own_bytes
from witness import Witness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and uses Linux's prlimit()")

MIB = 1 << 20

# Of Python's allocations after the answer to b"fail N", the one after the Nth fails.
FAILING_HOOK = """
import _testcapi

def reply(message):
    if message == b"well":
        _testcapi.remove_mem_hooks()
    answer = b"system: " + message
    if message.startswith(b"fail "):
        first = int(message.split()[1])
        _testcapi.set_nomemory(first, first + 1)
    return answer
"""


@pytest.fixture
def failing(serve: Serve, tmp_path: Path) -> Callable[[], RunningServer]:
    """Starts a server whose clients may say which allocation fails."""
    pytest.importorskip("_testcapi", reason="this Python is without _testcapi")
    (tmp_path / "failing.py").write_text(FAILING_HOOK)

    def start() -> RunningServer:
        server = serve("--framing", "line", "--hook", "failing:reply")
        server.allow("^error: hook failed: MemoryError")
        be_well(server)
        server.wait_for("^New client connected")  # the main thread has come to where it looks at the journals
        return server

    return start


def be_well(server: RunningServer) -> None:
    """Returns when allocations work again; the client that asks for it may itself meet the one that fails."""
    wait_until(lambda: server.exchange(b"well\n") == b"system: well\n", "the next clients are answered")


def test_an_allocation_that_fails_in_the_hook_costs_one_connection(failing: Callable[[], RunningServer]) -> None:
    """Whichever of Python's allocations fails while messages are answered, one connection ends, with right answers."""
    server = failing()
    expected = b"".join(b"system: after %d\n" % i for i in range(20))
    ended_early = 0
    for i in range(60):
        said = b"fail %d\n" % i
        answers = server.exchange(said + b"".join(b"after %d\n" % i for i in range(20)))
        assert (b"system: " + said + expected).startswith(answers)
        assert answers.endswith(b"\n")
        ended_early += len(answers) < len(said) + len(expected) + 8
        be_well(server)
    server.finish()
    print(f"{ended_early} of 60 connections ended early")
    assert 0 < ended_early <= server.closed("hook")


def test_an_allocation_that_fails_beside_the_hook_costs_a_line(failing: Callable[[], RunningServer]) -> None:
    """Whichever of the allocations fails that the main thread makes for the log, the server goes on."""
    server = failing()
    for i in range(40):
        with server.connect() as client:
            said = b"fail %d\n" % i
            client.sendall(said)
            assert read_exactly(client, 8 + len(said)) == b"system: " + said
            time.sleep(0.06)  # the main thread looks at the journals every 50 ms
        be_well(server)


# --- Memory of the process ---


def mapped_bytes(pid: int) -> int:
    """The size of its address space."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def has_ended(client: socket.socket) -> bool:
    """Whether the server has closed it, and owed it nothing."""
    poll = select.poll()
    poll.register(client, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_an_address_space_that_is_used_up_ends_those_who_want_more(serve: Serve) -> None:
    """At RLIMIT_AS whose message finds no memory is closed for that; the others are served, and new ones too."""
    server = serve("--framing", "line", "--max-message", "4M", "--max-buffered", "1G", "--log-rate", "0")
    pid = server.process.pid
    with Witness(server, framing="line") as witness:
        before = resource.prlimit(pid, resource.RLIMIT_AS)
        resource.prlimit(pid, resource.RLIMIT_AS, (mapped_bytes(pid) + 32 * MIB, before[1]))
        clients = [server.connect() for _ in range(40)]
        for client in clients:
            with suppress(ConnectionError):  # it found no memory
                client.sendall(b"x" * (2 * MIB))
        all_has_been_read = witness.answered + 100  # in each turn every client is read once
        wait_until(lambda: witness.answered > all_has_been_read, "the witness is answered on")
        assert server.exchange(b"hi\n") == b"system: hi\n"
        survivors = [client for client in clients if not has_ended(client)]
        resource.prlimit(pid, resource.RLIMIT_AS, before)
        for client in survivors:
            assert exchange(client, b"\n") == b"system: " + b"x" * (2 * MIB) + b"\n"
        for client in clients:
            client.close()
        assert server.exchange(b"hi\n") == b"system: hi\n"
    server.finish()
    print(f"{server.closed('error')} of 40 clients found no memory")
    assert server.closed("error") == 40 - len(survivors) > 0


def talk(client: socket.socket, chooser: random.Random, count: int) -> None:
    """Messages of all sizes, in lock-step."""
    for _ in range(count):
        size = int(2 ** chooser.uniform(0, 20))
        client.sendall(size.to_bytes(4, "big") + b"x" * size)
        (answer_size,) = struct.unpack(">I", read_exactly(client, 4))
        assert answer_size == size + 8
        left = answer_size
        while left > 0:
            left -= len(client.recv(min(left, MIB)))


def test_messages_of_all_sizes_leave_no_memory_behind(serve: Serve) -> None:
    """From 1 byte to 1 MiB, over several connections at once: after a warm-up, memory grows no further."""
    server = serve("--framing", "u32", "--log-rate", "0")
    chooser = random.Random(5)
    clients = [server.connect() for _ in range(4)]

    def talk_all(count: int) -> None:
        for _ in range(count // 20):
            talk(chooser.choice(clients), chooser, 20)

    talk_all(1_000)
    after_warm_up = own_bytes(server.process.pid)
    talk_all(4_000)
    growth = own_bytes(server.process.pid) - after_warm_up
    print(f"{growth / 1024:.0f} KiB more after 4,000 messages")
    assert growth <= MIB
    for client in clients:
        client.close()


# --- Work that grows with its cause, and no faster ---


def cpu_ns(pid: int) -> int:
    """Processor time that all threads of a process have used."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


@pytest.fixture
def many_descriptors() -> None:
    """This process may hold as many connections as the tests need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 9_000:
        pytest.skip("this system allows fewer than 9,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect_all(server: RunningServer, count: int) -> list[socket.socket]:
    """So many clients that the server has accepted."""
    without_clients = socket_count(server.process.pid)
    clients = [server.connect() for _ in range(count)]
    wait_until(lambda: socket_count(server.process.pid) == without_clients + count, "all are accepted")
    return clients


def work_of_a_stop_ns(serve: Serve, count: int) -> int:
    """Processor time from a SIGTERM until so many clients have seen their end."""
    server = serve("--log-rate", "0")
    clients = connect_all(server, count)
    before_ns = cpu_ns(server.process.pid)
    server.kill()
    for client in clients:
        assert read_to_end(client) == b""
    used_ns = cpu_ns(server.process.pid) - before_ns
    for client in clients:
        client.close()
    assert server.wait() == 0
    assert server.closed("stopped") == count
    return used_ns


def work_of_ends_ns(serve: Serve, count: int) -> int:
    """Processor time until the ends of so many clients, which come all at once, have been seen to."""
    server = serve("--log-rate", "0")
    clients = connect_all(server, count)
    server.kill(signal.SIGSTOP)
    for client in clients:
        client.close()
    before_ns = cpu_ns(server.process.pid)
    server.kill(signal.SIGCONT)
    server.wait_until_idle()
    return cpu_ns(server.process.pid) - before_ns


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("work_ns", [work_of_a_stop_ns, work_of_ends_ns], ids=["a stop", "clients' ends"])
def test_twice_as_many_connections_are_twice_the_work(work_ns: Callable[[Serve, int], int], serve: Serve) -> None:
    """Nothing looks through all connections for each: 8,000 ends cost less than 2.5 times as much as 4,000."""
    few_ns, many_ns = [], []
    while len(few_ns) < 4 and not (few_ns and min(many_ns) < 2.5 * min(few_ns)):  # the machine's noise may spoil some
        few_ns.append(work_ns(serve, 4_000))
        many_ns.append(work_ns(serve, 8_000))
    ratio = min(many_ns) / min(few_ns)
    print(f"4,000: {min(few_ns) / 1e6:.1f} ms, 8,000: {min(many_ns) / 1e6:.1f} ms, ratio {ratio:.2f}")
    assert ratio < 2.5
