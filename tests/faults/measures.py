"""What tests of faults see of a server's process, and do to it."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import REQUIRE_TOOLS, RunningServer, wait_until
from witness import Witness

linux = pytest.mark.skipif(sys.platform != "linux", reason="this fault is made, or seen, by means of Linux")

# For a hook's module: its own server's listening descriptor.
LISTENER = """
import os
import socket

def listener():
    for fd in map(int, os.listdir("/dev/fd")):
        try:
            one = socket.socket(fileno=fd)
        except OSError:
            continue
        is_listener = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        one.detach()
        if is_listener:
            return fd
"""


def wait_until_read(witness: Witness, loops: int = 1) -> None:
    """Returns when the server has read all that was sent before: each loop has answered what was sent after that.

    That goes for accepted clients; those who still wait to be accepted may well be overtaken.
    """
    answered = witness.answered + 1 + loops  # the first may have been on its way before
    wait_until(lambda: witness.answered >= answered, "the witness is answered")


@contextmanager
def paused(server: RunningServer) -> Iterator[None]:
    """The server's process stands still: what is done meanwhile it sees all at once. It may be traced (t)."""
    status = Path(f"/proc/{server.process.pid}/status")
    server.kill(signal.SIGSTOP)
    try:
        wait_until(lambda: re.search("^State:\t[Tt]", status.read_text(), re.MULTILINE), "the process stands still")
        yield
    finally:
        server.kill(signal.SIGCONT)


@contextmanager
def traced(server: RunningServer, log: Path, calls: str, *injected: str) -> Iterator[None]:
    """strace writes these calls of a server into a file and makes some fail, as "recvfrom:error=EIO:when=1" says.

    `when` counts each thread's own calls. Once this has ended, the file is whole.
    """
    options = [option for one in injected for option in ("-e", f"inject={one}")]
    command = ["strace", "-f", "-o", str(log), "-e", f"trace={calls}", *options, "-p", str(server.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr
        first = tracer.stderr.readline()
        rest = threading.Thread(target=tracer.stderr.read)
        rest.start()
        try:
            if "attached" not in first:
                (pytest.fail if REQUIRE_TOOLS else pytest.skip)(f"strace may not attach to a process: {first}")
            yield
        finally:
            tracer.terminate()  # which lets the server go
            rest.join()
