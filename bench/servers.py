"""Every server that is measured: ours in its variants, and the peers. How each is built, found missing, and started."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common import BENCH, BUILT, build, kqnative_command

PEERS = BENCH / "peers"
ROOT = BENCH.parent
PREFIX_BYTES = len("system: ")  # what the default template and hooks.py put before a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server. `prepare` builds it, if it has to be, and returns why it can't be measured here, or ""."""

    name: str
    language: str
    about: str
    modes: tuple[str, ...]  # none: a program that ends by itself
    command: Callable[[int, str], list[str]]  # for a port and a mode; run in this folder
    version: Callable[[], str]
    prepare: Callable[[], str]
    prefix_bytes: int = 0  # of an answer, before the message that it repeats; a hook's has PREFIX_BYTES


def first_line(*command: str) -> str:
    """Of what a program prints when it is asked for its version; "" where there is none."""
    if shutil.which(command[0]) is None:
        return ""
    said = subprocess.run(command, capture_output=True, text=True)
    return (said.stdout or said.stderr).partition("\n")[0].strip()


def compiler_version() -> str:
    return first_line(*shlex.split(os.environ.get("CC", "cc")), "--version")


def package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def missing_tools(*tools: str) -> str:
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"no {', '.join(absent)} here" if absent else ""


def missing_file(path: Path) -> str:
    return "" if path.exists() else f"no {path.relative_to(ROOT)}"


# ---- ours

MODE_OPTIONS = {
    "echo": ("--reply", "{message}"),
    "line": ("--framing", "line", "--reply", "{message}"),
    "u32": ("--framing", "u32", "--reply", "{message}", "--max-message", "2M"),
    "function": ("--framing", "line", "--hook", "hooks:reply"),
    "batch": ("--framing", "line", "--hook-batch", "hooks:reply_batch"),
    "default": (),
}


@cache
def our_help() -> str:
    return subprocess.run([sys.executable, "-m", "kqnative", "--help"], capture_output=True, text=True).stdout


def ours(name: str, about: str, *options: str, mode: str | None = None) -> Peer:
    """A variant of kqnative; with a mode it has only that one, whichever the scenario asks for."""

    def command(port: int, asked: str) -> list[str]:
        return kqnative_command(port, *MODE_OPTIONS[mode or asked], *options)

    def prepare() -> str:
        unknown = [option for option in options if option.startswith("--") and option not in our_help()]
        return f"{unknown[0]} is not built in" if unknown else ""

    return Peer(
        name=name,
        language="C, Python",
        about=about,
        modes=("echo", "line", "u32", "function"),
        command=command,
        version=lambda: package_version("kqnative"),
        prepare=prepare,
        prefix_bytes=PREFIX_BYTES if mode == "default" else 0,
    )


# ---- C

POLLER = [f"-I{ROOT / 'csrc'}", *(str(path) for path in sorted((ROOT / "csrc" / "poller").glob("*.c")))]


def in_c(name: str, about: str, modes: tuple[str, ...], *flags: str, source: str = "") -> Peer:
    path = PEERS / name / (source or f"{name}.c")

    def prepare() -> str:
        reason = missing_tools(shlex.split(os.environ.get("CC", "cc"))[0]) or missing_file(path)
        if reason:
            return reason
        try:
            build(str(path.relative_to(BENCH)), *flags)
        except SystemExit as failure:
            return f"does not compile: {first_error(str(failure))}"
        return ""

    return Peer(
        name=name,
        language="C",
        about=about,
        modes=modes,
        command=lambda port, mode: [str(BUILT / path.stem), str(port), mode],
        version=lambda: first_line("pkg-config", "--modversion", name) if name == "libuv" else compiler_version(),
        prepare=prepare,
    )


def first_error(said: str) -> str:
    lines = said.strip().splitlines() or ["no reason given"]
    line = next((line for line in lines if "error" in line or "cannot find" in line), lines[-1])
    return line.replace(f"{ROOT}/", "").strip()


# ---- Go and Rust


def newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)


def run_builder(name: str, program: Path, command: list[str], environment: dict[str, str]) -> str:
    """Builds what has changed; returns why it failed, or ""."""
    folder = PEERS / name
    reason = missing_tools(command[0])
    if reason:
        return reason
    if program.exists() and program.stat().st_mtime >= newest(folder):
        return ""
    print(f"building {name}", flush=True)
    made = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if made.returncode != 0:
        return f"does not compile: {first_error(made.stderr)}"
    program.touch()  # a builder that found nothing to do leaves the program as old as it was
    return ""


def module_version(name: str, module: str) -> str:
    """The Go toolchain's, and that of the module which go.mod pins."""
    pinned = re.search(rf"{re.escape(module)} (v\S+)", (PEERS / name / "go.mod").read_text()) if module else None
    toolchain = first_line("go", "version").removeprefix("go version ")
    return f"{pinned.group(1)}, {toolchain}" if pinned else toolchain


def in_go(name: str, about: str, module: str = "", *flags: str) -> Peer:
    program = BUILT / name
    build_command = ["go", "build", "-trimpath", *flags, "-o", str(program), "."]
    return Peer(
        name=name,
        language="Go",
        about=about,
        modes=("echo",),
        command=lambda port, mode: [str(program), str(port), mode],
        version=lambda: module_version(name, module),
        prepare=lambda: run_builder(name, program, build_command, {}),
    )


def crate_version() -> str:
    locked = re.search(r'name = "tokio"\nversion = "([^"]+)"', (PEERS / "tokio" / "Cargo.lock").read_text())
    return f"{locked.group(1) if locked else 'unknown'}, {first_line('rustc', '--version')}"


def on_tokio(name: str, about: str, threads: str) -> Peer:
    folder = BUILT / "tokio"
    program = folder / "release" / "tokio"
    command = ["cargo", "build", "--release", "--locked"]
    return Peer(
        name=name,
        language="Rust",
        about=about,
        modes=("echo",),
        command=lambda port, mode: [str(program), str(port), mode, threads],
        version=crate_version,
        prepare=lambda: run_builder("tokio", program, command, {"CARGO_TARGET_DIR": str(folder)}),
    )


# ---- Python, and socat


def in_python(name: str, about: str, package: str = "") -> Peer:
    script = PEERS / name / "server.py"

    def prepare() -> str:
        if package and not package_version(package):
            return f"no package {package} here"
        return missing_file(script)

    return Peer(
        name=name,
        language="Python",
        about=about,
        modes=("echo", "line", "u32", "function"),
        command=lambda port, mode: [sys.executable, str(script), str(port), mode],
        version=lambda: package_version(package) if package else f"Python {sys.version.split()[0]}",
        prepare=prepare,
    )


SOCAT = PEERS / "socat" / "run.sh"


def on_socat(name: str, about: str, answer: str) -> Peer:
    return Peer(
        name=name,
        language="C",
        about=about,
        modes=("echo",),
        command=lambda port, mode: ["sh", str(SOCAT), str(port), mode, answer],
        version=socat_version,
        prepare=lambda: missing_tools("socat") or missing_file(SOCAT),
    )


def socat_version() -> str:
    said = subprocess.run(["socat", "-V"], capture_output=True, text=True).stdout
    found = re.search(r"socat version (\S+)", said)
    return found.group(1) if found else ""


python_imports = Peer(
    name="python-imports",
    language="Python",
    about="no server: a command that imports socket, logging and argparse, and ends",
    modes=(),
    command=lambda port, mode: [sys.executable, "-m", "imports"],
    version=lambda: f"Python {sys.version.split()[0]}",
    prepare=lambda: "",
)

ALL = [
    ours("kqnative", "as shipped: log to a file, timeouts and limits on"),
    ours("kqnative-nolog", "without a log", "--log-rate", "0", "--log-level", "error"),
    ours("kqnative-default", "as shipped, with the default answer `system: {message}`", mode="default"),
    ours("kqnative-batch", "`--hook-batch`: one call for all messages of a turn", mode="batch"),
    ours("kqnative-2loops", "`--loops 2`", "--loops", "2"),
    ours("kqnative-spin", "`--spin 50us`", "--spin", "50us"),
    in_c("bare_c", "level-triggered epoll and nothing else: the limit", ("echo", "line", "u32")),
    in_c("bare_kevent", "the same loop on this project's kevent()", ("echo",), *POLLER),
    in_c("libuv", "libuv's streams", ("echo",), "-luv", source="libuv_echo.c"),
    in_c("article", "one kevent() for each change, 10 events at a time, a write that blocks", ("echo",), *POLLER),
    in_go("go_net", "the net package, a goroutine for each connection"),
    in_go("gnet", "gnet's event loop", "github.com/panjf2000/gnet/v2", "-tags", "poll_opt"),
    on_tokio("tokio", "tokio's current-thread runtime", "current"),
    on_tokio("tokio-multi", "tokio's multi-thread runtime", "multi"),
    in_python("uvloop", "asyncio's protocols on libuv", "uvloop"),
    in_python("asyncio", "asyncio's protocols on its own loop"),
    in_python("twisted", "Twisted's protocols on its epoll reactor", "twisted"),
    on_socat("socat", "a process for each connection: cat on the socket itself", "cat"),
    on_socat("socat-pipe", "a process for each connection: socat and a pipe, without starting a program", "pipe"),
    python_imports,
]
BY_NAME = {peer.name: peer for peer in ALL}
