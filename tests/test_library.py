"""Server in an embedding program: its life, its answers to misuse, and what it leaves alone."""

import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, check_stats, exchange, read_exactly, read_to_end, wait_until

from kqnative import Config, ConfigError, KqnativeError, ListenError, Server, Stats

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left(no_descriptor_left: None) -> Iterator[None]:
    """No server of this process leaves a descriptor or a thread."""
    del no_descriptor_left
    yield
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("kqnative")], "all threads end")


def local(**fields: Any) -> Server:
    """A line server on a free port of the loopback address."""
    return Server(**{"host": "127.0.0.1", "port": 0, "framing": "line", **fields})


def connect(server: Server) -> socket.socket:
    """A client."""
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


def talk(server: Server, data: bytes) -> bytes:
    """All answers that one client gets that sends this and ends its side."""
    with connect(server) as client:
        return exchange(client, data)


@contextmanager
def thread_of(server: Server) -> Iterator[threading.Thread]:
    """run() in a thread of its own, until it has bound; the test has to stop it."""
    thread = threading.Thread(target=server.run)
    thread.start()

    def is_bound() -> bool:
        try:
            return server.port > 0
        except RuntimeError:
            return False

    wait_until(is_bound, "run() binds")
    yield thread
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def owe_answers(server: Server) -> socket.socket:
    """A client that is owed more than any socket holds, and does not read it."""
    client = connect(server)
    client.sendall(b"x" * MIB + b"\n")
    wait_until(lambda: server.stats().pending > 0, "an answer is owed")
    return client


def program(directory: Path, source: str, *args: str) -> subprocess.Popen[str]:
    """A Python program of its own, with its output in pipes; warnings of a fork beside threads are not shown."""
    path = directory / "program.py"
    path.write_text(source)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path), *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=directory)


def run_program(directory: Path, source: str, exit_code: int = 0) -> str:
    """What such a program prints; on the standard error it may not say anything."""
    with program(directory, source) as process:
        try:
            out, errors = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert (process.returncode, errors) == (exit_code, ""), out
    return out


def test_a_server_is_a_context() -> None:
    """Inside the block it serves; behind it the port refuses, and the counters stay."""
    with local() as server:
        assert talk(server, b"hello\n") == b"system: hello\n"
        port = server.port
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), PATIENCE_S):
        pass
    stats = server.stats()
    check_stats(stats)
    assert (stats.accepted, stats.messages, stats.answered, stats.closed["eof"]) == (1, 1, 1, 1)


def test_a_template_replies() -> None:
    """reply may be a template."""
    with local(reply="<{message}>") as server:
        assert talk(server, b"hi\n") == b"<hi>\n"


def test_a_function_replies() -> None:
    """reply may be a function of a message, one with a __call__ or a bound method too."""
    texts: list[bytes] = []

    class Shouting:
        def __call__(self, message: bytes) -> bytes:
            return message.upper()

    with local(reply=Shouting()) as server:
        assert talk(server, b"hi\n") == b"HI\n"
    with local(reply=texts.append) as server:
        assert talk(server, b"a\nb\n") == b""
    assert texts == [b"a", b"b"]
    assert server.stats().declined == 2


def test_a_function_replies_to_batches() -> None:
    """reply_batch is a function of a list."""
    with local(reply_batch=lambda messages: [message[::-1] for message in messages]) as server:
        assert talk(server, b"abc\nxy\n") == b"cba\nyx\n"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reply": bytes, "reply_batch": list}, ["reply", "reply_batch"]),
        ({"reply": "x", "reply_batch": list}, ["reply", "reply_batch"]),
        ({"reply": bytes, "hook": "m:f"}, ["reply", "hook"]),
        ({"hook": "m:f", "hook_batch": "m:f"}, ["hook", "hook_batch"]),
        ({"reply": 5}, ["reply", "callable"]),
        ({"reply": "{nothing}"}, ["reply", "character 1"]),
        ({"port": 65_536}, ["port", "65536"]),
        ({"port": "80"}, ["port", "'80'"]),
        ({"prot": 80}, ["prot", "port"]),
    ],
)
def test_a_wrong_field_is_a_config_error(fields: dict[str, Any], words: list[str]) -> None:
    """The constructor says what is wrong, as a ValueError, before anything is bound."""
    with pytest.raises(ConfigError) as caught:
        Server(**fields)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, KqnativeError)
    for word in words:
        assert word in str(caught.value)


def test_an_async_function_is_refused() -> None:
    """A coroutine function can't be a hook, and that is said at once."""

    async def reply(message: bytes) -> bytes:
        return message

    with pytest.raises(ConfigError, match="async"):
        Server(reply=reply)


def test_keywords_beat_the_config() -> None:
    """A Config may come first; keywords replace its fields, and reply its hook."""
    config = Config(host="127.0.0.1", port=1, framing="line", hook="no.such.module:reply")
    with Server(config, port=0, reply="{message}!") as server:
        assert talk(server, b"hi\n") == b"hi!\n"
    assert config.port == 1
    with Server(config, port=0, reply=lambda message: message * 2) as server:
        assert talk(server, b"hi\n") == b"hihi\n"


def test_the_address_is_the_bound_one(tmp_path: Path) -> None:
    """address and port say what the kernel chose; before start() there is none; a unix socket has its path."""
    server = local()
    with pytest.raises(RuntimeError):
        server.port  # noqa: B018
    with pytest.raises(RuntimeError):
        server.address  # noqa: B018
    with server:
        assert server.address == ("127.0.0.1", server.port)
        assert server.port > 0
    path = str(tmp_path / "socket")
    with Server(uds=path) as server, socket.socket(socket.AF_UNIX) as client:
        assert (server.address, server.port) == (path, 0)
        client.connect(path)
        assert exchange(client, b"hi") == b"system: hi"
    assert not os.path.exists(path)


def test_stop_is_idempotent() -> None:
    """Before the start it has nothing to do; afterwards each call says the same."""
    server = local()
    assert server.stop() is True
    server.start()
    assert talk(server, b"hi\n") == b"system: hi\n"
    assert [server.stop(), server.stop(0), server.stop(timeout=5)] == [True, True, True]
    check_stats(server.stats())


def test_stop_from_many_threads() -> None:
    """All callers wait for the end, and all are told that nothing was cut."""
    results: list[bool] = []
    with local(loops=3) as server:
        clients = [connect(server) for _ in range(9)]
        threads = [threading.Thread(target=lambda: results.append(server.stop())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for client in clients:
            assert read_to_end(client) == b""
            client.close()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert results == [True] * 8
    check_stats(server.stats())
    assert server.stats().closed["stopped"] == 9


def test_stop_says_when_answers_were_cut() -> None:
    """False, soon after its timeout, for a client that never reads what it is owed; and so for whoever asks again."""
    with local(reply="{message}" * 16) as server:
        client = owe_answers(server)
        begun = time.monotonic()
        assert server.stop(0.2) is False
        assert 0.2 <= time.monotonic() - begun < 1.5
        assert server.stop() is False
        client.close()
    stats = server.stats()
    check_stats(stats)
    assert (stats.closed["cut"], stats.unanswered) == (1, 1)


def test_the_first_stop_decides_the_grace() -> None:
    """A later stop with a longer timeout does not put the end off."""
    with local(reply="{message}" * 16) as server, owe_answers(server):
        asker = threading.Thread(target=server.stop, args=(0.2,))
        asker.start()
        wait_until(lambda: not is_listening(server), "the stop has begun")
        begun = time.monotonic()
        assert server.stop(60) is False
        assert time.monotonic() - begun < 1.5
        asker.join()


def is_listening(server: Server) -> bool:
    """Whether it still takes clients."""
    try:
        connect(server).close()
    except OSError:
        return False
    return True


def test_stop_waits_for_a_slow_reader() -> None:
    """Within the grace a client gets all that it is owed, and stop() is then True."""
    results: list[bool] = []
    with local(reply="{message}" * 16) as server, owe_answers(server) as client:
        asker = threading.Thread(target=lambda: results.append(server.stop(20)))
        asker.start()
        wait_until(lambda: not is_listening(server), "the stop has begun")
        assert read_to_end(client) == b"x" * (16 * MIB) + b"\n"
        client.close()
        asker.join()
    assert results == [True]


def test_a_wrong_timeout_is_refused() -> None:
    """stop() takes seconds from 0 on."""
    with local() as server:
        for timeout in (-1, float("nan"), "1"):
            with pytest.raises(ConfigError, match="timeout"):
                server.stop(timeout)  # type: ignore[arg-type]
        assert talk(server, b"hi\n") == b"system: hi\n"


def test_run_in_another_thread() -> None:
    """run() starts the server in any thread, and returns once another one has called stop()."""
    server = local()
    with thread_of(server):
        assert talk(server, b"hi\n") == b"system: hi\n"
        assert server.stop() is True
    check_stats(server.stats())


def test_run_after_start() -> None:
    """run() of a started server only waits, also when it has ended already."""
    server = local()
    server.start()
    with thread_of(server):
        server.stop()
    server.run()


@pytest.mark.parametrize("framing", ["line", "stream"])
def test_stop_in_a_hook_only_asks(framing: str) -> None:
    """In a hook stop() returns False at once; the answer is written, and then the server ends."""
    results: list[object] = []

    def reply(message: bytes) -> bytes:
        results.append(server.stop())
        try:
            server.run()
        except RuntimeError:
            results.append("refused")
        return b"bye"

    server = local(reply=reply, framing=framing)
    with thread_of(server), connect(server) as client, connect(server) as idle:
        client.sendall(b"stop\n")
        assert read_to_end(client) == (b"bye\n" if framing == "line" else b"bye")
        assert read_to_end(idle) == b""
    assert results == [False, "refused"]
    assert server.stop() is True
    check_stats(server.stats())


def test_stop_gives_up_on_a_stuck_hook() -> None:
    """A hook that does not come back makes stop() False, soon after the grace; once it does, the server ends."""
    entered, go = threading.Event(), threading.Event()

    def reply(message: bytes) -> bytes:
        entered.set()
        go.wait(PATIENCE_S)
        return message

    with local(reply=reply) as server, connect(server) as client:
        client.sendall(b"hi\n")
        assert entered.wait(PATIENCE_S)
        begun = time.monotonic()
        assert server.stop(0.1) is False
        assert time.monotonic() - begun < 3
        go.set()
        server.run()
    check_stats(server.stats())


def test_two_servers_in_one_process() -> None:
    """Each has its own port, answers and counters, one of them with three loops; one's end is not the other's."""
    with local(reply="one {message}", loops=3) as one, local(reply=lambda message: b"two " + message) as two:
        clients = [(connect(one), connect(two)) for _ in range(6)]
        for first, second in clients:
            first.sendall(b"a\n")
            second.sendall(b"b\n")
        for first, second in clients:
            assert read_exactly(first, 6) == b"one a\n"
            assert read_exactly(second, 6) == b"two b\n"
            first.close()
        assert one.stop() is True
        for _, second in clients:
            second.sendall(b"c\n")
            assert read_exactly(second, 6) == b"two c\n"
            second.close()
    for server, messages in ((one, 6), (two, 12)):
        check_stats(server.stats())
        assert (server.stats().accepted, server.stats().messages) == (6, messages)


def test_stats_while_it_runs() -> None:
    """The sums balance at every moment, also under load and over several loops."""

    def load() -> None:
        for _ in range(5):
            assert talk(server, b"x\n" * 2_000) == b"system: x\n" * 2_000

    def check() -> Stats:
        stats = server.stats()
        assert stats.accepted == stats.open + stats.handed_over + sum(stats.closed.values())
        ends = stats.answered + stats.declined + stats.failed + stats.unanswered
        assert stats.messages == ends + stats.pending
        return stats

    with local(loops=3) as server:
        assert check().messages == 0
        with connect(server) as client:
            client.sendall(b"hi\n")
            assert read_exactly(client, 11) == b"system: hi\n"
            stats = check()
            assert (stats.open, stats.messages, stats.bytes_in, stats.bytes_out) == (1, 1, 3, 11)
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            check()
        for thread in threads:
            thread.join()
    check_stats(server.stats())
    assert server.stats().messages == 1 + 4 * 5 * 2_000


def test_stats_in_a_hook() -> None:
    """stats() in a hook answers at once: it does not wait for the loop that it holds up."""
    seconds: list[float] = []

    def reply(message: bytes) -> bytes:
        begun = time.monotonic()
        assert server.stats().messages >= 0
        seconds.append(time.monotonic() - begun)
        return message

    with local(reply=reply, loops=2) as server:
        assert talk(server, b"a\nb\nc\n") == b"a\nb\nc\n"
    assert len(seconds) == 3
    assert min(seconds) < 0.5


def test_a_server_starts_once() -> None:
    """The second start() is a RuntimeError, while it runs and afterwards, and harms nothing."""
    with local() as server:
        with pytest.raises(RuntimeError):
            server.start()
        assert talk(server, b"hi\n") == b"system: hi\n"
    with pytest.raises(RuntimeError):
        server.start()
    with pytest.raises(RuntimeError), server:
        pass


def test_a_port_in_use_is_a_listen_error() -> None:
    """ListenError is an OSError with the errno; once the port is free, the same Server can start."""
    with local() as server:
        late = local(port=server.port)
        with pytest.raises(ListenError) as caught:
            late.start()
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.EADDRINUSE
        assert str(server.port) in str(caught.value)
        assert talk(server, b"hi\n") == b"system: hi\n"
    with late:
        assert talk(late, b"hi\n") == b"system: hi\n"


def test_an_exception_in_the_block_stops_it() -> None:
    """with ends the server, and lets the exception through."""
    with pytest.raises(ZeroDivisionError), local() as server:
        raise ZeroDivisionError
    assert server.stop() is True
    check_stats(server.stats())


def test_lines_go_to_loggers(caplog: pytest.LogCaptureFixture) -> None:
    """The program's logging gets the lines, of three loggers, with what they are about as attributes."""
    caplog.set_level(logging.INFO, logger="kqnative")

    def reply(message: bytes) -> bytes:
        return message if message == b"good" else 1 // 0  # type: ignore[return-value]

    with local(reply=reply) as server:
        assert talk(server, b"good\nbad\n") == b"good\n"
    by_logger = {
        name: [r for r in caplog.records if r.name == f"kqnative.{name}"] for name in ("server", "client", "hook")
    }
    assert sum(map(len, by_logger.values())) == len(caplog.records)
    assert by_logger["server"][0].getMessage() == f"Server started on 127.0.0.1:{server.port}"
    assert by_logger["server"][-1].getMessage().startswith("Server stopped: accepted 1, messages 2")
    assert [r.event for r in by_logger["client"]] == ["connected", "received", "received", "disconnected"]  # type: ignore[attr-defined]
    assert [r.levelname for r in by_logger["hook"]] == ["ERROR"]
    assert "ZeroDivisionError" in by_logger["hook"][0].getMessage()


def test_a_logging_handler_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """It harms neither the clients nor the stop."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("full")

    handler, logger = Broken(), logging.getLogger("kqnative.client")
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.addHandler(handler)
    level, _ = logger.level, logger.setLevel(logging.INFO)
    try:
        with local() as server:
            for _ in range(3):
                assert talk(server, b"hi\n") == b"system: hi\n"
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert server.stats().answered == 3


INTERRUPTED = """
import json, sys, threading, time
from kqnative import Server

def tell_port(main):
    while sys._current_frames()[main].f_code.co_qualname != "Latch.wait":  # in run()
        time.sleep(0.001)
    print(server.port, flush=True)

server = Server(host="127.0.0.1", port=0)
server.start()
threading.Thread(target=tell_port, args=(threading.get_ident(),)).start()
try:
    server.run()
except KeyboardInterrupt:
    stats = server.stats()
    print(json.dumps([stats.closed["stopped"], stats.open, stats.messages, stats.answered]))
"""


def test_ctrl_c_drains_and_goes_on(tmp_path: Path) -> None:
    """KeyboardInterrupt comes out of run() when the server has ended, within 1.5 s with an idle client."""
    with program(tmp_path, INTERRUPTED) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(b"hi")
            assert read_exactly(client, 10) == b"system: hi"
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert read_to_end(client) == b""
            client.close()
            out, errors = process.communicate(timeout=PATIENCE_S)
            assert time.monotonic() - begun < 1.5
    assert (process.returncode, errors) == (0, "")
    assert json.loads(out) == [1, 0, 1, 1]


FORKED = """
import os, socket, sys
from kqnative import Server

def exchange(port):
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"hi")
        return client.recv(100)

def refusals():
    calls = [server.stats, server.stop, server.start, server.run, lambda: server.port, lambda: server.address]
    for call in calls:
        try:
            call()
        except RuntimeError:
            yield 1

with Server(host="127.0.0.1", port=0, WHAT) as server:
    port = server.port
    assert exchange(port) == b"system: hi"
    pid = os.fork()
    if pid == 0:
        if sum(refusals()) != 6:
            os._exit(1)
        sys.exit(7)  # out of the block, and through Python's end
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert exchange(port) == b"system: hi"
    if os.fork() == 0:
        with Server(host="127.0.0.1", port=0) as own:  # a child may have a server of its own
            os._exit(0 if exchange(own.port) == b"system: hi" else 1)
    assert os.wait()[1] == 0
    assert exchange(port) == b"system: hi"
assert server.stats().answered == 3, server.stats()
print("done")
"""


@pytest.mark.parametrize("what", ["loops=1", "loops=3", "reply=lambda message: b'system: ' + message", "poller='poll'"])
def test_a_fork_beside_a_server(what: str, tmp_path: Path) -> None:
    """In the child every call is a RuntimeError, and the parent goes on serving."""
    assert run_program(tmp_path, FORKED.replace("WHAT", what)) == "done\n"


FORKED_HOOK = """
import os, socket
from kqnative import Server

def reply(message):
    pid = os.fork()
    if pid:
        return b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    refused = 0
    for call in (server.stats, server.stop, server.start, server.run, lambda: server.port):
        try:
            call()
        except RuntimeError:
            refused += 1
    os._exit(refused)

with Server(host="127.0.0.1", port=0, reply=reply) as server:
    with socket.create_connection(server.address, 10) as client:
        for _ in range(3):
            client.sendall(b"fork")
            assert client.recv(100) == b"5"
print("done")
"""


def test_a_fork_in_a_hook_has_no_server(tmp_path: Path) -> None:
    """The child of a hook may not call the server either, and the hook's own client is served on."""
    assert run_program(tmp_path, FORKED_HOOK) == "done\n"


QUIET = """
import re, signal, socket, threading
from kqnative import Server

def handlers():
    there = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        with open("/proc/self/status") as status:
            masks = re.findall("Sig(?:Blk|Ign|Cgt):.*", status.read())
    except OSError:
        masks = []
    return there, masks, signal.set_wakeup_fd(-1)

def failing(message):
    raise ValueError

threading.Thread(target=int).start()  # the C library's own signal comes with the first thread
before = handlers()
for reply in ("{message}", failing):
    with Server(host="127.0.0.1", port=0, reply=reply) as server:
        with socket.create_connection(server.address, 10) as client:
            client.sendall(b"hi")
            client.recv(100)
        assert handlers() == before
assert handlers() == before
"""


def test_a_library_is_quiet(tmp_path: Path) -> None:
    """It prints nothing, also when a hook fails, and touches no signal's handler or mask."""
    assert run_program(tmp_path, QUIET) == ""


SIGPIPE = """
import signal, socket, struct
from kqnative import Server

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
with Server(host="127.0.0.1", port=0, framing="line", reply="{message}" * 16, WHAT) as server:
    for i in range(20):
        client = socket.create_connection(server.address, 10)
        client.sendall(b"x" * 1000000 + b"\\n" + b"y" * i)
        client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", i % 2, 0))
        client.close()
    with socket.create_connection(server.address, 10) as client:
        client.sendall(b"x\\n")
        assert client.recv(100) == b"x" * 16 + b"\\n"
assert server.stats().closed["reset"] == 20, server.stats()
assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
print("done")
"""


@pytest.mark.parametrize("what", ["loops=1", "loops=2", "poller='poll'"])
def test_no_sigpipe_kills_the_program(what: str, tmp_path: Path) -> None:
    """With SIGPIPE at its default, clients that go away with unread answers do not end the process."""
    assert run_program(tmp_path, SIGPIPE.replace("WHAT", what)) == "done\n"


NEVER_STOPPED = """
import socket, threading, time
from kqnative import Server

entered = threading.Event()

def sleeps(message):
    entered.set()
    time.sleep(60)

server = Server(host="127.0.0.1", port=0, grace=0.2, WHAT)
server.start()
client = socket.create_connection(server.address, 10)
client.sendall(b"hi")
if server.config.loops == 2:
    entered.wait()
else:
    client.recv(100)
print("done")
"""


@pytest.mark.parametrize("what", ["loops=1", "reply=lambda message: message", "loops=2, reply=sleeps"])
def test_a_server_never_stopped_lets_the_process_end(what: str, tmp_path: Path) -> None:
    """The program's end ends it, with a client connected and even with a hook that hangs."""
    begun = time.monotonic()
    assert run_program(tmp_path, NEVER_STOPPED.replace("WHAT", what)) == "done\n"
    assert time.monotonic() - begun < 5


def test_the_same_port_at_once_again() -> None:
    """A stopped server's port can be bound again at once, though its connections linger in the kernel."""
    with local() as server:
        port = server.port
        with connect(server) as client:
            assert server.stop() is True  # our side ends first, so TIME_WAIT is ours
            assert read_to_end(client) == b""
    with local(port=port) as again:
        assert talk(again, b"hi\n") == b"system: hi\n"


def test_many_servers_one_after_the_other() -> None:
    """Thirty lives leave nothing behind."""
    for i in range(30):
        with local(loops=1 + i % 3, poller="auto") as server:
            assert talk(server, b"hi\n") == b"system: hi\n"
        check_stats(server.stats())
