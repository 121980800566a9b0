"""What the tests share: the one way to start a server, and what must hold whenever one has ended."""

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from steady import pytest_runtest_protocol as pytest_runtest_protocol  # a hook

from kqnative import Stats
from kqnative.stats import REASONS

PATIENCE_S = 10.0  # for what must come
POLLERS = ["epoll", "poll", "select"] if sys.platform == "linux" else ["kqueue"]
SHORT_QUEUE = ("--backlog", "16")  # no system cuts it, and says so; for those who look at every line
REQUIRE_TOOLS = bool(os.environ.get("KQNATIVE_REQUIRE_TOOLS"))

# A busy machine takes its time, and that proves nothing.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Says where figures go that tests measure, unless somebody has, who wants to add to them."""
    if "KQNATIVE_FIGURES" not in os.environ:
        handle, path = tempfile.mkstemp(prefix="kqnative-figures-")
        os.close(handle)
        os.environ["KQNATIVE_FIGURES"] = path
        config.add_cleanup(lambda: os.unlink(path))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures, just before the last line."""
    figures = Path(os.environ["KQNATIVE_FIGURES"])
    if figures.exists() and (text := figures.read_text()):
        terminalreporter.section("figures")
        terminalreporter.write(text)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose tool is absent, by the tool's name; where tools are required it fails."""
    for mark in item.iter_markers("tool"):
        name = mark.args[0]
        if shutil.which(name) is None:
            (pytest.fail if REQUIRE_TOOLS else pytest.skip)(f"needs {name}, which is not installed")


@pytest.fixture(params=POLLERS)
def poller(request: pytest.FixtureRequest) -> str:
    """Each poller of this system in turn."""
    return str(request.param)


def check_sums(stats: dict[str, object]) -> None:
    """The sums of the counters balance, and nothing is on its way any more."""
    closed = stats["closed"]
    assert isinstance(closed, dict)
    assert stats["accepted"] == sum(closed.values())
    assert stats["open"] == stats["handed_over"] == stats["pending"] == 0
    ends = ("answered", "declined", "failed", "unanswered")
    assert stats["messages"] == sum(int(str(stats[name])) for name in ends)


def counters_of_text(line: str) -> dict[str, object]:
    """The counters that a text line `Server stopped: …` names; the others are 0."""
    names = ["accepted", "open", "handed_over", "pending", "messages", "answered", "declined", "failed", "unanswered"]
    found = dict(re.findall(r"(?<!\S)(\w+) (-?\d+)", line))
    closed = {reason: int(found_count) for reason, found_count in re.findall(r"closed (\w+) (\d+)", line)}
    return {name: int(found.get(name, 0)) for name in names} | {"closed": dict.fromkeys(REASONS, 0) | closed}


class RunningServer:
    """`python -m kqnative` in a process of its own, and its standard error as lines."""

    def __init__(self, args: tuple[str, ...], exit_code: int, cwd: Path, env: dict[str, str]) -> None:
        self.exit_code = exit_code
        self.lines: list[str] = []
        self._new_lines: queue.Queue[str | None] = queue.Queue()
        self._has_ended = False  # all its lines have been read
        self._unexpected_is_fine: list[str] = []
        is_bound = any(arg in ("--port", "--uds", "--config") for arg in args)
        own = () if is_bound else ("--host", "127.0.0.1", "--port", "0")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kqnative", *own, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **env},
        )
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()
        try:
            self.address = self.wait_for(r"Server started on ([^\s\"]+)")[1]
        except AssertionError:
            self.clean_up()
            raise
        self.port = int(self.address.rpartition(":")[2]) if not self.address.startswith("unix:") else 0
        self._descriptors = self.descriptor_count()

    def _read_lines(self) -> None:
        assert self.process.stderr
        with self.process.stderr:
            for line in self.process.stderr:
                self._new_lines.put(line.decode().removesuffix("\n"))
        self._new_lines.put(None)

    def _next_line(self, timeout_s: float) -> str | None:
        line = self._new_lines.get(timeout=timeout_s)
        if line is None:
            self._has_ended = True
        else:
            self.lines.append(line)
        return line

    def wait_for(self, pattern: str, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """The match in the next line, or in one that came already, that has the pattern."""
        for line in self.lines:
            if found := re.search(pattern, line):
                return found
        deadline = time.monotonic() + timeout_s
        try:
            while not self._has_ended and (line := self._next_line(max(0.01, deadline - time.monotonic()))) is not None:
                if found := re.search(pattern, line):
                    return found
        except queue.Empty:
            pass
        raise AssertionError(f"no line with {pattern!r} among {self.lines}")

    def allow(self, *patterns: str) -> None:
        """Says that lines at WARNING or above with these patterns belong to the test."""
        self._unexpected_is_fine += patterns

    def connect(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        """A client."""
        if self.address.startswith("unix:"):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(timeout_s)
            client.connect(self.address.removeprefix("unix:"))
            return client
        host = self.address.rpartition(":")[0].strip("[]")
        return socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, self.port), timeout_s)

    def exchange(self, data: bytes) -> bytes:
        """All answers that one client gets that sends this and ends its side."""
        with self.connect() as client:
            return exchange(client, data)

    def descriptor_count(self) -> int:
        """Descriptors that the process has open; 0 where that can't be seen."""
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except OSError:
            return 0

    def wait_until_idle(self) -> None:
        """Returns when no client's descriptor is left."""
        wait_until(lambda: self.descriptor_count() <= self._descriptors, "the server closes its descriptors")

    def kill(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit code, once the process has ended and all its lines are here."""
        code = self.process.wait(timeout_s)
        while not self._has_ended:
            self._next_line(timeout_s)
        return code

    def counters(self) -> dict[str, object]:
        """What the last line says of the whole run."""
        last = self.lines[-1]
        if last.startswith("{"):
            stats = json.loads(last)["stats"]
            assert isinstance(stats, dict)
            return stats
        assert last.startswith("Server stopped: ")
        return counters_of_text(last)

    def counter(self, name: str) -> int:
        """One counter of the whole run."""
        return int(str(self.counters()[name]))

    def closed(self, reason: str) -> int:
        """How many connections of the whole run ended for this reason."""
        counts = self.counters()["closed"]
        assert isinstance(counts, dict)
        return int(counts[reason])

    def clean_up(self) -> None:
        """Leaves no process, thread or descriptor, whatever the test came to."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout
        self.process.stdout.close()

    def finish(self) -> None:
        """Stops it if it runs, and checks all that must hold at an end."""
        if self.process.poll() is None:
            self.wait_until_idle()
            self.kill()
        assert self.wait() == self.exit_code, self.lines
        if self.exit_code in (0, 1):
            check_sums(self.counters())
        loud = [
            line for line in self.lines if re.match(r"warning: |error: |Traceback|.*(Sanitizer|runtime error)", line)
        ]
        assert not [line for line in loud if not any(re.search(fine, line) for fine in self._unexpected_is_fine)]


def is_listening(server: RunningServer) -> bool:
    """Whether it still takes clients."""
    try:
        server.connect().close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Returns when the condition holds; fails with these words if it does not come to."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Sends all, ends our side, and reads to the end, both at the same time."""
    sender = threading.Thread(target=_send_all, args=(client, data))
    sender.start()
    answers = read_to_end(client)
    sender.join()
    return answers


def _send_all(client: socket.socket, data: bytes) -> None:
    try:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the server ended the connection first; what it answered tells the rest


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the peer's end."""
    parts = []
    while part := client.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def read_exactly(client: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if the peer's end comes first."""
    data = b""
    while len(data) < size and (part := client.recv(size - len(data))):
        data += part
    return data


def line_message(text: bytes) -> bytes:
    """A message in line framing."""
    return text + b"\n"


def u32_message(text: bytes) -> bytes:
    """A message in u32 framing."""
    return len(text).to_bytes(4, "big") + text


FRAMED = {"stream": bytes, "line": line_message, "u32": u32_message}

Serve = Callable[..., RunningServer]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers: serve("--framing", "line", exit_code=0, env={}). All that must hold is checked at the end."""
    running: list[RunningServer] = []

    def start(*args: str, exit_code: int = 0, env: dict[str, str] | None = None) -> RunningServer:
        server = RunningServer(args, exit_code, tmp_path, env or {})
        running.append(server)
        return server

    try:
        yield start
        for server in running:
            server.finish()
    finally:
        for server in running:
            server.clean_up()


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    """For servers in this process: what the test opened, it closed."""

    def count() -> int:
        return len(os.listdir("/dev/fd"))

    before = count()
    yield
    wait_until(lambda: count() <= before, "all descriptors are closed")


def check_stats(stats: Stats) -> None:
    """The sums of a stopped server of this process balance."""
    check_sums({name: getattr(stats, name) for name in Stats.__slots__})
