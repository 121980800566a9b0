"""`make simulate`: runs the C server on a scripted system, one seed after another, until one fails.

ARGS="--replay 123" shows one seed's whole trace, ARGS="--knotes" puts our own kevent() under the server in place of a
simulated kqueue; what else there is, the program itself says (ARGS="--help").
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from programs import FAKE, ROOT, SIMULATION, WARNINGS, compile_files, files, link

CC = os.environ.get("CC", "cc")
FAST = ["-g", "-O2"]
MAIN = "tests/c/simulate.c"
KNOTES = ["csrc/poller/knotes.c", "csrc/poller/table.c"]
OF_THE_SYSTEM = ["calloc", "realloc", "aligned_alloc", "free", "fcntl", "getsockopt"]  # what those two call of it


@dataclass(frozen=True)
class Simulator:
    """The objects of the simulated server, and the program that is linked of them."""

    objects: dict[str, Path]
    program: Path
    flags: list[str]


def build(folder: Path, flags: list[str]) -> Simulator:
    """The server over a poller that is simulated, too, with a kqueue's own rules."""
    sources = [*SIMULATION, MAIN]
    objects = dict(zip(sources, compile_files(sources, folder, CC, [*WARNINGS, *flags]), strict=True))
    return Simulator(objects, link(folder / "simulate", CC, flags, list(objects.values())), flags)


def knotes_flags(flags: list[str]) -> list[str]:
    """For files of the real poller: the system that they call is the simulated one."""
    return [*flags, "-Dkqn_poller_wait=knotes_wait", *(f"-D{name}=fake_{name}" for name in OF_THE_SYSTEM)]


def build_with_knotes(folder: Path, flags: list[str]) -> Simulator:
    """The server over the real knotes.c, under which only who is ready is simulated."""
    fake = [file for file in SIMULATION if file != f"{FAKE}/kqueue.c"]
    sources = [*fake, *files(f"{FAKE}/knotes/*.c"), MAIN]
    objects = dict(zip(sources, compile_files(sources, folder, CC, [*WARNINGS, *flags]), strict=True))
    objects |= dict(zip(KNOTES, compile_files(KNOTES, folder, CC, knotes_flags(flags)), strict=True))
    return Simulator(objects, link(folder / "simulate", CC, flags, list(objects.values())), flags)


def main() -> None:
    """Becomes the simulator."""
    arguments = [word for word in sys.argv[1:] if word != "--knotes"]
    has_knotes = len(arguments) < len(sys.argv) - 1
    folder = ROOT / ".cache" / "simulate" / ("knotes" if has_knotes else "kqueue")
    folder.mkdir(parents=True, exist_ok=True)
    program = (build_with_knotes if has_knotes else build)(folder, FAST).program
    os.execv(program, [str(program), *arguments])


if __name__ == "__main__":
    main()
