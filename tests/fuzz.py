"""`make fuzz`: looks for inputs that make a target of tests/fuzz fail, with clang's libFuzzer.

Each target runs for so many seconds, as many at a time as there are processors. What it finds worth keeping stays in
.cache/fuzz, so that the next time goes on from there.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from figures import record
from programs import FUZZ_TARGETS, ROOT, compile_file, compile_files, fuzz_sources, link

OUT = ROOT / ".cache" / "fuzz"
CLANG = os.environ.get("CLANG", "clang")
SANITIZERS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@dataclass(frozen=True, slots=True)
class Outcome:
    target: str
    executions: int
    seconds: int
    failing: Path | None
    words: str  # of a failure


def main() -> int:
    """Exit code 1: a target has failed."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=60, help="that each target runs (default: 60)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"any of {' '.join(FUZZ_TARGETS)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(FUZZ_TARGETS):
        parser.error(f"there is no target {' '.join(sorted(unknown))}")
    if not shutil.which(CLANG):
        sys.exit(f"fuzzing needs {CLANG} and its libFuzzer; on Debian: apt-get install clang libclang-rt-14-dev")
    targets = options.targets or FUZZ_TARGETS
    build(targets)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda target: fuzz(target, options.seconds), targets))
    for outcome in outcomes:
        show(outcome)
    return any(outcome.failing for outcome in outcomes)


def build(targets: list[str]) -> None:
    """The core is looked at by libFuzzer too, which goes where it sees new places of it."""
    OUT.mkdir(parents=True, exist_ok=True)
    sources = sorted({source for target in targets for source in fuzz_sources(target)})
    watched = [*SANITIZERS, "-fsanitize=fuzzer-no-link"]
    objects = dict(zip(sources, compile_files(sources, OUT, CLANG, watched), strict=True))
    for target in targets:
        own = compile_file(f"tests/fuzz/{target}.c", OUT / f"{target}.o", CLANG, watched)
        linked = [own, *(objects[source] for source in fuzz_sources(target))]
        link(OUT / target, CLANG, [*SANITIZERS, "-fsanitize=fuzzer"], linked)


def fuzz(target: str, seconds: int) -> Outcome:
    """Runs one target. Its seeds are read, and new inputs go elsewhere."""
    found, failing = OUT / "found" / target, OUT / "failing"
    found.mkdir(parents=True, exist_ok=True)
    failing.mkdir(exist_ok=True)
    command = [
        OUT / target,
        f"-max_total_time={seconds}",
        "-max_len=1024",
        "-timeout=20",
        "-print_final_stats=1",
        f"-artifact_prefix={failing}/{target}-",
        found,
        ROOT / "tests" / "fuzz" / target,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    executions = int(number(r"stat::number_of_executed_units: (\d+)", done.stdout))
    took = int(number(r"Done \d+ runs in (\d+) second", done.stdout))
    artifact = re.search(r"Test unit written to (\S+)", done.stdout)
    words = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("#"))
    if done.returncode == 0:
        return Outcome(target, executions, took, None, "")
    return Outcome(target, executions, took, Path(artifact[1]) if artifact else OUT / target, words)


def number(pattern: str, text: str) -> str:
    """The number in what libFuzzer printed; 0 if it did not get so far."""
    found = re.search(pattern, text)
    return found[1] if found else "0"


def show(outcome: Outcome) -> None:
    """A line of figures, and of a failure its words and how to see it again."""
    record(f"fuzz {outcome.target}: {outcome.executions} executions in {outcome.seconds} s")
    if outcome.failing:
        program, failing = (path.relative_to(ROOT) for path in (OUT / outcome.target, outcome.failing))
        print(outcome.words[-6000:])
        print(f"fuzz {outcome.target} FAILED: {failing}")
        print(f"to see it again: {program} {failing}")
        print(f"when it is mended, move it to tests/fuzz/{outcome.target}/ under a name that says what it is")


if __name__ == "__main__":
    sys.exit(main())
