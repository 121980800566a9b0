"""kqnative doctor: a table that says what this machine has, and an exit code that says whether that is enough."""

import resource
import subprocess
import sys

import pytest
from conftest import POLLERS
from test_cli import ROOT, run

from kqnative import _native, doctor, limits
from kqnative.doctor import FAIL, OK, WARN, Check
from kqnative.errors import KqnativeError


def rows(text: str) -> dict[str, tuple[str, str]]:
    """(verdict, value) by what was looked at."""
    found = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            verdict, what, value = (part.strip() for part in (line[:4], *line[6:].split("  ", 1)))
            found[what] = (verdict, value)
    return found


def test_every_poller_answers_a_client() -> None:
    """Each poller of this system makes a real round trip, and the exit code is 0."""
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    for name in POLLERS:
        verdict, value = found[f"poller {name}"]
        assert verdict == OK
        assert value.startswith("a client is answered in ")
    assert {"Python", "C module", "descriptors", "clients that may wait", "local ports"} < set(found)


def test_too_few_descriptors_fail() -> None:
    """Fewer than 256 descriptors are a failure with what to do, and exit code 1."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100));"
        " from kqnative.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert rows(done.stdout)["descriptors"][0] == FAIL
    assert limits.descriptor_command(doctor.FEW_DESCRIPTORS) in done.stdout


def test_a_low_soft_limit_is_no_matter() -> None:
    """A stock Mac's soft limit of 256 passes where the hard limit allows more."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < doctor.FEW_DESCRIPTORS:
        pytest.skip("this machine's hard limit is too low to tell")
    code = (
        "import resource, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        " resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        " from kqnative.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    verdict, value = rows(done.stdout)["descriptors"]
    assert verdict == OK
    assert "soft limit 256" in value


def test_a_missing_module_fails() -> None:
    """Where the C module was not built, doctor says so and ends with 1; --version says so too."""
    code = "import sys; sys.modules['kqnative._kq'] = None; from kqnative.cli import main; sys.exit(main())"
    for argument, exit_code in (("doctor", 1), ("--version", 0)):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (exit_code, "")
        assert "missing" in done.stdout


def test_one_poller_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poller without an answer is a warning while another one works, and a failure when none does."""
    answers: dict[str, float | str] = {"epoll": "no answer: broken", "poll": 0.001}
    monkeypatch.setattr(doctor, "_pollers", lambda: list(answers))
    monkeypatch.setattr(doctor, "_round_trip", answers.__getitem__)
    assert [(one.verdict, one.remedy) for one in doctor._check_pollers()] == [
        (WARN, "use another one: --poller poll"),
        (OK, ""),
    ]
    answers["poll"] = "no answer: broken too"
    assert [one.verdict for one in doctor._check_pollers()] == [FAIL, FAIL]


@pytest.mark.parametrize(("value", "verdict"), [(1_024, OK), (128, WARN), (None, WARN)])
def test_a_low_limit_is_a_warning_with_its_remedy(value: int | None, verdict: str) -> None:
    """A low or unknown limit warns, and says what raises it or where to look."""
    one = doctor._check_low("queue", limits.Limit(value, "kern.somaxconn", "sysctl kern.somaxconn=1024"), 1_024)
    assert one.verdict == verdict
    assert ("somaxconn" in one.remedy) == (verdict == WARN)


def test_remedies_stand_under_their_line() -> None:
    """The table's lines are verdict, what and value; what to do follows in a line of its own."""
    lines = list(doctor.table([Check(OK, "a", "1"), Check(WARN, "longer", "2", "do this")]))
    assert lines == ["ok    a       1", "warn  longer  2", "              do this"]


@pytest.mark.parametrize("system", ["linux", "darwin", "freebsd14", "openbsd7", "netbsd10", "dragonfly6"])
def test_each_system_has_its_commands(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What raises a limit is named for every system, whether its value can be read here or not."""

    def no_sysctl(name: str) -> str:
        raise OSError(name)

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(limits, "_read", no_sysctl)
    monkeypatch.setattr(_native, "backlog_limit", lambda: None)
    for limit in (limits.backlog(1_024), limits.local_ports()):
        assert limit.value is None
        assert "sysctl" in limit.command or "1024" in limit.command
    assert "1000" in limits.descriptor_command(1_000)


def test_version_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """version_line() has no need of the C module."""

    def missing() -> list[str]:
        raise KqnativeError("missing")

    monkeypatch.setattr(doctor, "_pollers", missing)
    assert "the C module is missing" in doctor.version_line()
