"""`python -m kqnative` whose standard descriptors are the test's own affair: its port is chosen before it starts."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conftest import PATIENCE_S, exchange, wait_until


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def socket_count(pid: int) -> int:
    """Sockets that a process has open: unlike its descriptors, no file that is just being imported is among them."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return count


class BareServer:
    """A server that nobody reads; inside the block it accepts clients."""

    def __init__(
        self,
        *args: str,
        command: tuple[str, ...] = (sys.executable, "-m", "kqnative"),
        through: tuple[str, ...] = (),
        stderr: int | Any = subprocess.DEVNULL,
        cwd: Path | None = None,
    ) -> None:
        self.port = free_port()
        own = ("--host", "127.0.0.1", "--port", str(self.port))
        self.process = subprocess.Popen(
            [*through, *command, *own, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=cwd,
        )
        self.pid = self.process.pid  # of the server itself, once it serves

    def __enter__(self) -> Self:
        wait_until(self._serves, "it accepts clients")
        self.pid = _innermost(self.process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pid in (self.pid, self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                if self.process.poll() is None:
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def _serves(self) -> bool:
        assert self.process.poll() is None, "the server has ended"
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    def connect(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        """A client."""
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def exchange(self, data: bytes) -> bytes:
        """All answers that one client gets that sends this and ends its side."""
        with self.connect() as client:
            return exchange(client, data)

    def kill(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends the server a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit code."""
        return self.process.wait(timeout_s)


def _innermost(pid: int) -> int:
    """The last child's child, where the server was started through another program."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = file.read().split()
    return _innermost(int(children[0])) if children else pid
