"""`make coverage`: which lines of csrc/ the tests run, with a floor for each file.

The core is compiled by gcc with --coverage, once: into the C test programs, into the simulation, and into an extension
that a part of the pytest suite runs with. Exit code 1: some file is below the floor.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from extension import build_package, pytest_with
from figures import record
from programs import CORE, REFUSING, ROOT, SERVER, SIMULATION, compile_file, compile_files, link

CC = os.environ.get("CC", "gcc")
GCOV = os.environ.get("GCOV", "gcov")
OUT = ROOT / ".cache" / "coverage"
FLAGS = ["-O0", "-g", "-fPIC", "--coverage", "-fprofile-update=atomic"]
FLOOR = 0.9
POLLERS = ("epoll", "poll", "select")
SEEDS = 5000
NOT_HERE = {"csrc/poller/kqueue.c": "Linux has no kqueue(); tests/macos runs it on a made-up macOS"}
# Those that reach what the C programs do not: the hook, sockets of each kind, signals, the load tester's errors.
TESTS = [
    "test_hooks",
    "test_listen",
    "test_networks",
    "test_load",
    "faults/test_start_and_stop",
    "faults/test_load_faults",
]


def main() -> int:
    """Exit code 1: a file is below the floor."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    core = compile_files(CORE, OUT, CC, FLAGS)
    run_programs(core)
    run_refusals()
    run_simulation()
    if pytest_with(build_package(OUT, CC, FLAGS, core), TESTS, "--tb=short") != 0:
        print("some tests failed, which is for `make test` to look into")
    return not show(lines_of_all())


def run(*command: str | Path) -> None:
    """Runs a program; if it fails, what it said goes out, and the lines count all the same."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        print((done.stdout + done.stderr)[-2000:])
        print(f"failed, which is for `make test` to look into: {' '.join(map(str, command))}")


def run_programs(core: list[Path]) -> None:
    """The C tests."""
    calls: list[tuple[str, ...]] = [("framing",), ("core",), ("connection",), ("networks",), ("load",)]
    calls += [("kevent", poller) for poller in POLLERS]
    calls += [("drive", framing, "2", "2", "epoll", "1") for framing in ("stream", "line", "u32")]
    programs = {}
    for name in sorted({call[0] for call in calls}):
        own = compile_file(f"tests/c/{name}.c", OUT / f"{name}.o", CC, ["-O0"])
        programs[name] = link(OUT / name, CC, FLAGS, [own, *core])
    for name, *arguments in calls:
        run(programs[name], *arguments)


def run_refusals() -> None:
    """What is left when a call is refused: with objects of its own, as their calls are other ones."""
    folder = OUT / "refused"
    folder.mkdir()
    core = compile_files(CORE, folder, CC, [*FLAGS, *REFUSING])
    own = compile_file("tests/c/refuse.c", OUT / "refuse.o", CC, ["-O0"])
    run(link(OUT / "refuse", CC, FLAGS, [own, *core]))


def run_simulation() -> None:
    """The simulated server: with objects of its own, as it has another system below."""
    folder = OUT / "simulated"
    folder.mkdir()
    scripted = [file for file in SIMULATION if file not in SERVER]
    objects = compile_files(SERVER, folder, CC, FLAGS)
    objects += compile_files([*scripted, "tests/c/simulate.c"], folder, CC, ["-O1"])
    program = link(folder / "simulate", CC, FLAGS, objects)
    run(program, "--from", "1", "--seeds", str(SEEDS))
    run(program, "--torture")


Lines = dict[str, dict[int, int]]


def lines_of(data: Path) -> Lines:
    """How often each line ran, by file, as the data of one object say."""
    done = subprocess.run([GCOV, "--json-format", "--stdout", data], cwd=ROOT, capture_output=True, check=True)
    found: Lines = defaultdict(dict)
    for file in json.loads(done.stdout)["files"]:
        for line in file["lines"]:
            found[file["file"]][line["line_number"]] = line["count"]
    return found


def lines_of_all() -> Lines:
    """The same of all objects together."""
    lines: Lines = defaultdict(lambda: defaultdict(int))
    data = sorted(OUT.rglob("*.gcno"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lines_of, data):
            for file, counts in found.items():
                for line, count in counts.items():
                    lines[file][line] += count
    return {file: lines[file] for file in sorted(lines) if file.startswith("csrc/")}


def ranges(numbers: list[int]) -> str:
    """`3, 7-9`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def show(lines: Lines) -> bool:
    """Prints the table; whether every file is at the floor or above."""
    is_well = True
    total = ran = 0
    print(f"{'file':<32} {'lines':>6} {'run':>7}  lines that did not run")
    for file, counts in lines.items():
        if not counts:
            continue
        missed = sorted(line for line, count in counts.items() if count == 0)
        share = 1 - len(missed) / len(counts)
        total += len(counts)
        ran += len(counts) - len(missed)
        mark = " " if share >= FLOOR else "!"
        is_well = is_well and share >= FLOOR
        print(f"{file:<32} {len(counts):>6} {100 * share:>6.1f}%{mark} {ranges(missed)}".rstrip())
    for file, reason in NOT_HERE.items():
        print(f"{file:<32} not here: {reason}")
    below = "every file" if is_well else "NOT every file (marked !)"
    record(
        f"coverage csrc: {ran} of {total} lines ({100 * ran / total:.1f} %), {below} at {100 * FLOOR:.0f} % or above"
    )
    return is_well


if __name__ == "__main__":
    sys.exit(main())
