"""Faults at the start and at the stop, and signals of all kinds, against the real server."""

import ctypes
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bare_server import BareServer, socket_count
from conftest import PATIENCE_S, RunningServer, Serve, check_sums, is_listening, read_exactly, read_to_end, wait_until
from measures import wait_until_read
from witness import Witness

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and uses Linux's tools")

COMMAND = [sys.executable, "-m", "kqnative"]
MIB = 1 << 20


def run(*args: str, through: tuple[str, ...] = (), umask: int = -1) -> subprocess.CompletedProcess[str]:
    """A server that ends by itself, started through another program."""
    return subprocess.run([*through, *COMMAND, *args], capture_output=True, text=True, timeout=20, umask=umask)


def check_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1, and one line with these words."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


class LoadTester:
    """`python -m kqnative load` that goes on until its server has gone, and what it counted."""

    def __init__(self, server: RunningServer, connections: int, *args: str) -> None:
        others = socket_count(server.process.pid)
        command = [*COMMAND, "load", server.address, "--connections", str(connections), "--duration", "60"]
        options = ["--warmup", "0.1", "--connect-timeout", "1", "--json", "-", "--quiet"]
        self.process = subprocess.Popen([*command, *options, *args], stdout=subprocess.PIPE)

        def all_are_connected() -> bool:
            assert self.process.poll() is None, "the load tester has ended"
            return socket_count(server.process.pid) >= others + connections

        wait_until(all_are_connected, "all are connected")

    def report(self) -> dict[str, Any]:
        """The JSON report, once the run has ended because its connections have."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        report = json.loads(out)
        assert isinstance(report, dict)
        assert self.process.returncode == 1
        assert report["ended_because"] == "no connection was open for 1 s"
        return report


def answers_of(report: dict[str, Any]) -> int:
    """All answers that a tester got."""
    return int(report["messages"]) + int(report["warmup_messages"])


# --- The stop under load ---


def load_of(chooser: random.Random) -> tuple[list[str], int, list[str]]:
    """A server's options, a number of connections, and a load tester's options.

    What is in flight is little enough to be read within a second: for so long the end of a connection waits at most.
    """
    framing = chooser.choice(["line", "u32", "stream"])
    server = ["--framing", framing, "--loops", chooser.choice(["1", "2"]), "--log-rate", "0"]
    if framing == "stream":  # a longer message might come in two pieces, and would be two
        depth, size, connections = 1, 5, chooser.choice([10, 50, 200])
    else:
        depth, size, connections = chooser.choice([(1, 5, 200), (64, 5, 200), (4, 1_000, 50), (4, 60_000, 10)])
    tester = ["--framing", framing, "--depth", str(depth), "--size", str(size), "--message", "x"]
    if framing == "stream":
        tester += ["--reply-size", str(len("system: ") + size)]
    return server, connections, tester


def test_twenty_stops_under_full_load_lose_nothing(serve: Serve) -> None:
    """At a random moment of full load a SIGTERM: the tester has got each answer that the server counted, no reset."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chooser = random.Random(seed)
    rounds = [(load_of(chooser), chooser.uniform(0, 0.3)) for _ in range(20)]

    def stop_one(one: tuple[tuple[list[str], int, list[str]], float]) -> int:
        (options, connections, tester_options), moment_s = one
        server = serve(*options)
        tester = LoadTester(server, connections, *tester_options)
        time.sleep(moment_s)  # the random moment
        server.kill()
        assert server.wait() == 0
        report = tester.report()
        assert answers_of(report) == server.counter("answered") == server.counter("messages"), one
        there = {kind for kind, count in report["errors"].items() if count}
        assert there <= {"closed", "refused", "timeout", "total"}, one  # timeout: of connects, once nobody listened
        assert server.closed("stopped") == connections
        return answers_of(report)

    with ThreadPoolExecutor(3) as three_at_a_time:
        answered = list(three_at_a_time.map(stop_one, rounds))
    print(f"{sum(answered)} messages answered, each counted on both sides")


STUCK_CLIENT = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"x" * (1 << 20) + b"\\n")
print("sent", flush=True)
while True:
    sys.stdin.read()
"""


def test_a_stopped_client_is_cut_and_the_others_get_all(serve: Serve) -> None:
    """64 senders get all that they are owed; a client under SIGSTOP is cut at the grace's end, and that is said."""
    server = serve("--framing", "line", "--reply", "{message}" * 16, "--grace", "1", "--log-rate", "0", exit_code=1)
    server.allow("^warning: answers owed to clients were cut")
    command = [sys.executable, "-c", STUCK_CLIENT, str(server.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stuck:
        assert stuck.stdout
        assert stuck.stdout.readline() == b"sent\n"
        stuck.send_signal(signal.SIGSTOP)
        tester = LoadTester(server, 64, "--depth", "4", "--size", "200")
        time.sleep(0.2)  # a while under load
        begun = time.monotonic()
        server.kill()
        assert server.wait() == 1
        lasted_s = time.monotonic() - begun
        stuck.kill()
    print(f"cut after {lasted_s:.3f} s of a grace of 1 s")
    assert 1.0 <= lasted_s <= 1.5
    report = tester.report()
    assert answers_of(report) == server.counter("answered")
    assert report["errors"]["reset"] == report["errors"]["short_answer"] == 0
    assert (server.closed("cut"), server.closed("stopped")) == (1, 64)
    assert (server.counter("messages"), server.counter("unanswered")) == (server.counter("answered") + 1, 1)
    server.wait_for("^warning: answers owed to clients were cut after a grace of 1 s: 1 clients")


def test_a_signal_is_acted_on_while_every_loop_is_busy_in_c(serve: Serve) -> None:
    """Under load that leaves Python nothing to do, the listener closes within 100 ms of a SIGTERM."""

    def measure_s() -> float:
        server = serve("--framing", "line", "--loops", "2", "--log-rate", "0")
        tester = LoadTester(server, 50, "--depth", "64")
        begun = time.monotonic()
        server.kill()
        while is_listening(server):
            pass
        lasted_s = time.monotonic() - begun
        assert server.wait() == 0
        tester.process.kill()
        tester.process.communicate()
        return lasted_s

    tries = [measure_s()]
    while tries[-1] > 0.1 and len(tries) < 3:  # the machine's noise may spoil one
        tries.append(measure_s())
    print(f"acted on after {min(tries) * 1000:.1f} ms")
    assert min(tries) <= 0.1


def connect_until_refused(server: RunningServer) -> list[socket.socket]:
    """Clients that connect one after the other, as fast as they can, and say something at once."""
    clients: list[socket.socket] = []
    while len(clients) < 4_000:
        client = socket.socket()
        try:
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"hi\n")
        except ConnectionRefusedError:
            client.close()
            break
        except OSError:
            pass  # its fate is looked at later
        clients.append(client)
    return clients


def fate_of(client: socket.socket) -> str:
    """What a client met that connected while the server stopped."""
    try:
        answers = read_to_end(client)
    except OSError:
        return "reset"
    assert answers in (b"system: hi\n", b"")  # b"": an earlier call has taken the socket's error
    return "answered" if answers else "reset"


def test_clients_that_come_during_the_stop_are_answered_or_refused(serve: Serve) -> None:
    """The kernel resets who connects between the last accept and the listener's close: that is a moment, and few.

    Best of three: on a busy machine the server may have to wait for its turn just then.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for is_last in (False, False, True):
        if resets_of_a_stop(serve) <= 10:
            return
        assert not is_last


def resets_of_a_stop(serve: Serve) -> int:
    """Stops a server in a storm of connects; how many clients were reset. All others were answered or refused."""
    server = serve("--framing", "line", "--log-rate", "0")
    with ThreadPoolExecutor(2) as two_at_a_time:
        storms = [two_at_a_time.submit(connect_until_refused, server) for _ in range(2)]
        time.sleep(0.1)  # a while in the storm
        server.kill()
        clients = [client for storm in storms for client in storm.result()]
    fates = Counter(map(fate_of, clients))
    for client in clients:
        client.close()
    assert server.wait() == 0
    assert fates["answered"] == server.counter("answered") == server.counter("accepted")
    return fates["reset"]


# --- Signals during the start, many of them, and those that are not ours ---


def end_of(moment_s: float) -> tuple[int, list[str]]:
    """Starts a server and sends it SIGTERM after so long; its exit code and its lines."""
    args = ["--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*COMMAND, *args], stderr=subprocess.PIPE, text=True) as process:
        time.sleep(moment_s)  # the random moment
        process.terminate()
        try:
            _, lines = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    return process.returncode, lines.splitlines()


def starting_takes_s() -> float:
    """From the start of a process to its first line."""
    begun = time.monotonic()
    with subprocess.Popen([*COMMAND, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE) as process:
        assert process.stderr
        process.stderr.readline()
        lasted_s = time.monotonic() - begun
        process.terminate()
        process.stderr.read()
    return lasted_s


def test_a_sigterm_during_the_start_is_never_ignored() -> None:
    """At any moment of the start it acts by its default, before anything is bound, or it is a clean stop."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chooser = random.Random(seed)
    longest_s = 3 * starting_takes_s()  # two at a time take longer
    moments = [chooser.uniform(0, longest_s) for _ in range(30)]
    with ThreadPoolExecutor(2) as two_at_a_time:
        ends = list(two_at_a_time.map(end_of, moments))
    for code, lines in ends:
        if code == -signal.SIGTERM:
            assert lines == []
        else:
            assert code == 0
            assert lines[0].startswith("Server started on 127.0.0.1:")
            assert lines[-1].startswith("Server stopped: ")
            assert len(lines) == 2
    by_default = sum(code != 0 for code, _ in ends)
    print(f"{by_default} ended by default, {len(ends) - by_default} stopped cleanly")


@pytest.mark.parametrize(
    ("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)], ids=lambda one: one.name
)
def test_two_signals_at_the_same_moment_are_one_or_two(first: signal.Signals, second: signal.Signals) -> None:
    """SIGTERM and SIGINT together: a clean stop, or a default action that ends it at once; no traceback."""
    with subprocess.Popen([*COMMAND, "--host", "127.0.0.1", "--port", "0"], stderr=subprocess.PIPE) as process:
        assert process.stderr
        process.stderr.readline()
        process.send_signal(first)
        process.send_signal(second)
        lines = process.stderr.read().decode().splitlines()
    assert process.returncode in (0, -signal.SIGTERM, -signal.SIGINT)
    assert [line.partition(":")[0] for line in lines] in ([], ["Server stopped"])


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM], ids=lambda number: number.name
)
def test_signals_that_are_not_ours_act_by_default(number: signal.Signals, serve: Serve) -> None:
    """There is no reload: SIGHUP and the others end the process as the system has it, at once and without a word."""
    server = serve(exit_code=-number)
    resource.prlimit(server.process.pid, resource.RLIMIT_CORE, (0, 0))  # SIGQUIT's default is to leave a core
    with server.connect() as client:
        client.sendall(b"hi")
        assert read_exactly(client, 10) == b"system: hi"
        server.kill(number)
        assert server.wait() == -number
        assert read_to_end(client) == b""


HANDLING_HOOK = """
import signal

for one in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
    signal.signal(one, lambda number, frame: None)

def reply(message):
    return b"system: " + message
"""


def test_a_storm_of_signals_harms_nobody(serve: Serve, tmp_path: Path) -> None:
    """100,000 signals, to the process and to each loop's thread, break off waits and calls, and no answer is wrong."""
    (tmp_path / "handling.py").write_text(HANDLING_HOOK)
    server = serve("--hook", "handling:reply", "--loops", "2", "--log-rate", "0")
    pid = server.process.pid
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    send = ctypes.CDLL(None).tgkill
    handled = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM]
    kinds = [int(one) for one in (*handled, signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGCONT)]
    chooser = random.Random(6)
    with Witness(server, connections=4) as witness:
        before = witness.answered
        for _ in range(50_000):
            send(pid, chooser.choice(threads), chooser.choice(kinds))
            os.kill(pid, chooser.choice(kinds))
        wait_until(lambda: witness.answered > before + 100, "the witness is answered on")
    print(f"the witness waited {witness.longest_gap_s * 1000:.1f} ms at most")
    server.finish()


def test_the_dump_of_a_crash_is_pythons_own(serve: Serve) -> None:
    """We promise none; who asks Python for one (PYTHONFAULTHANDLER) has the loop's thread in it."""
    server = serve(exit_code=-signal.SIGSEGV, env={"PYTHONFAULTHANDLER": "1"})
    resource.prlimit(server.process.pid, resource.RLIMIT_CORE, (0, 0))
    with Witness(server) as witness:
        wait_until_read(witness)
    server.kill(signal.SIGSEGV)
    assert server.wait() == -signal.SIGSEGV
    server.wait_for("^Fatal Python error: Segmentation fault")
    server.wait_for("in _run_loop")


@pytest.mark.tool("unshare")
def test_process_1_of_a_container_stops_on_sigterm(tmp_path: Path) -> None:
    """As process 1, without a terminal and with its standard input at its end, it serves and stops cleanly."""
    with open(tmp_path / "log", "wb") as log:
        through = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")
        with BareServer("--log-format", "json", through=through, stderr=log) as server:
            with open(f"/proc/{server.pid}/status") as file:
                assert re.search(r"^NSpid:\s+\d+\s+1$", file.read(), re.MULTILINE)
            with Witness(server) as witness:
                wait_until_read(witness)
            server.kill()
            assert server.wait() == 0
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    check_sums(last["stats"])


# --- What is in the way of a start ---


@pytest.mark.tool("setpriv")
def test_a_port_that_is_not_allowed_is_one_line_and_exit_1() -> None:
    """Port 80 without the right to it: exit code 1, and which ports are free to choose."""
    without_rights = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    done = run("--host", "127.0.0.1", "--port", "80", through=without_rights if os.geteuid() == 0 else ())
    check_refused(done, "127.0.0.1:80", "choose one above 1023")


@pytest.mark.tool("unshare")
def test_an_address_of_a_protocol_that_is_off_is_one_line_and_exit_1() -> None:
    """`--host ::1` where no interface has IPv6: exit code 1, and nothing else is bound in its place."""
    alone = ("unshare", "--map-root-user", "--net")  # a network of its own, whose only interface is down
    check_refused(run("--host", "::1", "--port", "0", through=alone), "[::1]:0", "no interface here has this address")


@pytest.mark.parametrize("kind", ["a directory", "a link to a file", "a link to nothing", "a link to a stale socket"])
def test_what_is_no_socket_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    """A path of --uds that holds a directory or a link is an error, and neither it nor its target is touched."""
    path, target = tmp_path / "path", tmp_path / "target"
    if kind == "a directory":
        path.mkdir()
    else:
        path.symlink_to(target)
    if kind == "a link to a file":
        target.write_text("precious")
    if kind == "a link to a stale socket":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(target))
    before = [(one.name, one.lstat().st_ino) for one in sorted(tmp_path.iterdir())]
    check_refused(run("--uds", str(path)), str(path), "it is not a socket")
    assert [(one.name, one.lstat().st_ino) for one in sorted(tmp_path.iterdir())] == before


@pytest.mark.tool("setpriv")
def test_a_directory_that_allows_no_socket_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """A unix socket in a directory that may not be written: exit code 1, and why."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    without_rights = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    done = run("--uds", str(closed / "a.sock"), through=without_rights if os.geteuid() == 0 else ())
    check_refused(done, "its directory does not allow it")


def test_a_unix_sockets_mode_is_the_umasks(tmp_path: Path) -> None:
    """The file is never, not even for a moment, more open than the umask allows: bind() makes it so."""
    path = tmp_path / "a.sock"
    with subprocess.Popen([*COMMAND, "--uds", str(path)], stderr=subprocess.PIPE, umask=0o077) as process:
        assert process.stderr
        assert process.stderr.readline() == f"Server started on unix:{path}\n".encode()
        mode = path.stat().st_mode
        process.terminate()
        process.stderr.read()
    assert process.returncode == 0
    assert mode & 0o777 == 0o700


def test_few_descriptors_lower_the_number_of_connections(tmp_path: Path) -> None:
    """With 64 descriptors in all, 32 clients are served at once, the next one waits, and the start said so."""
    few = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    with (
        open(tmp_path / "log", "wb") as log,
        BareServer("--max-connections", "1000", through=few, stderr=log) as server,
        Witness(server),
    ):
        clients = [server.connect() for _ in range(31)]
        for client in clients:
            client.sendall(b"hi")
            assert read_exactly(client, 10) == b"system: hi"
        with server.connect(0.2) as waiting:
            waiting.sendall(b"hi")
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            clients.pop().close()
            waiting.settimeout(PATIENCE_S)
            assert read_exactly(waiting, 10) == b"system: hi"
        for client in clients:
            client.close()
    warning = (tmp_path / "log").read_text().splitlines()[0]
    assert warning.startswith("warning: max_connections is lowered from 1000 to 32: this process may have 64 ")


# --- Standard descriptors that are closed ---

TALKING_HOOK = """
import os

def reply(message):
    for fd in (0, 1, 2):
        try:
            os.write(fd, b"not for a client")
        except OSError:
            pass
    return b"system: " + message
"""

LIBRARY = """
import os, sys
from kqnative import Server
from talking import reply
for fd in (0, 1, 2):
    os.close(fd)
Server(host="127.0.0.1", port=int(sys.argv[4]), reply=reply).run()
"""


def clients_among_0_to_2(pid: int) -> list[str]:
    """Which of descriptors 0 to 2 of a process are TCP sockets."""
    with open(f"/proc/{pid}/net/tcp") as file:
        tcp = {f"socket:[{line.split()[9]}]" for line in file}
    there = set(os.listdir(f"/proc/{pid}/fd")) & {"0", "1", "2"}
    return [fd for fd in there if os.readlink(f"/proc/{pid}/fd/{fd}") in tcp]


def check_answers_alone(server: BareServer) -> None:
    """Twenty clients get their answers and not a byte more, though everything writes to descriptors 0 to 2."""
    with Witness(server) as witness:
        clients = [server.connect() for _ in range(20)]
        for client in clients:
            client.sendall(b"hi")
            assert read_exactly(client, 10) == b"system: hi"
        assert clients_among_0_to_2(server.pid) == []
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b""
            client.close()
        wait_until_read(witness)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_client_gets_a_standard_descriptor(closed: str, tmp_path: Path) -> None:
    """Started without some of descriptors 0 to 2, a client reads neither log lines nor what a hook prints."""
    (tmp_path / "talking.py").write_text(TALKING_HOOK)
    through = ("sh", "-c", f'exec "$@" {closed}', "sh")
    with BareServer("--hook", "talking:reply", "--log-level", "debug", through=through, cwd=tmp_path) as server:
        check_answers_alone(server)
        server.kill()
        assert server.wait() == 0


def test_no_client_of_a_program_gets_a_standard_descriptor(tmp_path: Path) -> None:
    """The same in a program that closed its own before it made a Server."""
    (tmp_path / "talking.py").write_text(TALKING_HOOK)
    with BareServer(command=(sys.executable, "-c", LIBRARY), cwd=tmp_path) as server:
        check_answers_alone(server)
