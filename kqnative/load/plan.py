"""What one run of the load tester does, each option said once."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from kqnative.config import DESCRIPTOR_RESERVE
from kqnative.errors import ConfigError
from kqnative.load import payload, target
from kqnative.options import (
    COUNT,
    DURATION,
    RATE,
    SIZE,
    TEXT,
    Kind,
    defaults_of,
    flag,
    option,
    options_of,
)

GROUPS = ("load", "messages", "connections", "advanced")

DEFAULT_DURATION_S = 10.0
DEFAULT_WARMUP_S = 1.0
LONGEST_S = 24 * 3_600.0
MOST_CONNECTIONS = 1 << 24
MOST_IN_FLIGHT = 10_000_000  # over all connections: each costs 32 bytes from the start
LONGEST_MESSAGE = 1 << 30

# Options of which one alone can act.
RIVALS = (
    ("message", "message_file"),
    ("size", "message_file"),
    ("think_time", "rate"),
)

MESSAGE = Kind((str, bytes), "a text or bytes", "TEXT", payload.unescape, payload.show)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What one run does, against which target. Durations are seconds, sizes bytes, rates messages/s.

    `target` is `HOST:PORT`, `[V6]:PORT`, `tcp://HOST:PORT` or `unix:PATH`. Raises ConfigError.
    """

    target: str

    connections: int = option(50, COUNT, "load", "connections held open", low=1, high=MOST_CONNECTIONS, short="-c")
    duration: float | None = option(
        None,
        DURATION,
        "load",
        "how long to measure",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
        none=f"{DEFAULT_DURATION_S:.0f} s, or until --messages were sent",
        short="-d",
    )
    messages: int | None = option(
        None,
        COUNT,
        "load",
        "messages to send while measuring; alone it sets no time limit",
        low=1,
        high=10**15,
        none="no limit",
        short="-n",
    )
    depth: int = option(1, COUNT, "load", "messages in flight on each connection", low=1, high=65_536)
    rate: float | None = option(
        None,
        RATE,
        "load",
        "messages a second in all, on a schedule fixed ahead (open loop)",
        unit="messages a second",
        low=0.001,
        high=1e8,
        none="the next goes when an answer comes (closed loop)",
        short="-R",
    )
    arrivals: Literal["uniform", "poisson"] = option(
        "uniform",
        TEXT,
        "load",
        "how --rate spaces messages: evenly, or at random as independent users do",
        choices=("uniform", "poisson"),
    )
    warmup: float | None = option(
        None,
        DURATION,
        "load",
        "messages are exchanged for so long before measuring begins",
        unit="seconds",
        high=LONGEST_S,
        none=f"{DEFAULT_WARMUP_S:.0f} s; 0 s with --messages alone",
    )
    timeout: float = option(
        5.0,
        DURATION,
        "load",
        "a message unanswered for so long has failed, and its connection with it",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
    )

    framing: Literal["line", "stream", "u32"] = option(
        "line",
        TEXT,
        "messages",
        "where an answer ends: at its LF, where --reply-size or --expect says, or after as many bytes as the 4"
        " before it say",
        choices=("line", "stream", "u32"),
    )
    message: str | bytes | None = option(
        None,
        MESSAGE,
        "messages",
        r"what to send: escapes as in Python, {n} is the message's number, {conn} its connection's, {{ and }} are"
        " braces",
        none="64 bytes of text",
        short="-m",
        empty=True,
    )
    size: int | None = option(
        None,
        SIZE,
        "messages",
        "fill the message to so many bytes, line framing's LF included",
        unit="bytes",
        low=1,
        high=LONGEST_MESSAGE,
        none="as it is",
    )
    message_file: str | None = option(
        None, TEXT, "messages", "send this file's lines in turn", metavar="FILE", none="none"
    )
    expect: str | None = option(
        None,
        TEXT,
        "messages",
        "what each answer must be, byte for byte; {message} is what was sent",
        metavar="TEMPLATE",
        none="answers are only counted",
        empty=True,
    )
    reply_size: int | None = option(
        None,
        SIZE,
        "messages",
        "bytes of an answer in stream framing",
        unit="bytes",
        low=1,
        high=LONGEST_MESSAGE,
        none="as many as --expect has",
    )

    connect_timeout: float = option(
        5.0,
        DURATION,
        "connections",
        "a connect that takes longer has failed; with no connection open for so long the run ends",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
    )
    connect_rate: float | None = option(
        None,
        RATE,
        "connections",
        "connections opened a second, in all",
        unit="connections a second",
        low=0.001,
        high=1e6,
        none="at most 100 at a time are being opened",
    )
    think_time: float | None = option(
        None,
        DURATION,
        "connections",
        "wait between an answer and the next message of its connection",
        unit="seconds",
        low=0.000001,
        high=LONGEST_S,
        none="none",
    )
    reconnect_every: int | None = option(
        None,
        COUNT,
        "connections",
        "close and open a connection anew after so many answers",
        low=1,
        high=10**9,
        none="never",
    )
    source: tuple[str, ...] = ()  # local addresses, one for each connection in turn

    loops: int = option(1, COUNT, "advanced", "event loops, each in a thread of its own", low=1, high=256)
    poller: Literal["auto", "kqueue", "epoll", "poll", "select"] = option(
        "auto",
        TEXT,
        "advanced",
        "the system call under kevent()",
        choices=("auto", "kqueue", "epoll", "poll", "select"),
    )

    # What the fields come to, made when they are checked.
    _bodies: payload.Bodies = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        target.parse(self.target)
        for name, one in OPTIONS.items():
            object.__setattr__(self, name, one.check(getattr(self, name), label=name))
        object.__setattr__(self, "source", target.check_sources(self.source))
        self._check_pairs()
        self._check_limits()
        self._check_with_core()
        object.__setattr__(self, "_bodies", payload.load(self.framing, self.message, self.size, self.message_file))

    @property
    def duration_in_force(self) -> float | None:
        """How long is measured; None: until all messages were sent."""
        return DEFAULT_DURATION_S if self.duration is None and self.messages is None else self.duration

    @property
    def warmup_in_force(self) -> float:
        """How long the warm-up lasts."""
        if self.warmup is not None:
            return self.warmup
        return 0.0 if self.duration_in_force is None else DEFAULT_WARMUP_S

    def settings(self) -> dict[str, Any]:
        """All fields but the target, as a report shows them."""
        shown_fields = {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "target"}
        message = self.message
        return shown_fields | {
            "duration": self.duration_in_force,
            "warmup": self.warmup_in_force,
            "message": message.decode("utf-8", "backslashreplace") if isinstance(message, bytes) else message,
            "source": list(self.source),
        }

    def _check_pairs(self) -> None:
        for one, other in RIVALS:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise _cannot_both(flag(one), flag(other))
        if self.arrivals != "uniform" and self.rate is None:
            raise ConfigError("--arrivals says how --rate spaces messages: give --rate too")
        if self.think_time is not None and self.depth > 1:
            raise _cannot_both("--think-time", "a --depth above 1")
        if self.source and self.target.startswith("unix:"):
            raise _cannot_both("--source", "a unix socket")

    def _check_limits(self) -> None:
        if self.connections * self.depth > MOST_IN_FLIGHT:
            raise ConfigError(
                f"--connections times --depth is {self.connections * self.depth:,}; at most {MOST_IN_FLIGHT:,} messages"
                " can be in flight"
            )
        if self.loops > self.connections:
            raise ConfigError(f"--loops: {self.loops} loops cannot share {self.connections} connections; use fewer")
        if self.framing != "stream":
            if self.reply_size is not None:
                raise ConfigError(f"--reply-size is for stream framing; {self.framing} framing ends an answer itself")
            return
        if self.depth > 1:
            raise ConfigError("--framing stream: nothing tells answers apart there, so --depth must be 1")
        if self.reply_size is None and not self.expect:
            raise ConfigError("--framing stream: say where an answer ends, with --reply-size or --expect")

    def _check_with_core(self) -> None:
        from kqnative import _native

        _native.check_poller(self.poller)
        if self.expect is not None:
            _native.check_expect(self.expect)
        most = _native.select_limit() - own_descriptors(self.loops)
        if self.poller == "select" and self.connections > most:
            raise ConfigError(f"--poller select watches at most {most} connections")


def own_descriptors(loops: int) -> int:
    """How many descriptors a run may need beside its connections."""
    return DESCRIPTOR_RESERVE + 8 * loops


OPTIONS = options_of(LoadPlan)
DEFAULTS = defaults_of(LoadPlan)


def _cannot_both(one: str, other: str) -> ConfigError:
    return ConfigError(f"{one} and {other} cannot both act: leave one of them out")
