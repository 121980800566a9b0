"""What must be true of a macOS wheel, as far as its bytes tell: each check returns words, or raises CheckError."""

import hashlib
import json
import os
import re
import struct
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import lief
from build import INSTALL_NAME, header_flags, platform_of, run, stable_abi
from cross import ROOT, ZIG, CheckError, Target

SYSTEM_LIBRARY = "/usr/lib/libSystem.B.dylib"
SYSTEM_CALLS = ("accept", "kevent", "kqueue", "read", "write")
# zig's linker exports these two names of its own from every library, whatever list it is given. Two-level namespaces
# keep them from meeting those of another library.
LINKERS_OWN = {"__mh_dylib_header", "___dso_handle"}
FLAT_LOOKUP = -2
SUPPORTED_MACOS = ("11_0", "12_0", "13_0", "14_0")
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OTHER_PROCESSOR = {"arm64": "x86_64", "x86_64": "arm64"}
LAST_TOO_OLD = {"arm64": "10_15", "x86_64": "10_12"}
REFUSED = "is not a supported wheel on this platform"

# pip, once for each list of arguments; one process for all, because most of what a pip does is to start.
PIP = """
import contextlib, io, json, runpy, sys
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pip", *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            runpy.run_module("pip", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        answers.append((said.getvalue().strip() or f"pip ended with {end.code}") if end.code else "")
print(json.dumps(answers))
"""


@dataclass(frozen=True, slots=True)
class Wheel:
    path: Path
    module: Path  # its C module, taken out
    target: Target


@dataclass(frozen=True, slots=True)
class Library:
    command: str  # LOAD_DYLIB
    name: str
    compatible: tuple[int, ...]  # the oldest version that will do


@dataclass(frozen=True, slots=True)
class Module:
    processor: str
    kind: str
    oldest_macos: tuple[int, ...]
    own_names: list[str]
    libraries: list[Library]
    folders: list[str]  # in which to search for libraries
    bound: dict[str, int]  # an import: the number of its library, from 1 on, or FLAT_LOOKUP
    imported: set[str]
    exported: set[str]
    symbols: set[str]
    signature: tuple[int, int] | None  # offset and size


def expect(what: str, found: object, wanted: object) -> None:
    """CheckError that says both, unless they are equal."""
    if found != wanted:
        raise CheckError(f"{what}: {found}, not {wanted}")


def read_module(path: Path) -> Module:
    """What lief reads of the file, which must be for one processor, as values: its objects do not outlive `fat`."""
    fat = lief.MachO.parse(str(path))
    binary = fat.at(0) if fat is not None and fat.size == 1 else None
    if binary is None:
        raise CheckError(f"{path.name} is not a Mach-O file for one processor")
    signature = binary.code_signature
    libraries = [Library(one.command.name, one.name, tuple(one.compatibility_version)) for one in binary.libraries]
    return Module(
        processor=binary.header.cpu_type.name,
        kind=binary.header.file_type.name,
        oldest_macos=oldest_macos(binary),
        own_names=[library.name for library in libraries if library.command == "ID_DYLIB"],
        libraries=[library for library in libraries if library.command != "ID_DYLIB"],
        folders=[str(rpath.path) for rpath in binary.rpaths],
        bound={str(one.symbol.name): one.library_ordinal for one in binary.bindings if one.symbol is not None},
        imported={str(symbol.name) for symbol in binary.imported_symbols},
        exported={str(symbol.name) for symbol in binary.exported_symbols} - LINKERS_OWN,
        symbols={str(symbol.name) for symbol in binary.symbols},
        signature=(signature.data_offset, signature.data_size) if signature is not None else None,
    )


def oldest_macos(binary: lief.MachO.Binary) -> tuple[int, ...]:
    """(11, 0), or (11, 0, 1); () where the file names none."""
    version: tuple[int, ...] = ()
    if binary.build_version is not None and binary.build_version.platform.name == "MACOS":
        version = tuple(binary.build_version.minos)
    elif binary.version_min is not None:
        version = tuple(binary.version_min.version)
    return version[:2] if version[2:] == (0,) else version


def check_system(wheel: Wheel) -> str:
    """The processor and the oldest system are those of the tag, in the name as in the metadata."""
    tag = f"cp311-abi3-{platform_of(wheel.target)}"
    expect("tag in the file's name", wheel.path.stem.split("-", 2)[2], tag)
    expect("tags in the metadata", tags_in_metadata(wheel.path), [tag])
    module = read_module(wheel.module)
    expect("processor", module.processor, wheel.target.processor)
    expect("kind of file", module.kind, "DYLIB")
    expect("oldest macOS", module.oldest_macos, wheel.target.oldest_macos)
    return f"{module.processor}, macOS {'.'.join(map(str, module.oldest_macos))}"


def tags_in_metadata(path: Path) -> list[str]:
    """What the wheel's WHEEL file says it is for."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        return re.findall(r"^Tag: (.*?)\r?$", archive.read(name).decode(), re.MULTILINE)


def check_links(wheel: Wheel) -> str:
    """It wants libSystem and no other library, in the version that every macOS has, and searches no folder."""
    module = read_module(wheel.module)
    expect("folders to search", module.folders, [])
    expect("libraries", module.libraries, [Library("LOAD_DYLIB", SYSTEM_LIBRARY, (1, 0, 0))])
    return "libSystem alone"


def check_paths(wheel: Wheel) -> str:
    """Its name is not where it was built, and no path of this machine is inside."""
    expect("install name", read_module(wheel.module).own_names, [INSTALL_NAME])
    content = wheel.module.read_bytes()
    folders = {str(ROOT), str(Path(ZIG).parent), str(Path.home()), tempfile.gettempdir(), "build/temp", "build/lib"}
    folders |= set(header_flags()) - {"-isystem"}
    inside = {text_around(content, folder) for folder in folders if len(folder) > 1 and folder.encode() in content}
    if inside:
        raise CheckError(f"it holds {', '.join(sorted(inside))}")
    return INSTALL_NAME


def text_around(content: bytes, part: str) -> str:
    """The whole string of the file that has this part."""
    at = content.index(part.encode())
    return content[content.rfind(b"\0", 0, at) + 1 : content.find(b"\0", at)].decode(errors="replace")


def check_imports(wheel: Wheel) -> str:
    """What no library is named for is in the stable ABI since 3.11 at the latest; all else is libSystem's.

    The linker can't know Python's names, so it lets every unknown one pass, a misspelt one too.
    """
    module = read_module(wheel.module)
    expect("imports that nothing binds", sorted(module.imported - set(module.bound)), [])
    flat = {name for name, library in module.bound.items() if library == FLAT_LOOKUP}
    unknown = sorted({name.removeprefix("_") for name in flat} - stable_abi())
    if unknown:
        raise CheckError(f"neither in libSystem nor in the stable ABI of Python 3.11: {', '.join(unknown)}")
    expect("imports of another library", sorted(set(module.bound) - flat - of_system(module)), [])
    return f"{len(flat)} of Python, {len(of_system(module))} of libSystem"


def of_system(module: Module) -> set[str]:
    """The imports that are bound to libSystem."""
    names = [library.name for library in module.libraries]
    number = names.index(SYSTEM_LIBRARY) + 1 if SYSTEM_LIBRARY in names else None
    return {name for name, library in module.bound.items() if library == number}


def check_calls(wheel: Wheel) -> str:
    """The calls that the loop is built on come from libSystem."""
    there = of_system(read_module(wheel.module))
    missing = [name for name in SYSTEM_CALLS if f"_{name}" not in there]
    if missing:
        raise CheckError(f"not imported from libSystem: {', '.join(missing)}")
    return ", ".join(SYSTEM_CALLS)


def check_exports(wheel: Wheel) -> str:
    """It shows its init and nothing else, and yet has the names of its functions, for the emulator."""
    module = read_module(wheel.module)
    expect("exports", sorted(module.exported), ["_PyInit__kq"])
    kept = [name for name in module.symbols if name.startswith("_kqn_")]
    if not kept:
        raise CheckError("it is stripped: no name of ours is in its symbol table")
    return f"PyInit__kq; {len(kept)} names are kept inside"


SUPER_BLOB = struct.Struct(">III")  # magic, length, blobs; then for each its type and its offset
BLOB = struct.Struct(">II")
# magic, length, version, flags, offset of hashes, of identity, special hashes, hashes, end of what is signed, size of
# a hash, kind of hash, platform, binary logarithm of the page size
CODE_DIRECTORY = struct.Struct(">9I4B")
SIGNATURE_MAGIC, CODE_DIRECTORY_MAGIC = 0xFADE0CC0, 0xFADE0C02
SHA256 = 2
AD_HOC = 0x2


def check_signature(wheel: Wheel) -> str:
    """The arm64 kernel ends a process whose pages are not as signed; so all hashes are made again."""
    signature = read_module(wheel.module).signature
    if signature is None:
        if wheel.target.processor == "ARM64":
            raise CheckError("it is not signed, and an arm64 Mac runs nothing that is not")
        return "none, and none needed"
    start, size = signature
    content = wheel.module.read_bytes()
    expect("end of the signature", start + size, len(content))
    return check_pages(content, start, code_directory(content, start))


def code_directory(content: bytes, start: int) -> int:
    """Where the table of hashes is, in the signature that begins at `start`."""
    magic, _, count = SUPER_BLOB.unpack_from(content, start)
    expect("magic of the signature", hex(magic), hex(SIGNATURE_MAGIC))
    for index in range(count):
        kind, offset = BLOB.unpack_from(content, start + SUPER_BLOB.size + index * BLOB.size)
        if kind == 0:
            return int(start + offset)
    raise CheckError("the signature has no code directory")


def check_pages(content: bytes, start: int, directory: int) -> str:
    """Every page from the file's first byte to the signature has the hash that the directory says."""
    fields = CODE_DIRECTORY.unpack_from(content, directory)
    magic, _, _, flags, hashes, _, _, count, end, size, kind, _, page_bits = fields
    expect("magic of the code directory", hex(magic), hex(CODE_DIRECTORY_MAGIC))
    expect("kind and size of a hash", (kind, size), (SHA256, hashlib.sha256().digest_size))
    expect("an ad-hoc signature", bool(flags & AD_HOC), True)
    expect("end of what is signed", end, start)
    pages = [content[at : min(at + (1 << page_bits), end)] for at in range(0, end, 1 << page_bits)]
    expect("pages", count, len(pages))
    signed = [content[directory + hashes + index * size :][:size] for index in range(count)]
    changed = [index for index, page in enumerate(pages) if hashlib.sha256(page).digest() != signed[index]]
    if changed:
        raise CheckError(f"not as signed: page {', '.join(map(str, changed))} of {count}")
    return f"{count} pages"


def check_abi3(wheel: Wheel) -> str:
    """abi3audit finds nothing that the tag does not promise."""
    run([sys.executable, "-m", "abi3audit", "--strict", "--report", wheel.path], ROOT)
    return "abi3audit --strict"


def check_contents(wheel: Wheel) -> str:
    """The package as it is in the tree, with stub, py.typed and licence; no source and no test."""
    with zipfile.ZipFile(wheel.path) as archive:
        names = set(archive.namelist())
    information = "-".join(wheel.path.name.split("-")[:2]) + ".dist-info"
    tree = [path for path in (ROOT / "kqnative").rglob("*") if path.suffix in (".py", ".pyi", ".typed")]
    wanted = {path.relative_to(ROOT).as_posix() for path in tree} | {"kqnative/_kq.abi3.so"}
    wanted |= {
        f"{information}/{name}"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    }
    expect("missing", sorted(wanted - names), [])
    expect("too many", sorted(names - wanted), [])
    run([sys.executable, "-m", "check_wheel_contents", wheel.path], ROOT)
    return f"{len(names)} files, check-wheel-contents"


def check_metadata(path: Path) -> str:
    """PyPI takes it: its metadata is whole, and its readme can be shown."""
    run([sys.executable, "-m", "twine", "check", "--strict", path], ROOT)
    return "twine check --strict"


@dataclass(frozen=True, slots=True)
class Machine:
    macos: str
    processor: str
    python: str
    abi: str = ""

    def __str__(self) -> str:
        return f"macOS {self.macos} {self.processor} Python {self.abi or self.python}"


def good_machines(target: Target) -> list[Machine]:
    """Those that must take the target's wheel."""
    processor = target.processor.lower()
    assert target.oldest_macos
    oldest = "_".join(map(str, target.oldest_macos))
    systems = dict.fromkeys((oldest, *SUPPORTED_MACOS))
    return [Machine(macos, processor, python) for macos in systems for python in SUPPORTED_PYTHONS]


def bad_machines(target: Target) -> list[Machine]:
    """Those that must not."""
    processor = target.processor.lower()
    return [
        *(Machine("14_0", OTHER_PROCESSOR[processor], python) for python in SUPPORTED_PYTHONS),
        Machine(LAST_TOO_OLD[processor], processor, "3.11"),
        Machine("14_0", processor, "3.10"),
        Machine("14_0", processor, "3.14", "cp314t"),
    ]


def pip_arguments(wheel: Path, machine: Machine) -> list[str]:
    """What asks pip whether it would install the wheel on this machine."""
    words = ["install", "--dry-run", "--quiet", "--ignore-installed", "--no-index", "--no-deps"]
    words += ["--only-binary=:all:", "--target", "nowhere", "--implementation", "cp"]
    words += ["--platform", f"macosx_{machine.macos}_{machine.processor}", "--python-version", machine.python]
    return [*words, *(["--abi", machine.abi] if machine.abi else []), str(wheel)]


def ask_pip(wheel: Path, machines: list[Machine]) -> list[str]:
    """What pip says against the wheel on each machine: nothing where it takes it."""
    questions = json.dumps([pip_arguments(wheel, machine) for machine in machines])
    # No setting of this machine has a say.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    answers = json.loads(run([sys.executable, "-c", PIP, questions], ROOT, environment))
    assert isinstance(answers, list)
    return [str(answer) for answer in answers]


def check_install(wheel: Wheel) -> str:
    """pip takes the wheel where it works, and nowhere else."""
    good, bad = good_machines(wheel.target), bad_machines(wheel.target)
    said = dict(zip((*good, *bad), ask_pip(wheel.path, [*good, *bad]), strict=True))
    wrong = [f"refused on {machine}: {said[machine]}" for machine in good if said[machine]]
    wrong += [f"accepted on {machine}" for machine in bad if not said[machine]]
    wrong += [
        f"not judged on {machine}: {said[machine]}" for machine in bad if said[machine] and REFUSED not in said[machine]
    ]
    if wrong:
        raise CheckError("\n".join(wrong))
    return f"{len(good)} accepted, {len(bad)} refused"


CHECKS = {
    "system": check_system,
    "links": check_links,
    "paths": check_paths,
    "imports": check_imports,
    "calls": check_calls,
    "exports": check_exports,
    "signature": check_signature,
    "abi3": check_abi3,
    "contents": check_contents,
    "pip install": check_install,
}
