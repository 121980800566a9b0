"""What one server does, each option said once.

The command line, the environment, the file, --print-config and the README's table are made from these fields.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from kqnative import values
from kqnative.errors import ConfigError

T = TypeVar("T")

GROUPS = ("address", "messages", "limits", "logging", "advanced")

# Options of which one alone can act; the first of a pair is the one that is there only when somebody asked for it.
RIVALS = (
    ("uds", "host"),
    ("uds", "port"),
    ("hook", "reply"),
    ("hook_batch", "reply"),
    ("hook", "hook_batch"),
)

DESCRIPTOR_RESERVE = 32  # descriptors that no connection may take; api.h says the same, a test compares
LONGEST_S = 24 * 24 * 3_600.0  # 24 days: the C core keeps a connection's stamps in 32 bits of milliseconds
MOST_CONNECTIONS = 1 << 24


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write a value: what Python takes, how text becomes it, and how it is shown."""

    types: tuple[type, ...]
    wanted: str
    metavar: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]


TEXT = Kind((str,), "a text", "TEXT", str, str)
COUNT = Kind((int,), "a whole number", "N", values.parse_count, values.show_count)
SIZE = Kind((int,), "a whole number of bytes", "SIZE", values.parse_size, values.show_size)
DURATION = Kind((int, float), "a number of seconds", "TIME", values.parse_duration, values.show_duration)


@dataclass(frozen=True, slots=True)
class Option:
    """All that is to be said of one field but its name and default."""

    kind: Kind
    group: str
    help: str
    unit: str = ""
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    metavar: str = ""
    zero: str = ""  # what 0 means where the range begins above it, or means more than none
    none: str = ""  # what None, the default, means; empty: None is not allowed
    empty: bool = False  # whether a text may be empty

    @property
    def range(self) -> str:
        """What is allowed, in words; empty where everything is."""
        if self.choices:
            return ", ".join(self.choices)
        if self.kind is TEXT:
            return ""
        between = f"{self.kind.show(self.low)} to {self.kind.show(self.high)}"
        return f"{between} (0: {self.zero})" if self.zero else between


def _option(default: T, kind: Kind, group: str, help: str, **facts: Any) -> T:  # noqa: A002
    described: T = field(default=default, metadata={"option": Option(kind, group, help, **facts)})
    return described


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one server does. Durations are seconds, sizes bytes. Raises ConfigError."""

    host: str = _option("0.0.0.0", TEXT, "address", "address or name to listen on; :: is IPv6", metavar="HOST")
    port: int = _option(8080, COUNT, "address", "TCP port", high=65_535, zero="the system chooses one", metavar="PORT")
    uds: str | None = _option(
        None,
        TEXT,
        "address",
        "unix socket to listen on, in place of host and port",
        none="none",
        metavar="PATH",
    )
    backlog: int = _option(1_024, COUNT, "address", "clients that may wait to be accepted", low=1, high=65_535)

    framing: Literal["stream", "line", "u32"] = _option(
        "stream",
        TEXT,
        "messages",
        "where a message ends: with the read that returned it, at its line's end, or after as many bytes as the"
        " 4 before it say",
        choices=("stream", "line", "u32"),
    )
    read_size: int = _option(
        64 << 10, SIZE, "messages", "most that one read returns", unit="bytes", low=1, high=16 << 20
    )
    reply: str = _option(
        "system: {message}",
        TEXT,
        "messages",
        "the answer; {message} and {peer} are filled in, {{ and }} are braces",
        metavar="TEMPLATE",
        empty=True,
    )
    hook: str | None = _option(
        None,
        TEXT,
        "messages",
        "a function that answers a message: bytes to bytes, or None for no answer",
        metavar="MODULE:FUNCTION",
        none="none",
    )
    hook_batch: str | None = _option(
        None,
        TEXT,
        "messages",
        "the same for a list of messages, which returns a list",
        metavar="MODULE:FUNCTION",
        none="none",
    )

    max_message: int = _option(
        1 << 20, SIZE, "limits", "longest message (line, u32)", unit="bytes", low=1, high=1 << 30
    )
    max_connections: int | None = _option(
        None,
        COUNT,
        "limits",
        "clients served at a time; more wait in the backlog",
        low=1,
        high=MOST_CONNECTIONS,
        none=f"the descriptor limit less {DESCRIPTOR_RESERVE}",
    )
    idle_timeout: float = _option(
        300.0,
        DURATION,
        "limits",
        "clients without progress for so long are closed",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
        zero="never",
    )
    grace: float = _option(
        10.0,
        DURATION,
        "limits",
        "how long a stop waits for clients that are owed answers",
        unit="seconds",
        high=LONGEST_S,
    )

    log_level: Literal["debug", "info", "warning", "error"] = _option(
        "info", TEXT, "logging", "least level that is logged", choices=("debug", "info", "warning", "error")
    )
    log_format: Literal["text", "json"] = _option(
        "text", TEXT, "logging", "lines as text, or one JSON object each", choices=("text", "json")
    )
    log_rate: int = _option(
        200,
        COUNT,
        "logging",
        "lines about clients a second, for each loop",
        unit="lines a second",
        high=1_000_000,
        zero="none",
    )

    poller: Literal["auto", "kqueue", "epoll", "poll", "select"] = _option(
        "auto",
        TEXT,
        "advanced",
        "the system call under kevent()",
        choices=("auto", "kqueue", "epoll", "poll", "select"),
    )
    batch: int = _option(1_024, COUNT, "advanced", "events that one wait returns at most", low=1, high=65_536)
    loops: int = _option(1, COUNT, "advanced", "event loops, each in a thread of its own", low=1, high=256)

    def __post_init__(self) -> None:
        for name in OPTIONS:
            object.__setattr__(self, name, check(name, getattr(self, name), label=name))
        for name, rival in RIVALS:
            if getattr(self, name) != DEFAULTS[name] and getattr(self, rival) != DEFAULTS[rival]:
                raise ConfigError(f"{name} and {rival} cannot both act: leave one of them out")
        _check_with_core(self)


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in dataclasses.fields(Config)}
DEFAULTS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Config)}


def check(name: str, value: object, *, label: str, text: str | None = None) -> Any:
    """The value of one field, converted where that loses nothing; ConfigError under this label if it is wrong.

    `text` is what it was written as, for the error.
    """
    option = OPTIONS[name]
    if value is None and option.none:
        return None
    if isinstance(value, bool) or not isinstance(value, option.kind.types):
        raise ConfigError(f"{label}: {shown(value)} is not {option.kind.wanted}")
    if isinstance(value, str):
        return _check_text(option, value, label)
    assert isinstance(value, int | float)
    if not (option.low <= value <= option.high or (option.zero and value == 0)):  # NaN is in no range
        given = shown(value if text is None else text)
        raise ConfigError(f"{label}: {given} is not allowed; it takes {option.range}")
    return float(value) if option.kind is DURATION else value


def parse(name: str, text: str, *, label: str) -> Any:
    """The value of one field from its text; ConfigError under this label if it is wrong."""
    option = OPTIONS[name]
    try:
        value = option.kind.parse(text)
    except ValueError as error:
        raise ConfigError(f"{label}: {shown(text)} is not {error}") from None
    return check(name, value, label=label, text=text)


def shown(value: object) -> str:
    """A wrong value as an error shows it: in one line, and not too long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python converts
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def markdown_table() -> str:
    """The options as the README shows them."""
    lines = ["| Option | Default | Takes | What it does |", "|---|---|---|---|"]
    for name, option in OPTIONS.items():
        takes = option.range or option.metavar
        row = (f"`{flag(name)}`", f"`{default_text(name)}`", takes, option.help)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def flag(name: str) -> str:
    """A field's option on the command line."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """A field's variable in the environment."""
    return "KQNATIVE_" + name.upper()


def default_text(name: str) -> str:
    """A field's default as help shows it."""
    option, default = OPTIONS[name], DEFAULTS[name]
    return option.none if default is None else option.kind.show(default)


def _check_text(option: Option, value: str, label: str) -> str:
    if option.choices and value not in option.choices:
        raise ConfigError(f"{label}: {shown(value)} is not one of {option.range}")
    if not value and not option.empty:
        raise ConfigError(f"{label}: it is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{label}: {shown(value)} is not UTF-8") from None
    if "\0" in value and not option.empty:  # C would end the text there; a template is handed over with its length
        raise ConfigError(f"{label}: {shown(value)} holds a NUL")
    return value


def _check_with_core(config: Config) -> None:
    """What only the C module knows; the defaults are right without it, so that --help works unbuilt."""
    if config.reply == DEFAULTS["reply"] and config.poller == "auto":
        return
    from kqnative import _native

    _native.check_template(config.reply)
    _native.check_poller(config.poller)
    limit = _native.select_limit() - DESCRIPTOR_RESERVE
    if config.poller == "select" and (config.max_connections or 0) > limit:
        raise ConfigError(f"max_connections: {config.max_connections} is not allowed; with poller select 1 to {limit}")
