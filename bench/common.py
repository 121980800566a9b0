"""What the benchmarks share: building the C programs, running a server, talking to the client program."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BENCH = Path(__file__).resolve().parent
BUILT = BENCH.parent / ".cache" / "bench"
SERVER_CORE = 0
CLIENT_CORE = 1
READY_SECONDS = 10.0


def require_linux() -> None:
    if sys.platform != "linux":
        sys.exit("the benchmarks are for Linux: their client and the yardstick use epoll")


def build(source: str) -> str:
    """Compiles one C file of this folder, if it has changed, and returns the program's path."""
    path = BENCH / source
    program = BUILT / path.stem
    if not program.exists() or program.stat().st_mtime < path.stat().st_mtime:
        BUILT.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        subprocess.run([*compiler, "-std=gnu11", "-O2", "-o", str(program), str(path)], check=True)
    return str(program)


def pinned(core: int, command: list[str]) -> list[str]:
    """The command, on one core only, where there is more than one and taskset can say so."""
    if shutil.which("taskset") is None or (os.cpu_count() or 1) <= core:
        return command
    return ["taskset", "-c", str(core), *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def kqnative_command(port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "kqnative", "--host", "127.0.0.1", "--port", str(port), *options]


@contextmanager
def running(command: list[str], port: int) -> Iterator[int]:
    """Runs a server on its core, in this folder, with its log in a file; yields its process's number."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        server = subprocess.Popen(
            pinned(SERVER_CORE, command),
            cwd=BENCH,
            env=os.environ | {"PYTHONPATH": str(BENCH)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_ready(server, port)
            yield server.pid
        except SystemExit:
            print(shlex.join(command), *last_lines(log.name), sep="\n", file=sys.stderr)
            raise
        finally:
            server.terminate()
            try:
                server.wait(READY_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def processor_seconds(process: int, thread: int | None = None) -> float:
    """What a process, or one thread of it, has used."""
    folder = Path(f"/proc/{process}") if thread is None else Path(f"/proc/{process}/task/{thread}")
    after_name = (folder / "stat").read_text().rpartition(")")[2]  # a name may hold blanks
    user, system = after_name.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def last_lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines()[-20:]


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    sys.exit(f"no server at port {port}")


@dataclass(frozen=True, slots=True)
class Rate:
    messages: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds


class Client:
    """The client program, client.c, on its core."""

    def __init__(self, port: int, message_bytes: int, answer_bytes: int) -> None:
        command = [build("client.c"), str(port), str(message_bytes), str(answer_bytes)]
        self.process = subprocess.Popen(
            pinned(CLIENT_CORE, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, command: str) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        words = self.process.stdout.readline().split()
        if not words:
            sys.exit(f"the client failed at {command!r}")
        return words

    def open(self, connections: int) -> None:
        self._ask(f"open {connections}")

    def run_seconds(self, seconds: float) -> Rate:
        messages, elapsed = self._ask(f"seconds {seconds}")
        return Rate(int(messages), float(elapsed))

    def run_messages(self, count: int) -> Rate:
        messages, elapsed = self._ask(f"messages {count}")
        return Rate(int(messages), float(elapsed))


def print_table(rows: list[list[str]]) -> None:
    """The first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"
