"""A failure is tried again if the machine stood still meanwhile, and else is a failure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

ONCE = """
import os, re, signal, subprocess, sys

WAKE = f"import os, signal, time; time.sleep(0.6); os.kill({os.getpid()}, signal.SIGCONT)"

def test_once(tmp_path_factory):
    tries = tmp_path_factory.getbasetemp() / "tries"
    with tries.open("a") as file:
        file.write("x")
    if HOLDS_LOCK:
        re.match("(a+)+b", "a" * 25)
    if STANDS_STILL:
        with subprocess.Popen([sys.executable, "-c", WAKE]):
            os.kill(os.getpid(), signal.SIGSTOP)
    assert tries.read_text() == "x" * PASSES_AT, "WORDS"
"""


def run(
    tmp_path: Path, *, stands_still: bool = False, holds_lock: bool = False, passes_at: int = 2, words: str = ""
) -> tuple[int, str, str]:
    """The exit code, the tries and the output of a pytest that runs one test."""
    (tmp_path / "conftest.py").write_text("from steady import pytest_runtest_protocol as pytest_runtest_protocol\n")
    program = ONCE.replace("STANDS_STILL", str(stands_still)).replace("HOLDS_LOCK", str(holds_lock))
    program = program.replace("PASSES_AT", str(passes_at)).replace("WORDS", words)
    (tmp_path / "test_once.py").write_text(program)
    temporary = tmp_path / "temporary"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={temporary}", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "KQNATIVE_FIGURES": str(tmp_path / "figures")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    return done.returncode, (temporary / "tries").read_text(), done.stdout


def test_a_failure_on_a_machine_that_stood_still_is_tried_again(tmp_path: Path) -> None:
    """The next try counts, is reported alone, and the first is said."""
    code, tries, output = run(tmp_path, stands_still=True)
    assert (code, tries) == (0, "xx")
    assert "1 passed" in output
    assert "failed while the machine stood still" in (tmp_path / "figures").read_text()


def test_the_third_failure_counts(tmp_path: Path) -> None:
    """A machine that never stands quiet does not make a failure good."""
    code, tries, output = run(tmp_path, stands_still=True, passes_at=9)
    assert (code, tries) == (1, "xxx")
    assert "1 failed" in output


@pytest.mark.parametrize("holds_lock", [False, True])
def test_a_failure_on_a_steady_machine_counts_at_once(holds_lock: bool, tmp_path: Path) -> None:
    """Nothing stood still, not even while one thread kept the others from running: nothing is tried again."""
    code, tries, output = run(tmp_path, holds_lock=holds_lock)
    assert (code, tries) == (1, "x")
    assert "1 failed" in output
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("words", ["ThreadSanitizer: data race", "Timeout (>60.0s) from pytest-timeout"])
def test_what_no_pause_excuses_counts_at_once(words: str, tmp_path: Path) -> None:
    """A race is one however the machine was, and a test that hung is not given as much time again."""
    assert run(tmp_path, stands_still=True, words=words)[:2] == (1, "x")
