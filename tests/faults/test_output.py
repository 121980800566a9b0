"""Faults of output: clients that read slowly or never, kernels that take little, writes that fail."""

import contextlib
import ctypes
import os
import re
import socket
import time
from pathlib import Path

import pytest
from conftest import RunningServer, Serve, exchange, read_exactly, read_to_end
from figures import own_bytes
from measures import linux, paused, traced, wait_until_read
from test_input import answers_to_lines, crowd, narrow_client, send_until_full
from witness import Witness

MIB = 1 << 20
LINES = b"".join(b"%099d\n" % i for i in range(300_000))  # more than one connection's buffers hold, the kernel's too

ANSWERING = "def reply(message):\n    return b'system: ' + message\n"
PIDFD_GETFD = 438  # on x86, ARM, RISC-V and nearly all others


def their_listener(server: RunningServer) -> socket.socket:
    """The very socket that a server listens on; see pidfd_getfd(2)."""
    pidfd = os.pidfd_open(server.process.pid)
    sockets = [
        path for path in Path(f"/proc/{server.process.pid}/fd").iterdir() if os.readlink(path).startswith("socket:")
    ]
    try:
        for path in sockets:
            fd = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, int(path.name), 0)
            assert fd >= 0, "this process may not take a server's descriptors"
            one = socket.socket(fileno=fd)
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return one
            one.close()
    finally:
        os.close(pidfd)
    raise AssertionError("the server has no listener")


def shrink(server: RunningServer) -> None:
    """Lets the kernel's buffer for the answers to later clients hold next to nothing."""
    with their_listener(server) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)


@pytest.mark.tool("strace")
@pytest.mark.parametrize("answering", [[], ["--hook", "answering:reply"]], ids=["template", "hook"])
def test_a_kernel_that_takes_little_at_a_time(answering: list[str], serve: Serve, poller: str, tmp_path: Path) -> None:
    """Answers that are written in many small pieces arrive whole: no byte is left out, none is sent twice."""
    (tmp_path / "answering.py").write_text(ANSWERING)
    server = serve("--framing", "line", "--poller", poller, *answering)
    lines = b"".join(b"%d" % i * 50 + b"\n" for i in range(3_000))
    shrink(server)
    with (
        Witness(server, framing="line"),
        narrow_client(server, 8_192) as client,
        traced(server, tmp_path / "calls", "sendto"),
    ):
        assert exchange(client, lines) == answers_to_lines(lines)
    sizes = [int(found) for found in re.findall(r"NULL, 0\) = (\d+)", (tmp_path / "calls").read_text())]
    assert sum(100 < size < 5_000 for size in sizes) > 20


@pytest.mark.tool("strace")
def test_a_write_of_two_pieces_ends_within_either(serve: Serve, tmp_path: Path) -> None:
    """A long answer is written with the short ones before it, in one call; what that leaves of either comes later."""
    server = serve("--framing", "line")
    shrink(server)
    with traced(server, tmp_path / "calls", "sendmsg"):
        for sizes in ([900, 40_000, 5], [7_000, 7_000, 7_000, 20_000]):
            lines = b"".join(b"%d" % i * size + b"\n" for i, size in enumerate(sizes))
            with narrow_client(server, 8_192) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
                with paused(server):  # so that all is read at once
                    client.sendall(lines)
                assert exchange(client, b"") == answers_to_lines(lines)
    calls = re.findall(r"iov_len=(\d+)\}.*iov_len=(\d+)\}.* = (\d+)$", (tmp_path / "calls").read_text(), re.MULTILINE)
    (first, second, written), (first_too, _, written_too) = [[int(number) for number in call] for call in calls]
    assert first < written < first + second
    assert 0 < written_too < first_too


@pytest.mark.tool("strace")
@pytest.mark.parametrize("error", ["EPIPE", "ECONNRESET", "ENOBUFS"])
def test_a_long_answer_that_fails_or_waits_is_as_any_other(error: str, serve: Serve, tmp_path: Path) -> None:
    """A call for two pieces that fails ends its connection alone; without memory in the kernel both pieces wait."""
    server = serve("--framing", "line")
    long = b"y" * 9_000
    with traced(server, tmp_path / "calls", "sendmsg", f"sendmsg:error={error}:when=1"):
        with server.connect() as client:
            client.sendall(b"x\n" + long + b"\nz\n")
            client.shutdown(socket.SHUT_WR)
            expected = b"system: x\nsystem: " + long + b"\nsystem: z\n"
            assert read_to_end(client) == (expected if error == "ENOBUFS" else b"")
        with Witness(server, framing="line") as witness:
            wait_until_read(witness)
    assert (tmp_path / "calls").read_text().count(f" {error} ") == 1
    server.finish()
    assert (server.closed("reset"), server.counter("unanswered")) == ((0, 0) if error == "ENOBUFS" else (1, 3))


@pytest.mark.tool("strace")
@pytest.mark.parametrize("error", ["EPIPE", "ECONNRESET", "ETIMEDOUT", "EPROTOTYPE"])
def test_a_write_that_fails_ends_its_connection_alone(error: str, serve: Serve, tmp_path: Path) -> None:
    """Whatever the errno, the answer is counted as unanswered, one line says it, and the loop goes on."""
    server = serve("--framing", "line")
    with traced(server, tmp_path / "calls", "sendto", f"sendto:error={error}:when=1"):
        with server.connect() as client:
            client.sendall(b"lost\n")
            assert read_to_end(client) == b""
        with Witness(server, framing="line") as witness:
            wait_until_read(witness)
    server.finish()
    assert (server.closed("reset"), server.counter("unanswered")) == (1, 1)
    assert len([line for line in server.lines if "connection reset" in line]) == 1


@pytest.mark.tool("strace")
@pytest.mark.parametrize("error", ["ENOBUFS", "ENOMEM"])
def test_a_kernel_without_memory_is_asked_again_now_and_then(error: str, serve: Serve, tmp_path: Path) -> None:
    """The answer waits for the kernel's memory, with an attempt at each sweep and not in each turn."""
    server = serve("--framing", "line")
    injected = f"sendto:error={error}:when=1..5"
    with traced(server, tmp_path / "calls", "sendto", injected), server.connect() as client:
        begun = time.monotonic()
        client.sendall(b"hi\n")
        assert read_exactly(client, 11) == b"system: hi\n"
        assert time.monotonic() - begun > 4 * 0.05
        with Witness(server, framing="line") as witness:
            wait_until_read(witness)
    server.finish()
    assert (tmp_path / "calls").read_text().count(f" {error} ") == 5
    assert server.counter("unanswered") == 0


@pytest.mark.tool("strace")
def test_filters_change_with_the_backlog_not_with_each_message(serve: Serve, tmp_path: Path) -> None:
    """A client that is read no more, and then again, costs two changes of its filters each time."""
    server = serve("--framing", "line", "--poller", "epoll")
    with Witness(server, framing="line"), narrow_client(server) as client:
        sent = send_until_full(client, LINES)
        answers = answers_to_lines(LINES[: sent - sent % 100])
        with traced(server, tmp_path / "calls", "epoll_ctl"):
            assert read_exactly(client, len(answers)) == answers
    changes = (tmp_path / "calls").read_text().count("epoll_ctl(")
    assert changes <= 2 * (sent / 65_536 + 1)


def what_came(client: socket.socket) -> bytes:
    """Ends our side and reads all until the end, even if that is a reset."""
    answers = bytearray()
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while part := client.recv(MIB):
            answers += part
    return bytes(answers)


@linux
@pytest.mark.parametrize("answering", [[], ["--hook", "answering:reply"]], ids=["template", "hook"])
def test_a_crowd_of_stalled_readers_has_a_ceiling(answering: list[str], serve: Serve, tmp_path: Path) -> None:
    """--max-buffered bounds what waits for all clients together: some are closed, the others get everything."""
    (tmp_path / "answering.py").write_text(ANSWERING)
    server = serve("--framing", "line", "--max-buffered", "1M", "--log-rate", "0", *answering)
    shrink(server)
    with Witness(server, framing="line") as witness, crowd(300, lambda: narrow_client(server, 8_192)) as clients:
        wait_until_read(witness)
        before = own_bytes(server.process.pid)
        for client in clients:
            with contextlib.suppress(ConnectionError):  # it has been closed
                client.sendall(LINES[:40_000])
        wait_until_read(witness)
        grown = own_bytes(server.process.pid) - before
        answers = [what_came(client) for client in clients]
    server.finish()
    assert grown < 3 * MIB
    assert all(answers_to_lines(LINES[:40_000]).startswith(one) for one in answers)
    assert server.closed("buffered") + sum(len(one) == 43_200 for one in answers) == len(answers)
    assert 0 < server.closed("buffered") < len(answers)


@pytest.mark.parametrize("framing", ["stream", "line"])
def test_empty_answers_among_others(framing: str, serve: Serve, tmp_path: Path) -> None:
    """An answer of no bytes is answered wherever it stands, and holds up neither the next one nor the end."""
    (tmp_path / "empty.py").write_text(
        "def reply(message):\n    return b'' if message == b'e' else b'system: ' + message\n"
    )
    server = serve("--framing", framing, "--hook", "empty:reply")
    with Witness(server, framing=framing) as witness:
        wait_until_read(witness)
        if framing == "line":
            assert server.exchange(b"e\na\ne\nb\ne\n") == b"\nsystem: a\n\nsystem: b\n\n"
        else:
            assert server.exchange(b"e") == b""
    server.finish()
    assert server.counter("answered") == server.counter("messages")
