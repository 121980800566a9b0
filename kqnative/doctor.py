"""kqnative doctor: what this machine has for the server and the load tester, and what to do where it has too little."""

import platform
import resource
import socket
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass

from kqnative import cli, limits
from kqnative._version import __version__
from kqnative.errors import KqnativeError

USAGE = "kqnative doctor"
DESCRIPTION = "Checks this machine, and says what to do where something is missing or low."
EPILOG = """\
Each line is a check: ok, warn or fail, what was looked at, its value, and what
to do. The exit code is 1 if one failed: the C module is missing, no poller
answers, or a process may have fewer than 256 descriptors.

examples:
  kqnative doctor
  kqnative doctor || echo 'this machine cannot serve'
"""

OK, WARN, FAIL = "ok", "warn", "fail"
FEWEST_DESCRIPTORS = 256
FEW_DESCRIPTORS = 10_240
SHORT_BACKLOG = 1_024
FEW_PORTS = 16_384
PATIENCE_S = 5.0
POLLERS = ("kqueue", "epoll", "poll", "select")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table."""

    verdict: str
    what: str
    value: str
    remedy: str = ""


def main(arguments: list[str]) -> int:
    """Checks and prints the table; the exit code."""
    parser = cli.Parser("doctor", usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    options = parser.understand(arguments)
    if isinstance(options, int):
        return options
    checks = list(all_checks())
    code = cli.say("".join(f"{line}\n" for line in table(checks)))
    return max(code, cli.FAILED if any(one.verdict == FAIL for one in checks) else cli.DONE)


def version_line() -> str:
    """`kqnative 0.1.0`, and what the C module is, where there is one."""
    try:
        module = "; ".join((f"pollers {' '.join(_pollers())}", f"for {_target()}", _abi()))
    except KqnativeError:
        module = "the C module is missing"
    return f"kqnative {__version__} ({module}; Python {platform.python_version()})\n"


def all_checks() -> Iterator[Check]:
    """All checks; those that need the C module only where it is."""
    yield _check_python()
    try:
        yield Check(OK, "C module", f"{__version__}, for {_target()}, {_abi()}")
    except KqnativeError as error:
        yield Check(FAIL, "C module", "missing", str(error))
        return
    yield _check_descriptors()
    yield from _check_pollers()
    yield _check_low("clients that may wait", limits.backlog(SHORT_BACKLOG), SHORT_BACKLOG)
    yield _check_low("local ports", limits.local_ports(), FEW_PORTS)


def table(checks: list[Check]) -> Iterator[str]:
    """The lines: verdict, what, value, and what to do behind them, in a line of its own where there is anything."""
    what_width = max(len(one.what) for one in checks)
    for one in checks:
        yield f"{one.verdict:<4}  {one.what:<{what_width}}  {one.value}"
        if one.remedy:
            yield f"{'':<4}  {'':<{what_width}}  {one.remedy}"


def _check_python() -> Check:
    threads = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "with the GIL"
    build = f"{platform.python_implementation()} {platform.python_version()}, {threads}"
    where = f"{platform.system()} {platform.release()} {platform.machine()}"
    return Check(OK, "Python", f"{build}, on {where}")


def _check_pollers() -> Iterator[Check]:
    """Each poller, by a server on it that answers a client."""
    answers: dict[str, float | str] = {name: _round_trip(name) for name in _pollers()}
    works = [name for name, answer in answers.items() if isinstance(answer, float)]
    for name, answer in answers.items():
        if isinstance(answer, float):
            yield Check(OK, f"poller {name}", f"a client is answered in {answer * 1_000:.2f} ms")
        elif works:
            yield Check(WARN, f"poller {name}", answer, f"use another one: --poller {works[0]}")
        else:
            yield Check(FAIL, f"poller {name}", answer, "please report this, with all these lines")


def _round_trip(poller: str) -> float | str:
    """Seconds that a client waited for its answer, or why it had none."""
    from kqnative.server import Server

    try:
        with (
            Server(host="127.0.0.1", port=0, framing="line", poller=poller) as server,
            socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client,
        ):
            begun = time.perf_counter()
            client.sendall(b"hello\n")
            answer = client.makefile("rb").readline()
            seconds = time.perf_counter() - begun
    except (OSError, KqnativeError) as error:
        return f"no answer: {error}"
    return seconds if answer == b"system: hello\n" else f"a wrong answer: {answer!r}"


def _check_descriptors() -> Check:
    from kqnative import _native

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _native.raise_descriptor_limit(0)
    shown = "unlimited" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    value = f"{most:,} (soft limit {soft:,}, raised as needed; hard limit {shown})"
    verdict = FAIL if most < FEWEST_DESCRIPTORS else WARN if most < FEW_DESCRIPTORS else OK
    remedy = "" if verdict == OK else f"each client is one; for more: {limits.descriptor_command(FEW_DESCRIPTORS)}"
    return Check(verdict, "descriptors", value, remedy)


def _check_low(what: str, limit: limits.Limit, enough: int) -> Check:
    if limit.value is None:
        return Check(WARN, what, "unknown", f"look at it yourself: {limit.name}")
    verdict = OK if limit.value >= enough else WARN
    return Check(verdict, what, f"{limit.value:,}", "" if verdict == OK else f"for more: {limit.command}")


def _pollers() -> list[str]:
    from kqnative import _native

    return [name for name in POLLERS if _native.lib.kqn_poller_available(_native.POLLERS[name])]


def _target() -> str:
    from kqnative import _native

    return bytes(_native.ffi.string(_native.lib.kqn_build_target())).decode("ascii")


def _abi() -> str:
    """What the module's file is called for: `abi3`, or one Python alone."""
    from kqnative import _native

    suffix = str(_native._kq.__file__).rpartition("/")[2].split(".")[1:-1]
    return f"ABI {suffix[0] if suffix else sys.implementation.cache_tag}"
