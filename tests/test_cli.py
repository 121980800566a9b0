"""The command line: help, version, exit codes, and errors in one line."""

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import POLLERS

import kqnative
from kqnative import cli, config, options

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m kqnative` to its end."""
    command = [sys.executable, "-m", "kqnative", *arguments]
    environ = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=30)


def check_one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of the standard error with which the command ended."""
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.startswith("kqnative: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("serve", "--help")], ids=" ".join)
def test_help_shows_every_option_in_80_columns(arguments: tuple[str, ...]) -> None:
    """Help goes to the standard output, fits 80 columns, and names each option, its default, and each command."""
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    words = " ".join(done.stdout.split())
    for name, option in config.OPTIONS.items():
        assert f" {options.flag(name)} " in words
        assert f"default: {option.show(config.DEFAULTS[name])})" in words
    assert all(f"\n{group}:\n" in done.stdout for group in config.GROUPS)
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)
    examples = done.stdout.rpartition("\nexamples:\n")[2].splitlines()
    assert len(examples) == 2
    assert all(line.startswith("  kqnative ") for line in examples)


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_version_goes_to_standard_output(command: str | None) -> None:
    """--version is one line with the package's version and what the C module is, of every command."""
    done = run(*([command] if command else []), "--version")
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.fullmatch(r"kqnative (\S+) \(pollers (.+); for (\S+.*); ABI (\S+); Python (\S+)\)\n", done.stdout)
    assert shown is not None, done.stdout
    assert shown[1] == kqnative.__version__
    assert shown[2].split() == POLLERS
    assert shown[5] == platform.python_version()


def test_print_config_goes_to_standard_output_and_can_be_fed_back(tmp_path: Path) -> None:
    """--print-config exits 0 without serving, and its output as a file prints the same values."""
    first = run("--print-config", "--port", "9000", "--idle-timeout", "5m")
    assert (first.returncode, first.stderr) == (0, "")
    assert "port = 9000  # command line\n" in first.stdout
    assert "idle_timeout = 300.0  # command line\n" in first.stdout
    path = tmp_path / "printed.toml"
    path.write_text(first.stdout)
    again = run("--print-config", "--config", str(path)).stdout

    def values(text: str) -> list[str]:
        return [line.partition("  # ")[0] for line in text.splitlines()]

    assert values(again) == values(first.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frobnicate",), "there is no command 'frobnicate'; the commands are: serve"),
        (("serve", "now"), "unrecognized arguments: now"),
        (("--prot", "1"), "unrecognized arguments: --prot 1"),
        (("--por", "1"), "unrecognized arguments: --por 1"),
        (("--port",), "--port: expected one argument"),
        (("--port", "65536"), "--port: '65536' is not allowed; it takes 0 to 65535"),
        (("--port", "-1"), "--port: '-1' is not a number"),
        (("--port", "\uff18\uff10"), "--port: '\uff18\uff10' is not a number"),
        (("--framing", "lines"), "--framing: 'lines' is not one of stream, line, u32"),
        (("--idle-timeout", "2 weeks"), "--idle-timeout: '2 weeks' is not a number"),
        (("--reply", "a {nobody}"), "reply: 'a {nobody}' is wrong at character 3"),
        (("--uds", "x", "--port", "1"), "--uds and --port cannot both act"),
        (("--hook", "a:b", "--reply", "x"), "--hook and --reply cannot both act"),
        (("--hook", "a:b", "--hook-batch", "a:b"), "--hook and --hook-batch cannot both act"),
        (("--config", "/nowhere/kq.toml"), "cannot read /nowhere/kq.toml: No such file or directory"),
        (("--hook", "nocolon"), "hook: 'nocolon' is not module:function"),
        (("--hook", "no_such_module:f"), "hook: there is no module no_such_module; looked in "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: tuple[str, ...], message: str) -> None:
    """Bad usage or configuration ends with 2 and a line that says what is wrong; there is no traceback."""
    assert message in check_one_line(run(*arguments), 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:", "hooked.py:1: "),
        ("1 / 0", "importing hooked failed: ZeroDivisionError: division by zero ("),
        ("import sys; sys.exit(3)", "importing hooked failed: SystemExit: 3 ("),
        ("import no_such_thing", "importing hooked failed: ModuleNotFoundError: No module named 'no_such_thing' ("),
        ("", "hooked has no f"),
        ("f = 3", "hooked:f is not callable, but int"),
        ("async def f(m): return m", "hooked:f is async"),
        ("async def f(m): yield m", "hooked:f is async"),
        ("class C:\n  async def __call__(self, m): return m\nf = C()", "hooked:f is async"),
    ],
)
def test_hook_that_cannot_be_called_is_exit_2_before_anything_is_bound(
    tmp_path: Path, taken_port: int, source: str, message: str
) -> None:
    """A hook's own trouble is said first, in one line, although the port is taken too; it is found in the cwd."""
    (tmp_path / "hooked.py").write_text(source)
    done = run("--hook", "hooked:f", "--host", "127.0.0.1", "--port", str(taken_port), cwd=tmp_path)
    assert message in check_one_line(done, 2)


def test_wrong_variable_is_named() -> None:
    """An error in the environment names the variable, such as the one that Kubernetes sets for a service."""
    done = run(env={"KQNATIVE_PORT": "tcp://10.0.0.1:80"})
    assert "KQNATIVE_PORT: 'tcp://10.0.0.1:80' is not a number" in check_one_line(done, 2)


def test_taken_port_is_one_line_and_exit_1(taken_port: int) -> None:
    """What could not be done ends with 1 and a line that says what, and what to do."""
    done = run("--host", "127.0.0.1", "--port", str(taken_port))
    assert check_one_line(done, 1) == (
        f"kqnative: error: cannot listen on 127.0.0.1:{taken_port}: the port is in use; stop what uses it,"
        " or choose another port\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "no-such-host.invalid"), "cannot listen on no-such-host.invalid: "),
        (("--host", "x" * 70), "check the host"),
        (("--uds", "/nowhere/kq.sock"), "its directory does not exist"),
        (("--uds", "x" * 300), "too long for a unix socket"),
        (("--uds", "pyproject.toml"), "it is not a socket"),
    ],
    ids=["unknown host", "impossible host", "no directory", "long path", "plain file"],
)
def test_address_that_cannot_be_had_is_one_line_and_exit_1(arguments: tuple[str, ...], message: str) -> None:
    """Each reason why an address can't be bound has its own advice."""
    assert message in check_one_line(run(*arguments), 1)
    assert (ROOT / "pyproject.toml").exists()


def test_debug_shows_the_traceback(taken_port: int) -> None:
    """Only at level debug the line has a traceback before it."""
    done = run("--host", "127.0.0.1", "--port", str(taken_port), "--log-level", "debug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("kqnative: error: cannot listen on ")


def test_missing_c_module_is_one_line_and_exit_1() -> None:
    """Where _kq was not built, serving says what to do, and help and version still work."""

    def run_without_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; sys.modules['kqnative._kq'] = None; from kqnative.cli import main; sys.exit(main())"
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30)

    line = check_one_line(run_without_it("--port", "0"), 1)
    assert "the C module kqnative._kq cannot be loaded" in line
    assert "pip install" in line
    assert run_without_it("--version").returncode == 0
    assert run_without_it("--help").returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_standard_output_is_exit_1() -> None:
    """What was asked for and could not be written is a failure, in one line."""
    for argument in ("--version", "--help", "--print-config"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "kqnative", argument], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
            )
        assert done.returncode == 1
        assert done.stderr == "kqnative: error: cannot write to the standard output: No space left on device\n"


def test_import_is_cheap() -> None:
    """The package imports nothing that only some of its users need."""
    code = "import sys, kqnative; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=30)
    heavy = {"argparse", "tomllib", "json", "socket", "asyncio", "decimal", "importlib.metadata", "_cffi_backend"}
    assert heavy & set(done.stdout.split()) == set()
    assert "kqnative.server" in done.stdout
