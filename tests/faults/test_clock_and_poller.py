"""Faults of the poller, the threads and the clocks."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import PATIENCE_S, Serve, read_exactly, read_to_end, wait_until
from figures import cpu_s
from measures import linux, paused, traced, wait_until_read
from witness import Witness

WAITS = {  # the calls that a poller waits in; a question mark: not on every machine
    "epoll": "epoll_pwait2,?epoll_wait,epoll_pwait",
    "poll": "ppoll",
    "select": "pselect6",
}


INTERRUPTED_WAITS = 600  # every second one of so many
A_STAMP_S = 0.001  # the loop keeps times in whole milliseconds


def ask(client: socket.socket, text: bytes = b"hi") -> None:
    """One exchange of a line."""
    client.sendall(text + b"\n")
    assert read_exactly(client, 9 + len(text)) == b"system: " + text + b"\n"


# --- The poller ---


@linux
@pytest.mark.tool("strace")
def test_interrupted_waits_change_nothing(serve: Serve, poller: str, tmp_path: Path) -> None:
    """When every second wait ends with EINTR, no byte is lost, and the idle timeout comes when it is due."""
    server = serve("--framing", "line", "--poller", poller, "--idle-timeout", "600ms", "--log-rate", "0")
    calls = tmp_path / "calls"
    waits = WAITS[poller]
    interrupted = traced(server, calls, waits, f"{waits}:error=EINTR:when=2..{INTERRUPTED_WAITS}+2")
    with interrupted, server.connect() as idle, Witness(server, framing="line") as witness:
        asked_at = time.monotonic()
        ask(idle)
        answered_at = time.monotonic()
        assert idle.recv(1) == b""
        assert asked_at + 0.6 - A_STAMP_S <= time.monotonic() < answered_at + 1.6
        # strace must have done with it before it lets go: a call that it still meant to fail would say ENOSYS.
        wait_until(lambda: witness.answered > INTERRUPTED_WAITS, "each answer takes a wait")
    assert calls.read_text().count("EINTR") >= INTERRUPTED_WAITS / 2
    server.finish()
    assert server.closed("idle") == 1


@linux
@pytest.mark.tool("strace")
@pytest.mark.parametrize("error", ["EBADF", "EFAULT", "ENOMEM"])
@pytest.mark.parametrize("loops", ["1", "2"])
def test_a_poller_that_fails_ends_the_server(loops: str, error: str, serve: Serve, tmp_path: Path) -> None:
    """No spin and no deaf server: a line names the errno, clients see their end, sums balance, the exit code is 1."""
    server = serve("--loops", loops, "--framing", "line", exit_code=1)
    server.allow("an event loop failed", "a loop failed")
    with server.connect() as one, server.connect() as other:
        ask(one)
        ask(other)
        with traced(server, tmp_path / "calls", WAITS["epoll"], f"{WAITS['epoll']}:error={error}:when=1"):
            assert read_to_end(one) == read_to_end(other) == b""
            assert server.wait() == 1
    assert server.wait_for(f"^error: an event loop failed and ended: {error}")


@linux
def test_a_descriptor_that_no_set_can_hold_is_refused(serve: Serve, tmp_path: Path) -> None:
    """With select a client whose descriptor is 1024 or more is closed, and nobody else's memory is written to."""
    (tmp_path / "opens.py").write_text(
        "import os\nkept = []\n"
        "def reply(message):\n"
        "    if message == b'open':\n"
        "        kept.extend(os.dup(0) for _ in range(1_020))\n"
        "    if message == b'close':\n"
        "        while kept:\n"
        "            os.close(kept.pop())\n"
        "    return b'system: ' + message\n"
    )
    server = serve("--poller", "select", "--framing", "line", "--hook", "opens:reply")
    with server.connect() as client, Witness(server, framing="line") as witness:
        ask(client, b"open")
        for _ in range(10):
            with server.connect() as refused:
                assert refused.recv(1) == b""
        wait_until_read(witness)
        ask(client, b"close")
        assert server.exchange(b"hi") == b"system: hi"
    server.finish()
    assert server.closed("error") == 10


# --- Threads ---


@linux
@pytest.mark.tool("strace")
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_thread_that_cannot_start_ends_the_start(nth: int) -> None:
    """Whichever of three loops it is: one line says what to do, the exit code is 1, and no process is left."""
    inject = f"inject=clone,clone3:error=EAGAIN:when={nth}"
    command = ["strace", "-f", "-o", "/dev/null", "-e", "trace=clone,clone3", "-e", inject]
    server = [sys.executable, "-m", "kqnative", "--host", "127.0.0.1", "--port", "0", "--loops", "3"]
    done = subprocess.run([*command, *server], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.search("error: cannot start a thread: .*ulimit -u", last)
    assert not re.search("Traceback|accepted", done.stderr)


# --- Clocks ---


def fake_clock(file: Path) -> dict[str, str]:
    """The environment of a process whose wall clock, and no other, is what the file says: "+10d"."""
    told = subprocess.run(["faketime", "-m", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True)
    preloaded = [os.environ.get("LD_PRELOAD", ""), told.stdout.strip()]
    return {
        "LD_PRELOAD": ":".join(filter(None, preloaded)),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@linux
@pytest.mark.tool("faketime")
def test_a_wall_clock_that_jumps_moves_the_log_alone(serve: Serve, tmp_path: Path) -> None:
    """Ten days forward, then back: no timeout comes early or late, and lines bear the time that the clock shows."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    options = "--framing line --idle-timeout 900ms --log-format json --log-rate 10k"
    server = serve(*options.split(), env=fake_clock(offset))
    with Witness(server, framing="line"), server.connect() as idle:
        begun = time.monotonic()
        for jump, days in (("+10d", 10), ("-10d", -10)):
            offset.write_text(jump)
            with server.connect() as client:
                ask(client, jump.encode())
            said = json.loads(server.wait_for(rf".*Received: {re.escape(jump)}.*")[0])
            shown = datetime.fromisoformat(said["time"])
            assert abs((shown - datetime.now(UTC)).total_seconds() - days * 86_400) < 5
        assert idle.recv(1) == b""
        assert 0.9 - A_STAMP_S <= time.monotonic() - begun < 1.9
    server.finish()
    assert server.closed("idle") == 1


def send_until_full(client: socket.socket, line: bytes) -> int:
    """Sends lines, and reads nothing, until the server takes no more for a while; how many it was given whole."""
    client.settimeout(0.2)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += client.send(line * 100)
    return sent // len(line)


def read_for(client: socket.socket, duration_s: float) -> bytes:
    """What comes in this time, all of it taken up."""
    parts = []
    deadline = time.monotonic() + duration_s
    while (left_s := deadline - time.monotonic()) > 0:
        client.settimeout(left_s)
        with contextlib.suppress(TimeoutError):
            parts.append(client.recv(1 << 20))
    client.settimeout(PATIENCE_S)
    return b"".join(parts)


@linux
def test_a_server_that_stood_still_judges_nobody_by_that(serve: Serve, poller: str) -> None:
    """After a pause longer than all timeouts whoever sent or read meanwhile is served on; who did not is idle."""
    # The clients' own pauses on a busy machine must stay well below the timeouts.
    options = "--framing line --idle-timeout 3s --message-timeout 3s --write-timeout 3s --batch 16 --log-rate 0"
    server = serve(*options.split(), "--poller", poller)
    line = b"x" * 99 + b"\n"
    with server.connect() as reader, server.connect() as silent:
        count = send_until_full(reader, line)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(200)]
            for client in clients:
                client.sendall(b"be")
            ask(silent)
            with paused(server):
                for client in clients:
                    client.sendall(b"gun\n")
                taken = read_for(reader, 3.2)
            for client in clients:
                assert read_exactly(client, 14) == b"system: begun\n"
        answers = (b"system: " + line) * count
        assert 0 < len(taken) < len(answers)
        assert taken + read_exactly(reader, len(answers) - len(taken)) == answers
        reader.close()
        assert silent.recv(1) == b""
    server.finish()
    assert (server.closed("idle"), server.closed("eof")) == (1, 201)


@linux
def test_the_longest_timeouts_are_no_short_ones(serve: Serve) -> None:
    """24 days overflow nowhere: nobody is closed, nothing spins, and the stop comes at once."""
    options = [f"--{name}={24 * 24}h" for name in ("idle-timeout", "message-timeout", "write-timeout", "grace")]
    server = serve("--framing", "line", *options)
    with server.connect() as client, server.connect() as silent:
        client.sendall(b"unfin")
        ask(silent)
        spent_s = cpu_s(server.process.pid)
        silent.settimeout(1.2)
        with pytest.raises(TimeoutError):
            silent.recv(1)
        assert cpu_s(server.process.pid) - spent_s < 0.1
        client.sendall(b"ished\n")
        assert read_exactly(client, 19) == b"system: unfinished\n"


@pytest.mark.parametrize("option", ["--idle-timeout", "--message-timeout"])
def test_the_shortest_timeouts_are_kept(option: str, serve: Serve, poller: str) -> None:
    """1 ms is not rounded to never: it ends whom it is meant for, within a second."""
    server = serve("--framing", "line", option, "1ms", "--poller", poller)
    with server.connect() as client:
        begun = time.monotonic()
        client.sendall(b"unfinished")
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
        assert time.monotonic() - begun < 1
    server.finish()
    assert server.closed("idle") + server.closed("message_timeout") == 1
