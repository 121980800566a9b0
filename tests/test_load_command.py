"""The command `load`: help, usage errors, streams, exit codes, files, and what Ctrl-C does, as a user meets them."""

import codecs
import contextlib
import json
import math
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, RunningServer, Serve, wait_until
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from jsonschema import Draft202012Validator
from scripted import ScriptedServer, echo, lines_of

import kqnative
from kqnative import cli, options
from kqnative.load import LoadPlan, LoadResult, command, plan, report
from kqnative.load.report import show_us
from kqnative.load.result import SCHEMA

ROOT = Path(__file__).parent.parent
REPORT_SCHEMA = json.loads((ROOT / "docs" / "load-report.schema.json").read_text())
VALIDATOR = Draft202012Validator(REPORT_SCHEMA)
QUICK = ("-d", "0.2", "--warmup", "0")

Done = subprocess.CompletedProcess[str]


def environment(**changes: str) -> dict[str, str]:
    """What the command sees: 80 columns, no colour."""
    return {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **changes}


def load(*arguments: str, cwd: Path = ROOT, **env: str) -> Done:
    """`python -m kqnative load` to its end."""
    words = [sys.executable, "-m", "kqnative", "load", *arguments]
    return subprocess.run(words, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=30)


def run_code(code: str, *arguments: str) -> Done:
    """The same in a process that runs this code first."""
    whole = f"import os, signal, sys\n{code}\nfrom kqnative.cli import main\nsys.exit(main(['load', *sys.argv[1:]]))"
    words = [sys.executable, "-c", whole, *arguments]
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=30)


def check_one_line(done: Done, code: int) -> str:
    """The one line of the standard error with which the command ended."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.startswith("kqnative: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def checked(text: str) -> dict[str, Any]:
    """A JSON report, which is as the schema says and adds up."""
    found: dict[str, Any] = json.loads(text)
    VALIDATOR.validate(found)
    errors = found["errors"]
    assert errors["total"] == sum(count for kind, count in errors.items() if kind != "total")
    assert sum(found["other_errors"].values()) == errors["other"]
    assert found["valid"] == (found["invalid_because"] is None)
    assert (found["mode"] == "open") == (found["requested_rate"] is not None)
    assert found["messages"] <= found["sent"]
    return found


def text_of(done: Done) -> str:
    """The report with its line breaks undone."""
    return " ".join(done.stdout.split())


class Loading:
    """`python -m kqnative load` that runs, to be interrupted."""

    def __init__(self, *arguments: str) -> None:
        words = [sys.executable, "-m", "kqnative", "load", *arguments]
        self.process = subprocess.Popen(
            words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> Done:
        """Its end."""
        out, err = self.process.communicate(timeout=30)
        return Done(self.process.args, self.process.returncode, out, err)


@pytest.fixture
def start() -> Iterator[Callable[..., Loading]]:
    """Starts load testers: start(TARGET, "-d", "30s"). None outlives the test."""
    started: list[Loading] = []

    def begin(*arguments: str) -> Loading:
        started.append(Loading(*arguments))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.fixture
def line_server(serve: Serve) -> RunningServer:
    """Our own server of lines, that logs no clients."""
    return serve("--framing", "line", "--log-rate", "0")


@pytest.fixture
def unasked() -> Iterator[str]:
    """A target that must not get a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            server.accept()[0].close()
            pytest.fail("something was sent")


@pytest.fixture
def deaf() -> Iterator[str]:
    """A target that refuses."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextlib.contextmanager
def answers(answer: bytes) -> Iterator[str]:
    """A target that answers each line with this."""

    def talk(connection: socket.socket) -> None:
        for _ in lines_of(connection):
            connection.sendall(answer)

    with ScriptedServer(talk) as server:
        yield server.target


# --- Help, version, usage ---


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_shows_every_option_in_80_columns(argument: str) -> None:
    """Help goes to the standard output, fits 80 columns, and names each option, its default, and two examples."""
    done = load(argument)
    assert (done.returncode, done.stderr) == (0, "")
    words = " ".join(done.stdout.split())
    for name, option in plan.OPTIONS.items():
        assert f" {options.flag(name)} " in words
        assert f"default: {option.show(plan.DEFAULTS[name])})" in words
    for flag in ("--source", "--fail-if", "--find-rate", "--percentiles", "--json", "--html", "--hdr"):
        assert re.search(rf" {flag} [A-Z]+ [^()]*(\([^()]*\)[^()]*)*\(default: ", words), flag
    assert " --quiet " in words
    assert all(f"\n{group}:\n" in done.stdout for group in (*plan.GROUPS, "report", "exit codes"))
    examples = done.stdout.rpartition("\nexamples:\n")[2].splitlines()
    assert len(examples) == 2
    assert all(line.startswith("  kqnative load ") for line in examples)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ["load", "compare"])
def test_command_is_listed(name: str) -> None:
    """Help lists the command, an unknown one is answered with its name, and the README shows it."""
    assert name in cli.COMMANDS

    def run(argument: str) -> Done:
        words = [sys.executable, "-m", "kqnative", argument]
        return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=30)

    assert f"\n  {name} " in run("--help").stdout
    assert f", {name}" in run("lod").stderr
    assert f"kqnative {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("now",), "unrecognized arguments: now"),
        (("--rat", "5"), "unrecognized arguments: --rat 5"),
        (("--durationn", "5"), "unrecognized arguments: --durationn 5"),
        (("-d",), "argument -d/--duration: expected one argument"),
        (("-d", "2 weeks"), "-d/--duration: '2 weeks' is not a number, or one with a unit: us ms s m h"),
        (("-c", "0"), "-c/--connections: '0' is not allowed; it takes 1 to 16777216"),
        (("-n", "1.5"), "-n/--messages: '1.5' is not a whole number"),
        (("-R", "fast"), "-R/--rate: 'fast' is not a number, or one with a unit: k M"),
        (("--framing", "lines"), "--framing: 'lines' is not one of line, stream, u32"),
        (("--framing", "stream"), "--framing stream: say where an answer ends, with --reply-size or --expect"),
        (("-m", r"a\q"), r"-m/--message: 'a\\q' is not a text with Python's escapes: '\\q' at character 2 is none"),
        (("-m", "{x}"), "message: '{x}' is wrong at character 1; it may hold {n}, {conn}"),
        (("-m", r"a\nb"), "--message holds a line feed"),
        (("-m", "x", "--message-file", "f"), "--message and --message-file cannot both act"),
        (("--message-file", "/nowhere/f"), "--message-file: cannot read /nowhere/f: No such file or directory"),
        (("--think-time", "1s", "-R", "5"), "--think-time and --rate cannot both act"),
        (("--expect", "{n}"), "expect: '{n}' is wrong at character 1; it may hold {message}"),
        (("--source", "localhost"), "--source: 'localhost' is not a numeric address"),
        (("--fail-if", "p99 > 5"), "--fail-if: 'p99 > 5' is wrong at character 8: a latency needs its unit"),
        (("--fail-if", "  speed > 5"), "--fail-if: '  speed > 5' is wrong at character 3: there is no such figure"),
        (("--find-rate", "p99"), "--find-rate: 'p99' is wrong at character 4: here should be < <= > or >="),
        (("--find-rate", "not valid"), "--find-rate: give a figure and its bound"),
        (("--find-rate", "p99 < 1s", "-R", "5"), "--find-rate and --rate cannot both act"),
        (("--find-rate", "p99 < 1s", "-n", "5"), "--find-rate and --messages cannot both act"),
        (("--find-rate", "p99 < 1s", "--think-time", "1"), "--find-rate and --think-time cannot both act"),
        (("--percentiles", "50,nine"), "--percentiles: 'nine' is not a number above 0, up to 100; give some: 50,95"),
        (("--percentiles", "0"), "--percentiles: '0' is not a number above 0"),
        (("--percentiles", "100.1"), "--percentiles: '100.1' is not a number above 0"),
        (("--percentiles", ""), "--percentiles: '' is not a number above 0"),
        (("--percentiles", "\uff19\uff19"), "--percentiles: '\uff19\uff19' is not a number above 0"),
        (("--json", "/nowhere/a.json"), "cannot write /nowhere/a.json: No such file or directory"),
        (("--hdr", "/nowhere/a.hdr"), "cannot write /nowhere/a.hdr: No such file or directory"),
        (("--html", "/nowhere/a.html"), "cannot write /nowhere/a.html: No such file or directory"),
        (("--json", "/"), "cannot write /: Is a directory"),
        (("--json", "-", "--hdr", "-"), "--json and --hdr"),
        (("--json", "same", "--html", "same"), "--json and --html"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: tuple[str, ...], message: str, unasked: str, tmp_path: Path
) -> None:
    """Bad usage ends with 2 and a line that says what is wrong, before anything is sent."""
    done = load(unasked, "--connect-timeout", "0.1", "--timeout", "0.1", *QUICK, *arguments, cwd=tmp_path)
    assert message in check_one_line(done, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to load: HOST:PORT, [V6]:PORT, tcp://HOST:PORT or unix:PATH; see: kqnative load --help"),
        (("-d", "1"), "say what to load: "),
        (("localhost",), "target: 'localhost' is not HOST:PORT"),
        (("::1:80",), "put the IPv6 address of '::1:80' in brackets: [::1]:80"),
        (("unix:/tmp/x", "--source", "127.0.0.1"), "--source and a unix socket cannot both act"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_wrong_target_is_one_line_and_exit_2(arguments: tuple[str, ...], message: str) -> None:
    """Without a target, or with what is none, the line says what one is."""
    assert message in check_one_line(load(*arguments), 2)


def test_html_without_its_library_does_not_start(tmp_path: Path, unasked: str) -> None:
    """Where pygal is missing, --html ends with 2 before anything is sent, and says what to install."""
    (tmp_path / "pygal.py").write_text("raise ModuleNotFoundError('no pygal here', name='pygal')\n")
    done = load(unasked, "--html", str(tmp_path / "page.html"), PYTHONPATH=str(tmp_path))
    assert "pip install 'kqnative[report]'" in check_one_line(done, 2)
    assert not (tmp_path / "page.html").exists()


def test_load_package_is_imported_cheaply() -> None:
    """The library's run needs neither rich nor argparse nor the charts."""
    code = "import sys, kqnative.load; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30)
    # -S: without site-packages, where cffi is; what the C module needs is not looked at here
    assert {"rich", "argparse", "pygal"} & set(done.stdout.split()) == set()


def test_quiet_run_does_not_import_rich(tmp_path: Path, line_server: RunningServer) -> None:
    """rich is imported only when something is shown."""
    (tmp_path / "rich.py").write_text("raise ImportError('rich is not to be imported')\n")
    target = f"127.0.0.1:{line_server.port}"
    assert load(target, "-n", "10", "--quiet", PYTHONPATH=str(tmp_path)).returncode == 0


# --- The report, its streams, the exit code ---


def test_report_goes_to_standard_output_and_nothing_to_standard_error(line_server: RunningServer) -> None:
    """Without a terminal there is the report on the standard output, at most 80 columns wide, and nothing else."""
    done = load(f"localhost:{line_server.port}", "-c", "5", "-n", "1000")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"localhost [127.0.0.1]:{line_server.port}: 5 connections, closed loop, 1,000 messages"
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert re.search(r"^rate +[\d,]+/s$", done.stdout, re.M)
    assert re.search(r"^messages +1,000 answered in ", done.stdout, re.M)
    assert re.search(r"^bytes +62.5 KiB sent, 70.3 KiB received$", done.stdout, re.M)
    assert re.search(r"^errors +none$", done.stdout, re.M)
    for name in ("min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"):
        assert re.search(rf"^{name} +[\d.,]+ (us|ms|s) +[\d.,]+ (us|ms|s)$", done.stdout, re.M), name
    counts = re.findall(r"^ *[\d.,]+ (?:us|ms|s) +([\d,]+) +\S* ?[\d.]+%$", done.stdout, re.M)
    assert sum(int(one.replace(",", "")) for one in counts) == 1_000
    assert "A closed loop cannot see stalls in full; a schedule can: --rate." in done.stdout


def test_open_loop_report_has_response_and_service_time(line_server: RunningServer) -> None:
    """With --rate the report shows both latencies, and no word of closed loops."""
    done = load(f"127.0.0.1:{line_server.port}", "-R", "500", *QUICK, "-c", "1")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith(": 1 connection, 500/s (open loop), 200 ms")
    assert re.search(r"^latency +response +service +connect$", done.stdout, re.M)
    assert "closed loop" not in done.stdout


def test_percentiles_are_shown_and_written_as_asked(line_server: RunningServer, tmp_path: Path) -> None:
    """--percentiles says which ones the report shows; the JSON has them beside those that it always has."""
    path = tmp_path / "a.json"
    done = load(f"127.0.0.1:{line_server.port}", "-n", "500", "--percentiles", "75, 99.5,100", "--json", str(path))
    assert re.findall(r"^(p[\d.]+) ", done.stdout, re.M) == ["p75", "p99.5", "p100"]
    written = checked(path.read_text())
    wanted = ["min", "mean", "p50", "p75", "p90", "p99", "p99_5", "p99_9", "p99_99", "p100", "max"]
    assert [*written["latency_us"]] == [*written["connect_us"]] == wanted
    assert written["latency_us"]["p100"] == written["latency_us"]["max"]


def test_quiet_prints_nothing(line_server: RunningServer, tmp_path: Path) -> None:
    """--quiet leaves the exit code and the files; a run that fails has one line."""
    path = tmp_path / "a.json"
    target = f"127.0.0.1:{line_server.port}"
    done = load(target, "-n", "100", "--quiet", "--json", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert checked(path.read_text())["messages"] == 100
    done = load(target, "-n", "100", "--quiet", "--fail-if", "messages < 1k", "--fail-if", "errors > 0")
    assert check_one_line(done, 1) == "kqnative: error: failed condition: messages < 1k\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_file_that_cannot_be_written_is_exit_1(line_server: RunningServer, tmp_path: Path) -> None:
    """A file that could not be written is a failure, in one line, and keeps nothing else from being written."""
    path = tmp_path / "a.json"
    done = load(f"127.0.0.1:{line_server.port}", "-n", "10", "--hdr", "/dev/full", "--json", str(path))
    assert done.returncode == 1
    assert done.stderr == "kqnative: error: cannot write /dev/full: No space left on device\n"
    assert "10 answered" in done.stdout
    assert checked(path.read_text())["messages"] == 10


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [(), ("--json", "-")], ids=["report", "JSON"])
def test_full_standard_output_is_exit_1(
    line_server: RunningServer, arguments: tuple[str, ...], unbuffered: str
) -> None:
    """A report that could not be written to the standard output is a failure, in one line."""
    words = [sys.executable, "-m", "kqnative", "load", f"127.0.0.1:{line_server.port}", "-n", "10", *arguments]
    environ = environment(PYTHONUNBUFFERED=unbuffered)
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, cwd=ROOT, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1
    line, _, rest = done.stderr.partition("\n")
    assert line == "kqnative: error: cannot write to the standard output: No space left on device"
    assert ("10 answered" in rest) == (arguments != ())


def test_name_that_is_not_utf_8_can_be_reported(tmp_path: Path) -> None:
    """A path with any bytes is shown with escapes where the terminal's encoding has no such character."""
    path = os.fsdecode(bytes(tmp_path) + b"/\xff.sock")
    done = load(f"unix:{path}", "--connect-timeout", "0.05", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (1, "")
    assert r"\xff.sock" in done.stdout.replace("\n", "")  # a long path is cut into lines


def test_answer_can_be_reported_in_any_encoding() -> None:
    """Where the standard output has no such character, an answer is shown with escapes."""
    with answers("\u00e9\n".encode()) as target:
        done = load(target, "-n", "1", "-c", "1", "--expect", "hi", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (1, "")
    assert r"got '\xe9', expected 'hi'" in text_of(done)


# --- JSON ---


def test_schema_is_a_schema_and_describes_everything() -> None:
    """The schema is valid itself, each property has a description, and the settings are the plan's fields."""
    Draft202012Validator.check_schema(REPORT_SCHEMA)
    undescribed = []

    def look(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        for key in ("properties", "patternProperties", "$defs"):
            for name, one in node.get(key, {}).items():
                if not one.get("description"):
                    undescribed.append(f"{path}/{name}")
                look(one, f"{path}/{name}")
        look(node.get("items"), f"{path}[]")
        if node.get("type") == "object":
            assert "additionalProperties" in node, path

    look(REPORT_SCHEMA, "")
    assert undescribed == []
    assert REPORT_SCHEMA["properties"]["schema"]["const"] == SCHEMA
    settings = REPORT_SCHEMA["properties"]["settings"]
    assert settings["required"] == [*settings["properties"]]
    assert set(settings["required"]) == set(LoadPlan(target="a:1").settings())


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "kqnative.load/2"},
        {"messages": None},
        {"messages": -1},
        {"mode": "half-open"},
        {"surprise": 1},
        {"errors": {"total": 0}},
        {"latency_us": {}},
        {"started": "2026-11-24 06:10"},
    ],
    ids=str,
)
def test_schema_refuses_what_is_no_report(change: dict[str, Any]) -> None:
    """The schema is strict: a wrong value, a missing key and an unknown one are each refused."""
    made = LoadResult(
        target="a:1", settings=LoadPlan(target="a:1").settings(), started="", mode="closed", connections=1
    )
    good = {**made.to_json(), "started": "2026-11-24T06:10:00Z"}
    VALIDATOR.validate(good)
    assert not VALIDATOR.is_valid({**good, **change})
    assert not VALIDATOR.is_valid({name: one for name, one in good.items() if name != "probes"})


JSON_RUNS = [
    ("-n", "300"),
    ("-d", "0.3", "--warmup", "0.1", "--depth", "4"),
    ("-R", "2k", "-d", "0.3", "--warmup", "0.1", "--arrivals", "poisson"),
    ("-n", "100", "-m", r"\xff{{{n}}}", "--size", "32", "--expect", "system: {message}", "--reconnect-every", "5"),
    (
        "-n",
        "20",
        "-c",
        "2",
        "--think-time",
        "5ms",
        "--connect-rate",
        "100",
        "--source",
        "127.0.0.1",
        "--poller",
        "poll",
    ),
]


@pytest.mark.parametrize("arguments", JSON_RUNS, ids=" ".join)
def test_json_on_standard_output_is_as_the_schema_says(line_server: RunningServer, arguments: tuple[str, ...]) -> None:
    """--json - writes the report as JSON to the standard output and as text to the standard error."""
    done = load(f"127.0.0.1:{line_server.port}", *arguments, "--json", "-")
    assert done.returncode == 0, done
    written = checked(done.stdout)
    assert done.stderr.startswith(f"127.0.0.1:{line_server.port}: ")
    assert max(map(len, done.stderr.splitlines())) <= 80
    assert f"{written['messages']:,} answered in " in done.stderr
    assert written["mode"] == ("open" if "-R" in arguments else "closed")
    assert (written["service_us"]["p99"] is None) == (written["mode"] == "closed")
    assert written["errors"]["total"] == 0
    assert written["probes"] is None
    assert sum(one["messages"] for one in written["intervals"]) == written["messages"]


def test_json_file_is_written_anew(line_server: RunningServer, tmp_path: Path) -> None:
    """--json FILE replaces what the file held, and the report still goes to the standard output."""
    path = tmp_path / "a.json"
    path.write_text("x" * 100_000)
    done = load(f"localhost:{line_server.port}", "-n", "100", "--json", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    written = checked(path.read_text())
    assert written["target"] == f"localhost [127.0.0.1]:{line_server.port}"
    assert done.stdout.startswith(f"{written['target']}: ")
    assert written["version"] == kqnative.__version__
    assert (written["settings"]["messages"], written["settings"]["warmup"], written["connections"]) == (100, 0, 50)


# --- Counts, messages ---


@pytest.mark.parametrize("framing", ["line", "u32"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("-n", "1000"),
        ("-n", "1000", "--depth", "16", "--loops", "2"),
        ("-n", "1000", "--warmup", "0.1"),
        ("-d", "0.3", "--warmup", "0.1", "--depth", "2"),
        ("-d", "0.3", "--warmup", "0.1", "-R", "3k"),
    ],
    ids=" ".join,
)
def test_counts_are_exact(serve: Serve, framing: str, arguments: tuple[str, ...]) -> None:
    """Messages and warm-up messages are together what the server counted, and -n is exact."""
    server = serve("--framing", framing, "--log-rate", "0")
    done = load(f"127.0.0.1:{server.port}", "--framing", framing, "-c", "7", *arguments, "--json", "-")
    written = checked(done.stdout)
    assert done.returncode == 0
    if "-n" in arguments:
        assert (written["messages"], written["sent"]) == (1_000, 1_000)
    assert written["messages"] == written["sent"] > 0
    assert (written["warmup_messages"] > 0) == ("--warmup" in arguments)
    assert written["errors"]["total"] == written["reconnects"] == 0
    server.wait_until_idle()
    server.kill()
    assert server.wait() == 0
    assert server.counter("messages") == written["messages"] + written["warmup_messages"]
    assert server.counter("answered") == server.counter("messages")
    assert server.counter("accepted") == 7 + 1  # the one that finds the address


def test_message_and_expected_answer_are_filled_in(line_server: RunningServer) -> None:
    """-m with fields, filled up by --size, is what the server gets, and --expect compares its answers."""
    arguments = ("-m", r"\x41 {n} {{{conn}}}", "--size", "40", "--expect", "system: {message}", "-n", "500", "-c", "3")
    done = load(f"127.0.0.1:{line_server.port}", *arguments, "--depth", "4", "--json", "-")
    written = checked(done.stdout)
    assert (done.returncode, written["messages"], written["errors"]["total"]) == (0, 500, 0)
    assert written["bytes_sent"] == 500 * 40
    assert written["bytes_received"] == 500 * (40 + len("system: "))


def test_each_message_has_its_number_and_its_connection() -> None:
    """{n} counts the messages of the run from 0, {conn} the connections, and each line has the size asked for."""
    got: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            got.append(line)
            connection.sendall(line)

    with ScriptedServer(talk) as server:
        arguments = ("-m", "{n} of {conn}", "--size", "32", "--expect", "{message}", "-n", "200", "-c", "4")
        done = load(server.target, *arguments)
    assert done.returncode == 0
    found = [re.fullmatch(rb"(\d+) of (\d)(x*)\n", line) for line in got]
    assert all(found)
    assert {len(line) for line in got} == {32}
    assert sorted(int(one[1]) for one in found if one) == list(range(200))
    assert {int(one[2]) for one in found if one} == {0, 1, 2, 3}


def test_wrong_answers_are_exit_1_and_shown_escaped(tmp_path: Path) -> None:
    """Answers that differ from --expect are counted, the first of them shown with escapes, and fail the run."""
    path = tmp_path / "a.json"
    with answers(b"\x1b[31mno\xff\\\n") as target:
        done = load(target, "-n", "20", "-c", "2", "-m", "hi", "--expect", "{message}", "--json", str(path))
    assert (done.returncode, done.stderr) == (1, "")
    assert r"got '\x1b[31mno\xff\\', expected 'hi'" in text_of(done)
    assert "\x1b" not in done.stdout
    assert re.search(r"^errors +20: wrong_answer 20$", done.stdout, re.M)
    written = checked(path.read_text())
    assert (written["messages"], written["sent"], written["errors"]["wrong_answer"]) == (0, 20, 20)
    first = written["wrong_answers"][0]
    assert first.pop("connection") in (0, 1)
    assert first == {"expected": "hi", "got": "\\x1b[31mno\\xff\\\\"}
    assert written["latency_us"]["p50"] is None


def test_wrong_answers_among_right_ones_fail_the_run_too() -> None:
    """One wrong answer in many is exit 1, and the good ones have their latency."""
    numbers = iter(range(10**6))

    def talk(connection: socket.socket) -> None:
        for line in lines_of(connection):
            connection.sendall(b"no\n" if next(numbers) == 50 else line)

    with ScriptedServer(talk) as server:
        done = load(server.target, "-n", "100", "-c", "1", "--expect", "{message}", "--json", "-")
        quiet = load(server.target, "-n", "100", "-c", "1", "--expect", "{message}", "--quiet")
    written = checked(done.stdout)
    assert (done.returncode, written["messages"], written["errors"]["wrong_answer"]) == (1, 99, 1)
    assert (quiet.returncode, quiet.stderr) == (0, "")  # the 50th was in the first run


def test_answers_are_shown_as_they_are() -> None:
    """What looks like markup or an emoji's name is shown as it came."""
    with answers(b":heart: [red]x[/red]\n") as target:
        done = load(target, "-n", "1", "-c", "1", "-m", "hi", "--expect", "{message}")
    assert "got ':heart: [red]x[/red]', expected 'hi'" in text_of(done)


# --- Conditions ---


def test_condition_that_breaks_is_exit_1_and_named(line_server: RunningServer, tmp_path: Path) -> None:
    """--fail-if ends with 1 if one of its conditions holds, and the report and the JSON name those that do."""
    path = tmp_path / "a.json"
    target = f"127.0.0.1:{line_server.port}"
    conditions = ("errors > 0", "p99 > 0.001us", "max > 1h", " messages < 1k")
    arguments = [word for one in conditions for word in ("--fail-if", one)]
    done = load(target, "-n", "100", *arguments, "--json", str(path))
    assert (done.returncode, done.stderr) == (1, "")
    assert re.findall(r"^Failed condition: (.*)$", done.stdout, re.M) == ["p99 > 0.001us", "messages < 1k"]
    assert checked(path.read_text())["failed_conditions"] == ["p99 > 0.001us", "messages < 1k"]
    done = load(target, "-n", "100", "--fail-if", "errors > 0.1%", "--fail-if", "p50 > 1m", "--fail-if", "rate < 1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Failed" not in done.stdout


def test_condition_on_nothing_is_a_failure(deaf: str) -> None:
    """A condition on figures that were never measured fails, and says so."""
    done = load(deaf, "--connect-timeout", "0.05", "--fail-if", "p99 > 5ms", "--json", "-")
    assert done.returncode == 1
    assert checked(done.stdout)["failed_conditions"] == ["p99 > 5ms (nothing was measured)"]


# --- Targets that can't be had ---


def test_nobody_listens_is_exit_1_and_reported(deaf: str, tmp_path: Path) -> None:
    """A target that refuses ends the run after the connect timeout, with its report, its JSON and the reason."""
    path = tmp_path / "a.json"
    done = load(deaf, "--connect-timeout", "0.3s", "--json", str(path), "--hdr", str(tmp_path / "a.hdr"))
    assert (done.returncode, done.stderr) == (1, "")
    reason = f"no connection to {deaf} within 0.3 s: Connection refused"
    assert f"Failed: {reason}." in text_of(done)
    written = checked(path.read_text())
    assert written["ended_because"] == reason
    assert written["errors"]["refused"] >= 1
    assert (written["messages"], written["sent"], written["messages_per_second"]) == (0, 0, None)
    assert (written["settings"]["duration"], written["settings"]["connect_timeout"]) == (10, 0.3)


def test_unknown_name_is_exit_1_and_reported() -> None:
    """A name that can't be resolved ends the run with the name and what to do."""
    done = load("host.invalid:80", "--json", "-")
    assert done.returncode == 1
    reason = checked(done.stdout)["ended_because"]
    assert re.fullmatch(r"cannot find host\.invalid: .+; check the name", reason)
    quiet = load("host.invalid:80", "--quiet")
    assert "cannot find host.invalid: " in check_one_line(quiet, 1)


def test_server_that_never_answers_is_exit_1() -> None:
    """A run in which not one message was answered is a failure, in words, and counts its timeouts."""

    def never(connection: socket.socket) -> None:
        while connection.recv(1_000):
            pass

    with ScriptedServer(never) as server:
        done = load(server.target, "-c", "2", *QUICK, "--timeout", "0.1", "--json", "-")
    written = checked(done.stdout)
    assert (done.returncode, written["ended_because"]) == (1, "not one message was answered")
    assert written["errors"]["timeout"] == written["sent"] > 0


# --- Ctrl-C ---


def test_ctrl_c_ends_the_run_early_and_reports(serve: Serve, start: Callable[..., Loading], tmp_path: Path) -> None:
    """The first Ctrl-C ends the run with report, JSON and exit code 130, whatever else failed."""
    path = tmp_path / "a.json"
    server = serve("--framing", "line")
    arguments = ("-c", "2", "-d", "1m", "--warmup", "0", "--fail-if", "p99 > 0.001us", "--json", str(path))
    running = start(f"127.0.0.1:{server.port}", *arguments)
    server.wait_for("Received: ")
    running.interrupt()
    done = running.wait()
    assert (done.returncode, done.stderr) == (130, "")
    assert "Interrupted: the figures are those until then." in done.stdout
    written = checked(path.read_text())
    assert (written["interrupted"], written["ended_because"]) == (True, None)
    assert written["failed_conditions"] == ["p99 > 0.001us"]
    assert 0 < written["seconds"] < 50
    assert written["messages"] == written["sent"] > 0


def test_ctrl_c_while_it_warms_up_reports_too(serve: Serve, start: Callable[..., Loading]) -> None:
    """A run that is ended before it measured has no figures, is not failed, and is exit 130."""
    server = serve("--framing", "line")
    running = start(f"127.0.0.1:{server.port}", "-c", "2", "-d", "1m", "--warmup", "1m", "--json", "-")
    server.wait_for("Received: ")
    running.interrupt()
    done = running.wait()
    written = checked(done.stdout)
    assert (done.returncode, written["interrupted"], written["ended_because"]) == (130, True, None)
    assert (written["messages"], written["messages_per_second"], written["seconds"]) == (0, None, 0)
    assert written["warmup_messages"] > 0


def test_ctrl_c_while_the_target_is_looked_for_reports_too() -> None:
    """A run that has not found its target yet ends at once, with its report and 130."""
    code = "from kqnative.load import target\ntarget.find = lambda *given: os.kill(os.getpid(), signal.SIGINT)"
    done = run_code(code, "127.0.0.1:1", "--json", "-")
    written = checked(done.stdout)
    assert (done.returncode, written["interrupted"], written["ended_because"]) == (130, True, None)
    assert "Interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_before_the_run_begins_reports_too() -> None:
    """Ctrl-C between the command's own signal handler and the run is no traceback."""
    code = (
        "from kqnative.load import command\n"
        "class Run(command.Run):\n"
        "    def __init__(self, *given, **named):\n"
        "        super().__init__(*given, **named)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "command.Run = Run"
    )
    done = run_code(code, "127.0.0.1:1", "--json", "-")
    assert "Traceback" not in done.stderr
    assert (done.returncode, checked(done.stdout)["interrupted"]) == (130, True)


def test_second_ctrl_c_ends_at_once_by_the_signal(start: Callable[..., Loading]) -> None:
    """A second Ctrl-C ends the process while it still waits for answers, as the signal does by default."""
    asked = threading.Event()

    def never(connection: socket.socket) -> None:
        while connection.recv(1_000):
            asked.set()

    with ScriptedServer(never) as server:
        running = start(server.target, "-c", "1", "-d", "1m", "--warmup", "0", "--timeout", "1m")
        assert asked.wait(PATIENCE_S)
        running.interrupt()

        def is_over() -> bool:
            running.interrupt()  # the first of these that comes after the first was dealt with
            return running.process.poll() is not None

        wait_until(is_over, "the second Ctrl-C ends it")
        done = running.wait()
    assert done.returncode == -signal.SIGINT
    assert (done.stdout, done.stderr) == ("", "")


# --- The search for the highest rate ---


def test_find_rate_ends_and_says_each_probe(line_server: RunningServer, tmp_path: Path) -> None:
    """--find-rate runs probe after probe, a line each on the standard error, and reports the best that held."""
    path = tmp_path / "a.json"
    arguments = ("-c", "4", "-d", "0.2s", "--warmup", "0.05", "--find-rate", "p99 < 1s", "--json", str(path))
    done = load(f"127.0.0.1:{line_server.port}", *arguments)
    written = json.loads(path.read_text())
    VALIDATOR.validate(written)
    probes = written["probes"]
    assert 1 <= len(probes) <= 16
    said = done.stderr.splitlines()
    assert len(said) == len(probes)
    shape = r"([\d,]+)/s: answered [\d,.]+/s, p99 [\d.,]+ (us|ms|s), errors \d+: (held|did not hold|not valid)"
    for line, one in zip(said, probes, strict=True):
        found = re.fullmatch(shape, line)
        assert found, line
        assert int(found[1].replace(",", "")) == round(one["rate"])
        assert (found[3] == "held") == one["held"]
        assert (found[3] == "not valid") == (not one["valid"])
    held = [one for one in probes if one["held"]]
    reported = max(held, key=lambda one: one["rate"]) if held else probes[0]
    assert done.returncode == (0 if held else 1)
    assert written["requested_rate"] == reported["rate"]
    assert written["latency_us"] == reported["latency_us"]
    assert written["mode"] == "open"
    assert re.search(r"^asked +answered +p50 +p99 +max +errors$", done.stdout, re.M)


def test_find_rate_that_never_holds_is_exit_1(line_server: RunningServer) -> None:
    """If the first rate fails already, the report is that one's, the condition is named, and the exit code is 1."""
    target = f"127.0.0.1:{line_server.port}"
    done = load(target, "-c", "2", *QUICK, "--find-rate", "p99 < 0.001us", "--json", "-")
    assert done.returncode == 1
    written = checked(done.stdout)
    assert [one["held"] for one in written["probes"]] == [False]
    assert written["requested_rate"] == 1_000
    if written["valid"]:  # else the machine is busy with something else, and that is the reason
        assert written["ended_because"] == "'p99 < 0.001us' does not hold at 1,000/s"


def test_find_rate_without_a_server_is_exit_1(deaf: str) -> None:
    """A target that refuses ends the search with the run's own reason."""
    done = load(deaf, "--find-rate", "p99 < 1s", "--connect-timeout", "0.05", "--json", "-")
    assert done.returncode == 1
    written = json.loads(done.stdout)
    VALIDATOR.validate(written)
    assert written["ended_because"] == f"no connection to {deaf} within 0.05 s: Connection refused"
    assert len(written["probes"]) == 1


class FakeRun:
    """In place of a run: a server that holds every rate, and what a test does while a probe runs."""

    has_begun = True
    while_running: Callable[[int], None]
    valid_up_to: float
    count: int

    def __init__(self, plan: LoadPlan, **others: Any) -> None:
        self.plan = plan
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True

    def run(self, watcher: Any) -> LoadResult:
        FakeRun.count += 1
        FakeRun.while_running(FakeRun.count)
        rate = self.plan.rate
        assert rate is not None
        valid = rate <= FakeRun.valid_up_to
        made = LoadResult(
            target=self.plan.target,
            settings=self.plan.settings(),
            started="2026-11-24T06:10:00Z",
            mode="open",
            connections=1,
            seconds=1.0,
            sent=10,
            messages=10,
            messages_per_second=rate,
            requested_rate=rate,
            interrupted=self.is_stopped,
            valid=valid,
            invalid_because=None if valid else "the tester was too slow",
        )
        made.latency.record(1_000_000)
        return made


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeRun]]:
    """The command in this process with runs that take no time; Ctrl-C is Python's own again at the end."""
    FakeRun.while_running = lambda count: None
    FakeRun.valid_up_to = float("inf")
    FakeRun.count = 0
    monkeypatch.setattr(command, "Run", FakeRun)
    before = signal.getsignal(signal.SIGINT)
    yield FakeRun
    signal.signal(signal.SIGINT, before)


FIND = ("127.0.0.1:1", "--find-rate", "p99 < 5ms", "--json", "-")


def press_ctrl_c() -> None:
    """As the terminal does."""
    os.kill(os.getpid(), signal.SIGINT)


def test_find_rate_has_probes_of_3_s(fake_runs: type[FakeRun], capsys: pytest.CaptureFixture[str]) -> None:
    """A probe lasts 3 s unless --duration says otherwise, and each is as its rate says."""
    assert command.main([*FIND]) == 0
    written = checked(capsys.readouterr().out)
    assert (written["settings"]["duration"], written["settings"]["warmup"]) == (3.0, 1.0)
    assert [one["rate"] for one in written["probes"]] == [1_000 * 2**i for i in range(16)]
    assert command.main([*FIND, "-d", "5"]) == 0
    assert checked(capsys.readouterr().out)["settings"]["duration"] == 5.0


def test_find_rate_that_the_tester_limits_reports_the_best(
    fake_runs: type[FakeRun], capsys: pytest.CaptureFixture[str]
) -> None:
    """A probe that is not valid ends the search and is said; the figures reported are the best one's, and valid."""
    fake_runs.valid_up_to = 5_000
    assert command.main([*FIND]) == 0
    out, err = capsys.readouterr()
    written = json.loads(out)
    assert (written["requested_rate"], written["valid"]) == (4_000, True)
    assert [one["valid"] for one in written["probes"]] == [True, True, True, False]
    assert "the tester is the limit at 8,000 messages/s" in " ".join(err.split()).lower()
    assert written["invalid_because"] is None
    assert "Not valid: the tester is the limit" not in " ".join(err.split())


def test_find_rate_that_the_tester_limits_at_once_is_exit_1(
    fake_runs: type[FakeRun], capsys: pytest.CaptureFixture[str]
) -> None:
    """If the first probe is not valid already, there is no best, and the reason is the tester."""
    fake_runs.valid_up_to = 500
    assert command.main([*FIND]) == 1
    written = checked(capsys.readouterr().out)
    assert written["ended_because"].startswith("the tester is the limit at 1,000 messages/s")
    assert written["valid"] is False


def test_ctrl_c_in_the_first_probe_ends_the_search(
    fake_runs: type[FakeRun], capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupted search is exit 130, and says nothing of a condition that was not judged."""
    fake_runs.while_running = lambda count: press_ctrl_c()
    assert command.main([*FIND]) == 130
    written = checked(capsys.readouterr().out)
    assert (written["interrupted"], len(written["probes"])) == (True, 1)
    assert written["ended_because"] is None


def test_ctrl_c_in_a_later_probe_ends_the_search(fake_runs: type[FakeRun], capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted after a probe that held, the search reports that one, as interrupted, with exit code 130."""
    fake_runs.while_running = lambda count: press_ctrl_c() if count == 3 else None
    code = command.main([*FIND])
    written = checked(capsys.readouterr().out)
    assert (written["requested_rate"], len(written["probes"])) == (2_000, 3)
    assert (code, written["interrupted"]) == (130, True)


def test_ctrl_c_between_two_probes_ends_the_search(
    fake_runs: type[FakeRun], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C that comes when one probe is over and the next has not begun is not lost."""
    line_of = report.probe_line

    def probe_line(probe: Any) -> str:
        if fake_runs.count == 2:
            press_ctrl_c()
        return line_of(probe)

    monkeypatch.setattr(report, "probe_line", probe_line)
    code = command.main([*FIND])
    written = checked(capsys.readouterr().out)
    assert len(written["probes"]) == 2
    assert (code, written["interrupted"]) == (130, True)


# --- Files ---


def value_of_rank(histogram: HdrHistogram, percent: float) -> int:
    """What so many percent do not exceed; the package's own function rounds the rank, and so may be one too low."""
    rank = math.ceil(percent / 100 * histogram.get_total_count() * (1 - 1e-12))
    for step in histogram.get_recorded_iterator():
        rank -= step.count_added_in_this_iter_step
        if rank <= 0:
            return int(histogram.get_highest_equivalent_value(step.value_iterated_to))
    raise AssertionError("there are fewer")


def test_hdr_log_json_and_report_agree(line_server: RunningServer, tmp_path: Path) -> None:
    """--hdr writes a log that HdrHistogram's package reads, with the percentiles of the JSON and of the report."""
    path = tmp_path / "a.hdr"
    arguments = ("-c", "5", "-d", "1.2", "--warmup", "0", "--hdr", str(path), "--json", str(tmp_path / "a.json"))
    done = load(f"127.0.0.1:{line_server.port}", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    written = checked((tmp_path / "a.json").read_text())
    merged = HdrHistogram(1, 3_600_000_000_000, 3)
    reader = HistogramLogReader(str(path), merged)
    while (one := reader.get_next_interval_histogram()) is not None:
        merged.add(one)
    reader.close()
    assert merged.get_total_count() == written["messages"]
    for percent in (50, 90, 99, 99.9, 99.99):
        figure = written["latency_us"][f"p{percent:g}".replace(".", "_")]
        assert figure == min(value_of_rank(merged, percent) / 1_000, written["latency_us"]["max"])
        assert re.search(rf"^p{percent:g} +{show_us(figure)} ", done.stdout, re.M)


def test_html_page_is_self_contained(line_server: RunningServer, tmp_path: Path) -> None:
    """--html writes one page with the run's target and figures, that loads nothing and runs nothing."""
    path = tmp_path / "page.html"
    done = load(f"127.0.0.1:{line_server.port}", "-n", "500", "--html", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    page = path.read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert len(page.encode()) <= 1 << 20
    assert f"127.0.0.1:{line_server.port}" in page
    assert "<svg" in page
    assert not re.search(r"<script|<link|<img|<iframe|\bsrc=|@import|url\((?!#)", page)


# --- A terminal ---


def on_terminal(*arguments: str) -> tuple[int, str]:
    """The exit code of a run with a terminal of 80 columns, and all that this was sent."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 80, 0, 0))
    words = [sys.executable, "-m", "kqnative", "load", *arguments]
    environ = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        environ.pop(name, None)
    with subprocess.Popen(words, cwd=ROOT, env=environ, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        decoder, screen = codecs.getincrementaldecoder("utf-8")(), ""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(ours, 1 << 16):
                screen += decoder.decode(data)
        os.close(ours)
        return process.wait(PATIENCE_S), screen


def test_terminal_shows_a_live_line_and_then_the_report(line_server: RunningServer) -> None:
    """While it runs a terminal shows messages/s, p50, p99 and connections; that goes away, and the report stays."""
    target = f"127.0.0.1:{line_server.port}"
    code, screen = on_terminal(target, "-c", "3", "-d", "1.3", "--warmup", "0.2", "--depth", "2")
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    live, _, rest = plain.rpartition(f"{target}: 3 connections")
    assert "warming up for 0.2 s: 3 of 3 connections" in live
    assert "answered in 1.3 s" in rest
    assert "s left" not in rest
    assert "\x1b[2K" in screen  # the live line is wiped
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h")  # the cursor is back
    assert re.search(r"\[=* *\] \d+ s left  [\d,]+/s  p50 [\d.]+ \S+  p99 [\d.]+ \S+  errors 0", live)
    assert re.search(r"/s  p50 [\d.]+ \S+  p99 [\d.]+ \S+  errors 0  open 3", live)


def test_terminal_shows_no_live_line_when_quiet(line_server: RunningServer) -> None:
    """--quiet leaves a terminal as it was."""
    assert on_terminal(f"127.0.0.1:{line_server.port}", "-n", "100", "--quiet") == (0, "")


def test_terminal_has_colour_and_a_file_has_none() -> None:
    """A report is coloured on a terminal alone."""
    with ScriptedServer(echo) as server:
        code, screen = on_terminal(server.target, "-n", "10", "-c", "1")
        assert "\x1b" not in load(server.target, "-n", "10", "-c", "1").stdout
    assert code == 0
    assert "\x1b[1m" in screen
