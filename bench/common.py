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


def build(source: str, *flags: str) -> str:
    """Compiles one C file of this folder, if it has changed, and returns the program's path. Flags, among which may be
    further files, come last."""
    path = BENCH / source
    program = BUILT / path.stem
    headers = [*path.parent.glob("*.h"), *BENCH.glob("peers/*.h")]
    sources = [path, *headers, *(Path(flag) for flag in flags if flag.endswith(".c"))]
    newest = max(one.stat().st_mtime for one in sources)
    if not program.exists() or program.stat().st_mtime < newest:
        BUILT.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "cc"))
        new = program.with_name(f"{program.name}.{os.getpid()}")  # whoever runs the old one is not disturbed
        command = [*compiler, "-std=gnu11", "-O2", "-o", str(new), str(path), *flags]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode != 0:
            sys.exit(f"{shlex.join(command)}\n{made.stderr.strip()}")
        new.replace(program)
    return str(program)


def pinned(core: int | str, command: list[str]) -> list[str]:
    """The command, on one core only (or on several, as in "0,1"), where there are so many and taskset can say so."""
    highest = max(int(word) for word in str(core).split(","))
    if shutil.which("taskset") is None or (os.cpu_count() or 1) <= highest:
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
def running(command: list[str], port: int, core: int | str = SERVER_CORE) -> Iterator[int]:
    """Runs a server on its core, in this folder, with its log in a file; yields its process's number."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        server = subprocess.Popen(
            pinned(core, command),
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
    """What a process and its descendants have used, or one thread of it."""
    if thread is not None:
        return thread_seconds(Path(f"/proc/{process}/task/{thread}"))
    parents = {int(folder.name): parent_of(folder) for folder in Path("/proc").iterdir() if folder.name.isdigit()}
    used, wanted = 0.0, [process]
    while wanted:
        process = wanted.pop()
        used += process_seconds(Path(f"/proc/{process}"))
        wanted += [child for child, parent in parents.items() if parent == process]
    return used


def process_seconds(folder: Path) -> float:
    """Of its threads, and of its children that have ended."""
    try:
        ended = sum(int(word) for word in words_of(folder)[13:15]) / os.sysconf("SC_CLK_TCK")
        return ended + sum(thread_seconds(thread) for thread in (folder / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def thread_seconds(folder: Path) -> float:
    """Nanoseconds where the kernel counts them: in ticks, many short lives come to nothing."""
    try:
        return int((folder / "schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        return sum(int(word) for word in words_of(folder)[11:13]) / os.sysconf("SC_CLK_TCK")


def parent_of(folder: Path) -> int:
    try:
        return int(words_of(folder)[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def words_of(folder: Path) -> list[str]:
    return (folder / "stat").read_text().rpartition(")")[2].split()  # a name may hold blanks


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
    processor_seconds: float  # of the client

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds


class Client:
    """The client program, client/client.c, on its core."""

    def __init__(self, port: int, framing: str, message_bytes: int, answer_bytes: int, depth: int = 1) -> None:
        arguments = [port, framing, message_bytes, answer_bytes, depth]
        command = [build("client/client.c"), *map(str, arguments)]
        self.process = subprocess.Popen(
            pinned(CLIENT_CORE, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        self.process.wait()

    def _ask(self, command: str) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        print(command, file=self.process.stdin, flush=True)
        words = self.process.stdout.readline().split()
        if not words:
            sys.exit(f"the client failed at {command!r}: {self.process.stderr.read().strip()}")
        return words

    def _ask_rate(self, command: str) -> Rate:
        messages, elapsed, used = self._ask(command)
        return Rate(int(messages), float(elapsed), float(used))

    def open(self, connections: int) -> None:
        self._ask(f"open {connections}")

    def busy(self, connections: int) -> None:
        """Only so many of the open connections take part from now on; 0: all."""
        self._ask(f"busy {connections}")

    def run_seconds(self, seconds: float) -> Rate:
        return self._ask_rate(f"seconds {seconds}")

    def run_messages(self, count: int) -> Rate:
        return self._ask_rate(f"messages {count}")

    def churn(self, seconds: float, at_a_time: int) -> Rate:
        """Connections that each exchange one message and close."""
        return self._ask_rate(f"churn {seconds} {at_a_time}")


def print_table(rows: list[list[str]]) -> None:
    """The first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip(), flush=True)


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"
