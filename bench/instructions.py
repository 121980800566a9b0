"""Instructions and allocations of a message, by callgrind: the programs, the scenarios, and the slope of two runs.

Counted are the functions of csrc alone, in user space. Two runs of different lengths are counted, and their difference
is divided by the messages that one had more, so that nothing that happens once is in it. The client keeps in step with
the server (lockstep.py), which makes a count repeat, on a busy machine too, and on another with the same compiler.

What varies on a real server and does not here: how many events a wait brings (here one of each connection, so that 50
messages share a turn; the scenario of one connection shows what a turn costs), and what comes so many times a second,
the log's lines and the sweeps, for the clock stands almost still. The server has its defaults, so what a message pays
to be left out of the log is in it.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "csrc")]

from callgrind import COMMAND, Profile, read_profile  # noqa: E402
from hardening import flags_for  # noqa: E402
from lockstep import Clients, Echo, Gate  # noqa: E402
from programs import CORE, compile_files, link  # noqa: E402

COMPILER = os.environ.get("CC", "cc")
CONNECTIONS = 50
ECHO = "{message}"

# As wheels are built: the flags of Python itself and of build_ffi.py, and then those of hardening.py. DWARF changes no
# instruction; it says which functions are ours, and not every valgrind can read later ones than the fourth.
FLAGS = ["-DNDEBUG", "-gdwarf-4", "-fwrapv", "-O3", "-fPIC", "-fvisibility=hidden"]
GATED = ["-Wl,--wrap=kqn_poller_wait", "-Wl,--wrap=kqn_sys_monotonic_ns"]
ALLOCATORS = ["kqn_sys_alloc", "kqn_sys_realloc"]


@dataclass(frozen=True, slots=True)
class Programs:
    """The server and the load tester without Python, as they ship but for the gate."""

    serve: Path
    load: Path


def build(folder: Path) -> Programs:
    """Compiles them."""
    compile_flags, link_flags = flags_for([COMPILER, *FLAGS])
    flags = [*FLAGS, *compile_flags]
    core = compile_files([*CORE, "bench/counted/gate.c"], folder, COMPILER, flags)
    serve, load = compile_files(["tests/c/serve.c", "bench/counted/load.c"], folder, COMPILER, flags)
    link_flags = [*GATED, *link_flags]
    return Programs(
        serve=link(folder / "serve", COMPILER, link_flags, [serve, *core]),
        load=link(folder / "load", COMPILER, link_flags, [load, *core]),
    )


def compiler_name() -> str:
    """What makes the instructions: the compiler with its major version, and the processor. "gcc-12-x86_64"."""
    command = [COMPILER, "-dM", "-E", "-x", "c", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    macros = dict(re.findall(r"#define (\w+) (\d+)$", said, re.MULTILINE))
    clang = macros.get("__clang_major__")  # which also says that it is some gcc
    name = f"clang-{clang}" if clang else f"gcc-{macros['__GNUC__']}"
    return f"{name}-{platform.machine()}"


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to."""

    profile: Profile
    messages: int
    events: int  # of a server


class Counted:
    """A program under callgrind, with its loops at a gate."""

    def __init__(self, words: list[str], gate: Gate) -> None:
        self._out = gate.folder / "callgrind.out"
        self._process = subprocess.Popen(
            [*COMMAND, f"--callgrind-out-file={self._out}", *words],
            env=os.environ | {"KQNATIVE_GATE": gate.path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def line(self) -> str:
        """The first that it prints."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise RuntimeError(f"a counted program does not start:\n{self._process.communicate()[1]}")

    def finish(self) -> Run:
        """Has it end, and reads what was counted."""
        printed, errors = self._process.communicate("\n")
        if self._process.returncode != 0:
            raise RuntimeError(f"a counted program failed with {self._process.returncode}:\n{printed}{errors}")
        counters = dict(re.findall(r"^(\w+) (\d+)$", printed, re.MULTILINE))
        profile = read_profile(self._out)
        return Run(profile, int(counters["messages"]), int(counters.get("events", 0)))


@dataclass(frozen=True, slots=True)
class Served:
    """The server answers: in each round every connection sends `depth` messages at once and gets their answers."""

    name: str
    framing: str
    message: bytes
    template: str = ECHO
    depth: int = 1
    connections: int = CONNECTIONS
    loops: int = 1
    rounds: tuple[int, int] = (20, 60)

    def run(self, programs: Programs, rounds: int) -> Run:
        """One run of so many rounds, and one before."""
        answer_bytes = len(self.message) + len(self.template) - len(ECHO)
        words = [str(programs.serve), "0", self.framing, self.template, str(self.loops)]
        with Gate() as gate, Counted(words, gate) as server:
            port = int(server.line().rpartition(":")[2])
            gate.await_loops(self.loops)
            clients = Clients(gate, port, self.connections)
            for _ in range(1 + rounds):
                clients.exchange(self.message * self.depth, answer_bytes * self.depth)
            clients.close()
            gate.leave()
            return server.finish()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The load tester sends lines of 64 bytes, `depth` of them in flight on each connection."""

    name: str
    depth: int = 1
    connections: int = CONNECTIONS
    rounds: tuple[int, int] = (20, 60)

    def run(self, programs: Programs, rounds: int) -> Run:
        """One run of so many rounds."""
        messages = rounds * self.connections * self.depth
        echo = Echo()
        words = [str(programs.load), *map(str, (echo.port, self.connections, self.depth, messages))]
        with Gate() as gate, Counted(words, gate) as load:
            gate.await_loops(1)
            echo.serve(gate)
            echo.close()
            return load.finish()


TEXT = b"x" * 63 + b"\n"
LINE = b"x" * 31 + b"\n"
FRAME = (16380).to_bytes(4, "big") + b"x" * 16380
ONE_LOOP, TWO_LOOPS = "stream 64 B", "stream 64 B, 2 loops"

SCENARIOS: list[Served | Loaded] = [
    Served("stream 64 B, default template", "stream", TEXT, "system: {message}"),
    Served(ONE_LOOP, "stream", TEXT),
    Served("stream 64 B, 1 connection", "stream", TEXT, connections=1, rounds=(500, 1500)),
    Served(TWO_LOOPS, "stream", TEXT, connections=2 * CONNECTIONS, loops=2),
    Served("line 32 B", "line", LINE),
    Served("line 32 B, depth 16", "line", LINE, depth=16, rounds=(4, 8)),
    Served("line 32 B, depth 128", "line", LINE, depth=128, rounds=(1, 2)),
    Served("u32 16 KiB", "u32", FRAME),
    Loaded("load tester, line 64 B"),
    Loaded("load tester, line 64 B, depth 16", depth=16, rounds=(4, 8)),
]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a message more, in the steady state."""

    name: str
    instructions: float
    library_instructions: float  # of the C library on its behalf: copying, searching, the calls of the system
    allocations: float
    poller_instructions_per_event: float | None  # of a server
    functions: dict[str, float]  # instructions of each; the dearest come first


def cost_of(name: str, shorter: Run, longer: Run) -> Cost:
    """The slope between two runs."""
    messages, events = longer.messages - shorter.messages, longer.events - shorter.events
    more = {key: count - shorter.profile.instructions.get(key, 0) for key, count in longer.profile.instructions.items()}
    poller = sum(count for (file, _), count in more.items() if file.startswith("csrc/poller/"))
    calls = [run.profile.calls.get(each, 0) for run in (longer, shorter) for each in ALLOCATORS]
    return Cost(
        name=name,
        instructions=sum(more.values()) / messages,
        library_instructions=(longer.profile.library_instructions - shorter.profile.library_instructions) / messages,
        allocations=(sum(calls[: len(ALLOCATORS)]) - sum(calls[len(ALLOCATORS) :])) / messages,
        poller_instructions_per_event=poller / events if events else None,
        functions={
            f"{function} ({file.removeprefix('csrc/')})": count / messages
            for (file, function), count in sorted(more.items(), key=lambda item: -item[1])
            if count
        },
    )


def costs() -> dict[str, Cost]:
    """Of all scenarios. Several run at a time: a count does not depend on how busy the machine is."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = build(Path(folder))
        runs = {one.name: [pool.submit(one.run, programs, rounds) for rounds in one.rounds] for one in SCENARIOS}
        return {name: cost_of(name, *(run.result() for run in both)) for name, both in runs.items()}
