"""The scenarios, their servers, and their targets, as data.

A server is named as in servers.py, and a word behind the name changes its part in the scenario: "again" is the control,
the same server once more; "echo" a server that sends back what it read where the others find messages in it; "alone"
one without the idle connections."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The median of a figure of `ours`, or, where there is another server, of the ratio of each round's two."""

    ours: str
    other: str | None
    at_least: float | None = None
    at_most: float | None = None
    or_noise: bool = False  # met as well while no further off than the control was, by its median

    def __str__(self) -> str:
        what = f"{self.ours} / {self.other}" if self.other else self.ours
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        return f"{what}: {bound}{', or as near as the control' if self.or_noise else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    name: str
    title: str
    servers: tuple[str, ...]  # the first is the one that all are compared with
    targets: tuple[Target, ...] = ()
    kind: str = "exchange"  # a function of measure.py
    figure: str = "rate"  # the one of its results that counts
    compared: bool = True  # as ratios, which say nothing where a figure may be 0
    mode: str = "echo"
    framing: str = "stream"
    message_bytes: int = 64
    connections: int = 50
    idle: int = 0  # connections beside them that say nothing
    depth: int = 1
    cores: str = "0"  # of the server; the client has core 1
    rounds: int = 7
    unit: str = ""  # where it is not that of the figure: "MB/s"
    note: str = ""


def over(ratio: float, *others: str, ours: str = "kqnative", or_noise: bool = False) -> tuple[Target, ...]:
    return tuple(Target(ours=ours, other=other, at_least=ratio, or_noise=or_noise) for other in others)


OTHERS = ("libuv", "article", "go_net", "gnet", "tokio", "tokio-multi", "uvloop", "asyncio", "twisted")
ECHO = ("kqnative", "kqnative-nolog", "bare_c", "bare_c again", *OTHERS)
FRAMING = ("kqnative", "bare_c", "bare_c again", "uvloop", "asyncio", "twisted")
NO_FRAMING = ("libuv echo", "go_net echo", "gnet echo", "tokio echo")
NO_FRAMING_NOTE = "Those marked echo do no framing at all: they send back what each read returned."
FUNCTION = ("kqnative", "kqnative-batch", "uvloop", "uvloop again", "asyncio", "twisted")
SPIN = ("kqnative-spin", "kqnative", "bare_c", "bare_c again")
PREFIX_NOTE = "kqnative-default puts `system: ` before each answer, as the command does when it is given no template."


def echo_scenarios() -> Iterator[Scenario]:
    """The least that a server can do: a read and a write for each message."""
    targets = {
        1: (),
        50: over(0.97, "bare_c")
        + over(1.25, "uvloop")
        + over(1.3, "go_net")
        + over(1.0, "libuv", "gnet", "tokio", "tokio-multi"),
        1_000: over(0.95, "bare_c") + over(1.0, *OTHERS),
        10_000: over(0.95, "bare_c") + over(1.0, *OTHERS),
    }
    more = {1: ("kqnative-default", "socat"), 50: ("kqnative-default", "socat")}
    for connections, wanted in targets.items():
        yield Scenario(
            name=f"echo_{connections}",
            title=f"stream echo, 64 bytes, {connections:,} connection{'s' * (connections > 1)}, one message in flight",
            servers=ECHO + more.get(connections, ()),
            targets=wanted,
            connections=connections,
            note=PREFIX_NOTE if connections in more else "",
        )


def line_scenarios() -> Iterator[Scenario]:
    for depth, wanted in ((16, ()), (128, over(0.95, "bare_c") + over(4.0, "uvloop"))):
        yield Scenario(
            name=f"lines_{depth}",
            title=f"lines of 32 bytes, 50 connections, {depth} messages in flight on each",
            servers=FRAMING + NO_FRAMING,
            targets=wanted,
            mode="line",
            framing="line",
            message_bytes=32,
            depth=depth,
            note=NO_FRAMING_NOTE,
        )


def frame_scenarios() -> Iterator[Scenario]:
    for name, size in (("16k", 16 << 10), ("1m", 1 << 20)):
        yield Scenario(
            name=f"u32_{name}",
            title=f"u32 frames of {'16 KiB' if name == '16k' else '1 MiB'}, 8 connections, one in flight",
            servers=FRAMING,
            targets=over(0.95, "bare_c") + over(1.2, "uvloop"),
            mode="u32",
            framing="u32",
            message_bytes=size,
            connections=8,
            unit="MB/s",
        )


def hook_scenarios() -> Iterator[Scenario]:
    for depth, ratio in ((1, 1.6), (16, 1.4), (128, 1.3)):
        batch = over(1.5, "uvloop", ours="kqnative-batch") if depth == 128 else ()
        yield Scenario(
            name=f"hook_{depth}",
            title=f"a Python function for each line of 32 bytes, 50 connections, {depth} in flight on each",
            servers=FUNCTION,
            targets=over(ratio, "uvloop") + batch,
            mode="function",
            framing="line",
            message_bytes=32,
            depth=depth,
        )


def spin_scenarios() -> Iterator[Scenario]:
    for connections in (1, 2, 8, 50, 1_000):
        few = connections <= 8
        yield Scenario(
            name=f"spin_{connections}",
            title=f"`--spin 50us`: stream echo, 64 bytes, {connections:,} connection{'s' * (connections > 1)}",
            servers=SPIN,
            targets=over(1.2 if few else 1.0, "bare_c", ours="kqnative-spin", or_noise=not few),
            connections=connections,
        )
    yield Scenario(
        name="spin_idle",
        title="`--spin 50us`: share of a core that a server takes with 50 connections and nothing to do",
        servers=("kqnative-spin", "kqnative", "bare_c"),
        targets=(Target(ours="kqnative-spin", other=None, at_most=1.0),),
        kind="idle_share",
        figure="cpu_percent",
        compared=False,
        rounds=3,
    )


SCENARIOS = [
    *echo_scenarios(),
    Scenario(
        name="kevent",
        title="the same bare loop on kevent() and on epoll: stream echo, 64 bytes, 50 connections",
        servers=("bare_kevent", "bare_c", "bare_c again"),
        targets=over(0.98, "bare_c", ours="bare_kevent"),
    ),
    *line_scenarios(),
    *frame_scenarios(),
    *hook_scenarios(),
    Scenario(
        name="churn",
        title="connections a second that exchange one message and close, 50 at a time",
        servers=(*ECHO, "socat-pipe"),
        targets=over(1.0, "bare_c") + over(1.5, "uvloop"),
        kind="churn",
        unit="connections/s",
        note="bare_c accepts one client for each event, as most loops do; to accept all that wait made no difference.",
    ),
    Scenario(
        name="idle",
        title="50 busy connections beside 10,000 idle ones, and alone",
        servers=("kqnative", "kqnative alone", "kqnative again", "bare_c", "bare_c alone"),
        targets=over(0.95, "kqnative alone"),
        idle=10_000,
    ),
    Scenario(
        name="memory",
        title="private memory for each connection that has exchanged a message, from 5,000 to 15,000 of them",
        servers=("kqnative", *OTHERS, "bare_c"),
        targets=(Target(ours="kqnative", other=None, at_most=128.0),),
        kind="memory",
        figure="bytes_each",
        compared=False,
        rounds=2,
        note="What the kernel keeps for a socket, some kilobytes, is the same for all and is not in it.",
    ),
    Scenario(
        name="latency",
        title="time to an answer, open loop, 50 connections, half of the peak of the slower of kqnative and bare_c",
        servers=("kqnative", "bare_c", "bare_c again", "libuv", "go_net", "tokio", "uvloop"),
        targets=(Target(ours="kqnative", other="bare_c", at_most=1.25, or_noise=True),),
        kind="latency",
        figure="p99_us",
        note="`kqnative load --rate` is the client of all of them.",
    ),
    Scenario(
        name="startup",
        title="from the start of the command to the first answer",
        servers=("kqnative", "python-imports", "python-imports again"),
        targets=(Target(ours="kqnative", other="python-imports", at_most=1.8),),
        kind="startup",
        figure="ms",
        rounds=15,
        note="python-imports is `python -m` of a module that imports socket, logging and argparse, until it has ended: "
        "that its end counts, some milliseconds, is for us.",
    ),
    Scenario(
        name="loops",
        title="two loops against one: stream echo, 64 bytes, 50 connections, the server on both cores",
        servers=("kqnative", "kqnative-2loops", "kqnative again"),
        cores="0,1",
        note="With two cores the second loop shares one with the client, so no gain can show: what does is whether a "
        "message costs the server more processor time when two loops serve.",
    ),
    *spin_scenarios(),
]

# `--quick`: what says most in least time. Its figures are not for docs/performance.md.
QUICK = {
    "echo_50": ("kqnative", "bare_c", "bare_c again", "uvloop", "go_net", "tokio"),
    "echo_10000": ("kqnative", "bare_c", "bare_c again"),
    "lines_128": ("kqnative", "bare_c", "bare_c again", "uvloop"),
    "u32_16k": ("kqnative", "bare_c", "uvloop"),
    "hook_1": ("kqnative", "uvloop"),
    "hook_128": ("kqnative", "kqnative-batch", "uvloop"),
    "churn": ("kqnative", "bare_c", "bare_c again", "uvloop"),
    "idle": ("kqnative", "kqnative alone"),
    "startup": ("kqnative", "python-imports"),
}
