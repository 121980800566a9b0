"""How the C core is compiled outside of the extension: its files, and the programs that are linked with it."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
FAKE = "tests/c/fake"  # the scripted system, in place of sys.c and of the pollers


def files(pattern: str) -> list[str]:
    """The files of the repository that fit, in one order everywhere."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


SYSTEM = ["csrc/core/sys.c", *files("csrc/poller/*.c")]
SERVER = [
    file
    for room in ("core", "server")
    for file in files(f"csrc/{room}/*.c")
    if not file.endswith(("/sys.c", "/hook.c"))
]
CORE = [*SERVER, *SYSTEM, *files("csrc/load/*.c")]  # all but hook.c, which needs Python
SIMULATION = [*SERVER, "csrc/poller/fork.c", "csrc/poller/kinds.c", *files(f"{FAKE}/*.c")]
REFUSING = ["-include", "tests/c/refuse.h"]  # flags of files whose calls refuse.c is to refuse
FUZZ_TARGETS = [Path(file).stem for file in files("tests/fuzz/*.c") if not file.endswith("/replay.c")]


def fuzz_sources(target: str) -> list[str]:
    """What a fuzz target is linked with: the real system, or the simulated one."""
    return SIMULATION if target == "server" else [*SERVER, *SYSTEM]


def compile_file(source: str, out: Path, compiler: str, flags: list[str]) -> Path:
    """One file's object. Raises AssertionError with the compiler's words."""
    command = [compiler, "-std=gnu11", "-Icsrc", *flags, "-c", source, "-o", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def compile_files(sources: list[str], folder: Path, compiler: str, flags: list[str]) -> list[Path]:
    """The objects of files, made on all processors."""
    outs = [folder / (source.replace("/", "-").removesuffix(".c") + ".o") for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda pair: compile_file(*pair, compiler, flags), zip(sources, outs, strict=True)))


def link(out: Path, compiler: str, flags: list[str], objects: list[Path]) -> Path:
    """A program of objects."""
    command = [compiler, *flags, *map(str, objects), "-lpthread", "-lm", "-o", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out
