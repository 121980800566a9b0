"""Limits: connections, descriptors, idle clients, log lines."""

import fcntl
import itertools
import json
import re
import resource
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
from conftest import SHORT_QUEUE, Serve, read_exactly, read_to_end, wait_until
from figures import cpu_s, own_bytes

from kqnative import Server

MIB = 1 << 20


def ask(client: socket.socket, text: bytes = b"hi") -> None:
    """One exchange."""
    client.sendall(text)
    assert read_exactly(client, 8 + len(text)) == b"system: " + text


@pytest.mark.parametrize("loops", ["1", "3"])
def test_max_connections_is_exact(loops: str, serve: Serve, poller: str) -> None:
    """So many are served; the next one waits in the backlog until one leaves, with several loops too."""
    server = serve("--max-connections", "5", "--loops", loops, "--poller", poller)
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        ask(client)
    waiting = server.connect()
    waiting.sendall(b"hi")
    waiting.settimeout(0.3)
    with pytest.raises(TimeoutError):
        waiting.recv(100)
    waiting.settimeout(5)
    clients[2].close()
    assert read_exactly(waiting, 10) == b"system: hi"
    for client in [*clients, waiting]:
        client.close()


@pytest.mark.timeout(120)
def test_thousands_of_connections(serve: Serve, poller: str) -> None:
    """2,000 clients at a time (900 with select) are all answered, twice."""
    count = 900 if poller == "select" else 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
    server = serve("--poller", poller, "--log-rate", "0")
    clients = [server.connect() for _ in range(count)]
    for text in (b"one", b"two"):
        for client in clients:
            client.sendall(text)
        for client in clients:
            assert read_exactly(client, 11) == b"system: " + text
    for client in clients:
        client.close()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit() of another process is Linux's")
def test_no_descriptor_left_pauses_accepting(serve: Serve) -> None:
    """At EMFILE nothing spins, one line says what to do, and who waits is served when there is room again."""
    server = serve()
    server.allow("EMFILE")
    with server.connect() as client:
        ask(client)
        before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (server.descriptor_count(), before[1]))
        with server.connect() as waiting:
            waiting.sendall(b"hi")
            server.wait_for("^warning: .*EMFILE.*ulimit -n")
            ask(client)
            spent_s = cpu_s(server.process.pid)
            ask(client)
            assert cpu_s(server.process.pid) - spent_s < 0.2
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
            assert read_exactly(waiting, 10) == b"system: hi"


def test_idle_clients_are_closed(serve: Serve, poller: str) -> None:
    """A client without progress is closed with that reason; one that talks meanwhile is not."""
    server = serve("--idle-timeout", "600ms", "--poller", poller)
    with server.connect() as idle, server.connect() as busy:
        begun = time.monotonic()
        idle.settimeout(0.1)
        ended = False
        while not ended:
            ask(busy)
            try:
                ended = idle.recv(1) == b""
            except TimeoutError:
                assert time.monotonic() - begun < 5
        assert time.monotonic() - begun >= 0.6
        ask(busy)
        server.wait_for("disconnected: idle for 600 ms")


@pytest.mark.parametrize("framing", ["line", "u32"])
def test_a_message_must_end_in_time(framing: str, serve: Serve, poller: str) -> None:
    """One byte now and then keeps nobody alive: the time counts from a message's first byte, anew for each message."""
    server = serve("--framing", framing, "--message-timeout", "600ms", "--poller", poller)
    message = b"hi\n" if framing == "line" else b"\0\0\0\2hi"
    with server.connect() as dripping, server.connect() as finishing, server.connect() as quiet:
        begun = time.monotonic()
        dripping.settimeout(0.05)
        ended = False
        drops = itertools.chain(b"\0\0\1\0", itertools.repeat(0))  # a length, for u32
        while not ended:
            finishing.sendall(message + message[:1])  # an unfinished one, and soon its end
            assert time.monotonic() - begun < 5
            try:
                dripping.sendall(bytes([next(drops)]))
                ended = dripping.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                ended = True
            finishing.sendall(message[1:])
            read_exactly(finishing, 2 * (8 + len(message)))
        assert 0.6 <= time.monotonic() - begun < 1.6
        server.wait_for("disconnected: message not finished within 600 ms")
        quiet.sendall(message)
        assert len(read_exactly(quiet, 8 + len(message))) == 8 + len(message)
    server.finish()
    assert server.closed("message_timeout") == 1


def test_answers_must_be_taken_in_time(serve: Serve, poller: str) -> None:
    """Who takes no byte of its answers is closed; who takes some now and then is not, and gets all of them."""
    server = serve("--framing", "line", "--write-timeout", "800ms", "--poller", poller, "--log-rate", "1000")
    with server.connect() as stuck, server.connect() as slow:
        fill(stuck)
        sender = threading.Thread(target=slow.sendall, args=((b"y" * 1000 + b"\n") * 16_000,))
        sender.start()
        begun = time.monotonic()
        received = 0
        while time.monotonic() - begun < 2.5:
            received += len(slow.recv(50_000))
            time.sleep(0.05)
        server.wait_for("disconnected: took none of its answers for 800 ms")
        received += len(read_exactly(slow, 16_000 * 1009 - received))
        assert received == 16_000 * 1009
        sender.join()
    server.finish()
    assert server.closed("write_timeout") == 1


def test_the_largest_holder_ends_when_memory_for_buffers_does(serve: Serve, poller: str) -> None:
    """Up to the last byte of it nobody is closed; then the one that holds the most is, and the others go on."""
    server = serve("--framing", "line", "--max-buffered", "1M", "--poller", poller, "--log-rate", "1000")
    with server.connect() as large:
        large.sendall(b"x" * 50_000)  # a block of 64 KiB; each of the others has one of 4 KiB
        small = [server.connect() for _ in range(240)]
        for client in small:
            client.sendall(b"y" * 3_000)
        wait_until(lambda: all(unsent(client) == 0 for client in [large, *small]), "all is taken")
        with server.connect() as asking:
            ask_line(asking)  # and read
            large.settimeout(0.3)
            with pytest.raises(TimeoutError):
                large.recv(1)
            asking.sendall(b"z")
            server.wait_for("disconnected: held the most when max_buffered, 1 MiB, had no room")
            asking.sendall(b"\n")
            assert read_exactly(asking, 10) == b"system: z\n"
        for client in small:
            client.sendall(b"\n")
            assert len(read_exactly(client, 3_009)) == 3_009
            client.close()
    server.finish()
    assert server.closed("buffered") == 1


@pytest.mark.parametrize("size", [900_000, 3_000_000])
def test_who_would_hold_the_most_ends_and_not_the_crowd(size: int, serve: Serve, tmp_path: Path) -> None:
    """A crowd that holds little each is safe from one that needs much, for an answer or for what it has sent."""
    (tmp_path / "big.py").write_text(
        f"def reply(message):\n    return message if len(message) < 9 else b'x' * {size}\n"
    )
    server = serve("--framing", "line", "--hook", "big:reply", "--max-buffered", "1M", "--log-rate", "0")
    crowd = [server.connect() for _ in range(200)]
    for client in crowd:
        client.sendall(b"y")
    with server.connect() as greedy:
        greedy.settimeout(1)
        try:
            for _ in range(20):  # and reads none of the answers
                greedy.sendall(b"0123456789\n")
        except OSError:
            pass
    for client in crowd:
        client.sendall(b"\n")
        assert read_exactly(client, 2) == b"y\n"
        client.close()
    server.finish()
    assert server.closed("buffered") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_below_the_worst_case(serve: Serve) -> None:
    """What --print-config reckons holds with every place taken, and everybody holding as much as they can."""
    options = ["--framing", "line", "--max-buffered", "8M", "--max-connections", "200", "--loops", "2"]
    text = subprocess.run(
        [sys.executable, "-m", "kqnative", "--print-config", *options], capture_output=True, text=True, check=True
    ).stdout
    bound = re.search(r"^# at most ([\d.]+) MiB of memory: max_buffered 8 MiB \+ loops 2 x", text, re.MULTILINE)
    assert bound, text
    server = serve(*options, "--log-rate", "0")
    before = own_bytes(server.process.pid)
    clients = [server.connect() for _ in range(200)]
    most_bytes = 0
    for client in clients:
        client.settimeout(0)
        try:
            for _ in range(20):
                client.send(b"short\n" * 10_000 if client.fileno() % 2 else b"x" * 50_000)
        except OSError:
            pass  # it takes no more, or was closed
        most_bytes = max(most_bytes, own_bytes(server.process.pid))
    assert 4 * MIB < most_bytes - before < float(bound[1]) * MIB
    for client in clients:
        client.close()
    server.finish()
    assert server.closed("buffered") > 0


def unsent(client: socket.socket) -> int:
    """Bytes that the other side has not taken in yet, where that can be asked for."""
    if sys.platform != "linux":
        return 0
    answer = fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def test_an_idle_timeout_of_0_is_never(serve: Serve) -> None:
    """With 0 a quiet client stays, and the loop does not wake for it."""
    server = serve("--idle-timeout", "0")
    with server.connect() as client:
        client.settimeout(1.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        ask(client)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_waiting_server_rests(serve: Serve) -> None:
    """With idle clients, one of them at its end and unread, the server uses no processor time to speak of."""
    server = serve("--framing", "line")
    with server.connect() as client, server.connect() as unread:
        unread.sendall(b"unfinished")
        ask_line(client)
        spent_s = cpu_s(server.process.pid)
        client.settimeout(1.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert cpu_s(server.process.pid) - spent_s < 0.1


def ask_line(client: socket.socket) -> None:
    """One exchange of a line."""
    client.sendall(b"hi\n")
    assert read_exactly(client, 11) == b"system: hi\n"


def test_max_connections_above_the_limit_is_lowered(serve: Serve) -> None:
    """The warning names the limit and the command that raises it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 2_000_000:
        pytest.skip("this system limits no process's descriptors")
    server = serve("--max-connections", str(hard + 1000))
    server.allow("max_connections is lowered")
    assert str(hard) in server.wait_for(r"^warning: max_connections is lowered.*ulimit -n.*")[0]


@pytest.mark.parametrize("loops", [1, 2])
def test_client_lines_are_limited(loops: int, serve: Serve) -> None:
    """At most --log-rate lines a second and loop; what was left out is counted by kind and said."""
    server = serve("--log-rate", "10", "--loops", str(loops), "--framing", "line")
    assert server.exchange(b"x\n" * 1000) == b"system: x\n" * 1000
    server.wait_for(r"Left out .* received", 5)
    server.kill()
    assert server.wait() == 0
    received = sum(line.startswith("Received") for line in server.lines)
    left_out = sum(int(line.split(" received")[0].split()[-1]) for line in server.lines if " received" in line)
    assert received + left_out == 1000
    assert received <= 10 * loops * 3


def test_log_rate_0_is_silence(serve: Serve) -> None:
    """No client line, and none about those left out."""
    server = serve("--log-rate", "0", *SHORT_QUEUE)
    server.exchange(b"x")
    server.finish()
    assert [line.split()[1] for line in server.lines] == ["started", "stopped:"]


def test_json_lines(serve: Serve) -> None:
    """Every line is an object with its event, and the last one holds every counter."""
    server = serve("--log-format", "json", *SHORT_QUEUE)
    with server.connect() as client:
        peer = f"127.0.0.1:{client.getsockname()[1]}"
        ask(client)
    server.wait_for('"disconnected"')
    server.finish()
    lines = [json.loads(line) for line in server.lines]
    assert [line["event"] for line in lines] == ["started", "connected", "received", "disconnected", "stopped"]
    assert lines[2]["message"] == "Received: hi"
    assert {line["peer"] for line in lines[1:4]} == {peer}
    assert len({line["fd"] for line in lines[1:4]}) == 1
    assert lines[2]["bytes"] == 2
    assert lines[3]["reason"] == "eof"
    assert lines[4]["stats"]["answered"] == 1
    assert all(line["time"].endswith("Z") and len(line["time"]) == 24 for line in lines)


def test_the_loop_turns_though_events_are_few(serve: Serve) -> None:
    """A client that ends while its answers are unread loses none of them."""
    server = serve("--framing", "line", "--reply", "{message}")
    with server.connect() as client:
        client.sendall(b"a\n" * 10)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: len(client.recv(100, socket.MSG_PEEK)) == 20, "all answers")
        assert read_to_end(client) == b"a\n" * 10


def fill(client: socket.socket) -> None:
    """Sends lines, and reads nothing, until the server takes no more."""
    client.settimeout(0.2)
    try:
        while True:
            client.sendall((b"x" * 1000 + b"\n") * 100)
    except TimeoutError:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stop_at_the_limit_rests_too(serve: Serve) -> None:
    """A full server that waits for a slow reader at its end uses no processor time to speak of."""
    server = serve("--max-connections", "1", "--grace", "2", "--framing", "line", exit_code=1)
    server.allow("answers owed")
    with server.connect() as client:
        fill(client)
        server.wait_for("Received")
        server.kill()
        spent_s = cpu_s(server.process.pid)
        time.sleep(1.2)  # a while of doing nothing is what is measured
        assert cpu_s(server.process.pid) - spent_s < 0.3
        server.wait()
    assert server.closed("cut") == 1


def test_a_slow_hook_makes_nobody_idle(serve: Serve, tmp_path: Path) -> None:
    """Who sent while another's message held up the loop for longer than the idle timeout is answered, not closed."""
    (tmp_path / "slow.py").write_text(
        "import time\n\ndef reply(message):\n    time.sleep(1.5 if message == b'slow' else 0)\n    return message\n"
    )
    server = serve("--framing", "line", "--hook", "slow:reply", "--idle-timeout", "1")
    with server.connect() as slow, server.connect() as other:
        other.sendall(b"first\n")
        assert read_exactly(other, 6) == b"first\n"
        slow.sendall(b"slow\n")
        server.wait_for("Received: slow")
        other.sendall(b"second\n")
        assert read_exactly(other, 7) == b"second\n"
        assert read_exactly(slow, 5) == b"slow\n"


def test_a_server_without_clients_sleeps() -> None:
    """With nobody there the loop does not turn, whatever the idle timeout."""
    with Server(host="127.0.0.1", port=0, idle_timeout=0.04) as server:
        before = server.stats().turns
        time.sleep(0.5)  # a while of doing nothing is what is measured
        assert server.stats().turns - before <= 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_left_of_a_long_message_is_held_in_little(serve: Serve) -> None:
    """The first byte of a line behind a line of a megabyte costs no megabyte."""
    server = serve("--framing", "line", "--reply", "ok", "--log-rate", "0")
    clients = [server.connect() for _ in range(40)]
    before = own_bytes(server.process.pid)
    for client in clients:
        client.sendall(b"x" * 1_000_000 + b"\ny")
        assert read_exactly(client, 3) == b"ok\n"
    assert own_bytes(server.process.pid) - before < 8 * MIB
    for client in clients:
        client.close()
