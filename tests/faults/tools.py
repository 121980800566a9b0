"""Networks of a test's own: a server and its clients in two namespaces, joined by links that the test may harm."""

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from conftest import PATIENCE_S, REQUIRE_TOOLS, RunningServer, Serve
from measures import linux
from witness import Witness

CLONE_NEWNET = 0x40000000  # as unshare() and setns() name a network namespace
SOUND, HARMED = 0, 1  # the links: the witness's, and the one that things are done to

_libc = ctypes.CDLL(None, use_errno=True)


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run(command: str) -> str:
    """A command's output; what it complains of is the failure's text."""
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Namespace:
    """A network namespace without a name: it is gone with the last process, socket and descriptor that it has."""

    def __init__(self) -> None:
        outer = _own_namespace()
        try:
            _check(_libc.unshare(CLONE_NEWNET))
            self._fd = _own_namespace()
            run("ip link set lo up")
        finally:
            _check(_libc.setns(outer, CLONE_NEWNET))
            os.close(outer)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets and processes that this thread makes meanwhile belong to it, and stay there."""
        outer = _own_namespace()
        _check(_libc.setns(self._fd, CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(outer, CLONE_NEWNET))
            os.close(outer)

    def run(self, *commands: str) -> str:
        """Runs commands in it; the last one's output."""
        with self.entered():
            return [run(command) for command in commands][-1]

    def close(self) -> None:
        """It stays as long as somebody else needs it."""
        os.close(self._fd)


class Network:
    """A server's side and the clients' side, with the same two links between them.

    The server has 10.0.LINK.1, the clients have 10.0.LINK.2, and both call the device linkLINK. What gets lost is sent
    again after 5 ms and not 200.
    """

    def __init__(self) -> None:
        self.server_side, self.client_side = Namespace(), Namespace()
        for link in (SOUND, HARMED):
            device = f"link{link}"
            self.server_side.run(
                f"ip link add name {device} type veth peer name {device} netns {self.client_side.path}"
            )
            for side, host in ((self.server_side, f"10.0.{link}.1"), (self.client_side, f"10.0.{link}.2")):
                side.run(
                    f"ip address add {host}/30 dev {device}",
                    f"ip link set {device} up",
                    f"ip route change 10.0.{link}.0/30 dev {device} rto_min 5ms",
                )

    def serve(self, serve: Serve, *args: str, host: str = "0.0.0.0") -> RunningServer:
        """Starts a server on its side; its connect(), and so a witness, goes by the sound link."""
        with self.server_side.entered():
            server = serve("--host", host, "--port", "0", *args)
        if host == "0.0.0.0":
            server.address = f"10.0.{SOUND}.1:{server.port}"
        return server

    def connect(self, server: RunningServer, link: int = HARMED) -> socket.socket:
        """A client on its side."""
        with self.client_side.entered():
            return socket.create_connection((f"10.0.{link}.1", server.port), PATIENCE_S)

    def witness(self, server: RunningServer, *, most_gap_s: float | None = 1.0) -> Witness:
        """A witness on the clients' side, for a server of lines."""
        with self.client_side.entered():
            return Witness(server, framing="line", most_gap_s=most_gap_s)

    def close(self) -> None:
        """Nothing is left once the server has ended and the clients are closed."""
        self.server_side.close()
        self.client_side.close()


def have_namespaces() -> None:
    """Skips a test where namespaces are not permitted; where tools are required it fails."""
    try:
        Namespace().close()
    except OSError as error:
        (pytest.fail if REQUIRE_TOOLS else pytest.skip)(f"needs network namespaces, which can't be had: {error}")


def namespaced(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that has a network of its own."""
    marked: Callable[..., None] = linux(pytest.mark.tool("ip")(test))
    return marked
