"""Faults of where the log goes, and floods of lines: the loops serve on, and what is lost is counted and said."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from bare_server import BareServer
from conftest import Serve, check_sums, read_to_end, u32_message, wait_until
from figures import cpu_s
from measures import wait_until_read
from witness import Witness

from kqnative.logs import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and uses Linux's tools")

EVERY_LINE = ("--log-rate", "1M", "--framing", "line")
SMALL_PIPE_BYTES = 4096


def send_lines(server: BareServer, count: int) -> None:
    """One client that is answered so many lines, each of which may be logged."""
    answers = server.exchange(b"x\n" * count)
    assert answers == b"system: x\n" * count


def check_rests(server: BareServer) -> None:
    """Without clients it uses no processor time to speak of."""
    before_s = cpu_s(server.pid)
    time.sleep(0.5)  # a while of doing nothing is what is measured
    assert cpu_s(server.pid) - before_s < 0.1


# --- A standard error that takes nothing ---


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds little: its reading and its writing end, closed at the latest when the block ends."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALL_PIPE_BYTES)
    yield reader, writer
    for fd in (reader, writer):
        with suppress(OSError):  # the test may have closed it
            os.close(fd)


def test_a_broken_standard_error_ends_nothing() -> None:
    """When the reader of the log has gone, no signal ends the server, no client waits, and nothing spins."""
    with pipe() as (reader, writer), BareServer(*EVERY_LINE, stderr=writer) as server:
        os.close(writer)
        with Witness(server, framing="line") as witness:
            send_lines(server, 100)
            os.close(reader)
            send_lines(server, 20_000)
            wait_until_read(witness)
        check_rests(server)
        server.kill()
        assert server.wait() == 0


def read_all(reader: int, into: bytearray) -> None:
    """Until its end."""
    while part := os.read(reader, 1 << 16):
        into += part


def lost_in(lines: list[dict[str, Any]]) -> int:
    """How many lines these lines say were lost, all together."""
    return sum(int(line["message"].split()[0]) for line in lines if line["event"] == "log_lost")


def test_a_stopped_reader_of_the_log_stops_no_loop() -> None:
    """The loops serve on while nobody takes the log; each line is then read, said to be lost, or counted as dropped."""
    count = 20_000
    with (
        pipe() as (reader, writer),
        BareServer(*EVERY_LINE, "--log-format", "json", stderr=writer) as server,
        subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.PIPE) as cat,
    ):
        os.close(writer)
        os.close(reader)
        cat.send_signal(signal.SIGSTOP)
        with Witness(server, framing="line") as witness:
            send_lines(server, count)
            time.sleep(PATIENCE_S + 0.1)  # a line that nobody takes is given up after so long
            send_lines(server, count)
        assert cat.stdout
        taken = bytearray()
        taker = threading.Thread(target=read_all, args=(cat.stdout.fileno(), taken))
        taker.start()
        cat.send_signal(signal.SIGCONT)
        server.kill()
        assert server.wait() == 0
        taker.join()
    lines = [json.loads(line) for line in taken.splitlines()]
    stats = lines[-1]["stats"]
    check_sums(stats)
    lost, dropped = lost_in(lines), stats["log_dropped"]
    said = sum(line["event"] != "log_lost" for line in lines)
    print(f"{said} lines read, {lost} lost on the way out, {dropped} dropped in the loop")
    assert stats["messages"] == 2 * count + witness.answered
    assert lost > 0
    assert dropped > 0
    # Started, stopped, and each client's begin, end and messages.
    assert said + lost + dropped == 2 + 2 * stats["accepted"] + stats["messages"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_ends_nothing() -> None:
    """With a standard error that has no room from the start, clients are served, and the stop is clean."""
    with open("/dev/full", "wb") as full, BareServer(*EVERY_LINE, stderr=full) as server:
        with Witness(server, framing="line") as witness:
            send_lines(server, 20_000)
            wait_until_read(witness)
        check_rests(server)
        server.kill()
        assert server.wait() == 0


SMALL_DISK_BYTES = 64 << 10
ON_A_SMALL_DISK = f'mount -t tmpfs -o size={SMALL_DISK_BYTES} none "$1" && exec 2>>"$1/log" && shift && exec "$@"'


@pytest.mark.tool("unshare")
def test_a_disk_that_fills_up_is_written_to_when_it_has_room_again(tmp_path: Path) -> None:
    """A log that fills its disk costs lines and no more; when there is room, they come again, and it says how many."""
    through = ("unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", str(tmp_path))
    with (
        BareServer(*EVERY_LINE, through=through) as server,
        # Where the server sees it; the open file outlives the disk.
        open(f"/proc/{server.pid}/root{tmp_path}/log", "r+b", buffering=0) as log,
    ):

        def text() -> bytes:
            return os.pread(log.fileno(), SMALL_DISK_BYTES, 0)

        with Witness(server, framing="line"):
            wait_until(lambda: text().startswith(b"Server started on "), "the log has its first line")
            while len(text()) < SMALL_DISK_BYTES:
                send_lines(server, 200)
            log.truncate(0)
            send_lines(server, 1)
            wait_until(lambda: b" log lines were lost" in text(), "it is said what was lost")
            wait_until(lambda: b"\nReceived: x\n" in text(), "lines come again")
        log.truncate(0)
        server.kill()
        assert server.wait() == 0
        assert b"\nServer stopped: " in text()


@pytest.mark.tool("strace")
def test_a_disk_that_fails_costs_lines_and_no_more(tmp_path: Path) -> None:
    """When writing the log fails with EIO, 20 times in a row, clients are served, and 20 lines are said to be lost."""
    log = tmp_path / "log"
    fails = "inject=write:error=EIO:when=3..22"
    through = ("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(log), "-e", fails)
    with log.open("wb") as file, BareServer("--framing", "line", through=through, stderr=file) as server:
        with Witness(server, framing="line"):
            for _ in range(20):
                send_lines(server, 1)
            wait_until(lambda: b" log lines were lost" in log.read_bytes(), "it is said what was lost")
        server.kill()
        assert server.wait() == 0
    lines = log.read_text().splitlines()
    assert (
        sum(int(found[1]) for line in lines if (found := re.match(r"warning: (\d+) log lines were lost", line))) == 20
    )
    assert lines[-1].startswith("Server stopped: ")


# --- What clients make of it ---

NASTY = [
    b"\nServer stopped: accepted 0",
    b"\r\nerror: forged",
    b"\x1b[2J\x1b[H",
    b"\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\",
    b"\x1b]52;c;aGk=\x07",
    b"a\0b",
    "\u202egnp.exe \u2066 \ufeff".encode(),
    bytes(range(0x80, 0xA0)),
    "\x85 \u2028 \u2029".encode(),
    b"\xff\xfe\xc3\x28\xed\xa0\x80",
    b'"}\n{"event": "stopped"}',
    b"%s %(name)s {message}",
    b"\x1b" * (1 << 20),
]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_whatever_a_client_sends_is_one_printable_line(log_format: str, serve: Serve) -> None:
    """Each message is one line without a control, even if it looks like a line of ours, and cut if it is long."""
    server = serve("--framing", "u32", "--reply", "{message}", "--log-format", log_format, "--max-message", "1M")
    for message in NASTY:
        assert server.exchange(u32_message(message)) == u32_message(message)
    server.finish()
    received = [line for line in server.lines if "Received: " in line]
    assert len(received) == len(NASTY)
    assert len(server.lines) == 2 + 3 * len(NASTY)
    for line in server.lines:
        assert line.isprintable()
        assert len(line) < 2_000
    if log_format == "json":
        assert [json.loads(line)["event"] for line in server.lines].count("stopped") == 1
    assert "(1048576 bytes)" in received[-1]


def come_and_go(server: BareServer, count: int) -> None:
    """Clients that each send a line longer than allowed, and see their connection end."""
    for _ in range(count):
        with server.connect() as client:
            client.sendall(b"x" * 100)
            assert read_to_end(client) == b""


def test_a_flood_of_bad_clients_makes_few_lines(tmp_path: Path) -> None:
    """Thousands of clients that are closed for what they sent are counted, and logged at the rate that was set."""
    with (tmp_path / "log").open("wb") as file:
        options = ("--framing", "line", "--max-message", "64", "--log-rate", "50", "--log-format", "json")
        with BareServer(*options, stderr=file) as server:
            begun = time.monotonic()
            with Witness(server, framing="line") as witness, ThreadPoolExecutor(4) as four_at_a_time:
                list(four_at_a_time.map(come_and_go, [server] * 4, [750] * 4))
            lasted_s = time.monotonic() - begun
            server.kill()
            assert server.wait() == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    stats = lines[-1]["stats"]
    check_sums(stats)
    assert stats["closed"]["too_long"] == 3_000
    assert stats["log_dropped"] == 0
    client_lines = [line for line in lines if line["event"] in ("connected", "received", "disconnected")]
    left_out = [int(found) for line in lines for found in re.findall(r"^Left out (\d+) lines", line["message"])]
    print(
        f"{3_000 / lasted_s:,.0f} bad clients a second, {len(client_lines)} lines about them, {sum(left_out)} left out;"
        f" the witness waited {witness.longest_gap_s * 1000:.0f} ms at most"
    )
    assert len(client_lines) <= 50 * (lasted_s + 2)
    assert len(client_lines) + sum(left_out) == 2 * stats["accepted"] + stats["messages"]


def rate_with(serve: Serve, *options: str) -> float:
    """Messages a second that a load tester measures."""
    from kqnative.load import LoadPlan, run_load

    server = serve("--framing", "line", *options)
    result = run_load(LoadPlan(target=server.address, duration=0.5, warmup=0.1, connections=50, depth=16))
    assert result.errors["total"] == 0
    assert result.messages_per_second is not None
    server.finish()
    return result.messages_per_second


def test_the_log_of_a_flood_costs_little(serve: Serve) -> None:
    """Under full load the default log takes less than a tenth of the messages a second of a server without one."""
    shares: list[float] = []
    while len(shares) < 4 and not (shares and max(shares) > 0.9):  # the machine's noise may spoil some
        shares.append(rate_with(serve) / rate_with(serve, "--log-rate", "0"))
    print(f"{max(shares):.2f} of the rate without a log")
    assert max(shares) > 0.9
