"""Faults of hooks: Python functions that raise, return, keep, close and start what they should not."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import RunningServer, Serve, check_stats, read_exactly, read_to_end
from figures import cpu_s, own_bytes, peak_bytes
from measures import LISTENER, linux, wait_until_read
from witness import Witness

from kqnative import Server

MIB = 1 << 20

# Messages that begin with b"bad" are answered by bad(), which each test has its own of; the others as always.
HOOKS = """
def reply(message):
    return bad(message) if message.startswith(b"bad") else b"system: " + message

def reply_all(messages):
    return [reply(message) for message in messages]
"""

Hooked = Callable[..., RunningServer]


@pytest.fixture
def hooked(serve: Serve, tmp_path: Path) -> Hooked:
    """Starts a line server whose hook does what this source says of bad(): hooked("def bad(message): …")."""

    def start(
        source: str, *args: str, exit_code: int = 0, env: dict[str, str] | None = None, batch: bool = False
    ) -> RunningServer:
        (tmp_path / "answers.py").write_text(HOOKS + source)
        hook = ["--hook-batch", "answers:reply_all"] if batch else ["--hook", "answers:reply"]
        return serve("--framing", "line", *hook, *args, exit_code=exit_code, env=env)

    return start


FAILING = """
import signal

class Unshowable(Exception):
    def __str__(self):
        raise SystemExit

def released():
    view = memoryview(b"gone")
    view.release()
    return view

def bad(message):
    {deed}
"""


@pytest.mark.parametrize(
    ("deed", "logged"),
    [
        ("raise MemoryError", "^  MemoryError$"),
        ("raise BaseExceptionGroup('several', [KeyboardInterrupt(), ValueError()])", "several"),
        ("raise GeneratorExit", "^  GeneratorExit$"),
        ("raise Unshowable", "hook failed: .*Unshowable"),
        ("return released()", "ValueError: operation forbidden on released memoryview object"),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "ValueError: signal only works in main thread"),
    ],
    ids=["MemoryError", "group", "GeneratorExit", "unshowable", "released", "signal"],
)
def test_any_failure_ends_one_connection(deed: str, logged: str, hooked: Hooked) -> None:
    """What came before it is answered, what came behind it is not, and nobody else notices."""
    server = hooked(FAILING.format(deed=deed), "--log-rate", "0")
    server.allow("^error: hook failed: ")
    with Witness(server, framing="line") as witness:
        assert server.exchange(b"one\nbad\ntwo\n") == b"system: one\n"
        wait_until_read(witness)
        server.wait_for(logged)
    server.finish()
    assert (server.counter("failed"), server.counter("unanswered"), server.closed("hook")) == (1, 1, 1)


LYING = """
import ctypes

class Lies:
    def __len__(self):
        return 1 << 40

    def __iter__(self):
        raise ValueError

    __bytes__ = __getitem__ = __iter__

class Bytes(Lies, bytes):
    pass

class Answers(Lies, list):
    pass

def bad(message):
    return Bytes(message) if message == b"bad one" else (ctypes.c_char * 7)(*message)

honest = reply_all

def reply_all(messages):
    return Answers(honest(messages))
"""


@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
def test_answers_that_lie_about_themselves(batch: bool, hooked: Hooked) -> None:
    """An answer is what its buffer holds, and a list its items, whatever their Python methods say."""
    server = hooked(LYING, batch=batch, env={"PYTHONMALLOC": "debug"})
    with Witness(server, framing="line") as witness:
        assert server.exchange(b"bad one\nbad two\ngood\n") == b"bad one\nbad two\nsystem: good\n"
        wait_until_read(witness)


@linux
def test_an_answer_longer_than_any_may_be(hooked: Hooked) -> None:
    """A byte more than 1 GiB is a failure that says so, before a byte of it has been copied."""
    server = hooked("def bad(message):\n    return bytes((1 << 30) + 1)\n", "--log-rate", "0")
    server.allow("^error: hook failed: ")
    with Witness(server, framing="line") as witness:
        assert server.exchange(b"bad\n") == b""
        server.wait_for("the hook returned 1073741825 bytes; an answer may have 1 GiB")
        wait_until_read(witness)
        assert peak_bytes(server.process.pid) < 256 * MIB
    server.finish()
    assert server.closed("hook") == 1


@linux
def test_an_answer_longer_than_all_buffers(hooked: Hooked) -> None:
    """One that --max-buffered has no room for ends its connection, and its memory is given back."""
    server = hooked("def bad(message):\n    return bytes(64 << 20)\n", "--max-buffered", "16M", "--log-rate", "0")
    with Witness(server, framing="line") as witness:
        before = own_bytes(server.process.pid)
        with server.connect() as client:
            client.sendall(b"bad\n")
            wait_until_read(witness)
        assert own_bytes(server.process.pid) - before < 16 * MIB
    server.finish()
    assert (server.closed("buffered"), server.counter("unanswered")) == (1, 1)


@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
def test_a_million_answers(batch: bool, hooked: Hooked) -> None:
    """So many lines at once are answered by the hook in their order, while others are served."""
    server = hooked("", batch=batch)
    with Witness(server, framing="line"):
        assert server.exchange(b"\n" * 1_000_000) == b"system: \n" * 1_000_000


STARTING = """
import socket
from kqnative import Server

def bad(message):
    with Server(host="127.0.0.1", port=0, framing="line", reply="inner: {message}") as server:
        with socket.create_connection(server.address, 10) as client:
            client.sendall(b"hi\\n")
            return client.recv(100).strip()
"""


def test_a_hook_that_runs_another_server(hooked: Hooked) -> None:
    """A server that lives and ends within a hook's call has nothing to do with the one that called it."""
    server = hooked(STARTING)
    with Witness(server, framing="line", most_gap_s=None) as witness:  # the loop waits for the other server's end
        for _ in range(3):
            assert server.exchange(b"bad\n") == b"inner: hi\n"
        wait_until_read(witness)


def test_a_thousand_stops_are_one() -> None:
    """From eight threads, before the start and after the end: each returns, and says that nothing was cut."""
    server = Server(host="127.0.0.1", port=0, framing="line", loops=2)
    results = [server.stop()]

    def stop() -> None:
        for _ in range(125):
            results.append(server.stop())

    server.start()
    threads = [threading.Thread(target=stop) for _ in range(8)]
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"hi\n")
        assert read_exactly(client, 11) == b"system: hi\n"
        for thread in threads:
            thread.start()
        assert read_to_end(client) == b""
    for thread in threads:
        thread.join()
    server.run()
    assert results == [True] * 1_001
    check_stats(server.stats())


@linux
def test_a_program_inherits_no_descriptor(hooked: Hooked) -> None:
    """What a hook starts has the standard three, even if it asks for all: no client, listener or poller."""
    source = (
        "import subprocess\n"
        "def bad(message):\n"
        "    listed = subprocess.run(['ls', '/proc/self/fd'], stdout=subprocess.PIPE, close_fds=False).stdout\n"
        "    return b' '.join(listed.split())\n"
    )
    server = hooked(source)
    with Witness(server, framing="line", most_gap_s=None) as witness:  # the loop waits for the program
        assert server.exchange(b"bad\n") == b"0 1 2 3\n"  # 3 is the folder that it reads
        wait_until_read(witness)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_in_a_hook(method: str, hooked: Hooked) -> None:
    """A process of that module does its work and ends, and the server goes on."""
    source = f"""
import multiprocessing

def work(pipe):
    pipe.send_bytes(b"done")

def bad(message):
    context = multiprocessing.get_context({method!r})
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(writer,))
    process.start()
    answer = reader.recv_bytes()
    process.join()
    return b"%s %d" % (answer, process.exitcode)
"""
    server = hooked(source)
    with Witness(server, framing="line", most_gap_s=None) as witness:  # the loop waits for the process
        assert server.exchange(b"bad\nbad\n") == b"done 0\n" * 2
        wait_until_read(witness)
    server.kill()  # Python itself keeps some descriptors from now on
    assert server.wait() == 0


KEEPING = """
import zlib

kept = []

def bad(message):
    if message == b"bad?":
        return b"%d kept, %d changed" % (len(kept), sum(zlib.crc32(view) != crc for view, crc in kept))
    kept.append((memoryview(message), zlib.crc32(message)))
"""


def test_messages_that_a_hook_keeps_stay_as_they_are(hooked: Hooked) -> None:
    """They are its own: what comes later changes no byte of them."""
    server = hooked(KEEPING, env={"PYTHONMALLOC": "debug"})
    lines = b"".join(b"bad" + b"%d" % i * (i % 100) + b"\n" for i in range(1, 5_000))
    with Witness(server, framing="line"):
        for _ in range(2):
            assert server.exchange(lines) == b""
        assert server.exchange(b"bad?\n") == b"9998 kept, 0 changed\n"


COLLECTING = """
import gc

class Loud:
    def __init__(self):
        self.me = self

    def __del__(self):
        raise ValueError("said in __del__")

def bad(message):
    Loud()
    gc.collect()
    return message
"""


def test_garbage_is_collected_in_the_loop(hooked: Hooked) -> None:
    """What a __del__ raises there is shown as everywhere in Python, and no client is concerned."""
    server = hooked(COLLECTING)
    server.allow("^Traceback")
    with Witness(server, framing="line") as witness:
        assert server.exchange(b"bad\n" * 5) == b"bad\n" * 5
        wait_until_read(witness)
    server.wait_for("^ValueError: said in __del__$")


CLOSING = (
    LISTENER
    + """
def bad(message):
    {deed}
    return message
"""
)


@linux
@pytest.mark.parametrize(
    "deed",
    ["os.close(listener())", "os.dup2(os.open('/dev/null', os.O_RDONLY), listener())"],
    ids=["closed", "replaced"],
)
def test_a_hook_that_takes_the_listener_away(deed: str, hooked: Hooked, poller: str) -> None:
    """Nobody new is served, those who are there go on, the loop does not spin, and the stop is as always."""
    server = hooked(CLOSING.format(deed=deed), "--poller", poller)
    server.allow("cannot accept clients")
    with server.connect() as client:
        with Witness(server, framing="line") as witness:
            client.sendall(b"bad\n")
            assert read_exactly(client, 4) == b"bad\n"
            wait_until_read(witness)
        before_s = cpu_s(server.process.pid)
        time.sleep(0.3)  # a while of doing nothing is what is measured
        assert cpu_s(server.process.pid) - before_s < 0.06
        server.kill()
        assert read_to_end(client) == b""
    assert server.wait() == 0


@linux
def test_a_hook_that_closes_everything(hooked: Hooked) -> None:
    """Without its poller a loop ends and says so, and the process with it, at once and with its sums balanced."""
    server = hooked(CLOSING.format(deed="os.closerange(3, 1000)"), exit_code=1)
    server.allow("^error: an event loop failed and ended: EBADF", "^warning: cannot accept clients: EBADF")
    with server.connect() as client:
        client.sendall(b"bad\n")
        assert server.wait(5) == 1
    server.wait_for("^error: an event loop failed and ended: EBADF")


def test_a_hook_that_ends_the_process(hooked: Hooked) -> None:
    """os._exit() is the end at once, with its code: nobody is left to account for anything."""
    server = hooked("import os\ndef bad(message):\n    os._exit(7)\n", exit_code=7)
    with server.connect() as client:
        client.sendall(b"bad\n")
        assert server.wait(5) == 7
