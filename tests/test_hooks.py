"""Hooks: Python functions that decide the answers, and what happens when they misbehave."""

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    RunningServer,
    Serve,
    exchange,
    line_message,
    read_exactly,
    read_to_end,
    u32_message,
    wait_until,
)

MIB = 1 << 20
KINDS = ["--hook", "--hook-batch"]
MESSAGES: dict[str, Callable[[bytes], bytes]] = {"stream": bytes, "line": line_message, "u32": u32_message}

# The message b"wait" keeps a hook busy until the test has made the file "go"; the file "busy" says that it has begun.
WAITING = """
import pathlib
import time

def wait_for_go():
    pathlib.Path("busy").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.005)
"""
ECHO = "def reply(message):\n    return message\n"

Hooked = Callable[..., RunningServer]


@pytest.fixture
def hooked(serve: Serve, tmp_path: Path) -> Hooked:
    """Starts a server whose hook is `reply` in this source: hooked(source, "--framing", "line", kind="--hook")."""

    def start(source: str, *args: str, kind: str = "--hook") -> RunningServer:
        name = f"answers{len(list(tmp_path.glob('answers*.py')))}"
        (tmp_path / f"{name}.py").write_text(source)
        return serve(kind, f"{name}:reply", *args)

    return start


def source_of(kind: str, expression: str) -> str:
    """A hook of this kind that answers each `message` with the expression."""
    if kind == "--hook":
        return f"def reply(message):\n    return {expression}\n"
    return f"def reply(messages):\n    return [{expression} for message in messages]\n"


def ask(client: socket.socket, text: bytes) -> bytes:
    """Sends a line and returns the line that comes back, without its end."""
    client.sendall(text + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        part = client.recv(1)
        assert part, f"the end came after {answer!r}"
        answer += part
    return answer[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_answers(kind: str, hooked: Hooked, poller: str) -> None:
    """Bytes go in, and the bytes that it returns come back, on every poller."""
    server = hooked(source_of(kind, "b'<' + message + b'>'"), "--framing", "line", "--poller", poller, kind=kind)
    assert server.exchange(b"one\ntwo\r\n\nlast") == b"<one>\n<two>\r\n<>\n<last>"


@pytest.mark.parametrize("framing", MESSAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_in_every_framing(kind: str, framing: str, hooked: Hooked) -> None:
    """A message is handed over without its frame, and the answer is framed as messages are."""
    message = MESSAGES[framing]
    server = hooked(source_of(kind, "message.upper() * 2"), "--framing", framing, kind=kind)
    assert server.exchange(message(b"hi")) == message(b"HIHI")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_hook_gets_the_newline(kind: str, hooked: Hooked) -> None:
    """In stream framing the message keeps its LF, and its type is bytes itself."""
    server = hooked(source_of(kind, "repr((type(message), message)).encode()"), kind=kind)
    with server.connect() as client:
        client.sendall(b"hello\n")
        expected = rb"(<class 'bytes'>, b'hello\n')"
        assert read_exactly(client, len(expected)) == expected


def test_none_is_no_answer(hooked: Hooked) -> None:
    """None declines one message: it is counted, and the connection goes on."""
    server = hooked("def reply(message):\n    return None if message == b'no' else message\n", "--framing", "line")
    assert server.exchange(b"a\nno\nno\nb\n") == b"a\nb\n"
    assert server.exchange(b"no\n") == b""
    server.finish()
    assert (server.counter("answered"), server.counter("declined")) == (2, 3)
    assert server.closed("eof") == 2


@pytest.mark.parametrize("framing", MESSAGES)
def test_an_empty_answer_is_one(framing: str, hooked: Hooked) -> None:
    """b"" counts as answered; in line and u32 framing its frame arrives."""
    server = hooked("def reply(message):\n    return b''\n", "--framing", framing)
    message = MESSAGES[framing]
    assert server.exchange(message(b"hi")) == message(b"")
    server.finish()
    assert (server.counter("answered"), server.counter("declined")) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        "bytearray(b'answer')",
        "memoryview(b'answer')",
        "memoryview(b'(answer)')[1:-1]",
        "memoryview(b'answer').cast('B', (2, 3))",
        "array.array('H', b'answer')",
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_like_answers(kind: str, answer: str, hooked: Hooked) -> None:
    """Whatever holds its bytes in one piece is an answer."""
    server = hooked("import array\n" + source_of(kind, answer), "--framing", "line", kind=kind)
    assert server.exchange(b"x\ny\n") == b"answer\nanswer\n"


def test_an_answer_may_be_used_again(hooked: Hooked) -> None:
    """The server has copied an answer when the hook is called again: a buffer may be written anew."""
    source = "buffer = bytearray(4)\ndef reply(message):\n    buffer[:] = message\n    return buffer\n"
    server = hooked(source, "--framing", "line")
    lines = b"".join(b"%04d\n" % i for i in range(3_000))
    assert server.exchange(lines) == lines


@pytest.mark.parametrize(
    ("deed", "logged"),
    [
        ("raise ValueError('no\\nServer stopped: \\x1b[31m')", "^  ValueError: no$"),
        ("raise SystemExit(3)", "^  SystemExit: 3$"),
        ("raise KeyboardInterrupt", "^  KeyboardInterrupt$"),
        ("raise BaseException", "^  BaseException$"),
        ("return 1", "TypeError: .*<class 'int'>.* bytes"),
        ("return 'text'", "TypeError: .*<class 'str'>.* bytes"),
        ("return [message]", "TypeError: .*<class 'list'>.* bytes"),
        ("return memoryview(b'abcd')[::2]", "BufferError: .*contiguous"),
    ],
    ids=["Exception", "SystemExit", "KeyboardInterrupt", "BaseException", "int", "str", "list", "strided"],
)
def test_a_failing_hook_ends_one_connection(deed: str, logged: str, hooked: Hooked) -> None:
    """The connection ends after its earlier answers, with a traceback; another one notices nothing."""
    source = f"def reply(message):\n    if message == b'bad':\n        {deed}\n    return message\n"
    server = hooked(source, "--framing", "line")
    server.allow("^error: hook failed: ")
    with server.connect() as witness, server.connect() as client:
        assert ask(witness, b"before") == b"before"
        client.sendall(b"one\nbad\ntwo\n")
        assert read_to_end(client) == b"one\n"
        assert ask(witness, b"after") == b"after"
    server.wait_for(logged)
    server.wait_for("^Client FD .* disconnected: hook failed$")
    server.finish()
    assert (server.counter("answered"), server.counter("failed"), server.counter("unanswered")) == (3, 1, 1)
    assert server.closed("hook") == 1
    assert not [line for line in server.lines[:-1] if line.startswith("Server stopped")]
    assert not [line for line in server.lines if "\x1b" in line]


def test_earlier_answers_arrive_before_a_failure_ends_it(hooked: Hooked) -> None:
    """A slow reader still gets megabytes that were answered before the message that failed."""
    source = "def reply(message):\n    return {b'big': b'x' * (4 << 20)}[message]\n"
    server = hooked(source, "--framing", "line")
    server.allow("^error: hook failed: ")
    with server.connect() as client:
        client.sendall(b"big\nbad\nbig\n")
        server.wait_for("KeyError: b'bad'")
        assert read_to_end(client) == b"x" * (4 * MIB) + b"\n"


def test_tracebacks_have_a_rate(hooked: Hooked) -> None:
    """One traceback a second and cause is logged; the others are counted, and none is forgotten."""
    source = (
        "def reply(message):\n    if message == b'other':\n        raise KeyError('two')\n    raise ValueError('one')\n"
    )
    server = hooked(source, "--framing", "line")
    server.allow("^error: hook failed: ")
    begun = time.monotonic()
    for _ in range(40):
        assert server.exchange(b"bad\n") == b""
    assert server.exchange(b"other\n") == b""
    server.wait_for("^  KeyError: 'two'$")
    server.finish()
    lasted_s = time.monotonic() - begun
    shown = server.lines.count("  ValueError: one")
    left_out = [re.search(r"^error: hook failed: ValueError at .*py:4: (\d+) more left out$", x) for x in server.lines]
    assert 1 <= shown <= lasted_s + 1
    assert shown + sum(int(found[1]) for found in left_out if found) == 40
    assert server.counter("failed") == 41


def test_a_hook_that_recurses_without_end(hooked: Hooked) -> None:
    """A RecursionError is one failure as any other, and its traceback has an end."""
    source = "def reply(message):\n    return message if message == b'good' else reply(message)\n"
    server = hooked(source, "--framing", "line")
    server.allow("^error: hook failed: ")
    assert server.exchange(b"good\nbad\n") == b"good\n"
    server.wait_for("RecursionError")
    assert server.exchange(b"good\n") == b"good\n"


@pytest.mark.parametrize(
    ("deed", "logged"),
    [
        ("return messages[1:]", r"ValueError: .*1 answers to 2 messages"),
        ("return messages * 2", r"ValueError: .*4 answers to 2 messages"),
        ("return tuple(messages)", r"TypeError: .*tuple.*list"),
        ("return None", r"TypeError: .*NoneType.*list"),
        ("return [messages[0], 1]", r"TypeError: .*<class 'int'>.* bytes"),
        ("raise SystemExit", r"^  SystemExit$"),
    ],
    ids=["too short", "too long", "tuple", "None", "one wrong", "SystemExit"],
)
def test_a_failing_batch_ends_its_connections(deed: str, logged: str, hooked: Hooked, tmp_path: Path) -> None:
    """Each connection of that batch ends, after its earlier answers, and no other one does."""
    source = WAITING + (
        "def reply(messages):\n"
        "    if b'wait' in messages:\n"
        "        wait_for_go()\n"
        "    if b'bad' in messages:\n"
        f"        {deed}\n"
        "    return messages\n"
    )
    server = hooked(source, "--framing", "line", kind="--hook-batch")
    server.allow("^error: hook failed: ")
    with server.connect() as idle, server.connect() as waiting, server.connect() as bad, server.connect() as good:
        for client in (idle, bad, good):
            assert ask(client, b"early") == b"early"
        waiting.sendall(b"wait\n")
        wait_until((tmp_path / "busy").exists, "the hook is busy")
        bad.sendall(b"bad\n")  # these two are there when the loop's next turn begins: one batch
        good.sendall(b"good\n")
        (tmp_path / "go").touch()
        assert read_to_end(bad) == b""
        assert read_to_end(good) == b""
        assert ask(idle, b"late") == b"late"
        assert read_exactly(waiting, 5) == b"wait\n"
        assert ask(waiting, b"again") == b"again"
    server.wait_for(logged)
    server.finish()
    assert (server.counter("failed"), server.closed("hook"), server.closed("eof")) == (2, 2, 2)


def test_a_batch_takes_and_gives_lists(hooked: Hooked) -> None:
    """It gets a list of bytes; a subclass of list is taken as well, None among the answers too."""
    source = (
        "class Answers(list):\n    pass\n"
        "def reply(messages):\n"
        "    assert type(messages) is list\n"
        "    return Answers(None if message == b'no' else message for message in messages)\n"
    )
    server = hooked(source, "--framing", "line", kind="--hook-batch")
    assert server.exchange(b"a\nno\nb\n") == b"a\nb\n"
    server.finish()
    assert (server.counter("answered"), server.counter("declined")) == (2, 1)


@pytest.mark.parametrize("loops", ["1", "2"])
@pytest.mark.parametrize("kind", KINDS)
def test_everybody_gets_the_own_answers(kind: str, loops: str, hooked: Hooked) -> None:
    """Twenty clients at a time: answers come in order, and to the connection whose message it was."""
    source = source_of(kind, "b'<' + message + b'>'")
    server = hooked(source, "--framing", "line", "--loops", loops, kind=kind)
    failures: list[int] = []

    def talk(i: int) -> None:
        texts = [b"%d.%d" % (i, j) for j in range(300)]
        with server.connect() as client:
            for text in texts[:20]:  # in lock-step, and then as fast as it can
                if ask(client, text) != b"<" + text + b">":
                    failures.append(i)
            answers = exchange(client, b"".join(text + b"\n" for text in texts))
        if answers != b"".join(b"<" + text + b">\n" for text in texts):
            failures.append(i)

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    server.finish()
    assert server.counter("answered") == 20 * 320


def test_a_sleeping_hook_holds_up_its_own_loop_alone(hooked: Hooked, tmp_path: Path) -> None:
    """With two loops a client of the other one is answered while the hook sleeps."""
    source = WAITING + "def reply(message):\n    message == b'wait' and wait_for_go()\n    return message\n"
    server = hooked(source, "--framing", "line", "--loops", "2")
    with server.connect() as sleeper, server.connect() as other:  # in turn to one loop and the other
        assert ask(sleeper, b"hi") == b"hi"
        sleeper.sendall(b"wait\n")
        wait_until((tmp_path / "busy").exists, "the hook is busy")
        for i in range(100):
            assert ask(other, b"%d" % i) == b"%d" % i
        (tmp_path / "go").touch()
        assert read_exactly(sleeper, 5) == b"wait\n"


def test_a_client_that_breaks_off_while_its_hook_runs(hooked: Hooked, tmp_path: Path) -> None:
    """Its answer is counted as unanswered, the end as a reset, and the next client is served."""
    source = WAITING + "def reply(message):\n    message == b'wait' and wait_for_go()\n    return message\n"
    server = hooked(source, "--framing", "line")
    with server.connect() as client:
        client.sendall(b"wait\n")
        wait_until((tmp_path / "busy").exists, "the hook is busy")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    (tmp_path / "go").touch()
    assert server.exchange(b"next\n") == b"next\n"
    server.finish()
    assert (server.counter("answered"), server.counter("unanswered"), server.closed("reset")) == (1, 1, 1)


def test_a_loop_calls_its_hook_in_one_thread(hooked: Hooked) -> None:
    """What a hook keeps in a threading.local is there the next time, with its own value in each loop."""
    source = (
        "import threading\nkept = threading.local()\n"
        "def reply(message):\n"
        "    kept.count = getattr(kept, 'count', 0) + 1\n"
        "    return b'%d' % kept.count\n"
    )
    server = hooked(source, "--framing", "line", "--loops", "2")
    with server.connect() as one, server.connect() as other:
        for i in range(1, 20):
            assert ask(one, b"x") == ask(other, b"x") == b"%d" % i


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_closed_client_gets_every_answer(kind: str, hooked: Hooked, poller: str) -> None:
    """All answers to 65,536 empty lines, sent at once before the client's end, come in their order."""
    source = "import itertools\ncounter = itertools.count()\n" + source_of(kind, "b'%d' % next(counter)")
    server = hooked(source, "--framing", "line", "--poller", poller, kind=kind)
    assert server.exchange(b"\n" * 65_536) == b"".join(b"%d\n" % i for i in range(65_536))
    server.finish()
    assert server.counter("answered") == server.counter("messages") == 65_536


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_longer_than_the_arena(kind: str, hooked: Hooked) -> None:
    """Two MiB are one message, and its answer has its place among those to short ones."""
    server = hooked(source_of(kind, "message"), "--framing", "line", "--max-message", "4M", kind=kind)
    long = bytes(range(32, 127)) * (2 * MIB // 95)
    data = b"a\nb\n" + long + b"\nc\n" + long + b"\n" + long + b"\nd\n"
    assert server.exchange(data) == data
    assert server.exchange(b"short\n") == b"short\n"


@pytest.mark.parametrize("kind", KINDS)
def test_big_answers_reach_a_slow_reader_whole(kind: str, hooked: Hooked, poller: str) -> None:
    """Answers of 4 MiB wait for a client that takes its time, and delay nobody."""
    source = source_of(kind, "message * (4 << 20) if message == b'x' else message")
    server = hooked(source, "--framing", "line", "--poller", poller, kind=kind)
    with server.connect() as slow, server.connect() as other:
        slow.sendall(b"x\nend\nx\n")
        for i in range(50):
            assert ask(other, b"%d" % i) == b"%d" % i
        slow.shutdown(socket.SHUT_WR)
        answers = bytearray()
        while part := slow.recv(16_384):
            answers += part
    assert answers == b"x" * (4 * MIB) + b"\nend\n" + b"x" * (4 * MIB) + b"\n"


FORKING = """
import os
import time

def reply(message):
    word, _, deed = message.partition(b" ")
    if word == b"reap":
        return b"%d" % os.waitpid(int(deed), 0)[1]
    if word != b"fork":
        return message
    pid = os.fork()
    if pid:
        return b"%d" % pid
    if deed == b"exits":
        os._exit(0)
    if deed == b"sleeps":
        time.sleep(30)
        os._exit(0)
    if deed == b"raises":
        raise ValueError
    return b"child"
"""


@pytest.mark.parametrize("deed", [b"exits", b"returns", b"raises"])
def test_a_fork_in_a_hook_harms_nobody(deed: bytes, hooked: Hooked, poller: str) -> None:
    """However the child ends, it does so by itself, and every client gets each answer once, from the parent."""
    server = hooked(FORKING, "--framing", "line", "--poller", poller)
    with server.connect() as client, server.connect() as witness:
        assert ask(witness, b"before") == b"before"
        client.sendall(b"one\nfork " + deed + b"\ntwo\n")
        assert read_exactly(client, 4) == b"one\n"
        pid = b""
        while not pid.endswith(b"\n"):
            pid += client.recv(1)
        assert read_exactly(client, 4) == b"two\n"
        assert ask(client, b"reap " + pid.strip()) == b"0"  # the child has done all that it will ever do
        assert ask(witness, b"after") == b"after"
        assert exchange(client, b"last\n") == b"last\n"
        assert exchange(witness, b"last\n") == b"last\n"
    server.finish()
    assert server.counter("messages") == server.counter("answered") == 8
    assert server.closed("eof") == 2


def test_a_forked_child_reads_nothing(hooked: Hooked) -> None:
    """A full batch whose hook forks, and a long frame behind it: the child leaves the rest of that to the parent."""
    server = hooked(FORKING, "--framing", "u32")
    short, long = [b"fork returns", *[b"x"] * 300], b"y" * 300_000
    with server.connect() as client:
        client.sendall(b"".join(len(message).to_bytes(4) + message for message in [*short, long]))
        answers = [read_exactly(client, int.from_bytes(read_exactly(client, 4))) for _ in [*short, long]]
    assert answers[1:] == [*short[1:], long]


@pytest.mark.parametrize("deed", [b"exits", b"returns"])
def test_a_fork_in_a_batch_hook(deed: bytes, hooked: Hooked) -> None:
    """The same with a hook for batches."""
    source = (
        FORKING.replace("reply", "one") + "def reply(messages):\n    return [one(message) for message in messages]\n"
    )
    server = hooked(source, "--framing", "line", kind="--hook-batch")
    with server.connect() as client:
        pid = ask(client, b"fork " + deed)
        assert ask(client, b"reap " + pid) == b"0"
        assert exchange(client, b"last\n") == b"last\n"


def end_process(pid: bytes) -> None:
    """Ends the child of a hook: until then it holds the server's standard error."""
    os.kill(int(pid), signal.SIGKILL)


def test_a_living_child_delays_no_end(hooked: Hooked, poller: str) -> None:
    """Clients see the end of their connections at once, though a forked child still holds their sockets."""
    server = hooked(FORKING, "--framing", "line", "--poller", poller)
    with server.connect() as client, server.connect() as witness, server.connect() as third:
        assert ask(third, b"here") == b"here"
        pid = ask(client, b"fork sleeps")
        try:
            for one in (client, witness):
                begun = time.monotonic()
                assert exchange(one, b"last\n") == b"last\n"
                assert time.monotonic() - begun < 1
            begun = time.monotonic()
            assert server.exchange(b"new\n") == b"new\n"
            server.kill()
            assert read_to_end(third) == b""
            assert server.process.wait(10) == 0
            assert time.monotonic() - begun < 2
        finally:
            end_process(pid)


def send_for_ever(client: socket.socket) -> None:
    """Until an exception ends it."""
    while True:
        client.sendall(b"x" * 65_536)


def test_a_living_child_keeps_no_sender(hooked: Hooked) -> None:
    """A client that goes on sending after its connection was ended is told so, though a forked child still lives."""
    server = hooked(FORKING, "--framing", "line", "--max-message", "100")
    with server.connect() as forker, server.connect() as client:
        pid = ask(forker, b"fork sleeps")
        try:
            client.sendall(b"x" * 101)
            assert read_to_end(client) == b""
            with pytest.raises(ConnectionError):
                send_for_ever(client)
        finally:
            end_process(pid)


def test_a_living_child_keeps_no_port(hooked: Hooked) -> None:
    """Once the server has stopped, its port refuses clients and can be bound, though a forked child still lives."""
    server = hooked(FORKING, "--framing", "line")
    with server.connect() as client:
        pid = ask(client, b"fork sleeps")
    try:
        server.kill()
        assert server.process.wait(10) == 0
        with pytest.raises(ConnectionRefusedError), server.connect():
            pass
        next_server = hooked(ECHO, "--framing", "line", "--host", "127.0.0.1", "--port", str(server.port))
        assert next_server.exchange(b"hi\n") == b"hi\n"
    finally:
        end_process(pid)


def test_a_subprocess_in_a_hook(hooked: Hooked) -> None:
    """A program that a hook runs does its work, inherits no client, and delays no end."""
    source = (
        "import subprocess\n"
        "def reply(message):\n"
        "    if message == b'stay':\n"
        "        return b'%d' % subprocess.Popen(['sleep', '30'], close_fds=False).pid\n"
        "    return subprocess.run(['cat'], input=message, stdout=subprocess.PIPE, check=True).stdout\n"
    )
    server = hooked(source, "--framing", "line")
    with server.connect() as client:
        assert ask(client, b"hello") == b"hello"
        pid = ask(client, b"stay")
        try:
            begun = time.monotonic()
            assert exchange(client, b"a\nb\n") == b"a\nb\n"
            assert time.monotonic() - begun < 1
        finally:
            end_process(pid)
