"""What is made: macOS wheels from an sdist with `zig cc`, and the whole module for the BSDs.

A wheel goes through setup.py as any other does; the environment alone makes it one for macOS. The compiler is a
shell script between setuptools and zig, because our C is compiled with all warnings as errors and cffi's is not.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import lief
from abi3info import DATAS, FUNCTIONS  # type: ignore[import-untyped]
from cross import CACHE, CSRC, FLAGS, GENERATED, ROOT, STRICT, TARGETS, ZIG, CheckError, Target, python_headers, zig_cc

OUT = CACHE / "macos"
SDISTS = OUT / "sdist"
WHEELS = OUT / "wheels"
MACS = [target for target in TARGETS if target.oldest_macos]
BSDS = [target for target in TARGETS if not target.oldest_macos]
OLDEST_PYTHON = (3, 11)
INSTALL_NAME = "@rpath/_kq.abi3.so"  # without one, the linker writes the path that the file was built at
EPOCH = "1767225600"  # 2026-01-01: the time of all files in a wheel, unless SOURCE_DATE_EPOCH says another
LIMITED = ["-D", "Py_LIMITED_API=0x030b0000"]

# CFLAGS replace those that this system's Python was built with. The symbol table stays: the emulator finds functions
# by it.
CFLAGS = ["-O2", "-g0", "-DNDEBUG", "-fno-sanitize=undefined", "-fvisibility=hidden"]
# zig's `-bundle` crashes with dynamic_lookup; macOS loads a dylib as well.
LINK = ["-shared", f"-Wl,-undefined,dynamic_lookup,-install_name,{INSTALL_NAME}"]

COMPILER = """\
#!/bin/sh
case "$*" in
*kqnative._kq.c*) warnings='{generated}' ;;
*) warnings='{strict}' ;;
esac
exec {zig} cc -target {triple} $warnings {headers} "$@"
"""

# What each system's kernel calls an event: the size of struct kevent, and where its fields begin.
KEVENT = ("ident", "filter", "flags", "fflags", "data", "udata")
LAYOUTS = {
    "macos": (32, (0, 8, 10, 12, 16, 24)),
    "freebsd": (64, (0, 8, 10, 12, 16, 24)),
    "openbsd": (32, (0, 8, 10, 12, 16, 24)),
    "netbsd": (40, (0, 8, 12, 16, 24, 32)),
}
# Darwin's numbers for all that the C core hands to its kernel.
DARWIN = {
    "EVFILT_READ": -1,
    "EVFILT_WRITE": -2,
    "EVFILT_USER": -10,
    "EV_ADD": 0x1,
    "EV_DELETE": 0x2,
    "EV_ENABLE": 0x4,
    "EV_DISABLE": 0x8,
    "EV_CLEAR": 0x20,
    "EV_ERROR": 0x4000,
    "EV_EOF": 0x8000,
    "NOTE_TRIGGER": 0x01000000,
    "AF_UNIX": 1,
    "AF_INET": 2,
    "AF_INET6": 30,
    "SOL_SOCKET": 0xFFFF,
    "SO_REUSEADDR": 0x4,
    "SO_ERROR": 0x1007,
    "SO_NREAD": 0x1020,
    "SO_NOSIGPIPE": 0x1022,
    "SO_NWRITE": 0x1024,
    "IPV6_V6ONLY": 27,
    "TCP_NODELAY": 1,
    "F_SETFD": 2,
    "F_SETFL": 4,
    "F_DUPFD_CLOEXEC": 67,
    "FD_CLOEXEC": 1,
    "O_NONBLOCK": 0x4,
    "EAGAIN": 35,
    "EINPROGRESS": 36,
    "ECONNRESET": 54,
}
LAYOUT_HEADERS = (
    "poller/poller.h",
    "errno.h",
    "fcntl.h",
    "netinet/in.h",
    "netinet/tcp.h",
    "stddef.h",
    "sys/socket.h",
)


def run(command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None) -> str:
    """What the command printed; CheckError with it, or with its end, if it failed."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise CheckError(excerpt(done.stdout) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def excerpt(output: str) -> str:
    """What a compiler said from its first error on, without what setuptools adds; else the end."""
    lines = output.splitlines()
    first = next((number for number, line in enumerate(lines) if " error: " in line), max(0, len(lines) - 30))
    last = next((number for number, line in enumerate(lines) if line.endswith(" generated.")), len(lines))
    return "\n".join(lines[first : last + 1][:30])


def host_platform(target: Target) -> str:
    """macosx-11.0-arm64: what a Python made for this target says of itself."""
    assert target.oldest_macos
    return f"macosx-{'.'.join(map(str, target.oldest_macos))}-{target.processor.lower()}"


def platform_of(target: Target) -> str:
    """macosx_11_0_arm64: the end of the wheel's name."""
    return re.sub("[-.]", "_", host_platform(target))


def make_sdist() -> str:
    """The sdist, of which every wheel is made."""
    run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", SDISTS, ROOT], ROOT)
    return f"{find_sdist().name}, {find_sdist().stat().st_size} bytes"


def find_sdist() -> Path:
    """The one that was made."""
    (path,) = SDISTS.glob("*.tar.gz")
    return path


def unpack_sdist(sdist: Path, folder: Path) -> Path:
    """The folder that it unpacks to."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(sdist, folder)
    (path,) = folder.iterdir()
    return path


@functools.cache
def header_flags() -> list[str]:
    """Python's headers as a system's own, so that they do not warn.

    Both folders, where they differ: setuptools passes the second with -I too, which clang drops for the -isystem.
    """
    return [word for path in (python_headers(), sysconfig.get_path("include")) for word in ("-isystem", str(path))]


def write_compiler(target: Target, folder: Path) -> Path:
    """The script that setuptools takes for a C compiler of this target."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cc"
    path.write_text(
        COMPILER.format(
            generated=" ".join(GENERATED),
            strict=" ".join(STRICT),
            zig=shlex.quote(ZIG),
            triple=target.triple,
            headers=shlex.join(header_flags()),
        )
    )
    path.chmod(0o755)
    return path


def build_environment(target: Target, compiler: Path, objects: Path) -> dict[str, str]:
    """What makes setup.py build for macOS. zig's own libraries are built once, our C each time: `objects` is new."""
    cc = shlex.quote(str(compiler))
    wanted = {
        "CC": cc,
        "LDSHARED": f"{cc} {shlex.join(LINK)}",
        "CFLAGS": " ".join(CFLAGS),
        "CPPFLAGS": "",
        "LDFLAGS": "",
        "_PYTHON_HOST_PLATFORM": host_platform(target),
        "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(objects),
    }
    return {"SOURCE_DATE_EPOCH": EPOCH} | os.environ | wanted


def build_wheel(target: Target, sdist: Path, name: str, wheels: Path) -> Path:
    """Builds a wheel of the sdist, unpacked into a folder of this name, and nothing that was compiled before."""
    folder = OUT / platform_of(target) / name
    source = unpack_sdist(sdist, folder / "source")
    objects = folder / "objects"
    shutil.rmtree(objects, ignore_errors=True)
    environment = build_environment(target, write_compiler(target, folder), objects)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, source], source, environment)
    return find_wheel(target, wheels)


def find_wheel(target: Target, wheels: Path) -> Path:
    """The target's wheel in this folder."""
    found = list(wheels.glob(f"*-{platform_of(target)}.whl"))
    if len(found) != 1:
        raise CheckError(f"not one wheel for {platform_of(target)} but {[path.name for path in wheels.iterdir()]}")
    return found[0]


def make_wheel(target: Target, sdist: Path) -> str:
    """Builds the target's wheel, and takes its module out; their sizes."""
    path = build_wheel(target, sdist, "first", WHEELS)
    module = take_module(path, OUT / platform_of(target))
    return f"{path.name}, {path.stat().st_size} bytes, its module {module.stat().st_size}"


def take_module(wheel: Path, folder: Path) -> Path:
    """The C module, taken out of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".so")]
        if names != ["kqnative/_kq.abi3.so"]:
            raise CheckError(f"not one module kqnative/_kq.abi3.so in {wheel.name} but {names}")
        return Path(archive.extract(names[0], folder))


def check_same_again(target: Target, sdist: Path) -> str:
    """Built again elsewhere, the wheel is the same."""
    first = find_wheel(target, WHEELS)
    folder = OUT / platform_of(target) / "the_second_time"
    again = build_wheel(target, sdist, folder.name, folder / "wheels")
    compare_wheels(first, again)
    return "the same bytes"


def compare_wheels(first: Path, again: Path) -> None:
    """CheckError with the names of what differs, unless both are the same."""
    if first.read_bytes() == again.read_bytes():
        return
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(again) as other:
        names = sorted(set(one.namelist()) | set(other.namelist()))
        differ = [name for name in names if content_of(one, name) != content_of(other, name)]
    raise CheckError(f"built again, it differs in {', '.join(differ) or 'the times of its files alone'}")


def content_of(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """A file of the archive; None without one."""
    return archive.read(name) if name in archive.namelist() else None


def system_of(target: Target) -> str:
    """macos, freebsd, openbsd, netbsd."""
    return target.triple.split("-")[1].split(".")[0]


def layout_facts(target: Target) -> dict[str, int]:
    """What must hold of an event on this system, and of Darwin's constants."""
    size, offsets = LAYOUTS[system_of(target)]
    facts = {"sizeof(struct kevent)": size}
    facts |= {f"offsetof(struct kevent, {field})": at for field, at in zip(KEVENT, offsets, strict=True)}
    return facts | DARWIN if target.oldest_macos else facts


def check_layout(target: Target, facts: dict[str, int] | None = None) -> str:
    """Compiles one assertion for each fact, as csrc sees the system's headers."""
    facts = facts or layout_facts(target)
    lines = [f'#include "{header}"' for header in LAYOUT_HEADERS]
    lines += [f'_Static_assert({what} == {value}, "{what} is not {value}");' for what, value in facts.items()]
    path = OUT / target.triple / "layout.c"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    zig_cc(target, *FLAGS, *STRICT, "-c", str(path), "-o", str(path.with_suffix(".o")))
    return f"{len(facts)} sizes, offsets and constants"


def stable_abi() -> set[str]:
    """What every Python from 3.11 on has for an abi3 module."""
    entries = (*FUNCTIONS.items(), *DATAS.items())
    return {symbol.name for symbol, entry in entries if (entry.added.major, entry.added.minor) <= OLDEST_PYTHON}


def link_stable_abi(target: Target, folder: Path) -> Path:
    """A library of all names of the stable ABI, so that the linker can refuse every other undefined name."""
    source = folder / "python.c"
    source.write_text("".join(f"char {name};\n" for name in sorted(stable_abi())))
    library = folder / "python.so"
    zig_cc(target, "-O2", "-shared", "-fPIC", str(source), "-o", str(library))
    return library


def link_module(target: Target, generated: Path, sources: Sequence[Path] = ()) -> str:
    """Compiles and links the whole module for a BSD, with all its names found in libc or the stable ABI."""
    folder = OUT / target.triple
    folder.mkdir(parents=True, exist_ok=True)
    library, cffi_object = folder / "_kq.abi3.so", folder / "_kq.o"
    common = [*FLAGS, "-fPIC", "-fvisibility=hidden", *LIMITED, *header_flags(), *target.with_python]
    zig_cc(target, *common, *GENERATED, "-c", str(generated), "-o", str(cffi_object))
    inputs = [*map(str, sources or sorted(CSRC.rglob("*.c"))), str(cffi_object), str(link_stable_abi(target, folder))]
    more = ["-shared", "-Wl,-z,defs", "-lpthread", "-lm"]
    zig_cc(target, *common, *STRICT, *inputs, *more, "-o", str(library))
    check_elf(target, library)
    return f"{library.stat().st_size} bytes"


def check_elf(target: Target, library: Path) -> None:
    """It is for the target's processor and exports nothing but its init."""
    binary = lief.ELF.parse(str(library))
    if binary is None or binary.header.machine_type.name != target.processor:
        raise CheckError(f"not a library for {target.processor}")
    exported = {str(symbol.name) for symbol in binary.exported_symbols}
    if exported != {"PyInit__kq"}:
        raise CheckError(f"it exports {', '.join(sorted(exported))}, not PyInit__kq alone")
