"""Compiles all C for macOS and the BSDs with zig, links it, and looks at what came out.

For each target: every file of csrc as an object, warnings being errors, server/hook.c and the module that
cffi generates included; then each C program of tests/c, linked with all C but those two. A program's header
must name the target's processor, and macOS's the oldest system; its imports must hold the system calls that
the loop is built on. Runs on any system that ziglang has a wheel for: `make cross`.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import lief
import ziglang  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
CACHE = ROOT / ".cache"
OUT = CACHE / "cross"
ZIG = str(Path(ziglang.__file__).parent / ("zig.exe" if os.name == "nt" else "zig"))
JOBS = 2

# Without any -O, and on some versions without the last flag too, zig adds a sanitizer's runtime.
FLAGS = ["-std=gnu11", "-O2", "-fno-sanitize=undefined", "-I", "csrc"]
STRICT = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-Werror=unguarded-availability-new"]
# Nobody wrote cffi's C by hand; it is to compile, and to call nothing that the oldest macOS lacks.
GENERATED = ["-Wall", "-Werror", "-Werror=unguarded-availability-new"]
HOOK = CSRC / "server" / "hook.c"

NEEDED_CALLS = {  # of programs; a linker leaves out what a program does not reach
    "serve": ("accept", "kevent", "kqueue", "read", "write"),
    "kevent": ("kevent", "kqueue"),
}


@dataclass(frozen=True, slots=True)
class Target:
    triple: str  # with the version in it: zig ignores every other way to say it
    processor: str
    oldest_macos: tuple[int, ...] | None = None
    with_python: tuple[str, ...] = ()  # what that system's own pyconfig.h would have said


TARGETS = (
    Target("aarch64-macos.11.0", "ARM64", (11, 0)),
    Target("x86_64-macos.10.13", "X86_64", (10, 13)),
    Target("x86_64-freebsd.14.0", "X86_64"),
    # Another system's pyconfig.h defines _XOPEN_SOURCE, which hides alloca() there.
    Target("x86_64-openbsd.7.8", "X86_64", with_python=("-D", "_BSD_SOURCE")),
    Target("x86_64-netbsd.10.1", "X86_64"),
)


class CheckError(Exception):
    """A check's failure, with all that is to be said about it."""


def zig_cc(target: Target, *arguments: str) -> None:
    command = [ZIG, "cc", "-target", target.triple, *arguments]
    cache = str(CACHE / "zig")
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CheckError(f"{done.stdout}{done.stderr}".strip() or f"zig ended with {done.returncode}")


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def object_of(target: Target, source: Path) -> Path:
    return OUT / target.triple / shown(source).replace("/", "-").replace(".c", ".o")


def compile_one(target: Target, source: Path, flags: list[str]) -> None:
    output = object_of(target, source)
    zig_cc(target, *FLAGS, *flags, "-c", shown(source), "-o", str(output))


def compile_all(target: Target, sources: list[Path], flags: list[str]) -> None:
    failures = []
    for source in sources:
        try:
            compile_one(target, source, flags)
        except CheckError as failure:
            failures.append(str(failure))
    if failures:
        raise CheckError("\n".join(failures))


def link_one(target: Target, program: Path, sources: list[Path]) -> None:
    """The program itself is compiled here, so that its warnings count too."""
    objects = [str(object_of(target, source)) for source in sources]
    output = OUT / target.triple / program.stem
    zig_cc(target, *FLAGS, *STRICT, shown(program), *objects, "-lpthread", "-lm", "-o", str(output))
    check_executable(target, output)


def check_executable(target: Target, path: Path) -> None:
    if target.oldest_macos is None:
        check_elf(target, path)
    else:
        check_macho(target, path, target.oldest_macos)


def check_macho(target: Target, path: Path, oldest: tuple[int, ...]) -> None:
    fat = lief.MachO.parse(str(path))  # kept: its parts don't outlive it
    binary = fat.at(0) if fat is not None and fat.size == 1 else None
    if binary is None:
        raise CheckError(f"{shown(path)}: not a Mach-O file of one architecture")
    expect(path, "processor", binary.header.cpu_type.name, target.processor)
    if binary.build_version is not None:
        version = binary.build_version.minos
    elif binary.version_min is not None:
        version = binary.version_min.version
    else:
        raise CheckError(f"{shown(path)} names no oldest system")
    expect(path, "oldest system", tuple(version)[: len(oldest)], oldest)
    imported = {str(symbol.name) for symbol in binary.imported_symbols}
    libraries = {library.name for library in binary.libraries}
    expect(path, "libraries", libraries, {"/usr/lib/libSystem.B.dylib"})
    # Some calls have variants, such as _read$NOCANCEL.
    check_imports(path, {name.partition("$")[0].removeprefix("_") for name in imported})


def check_elf(target: Target, path: Path) -> None:
    binary = lief.ELF.parse(str(path))
    if binary is None:
        raise CheckError(f"{shown(path)}: not an ELF file")
    expect(path, "processor", binary.header.machine_type.name, target.processor)
    imported = {str(symbol.name) for symbol in binary.imported_symbols}
    # Systems number a call whose types or arguments have changed: accept4, kqueue1, __kevent100.
    check_imports(path, {name.lstrip("_").rstrip("0123456789") for name in imported})


def check_imports(path: Path, imported: set[str]) -> None:
    # NetBSD: paccept() is what accept4() is elsewhere.
    needed = NEEDED_CALLS.get(path.name, ())
    missing = [call for call in needed if call not in imported and f"p{call}" not in imported]
    if missing:
        there = ", ".join(sorted(imported))
        raise CheckError(f"{shown(path)} does not import {', '.join(missing)}; it imports {there}")


def expect(path: Path, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise CheckError(f"{shown(path)}: {what} is {found}, not {wanted}")


def python_headers() -> Path:
    """Those of this Python. With the limited API it does not matter here that they were made for this system.

    Debian: its pyconfig.h chooses one by the compiler's target and refuses a foreign one, and Python.h finds
    it beside itself; so a copy has the chosen one in that place.
    """
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise CheckError(f"no Python.h in {headers}: Python's headers are not installed")
    if "unknown multiarch location" not in (headers / "pyconfig.h").read_text():
        return headers
    copy = OUT / "python"
    shutil.copytree(headers, copy, dirs_exist_ok=True)
    chosen = Path("/usr/include", sysconfig.get_config_var("MULTIARCH"), headers.name, "pyconfig.h")
    shutil.copy(chosen, copy / "pyconfig.h")
    return copy


def generate_module() -> Path:
    """What cffi makes of api.h."""
    path = OUT / "_kq.c"
    ffi = runpy.run_path(str(CSRC / "build_ffi.py"))["ffi"]
    ffi.emit_c_code(str(path))
    return path


def is_program(source: Path) -> bool:
    """Whether it is a program of the whole core. Those that put something in the place of a part are run here alone."""
    text = source.read_text()
    replaces = re.search(r'^#include "fake/', text, re.MULTILINE)
    return re.search(r"^int main\(", text, re.MULTILINE) is not None and not replaces


@dataclass(slots=True)
class Check:
    target: Target
    name: str
    result: Future[float]


def timed(check: Callable[..., None], *arguments: object) -> float:
    start = time.monotonic()
    check(*arguments)
    return time.monotonic() - start


def report(checks: list[Check]) -> bool:
    """Waits for each, and prints it; True if all passed."""
    passed = True
    width = max(len(check.target.triple) for check in checks)
    for check in checks:
        line = f"{check.target.triple:<{width}}  {check.name:<24}"
        try:
            print(f"{line}  ok {check.result.result():6.1f} s", flush=True)
        except CheckError as failure:
            passed = False
            print(f"{line}  FAILED\n{failure}", flush=True)
    return passed


def main() -> int:
    start = time.monotonic()
    lief.logging.disable()
    shutil.rmtree(OUT, ignore_errors=True)
    for target in TARGETS:
        (OUT / target.triple).mkdir(parents=True)
    plain = sorted(set(CSRC.rglob("*.c")) - {HOOK})
    programs = sorted(filter(is_program, (ROOT / "tests" / "c").glob("*.c")))
    try:
        if not programs:
            raise CheckError("there is no C program in tests/c")
        module = generate_module()
        with_python = ["-isystem", str(python_headers())]
        if not sysconfig.get_config_var("Py_GIL_DISABLED"):
            with_python += ["-D", "Py_LIMITED_API=0x030b0000"]
    except CheckError as failure:
        print(failure)
        return 1

    with ThreadPoolExecutor(JOBS) as pool:
        compiled = [
            Check(target, name, pool.submit(timed, compile_all, target, sources, flags))
            for target in TARGETS
            for name, sources, flags in (
                (f"{len(plain)} files without Python", plain, STRICT),
                ("hook.c", [HOOK], [*STRICT, *with_python, *target.with_python]),
                ("the cffi module", [module], [*GENERATED, *with_python, *target.with_python]),
            )
        ]
        passed = report(compiled)
        if passed:
            linked = [
                Check(target, f"link {program.stem}", pool.submit(timed, link_one, target, program, plain))
                for target in TARGETS
                for program in programs
            ]
            passed = report(linked)
    print(f"{'passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
