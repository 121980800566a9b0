"""`make macos-wheels`: makes the macOS wheels, looks at them, runs their C core, and links the module for the BSDs.

Prints a table of what was made and each check of it, with its seconds; under a failure stand its words. The wheels
are then in .cache/macos/wheels.
"""

import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import lief

sys.path.append(str(Path(__file__).resolve().parent.parent))  # where cross.py is

import build
from cross import JOBS, CheckError, generate_module
from cross import OUT as CROSS_OUT
from inspect_wheel import CHECKS, Wheel, check_metadata

LINE = "{:<21} {:<13} {:>7}  {:<6} {}"


@dataclass(frozen=True, slots=True)
class Outcome:
    seconds: float
    passed: bool
    words: str


@dataclass(frozen=True, slots=True)
class Row:
    subject: str
    check: str
    outcome: Future[Outcome]


class Table:
    """Checks that run beside each other, and are printed in the order in which they were added."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.passed = True
        self._pool = pool
        self._rows: list[Row] = []
        print(LINE.format("what", "check", "seconds", "", "").rstrip())

    def add(self, subject: str, check: str, function: Callable[..., str], *arguments: object) -> Future[Outcome]:
        """Starts a check."""
        outcome = self._pool.submit(timed, function, *arguments)
        self._rows.append(Row(subject, check, outcome))
        return outcome

    def show(self) -> None:
        """Waits for all that were added, and prints them."""
        for row in self._rows:
            outcome = row.outcome.result()
            self.passed = self.passed and outcome.passed
            print_row(row, outcome)
        self._rows.clear()


def timed(function: Callable[..., str], *arguments: object) -> Outcome:
    """What the check came to. One that breaks has failed too, and the others are still wanted."""
    start = time.monotonic()
    try:
        passed, words = True, function(*arguments)
    except (CheckError, AssertionError) as failure:
        passed, words = False, str(failure)
    except Exception as failure:
        passed, words = False, f"{type(failure).__name__}: {failure}"
    return Outcome(time.monotonic() - start, passed, words)


def print_row(row: Row, outcome: Outcome) -> None:
    """One line, and a failure's words below it."""
    seconds = f"{outcome.seconds:.1f}"
    if outcome.passed:
        print(LINE.format(row.subject, row.check, seconds, "ok", outcome.words), flush=True)
    else:
        print(LINE.format(row.subject, row.check, seconds, "FAILED", "").rstrip())
        print(outcome.words or "without a word", flush=True)


def execute(wheel: Wheel, transcripts: dict[str, list[str]]) -> str:
    """The C core of the module runs on an emulated processor, and its kernel is told what it should be."""
    import emulate

    transcript = emulate.run(wheel.module)
    transcripts[wheel.target.processor] = transcript
    return f"{len(transcript)} lines of transcript"


def compare_transcripts(transcripts: dict[str, list[str]]) -> str:
    """Both processors tell their kernel the same."""
    (one, first), (other, second) = sorted(transcripts.items())
    for number, (left, right) in enumerate(zip(first, second, strict=False), 1):
        if left != right:
            raise CheckError(f"line {number} differs\n{one}: {left}\n{other}: {right}")
    if len(first) != len(second):
        raise CheckError(f"{one} has {len(first)} lines, {other} {len(second)}")
    return f"{len(first)} lines"


def wheels_made() -> Iterator[Wheel]:
    """Those that could be built."""
    for target in build.MACS:
        folder = build.OUT / build.platform_of(target)
        module = folder / "kqnative" / "_kq.abi3.so"
        if module.exists():
            yield Wheel(build.find_wheel(target, build.WHEELS), module, target)


def make(table: Table, sdist: Path, generated: Path) -> None:
    """Compiles: for each Mac the wheel, for each BSD the module."""
    for target in build.MACS:
        table.add(build.platform_of(target), "built", build.make_wheel, target, sdist)
    for target in build.BSDS:
        table.add(target.triple, "linked", build.link_module, target, generated)
    for target in (*build.MACS, *build.BSDS):
        table.add(target.triple, "layout", build.check_layout, target)
    table.show()


def inspect(table: Table, sdist: Path) -> None:
    """Runs every check of every wheel."""
    transcripts: dict[str, list[str]] = {}
    wheels = list(wheels_made())
    for wheel in wheels:
        subject = build.platform_of(wheel.target)
        table.add(subject, "same again", build.check_same_again, wheel.target, sdist)
        for name, check in CHECKS.items():
            table.add(subject, name, check, wheel)
        table.add(subject, "metadata", check_metadata, wheel.path)
        table.add(subject, "executed", execute, wheel, transcripts)
    table.show()
    if len(transcripts) == len(build.MACS):
        table.add("both", "same run", compare_transcripts, transcripts)
        table.show()


def make_and_inspect(generated: Path) -> bool:
    """Everything; True if all passed."""
    with ThreadPoolExecutor(JOBS) as pool:
        table = Table(pool)
        table.add("sdist", "built", build.make_sdist)
        table.show()
        if table.passed:
            table.add("sdist", "metadata", check_metadata, build.find_sdist())
            make(table, build.find_sdist(), generated)
            inspect(table, build.find_sdist())
    return table.passed


def main() -> int:
    start = time.monotonic()
    lief.logging.disable()
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        print("a Python without a GIL has no limited API to make these wheels with; another: PYTHON=python3.13")
        return 1
    shutil.rmtree(build.OUT, ignore_errors=True)
    CROSS_OUT.mkdir(parents=True, exist_ok=True)
    try:
        build.header_flags()
        generated = generate_module()
    except CheckError as failure:
        print(failure)
        return 1
    passed = make_and_inspect(generated)
    if passed:
        print(f"the wheels are in {build.WHEELS}")
    print(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
