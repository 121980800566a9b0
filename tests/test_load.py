"""The load tester's engine, against servers that behave well and badly: it reports exactly what happened."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, POLLERS, Serve, wait_until
from scripted import ScriptedServer, echo, lines_of, reset

from kqnative import Server
from kqnative.load import LoadPlan, LoadResult, run_load


def load(target: str, **fields: Any) -> LoadResult:
    """One run."""
    return run_load(LoadPlan(target=target, **fields))


def errors_of(result: LoadResult) -> dict[str, int]:
    """The kinds of errors that there were."""
    there = {kind: count for kind, count in result.errors.items() if count and kind != "total"}
    assert sum(there.values()) == result.errors["total"]
    return there


def check_sums(result: LoadResult) -> None:
    """What always holds of a run in which nothing went wrong."""
    assert errors_of(result) == {}
    assert result.sent == result.messages == len(result.latency)
    assert sum(one.messages for one in result.intervals) == result.messages
    assert sum(one.sent for one in result.intervals) == result.sent
    assert result.valid in (True, False)  # noise of the machine may make it invalid; it is no error
    assert result.ended_because is None


class Numbered:
    """Counts what a test's server does, over all its connections."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.last = 0

    def next(self) -> int:
        """1, 2, 3…"""
        with self._lock:
            self.last = next(self._numbers)
            return self.last


# --- Servers that behave ---


@pytest.mark.parametrize("poller", POLLERS)
@pytest.mark.parametrize("framing", ["line", "u32"])
@pytest.mark.parametrize(("loops", "depth"), [(1, 1), (1, 16), (3, 4)])
def test_counts_are_the_servers_own(framing: str, poller: str, loops: int, depth: int) -> None:
    """A run by count is answered whole, checked byte for byte, and counts what the server counts."""
    with Server(host="127.0.0.1", port=0, framing=framing) as server:
        result = load(
            f"127.0.0.1:{server.port}",
            framing=framing,
            poller=poller,
            messages=5_000,
            connections=7,
            loops=loops,
            depth=depth,
            message="hello {n} from {conn}",
            expect="system: {message}",
        )
        check_sums(result)
        assert result.messages == server.stats().messages == 5_000
        assert result.warmup_messages == 0


def test_warm_up_and_measured_messages_are_the_servers_own_count() -> None:
    """A run by time with a warm-up counts in both together what the server counts."""
    with Server(host="127.0.0.1", port=0, framing="line") as server:
        result = load(f"127.0.0.1:{server.port}", duration=0.5, warmup=0.2, depth=3)
        check_sums(result)
        assert result.warmup_messages > 0
        assert result.messages + result.warmup_messages == server.stats().messages
        assert result.messages_per_second == pytest.approx(result.messages / 0.5, rel=0.01)
        assert result.seconds == 0.5


def test_stream_framing_ends_an_answer_after_its_size() -> None:
    """In stream framing --reply-size or --expect says where an answer ends, however it is cut."""

    def talk(connection: socket.socket) -> None:
        while data := connection.recv(100):
            for byte in data:
                connection.sendall(bytes([byte]))

    with ScriptedServer(talk) as server:
        for expected in ({"reply_size": 5}, {"expect": "{message}"}, {"reply_size": 5, "expect": "{message}"}):
            result = load(server.target, framing="stream", message=b"a\nb\0c", messages=50, connections=2, **expected)
            check_sums(result)
            assert result.bytes_sent == result.bytes_received == 250


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_answers_may_come_in_any_pieces(cut: int) -> None:
    """Answers that arrive byte by byte, or many in one piece, are counted and compared all the same."""

    def talk(connection: socket.socket) -> None:
        waiting = b""
        for line in lines_of(connection):
            waiting += line.replace(b"\n", b"\r\n")
            if waiting.count(b"\n") == 4:
                for i in range(0, len(waiting), cut):
                    connection.sendall(waiting[i : i + cut])
                waiting = b""

    with ScriptedServer(talk) as server:
        check_sums(load(server.target, messages=200, connections=1, depth=4, message="{n}", expect="{message}"))


def test_large_messages_meet_a_peer_that_reads_slowly() -> None:
    """What the socket does not take is written on when there is room, in the right order."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            time.sleep(0.01)
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        plan = {"messages": 60, "connections": 3, "depth": 5, "expect": "{message}"}
        check_sums(load(server.target, size=3_000_000, **plan))
        check_sums(load(server.target, size=3_000_000, message="{conn}-{n}-", **plan))


def test_frames_of_a_mebibyte() -> None:
    """Answers of any length pass by without being stored."""
    with Server(host="127.0.0.1", port=0, framing="u32", reply="{message}", max_message=1 << 20) as server:
        result = load(f"127.0.0.1:{server.port}", framing="u32", size=1 << 20, messages=40, connections=4)
        check_sums(result)
        assert result.bytes_sent == result.bytes_received == 40 * ((1 << 20) + 4)


def test_lines_of_a_file_go_out_in_turn(tmp_path: Path) -> None:
    """Each line of --message-file is sent as often as the others, in their order."""
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n\nfour")
    seen: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            seen.append(line)
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        check_sums(load(server.target, message_file=str(path), messages=10, connections=1, expect="{message}"))
    assert seen == [b"one\n", b"two\n", b"\n", b"four\n"] * 2 + [b"one\n", b"two\n"]


def test_message_numbers_are_used_once() -> None:
    """{n} is another number in each message of a run, over all loops and connections; {conn} is the connection's."""
    seen: list[list[bytes]] = []

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            seen.append(line.split())
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        check_sums(load(server.target, message="{n} {conn}", messages=300, connections=4, loops=2, depth=2))
    assert len({number for number, _ in seen}) == 300
    assert {conn for _, conn in seen} == {b"0", b"1", b"2", b"3"}


def test_unix_sockets_and_ipv6(tmp_path: Path) -> None:
    """A target may be a unix socket or an IPv6 address."""
    with ScriptedServer(echo, path=str(tmp_path / "s")) as server:
        check_sums(load(server.target, messages=100, connections=5))
    if socket.has_ipv6:
        with Server(host="::1", port=0, framing="line") as v6:
            check_sums(load(f"[::1]:{v6.port}", messages=100, connections=5))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_connections_come_from_each_source_in_turn() -> None:
    """--source is where connections come from, one after the other."""
    with ScriptedServer(echo) as server:
        sources = ("127.0.0.2", "127.0.0.3")
        check_sums(load(server.target, source=sources, messages=40, connections=4))
        wait_until(lambda: len(server.peers) == 5, "the server has accepted all")
        hosts = [str(peer[0]) for peer in server.peers]  # type: ignore[index]
    assert sorted(hosts[1:]) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]


@pytest.mark.tool("socat")
def test_against_socat() -> None:
    """socat with a process for each connection is answered for like any other server."""
    port = free_port()
    command = ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,backlog=64", "EXEC:cat"]
    with subprocess.Popen(command) as server:
        try:
            result = load(f"127.0.0.1:{port}", messages=500, connections=5, message="{n}", expect="{message}")
            check_sums(result)
        finally:
            server.terminate()


@pytest.mark.tool("ncat")
def test_against_ncat() -> None:
    """ncat's echo is answered for like any other server."""
    port = free_port()
    command = ["ncat", "-l", "-k", "127.0.0.1", str(port), "-e", "/bin/cat"]
    with subprocess.Popen(command) as server:
        try:
            result = load(f"127.0.0.1:{port}", messages=500, connections=5, message="{n}", expect="{message}")
            check_sums(result)
        finally:
            server.terminate()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# --- Servers that do not ---


def test_late_answers_are_timeouts() -> None:
    """A message that is answered after --timeout has failed, once, and its answer is never taken for another's."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            time.sleep(0.5)
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=4, connections=2, timeout=0.1, message="{n}", expect="{message}")
    assert errors_of(result) == {"timeout": 4}
    assert (result.messages, result.sent) == (0, 4)
    assert result.ended_because == "not one message was answered"


def test_all_in_flight_time_out_with_the_oldest() -> None:
    """The connection of a message that timed out is closed, and each message in flight on it is a timeout."""

    def never(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass

    with ScriptedServer(never) as server:
        result = load(server.target, messages=30, connections=1, depth=10, timeout=0.1)
    assert errors_of(result) == {"timeout": 30}
    assert result.reconnects == 2


def test_wrong_answers_are_counted_and_shown() -> None:
    """Each tenth answer is wrong, and that is what the result says, with examples."""
    numbers = Numbered()

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            connection.sendall(b"w\x1bong\n" if numbers.next() % 10 == 0 else line)

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=1_000, connections=5, message="hello {n}", expect="{message}")
    assert errors_of(result) == {"wrong_answer": 100}
    assert (result.messages, result.reconnects) == (900, 0)
    assert len(result.latency) == 900
    assert [one.got for one in result.wrong_answers] == [r"w\x1bong"] * 3
    assert all(one.expected is not None and one.expected.startswith("hello ") for one in result.wrong_answers)


def test_a_wrong_answer_in_stream_framing_closes_the_connection() -> None:
    """Nobody can say where the next answer would begin: the connection is closed and opened again."""

    def talk(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(data[:-1] + b"X")

    with ScriptedServer(talk) as server:
        result = load(server.target, framing="stream", message="abc", expect="{message}", messages=3, connections=1)
    assert errors_of(result) == {"wrong_answer": 3}
    assert result.reconnects == 2
    assert result.wrong_answers[0].got == "abX"


def test_half_an_answer_is_a_short_one() -> None:
    """An answer that the connection's end cuts is a short answer; the others in flight are closed."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            connection.sendall(line[:10])
            return

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=6, connections=1, depth=3)
    assert errors_of(result) == {"short_answer": 2, "closed": 4}
    assert result.messages == 0


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_known_to_be_wrong_is_a_wrong_one_however_it_ends(ends: bool) -> None:
    """A wrong answer that is never finished is no timeout, and one that is cut no short answer."""

    def talk(connection: socket.socket) -> None:
        for _ in lines_of(connection):
            connection.sendall(b"wrong")
            if ends:
                return

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=2, connections=1, timeout=0.2, message="{n}", expect="{message}")
    assert errors_of(result) == {"wrong_answer": 2}


def test_a_wrong_length_shows_what_came_behind_it() -> None:
    """A u32 answer of a wrong length that comes before its content is shown with the content."""

    def talk(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall((3).to_bytes(4, "big"))
        time.sleep(0.1)
        connection.sendall(b"bad")
        connection.recv(100)

    with ScriptedServer(talk) as server:
        result = load(server.target, framing="u32", messages=1, connections=1, message="good", expect="{message}")
    assert errors_of(result) == {"wrong_answer": 1}
    assert [(one.got, one.expected) for one in result.wrong_answers] == [("bad", "good")]


def test_an_answer_too_many_is_a_wrong_one() -> None:
    """Answers that come twice: the second has nothing in flight."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            connection.sendall(line + line)

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=50, connections=1, message="{n}", expect="{message}")
    assert result.messages == 50
    assert errors_of(result) == {"wrong_answer": 50}
    assert result.wrong_answers[0].expected is None


def test_swapped_answers_are_both_wrong() -> None:
    """Two answers that change places are two wrong answers."""

    def talk(connection: socket.socket) -> None:
        lines = lines_of(connection)
        for number, line in enumerate(lines):
            if number == 10:
                connection.sendall(next(lines) + line)
            else:
                connection.sendall(line)

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=40, connections=1, depth=2, message="{n}", expect="{message}")
    assert errors_of(result) == {"wrong_answer": 2}
    assert result.messages == 38


def test_a_reset_is_a_reset() -> None:
    """A connection that breaks counts its message in flight as reset, and is opened again."""

    def talk(connection: socket.socket) -> None:
        for _ in lines_of(connection):
            reset(connection)
            return

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=4, connections=2)
    assert errors_of(result) == {"reset": 4}
    assert result.reconnects == 2


def test_a_reset_that_a_write_meets_is_a_reset_too() -> None:
    """An error that the next message's write takes from the socket is not lost."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            connection.sendall(line)
            reset(connection)
            return

    with ScriptedServer(talk) as server:
        result = load(server.target, duration=1, warmup=0, connections=4)
    assert errors_of(result).keys() == {"reset"}


def test_one_in_a_thousand_is_dropped() -> None:
    """A server that closes instead of each thousandth answer: exactly those are missing, and named."""
    numbers = Numbered()

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            if numbers.next() % 1_000 == 0:
                return
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=5_000, connections=4)
    assert errors_of(result) == {"closed": 5}
    assert (result.sent, result.messages) == (5_000, 4_995)
    assert result.reconnects <= 5  # a connection that failed late was not needed again


def test_an_idle_connection_that_closes_is_no_error() -> None:
    """A connection that ends with nothing in flight is opened again, and that is all."""

    def talk(connection: socket.socket) -> None:
        for line in itertools.islice(lines_of(connection), 2):
            connection.sendall(line)
        connection.settimeout(0.05)
        connection.recv(100)

    with ScriptedServer(talk) as server:
        result = load(server.target, messages=6, connections=1, think_time=0.15, warmup=0)
    assert errors_of(result) == {}
    assert result.messages == 6
    assert result.reconnects >= 2


def test_nobody_accepts() -> None:
    """Connects that nobody takes time out, and the run ends when none has been open for --connect-timeout."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"  # its queue has room for the probe alone
        result = load(target, connections=3, connect_timeout=0.3, duration=5)
    assert errors_of(result) == {"timeout": 3}
    assert result.ended_because == "no connection was open for 0.3 s"
    assert result.messages_per_second is None


def test_a_server_that_goes_away_ends_the_run() -> None:
    """Without a connection for --connect-timeout the run ends early, with what was measured until then."""
    with ScriptedServer(echo) as server:

        def watch(progress: Any, new: Any) -> None:
            if progress.measured_s > 0.5:
                server.go_away()

        plan = LoadPlan(target=server.target, connections=2, duration=20, warmup=0, connect_timeout=0.4)
        result = run_load(plan, watcher=watch)
    assert result.ended_because == "no connection was open for 0.4 s"
    assert 0.5 < result.seconds < 5
    assert result.messages > 0
    assert errors_of(result).keys() <= {"refused", "closed", "reset"}


# --- Open loop ---


@pytest.mark.parametrize("loops", [1, 2])
def test_a_rate_is_kept(loops: int) -> None:
    """An open loop sends what its schedule says, evenly shared by its loops."""
    with Server(host="127.0.0.1", port=0, framing="line") as server:
        result = load(f"127.0.0.1:{server.port}", rate=2_000, duration=1, warmup=0.1, loops=loops)
    check_sums(result)
    assert result.sent + result.unsent == 2_000
    assert result.unsent <= 10  # of the last moment, where the tester woke up too late for them
    assert result.mode == "open"
    assert len(result.service) == result.messages


def test_poisson_arrivals_have_the_same_rate() -> None:
    """Random arrivals come to the rate that was asked for, and more of them lie close together."""
    with Server(host="127.0.0.1", port=0, framing="line") as server:
        result = load(f"127.0.0.1:{server.port}", rate=3_000, arrivals="poisson", duration=1, warmup=0)
    check_sums(result)
    assert result.sent == pytest.approx(3_000, rel=0.1)


def test_a_slow_server_leaves_messages_unsent() -> None:
    """What was due and could not be sent is counted apart, and the wait for a connection shows in the response time."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            time.sleep(0.1)
            connection.sendall(line)

    for _ in range(3):  # on a busy machine the tester itself may be too slow, and says so
        with ScriptedServer(talk) as server:
            result = load(server.target, rate=100, connections=2, duration=1, warmup=0)
        if result.valid:
            break
    assert result.sent + result.unsent == 100
    assert 15 <= result.sent <= 24
    assert errors_of(result) == {}
    assert result.valid, result.invalid_because
    p50_us, service_us = result.latency_us["p50"], result.service_us["max"]
    assert p50_us is not None
    assert service_us is not None
    assert p50_us > 300_000 > service_us


def stalling(pause_s: float, every_s: float) -> Callable[[socket.socket], None]:
    """A server that answers nobody for so long, every so often."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            time.sleep(max(0.0, pause_s - time.monotonic() % every_s))
            connection.sendall(line)

    return talk


def test_a_stalled_server_shows_in_an_open_loop() -> None:
    """200 ms without an answer each second are at least 150 ms at p99: no coordinated omission."""
    with ScriptedServer(stalling(0.2, 1.0)) as server:
        result = load(server.target, rate=200, connections=4, duration=3, warmup=0)
    check_sums(result)
    p99_us = result.latency_us["p99"]
    assert p99_us is not None
    assert p99_us >= 150_000


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP")
def test_a_paused_server_shows_its_pause(serve: Serve) -> None:
    """A second's SIGSTOP is a maximum of at least 0.9 s, and as many messages waited as were due in it."""
    server = serve("--framing", "line")
    plan = LoadPlan(target=server.address, rate=2_000, duration=4, warmup=0)

    def pause() -> None:
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(server.process.pid, signal.SIGCONT)

    timer = threading.Timer(1.0, pause)
    timer.start()
    result = run_load(plan)
    timer.join()
    check_sums(result)
    maximum_us = result.latency_us["max"]
    assert maximum_us is not None
    assert maximum_us >= 900_000
    slow = sum(count for end_us, count in result.latency.buckets() if end_us > 100_000)
    assert 0.2 <= slow / result.messages <= 0.5  # 0.9 of 4 s, less what noise took, and the catching up


def test_a_server_that_catches_up_is_not_blamed_on_the_tester() -> None:
    """Messages that waited for a stalled server are sent together when it goes on, and none of that is the tester's."""
    with ScriptedServer(stalling(0.3, 0.5)) as server:
        result = load(server.target, rate=4_000, connections=4, depth=64, duration=2, warmup=0, timeout=20)
    assert errors_of(result) == {}
    p90_us = result.latency_us["p90"]
    assert p90_us is not None
    assert p90_us > 100_000
    assert result.invalid_because is None or "did not send" not in result.invalid_because
    assert result.late["share"] is not None
    assert result.late["share"] < 0.1  # noise of the machine, and not the catching up


def test_a_connect_that_succeeds_at_once_does_not_wait(tmp_path: Path) -> None:
    """Over a unix socket, which is connected at once, a new connection sends what is due without delay."""
    with ScriptedServer(echo, path=str(tmp_path / "s")) as server:
        result = load(server.target, rate=200, connections=1, reconnect_every=1, duration=1, warmup=0)
    check_sums(result)
    assert result.sent >= 190


def test_a_paused_tester_says_so() -> None:
    """A tester that was stopped itself does not blame the server: the run is not valid."""
    code = (
        "import sys; from kqnative.load import LoadPlan, run_load\n"
        "result = run_load(LoadPlan(target=sys.argv[1], rate=1000, duration=2, warmup=0),"
        " watcher=lambda progress, new: print(progress.phase, flush=True))\n"
        "print(result.valid, result.invalid_because)"
    )
    with Server(host="127.0.0.1", port=0, framing="line") as server:
        command = [sys.executable, "-c", code, f"127.0.0.1:{server.port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tester:
            assert tester.stdout
            while "measuring" not in tester.stdout.readline():
                pass
            tester.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            tester.send_signal(signal.SIGCONT)
            last = tester.stdout.read().splitlines()[-1]
    assert last.startswith("False the tester was too slow")


# --- How connections come and go ---


def test_connections_are_opened_anew_after_so_many_answers() -> None:
    """--reconnect-every is a new connection after each so many answers, counted, and no error."""
    with ScriptedServer(echo) as server:
        result = load(server.target, messages=100, connections=1, reconnect_every=10)
        check_sums(result)
        assert result.reconnects == 9
        assert len(server.peers) == 1 + 10  # the probe


def test_connections_used_up_in_the_warm_up_are_opened_anew_too() -> None:
    """--reconnect-every holds across the warm-up's end: each connection goes on being used."""
    with Server(host="127.0.0.1", port=0, framing="line") as server:
        for _ in range(5):  # the warm-up may also end while the connection is being opened
            before = server.stats().messages
            result = load(f"127.0.0.1:{server.port}", duration=0.1, warmup=0.1, connections=1, reconnect_every=1)
            check_sums(result)
            assert result.messages + result.warmup_messages == server.stats().messages - before
            assert result.messages > 10


def test_think_time_passes_between_an_answer_and_the_next_message() -> None:
    """Each connection waits --think-time after an answer."""
    with ScriptedServer(echo) as server:
        result = load(server.target, duration=1, warmup=0, connections=3, think_time=0.1)
    check_sums(result)
    assert 3 * 7 <= result.messages <= 3 * 10


def test_a_connection_that_fails_does_not_hold_up_those_that_think() -> None:
    """While one connection backs off, the others' next messages go out when they are due."""
    numbers = Numbered()

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            if numbers.next() % 50 == 0:
                return
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        result = load(server.target, duration=1, warmup=0, connections=20, think_time=0.02)
    assert errors_of(result).keys() == {"closed"}
    assert result.messages > 600


def test_part_of_an_answer_does_not_end_the_back_off() -> None:
    """A server that only ever begins an answer is tried again ever more seldom."""

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            connection.sendall(line[:5])
            return

    with ScriptedServer(talk) as server:
        result = load(server.target, duration=2, warmup=0, connections=1)
        assert len(server.peers) <= 1 + 6  # the probe; at 0, 0.1, 0.3, 0.7, 1.5 s
    assert errors_of(result).keys() == {"short_answer"}


def test_who_thinks_does_so_before_a_new_connection_too() -> None:
    """With --think-time and --reconnect-every the time passes before the connection is opened anew."""
    with ScriptedServer(echo) as server:
        result = load(server.target, duration=1, warmup=0, connections=1, think_time=0.2, reconnect_every=1)
    check_sums(result)
    assert 3 <= result.messages <= 5


@pytest.mark.parametrize("rate", [29, 58, 77])
def test_the_last_message_is_due_at_the_end_and_not_before_it(rate: int) -> None:
    """Rates whose intervals are no whole nanoseconds have as many messages in a second as they say."""
    with ScriptedServer(echo) as server:
        result = load(server.target, rate=rate, duration=1, warmup=0, connections=4)
    assert result.sent + result.unsent == rate


def test_connects_are_paced() -> None:
    """--connect-rate is how many connections are opened a second."""
    with ScriptedServer(echo) as server:
        begun = time.monotonic()
        check_sums(load(server.target, messages=30, connections=30, connect_rate=50))
        assert time.monotonic() - begun >= 29 / 50


def test_a_stopped_run_reports_what_it_has() -> None:
    """stop() ends the measured time at once; the result is of the time until then."""
    from kqnative.load.run import Run

    with ScriptedServer(echo) as server:
        run = Run(LoadPlan(target=server.target, duration=60, warmup=0))

        def watch(progress: Any, new: Any) -> None:
            if progress.measured_s > 0.3:
                run.stop()

        begun = time.monotonic()
        result = run.run(watch)
    assert time.monotonic() - begun < PATIENCE_S
    assert result.interrupted
    assert 0.3 < result.seconds < 2
    assert result.messages > 0


def test_runs_may_share_a_process() -> None:
    """Several runs at the same time count each its own."""
    results: list[LoadResult] = []

    def one(target: str) -> None:
        results.append(load(target, messages=2_000, connections=3))

    with Server(host="127.0.0.1", port=0, framing="line") as server:
        threads = [threading.Thread(target=one, args=(f"127.0.0.1:{server.port}",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result in results:
        check_sums(result)
    assert [one.messages for one in results] == [2_000] * 3


def test_a_run_leaves_nothing_behind(no_descriptor_left: None) -> None:
    """After a run no descriptor and no thread of it is left."""
    threads = threading.active_count()
    with ScriptedServer(echo) as server:
        load(server.target, messages=100, connections=20, loops=2)
    assert threading.active_count() == threads


def test_many_connections_are_exercised_at_once() -> None:
    """4,000 connections, or as many as this machine's limits allow, are opened and answered without an error."""
    from kqnative import _native

    count = min(4_000, _native.raise_descriptor_limit(0) - 200)
    command = [sys.executable, "-m", "kqnative", "--host", "127.0.0.1", "--port", "0", "--framing", "line"]
    with subprocess.Popen([*command, "--log-rate", "0"], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        target = server.stderr.readline().split()[-1]
        try:
            result = load(target, messages=2 * count, connections=count, timeout=30)
        finally:
            server.terminate()
            server.stderr.read()
    check_sums(result)
    assert result.connections == count
    assert len(result.connect) == count
