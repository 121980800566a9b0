"""What one server does, each option said once.

The command line, the environment, the file, --print-config and the README's table are made from these fields.
"""

from dataclasses import dataclass
from typing import Any, Literal

from kqnative.errors import ConfigError
from kqnative.options import COUNT, DURATION, SIZE, TEXT, defaults_of, option, options_of

GROUPS = ("address", "messages", "limits", "logging", "advanced")

# Options of which one alone can act; the first of a pair is the one that is there only when somebody asked for it.
RIVALS = (
    ("uds", "host"),
    ("uds", "port"),
    ("uds", "allow"),
    ("uds", "deny"),
    ("hook", "reply"),
    ("hook_batch", "reply"),
    ("hook", "hook_batch"),
)

DESCRIPTOR_RESERVE = 32  # descriptors that no connection may take; api.h says the same, a test compares
LONGEST_S = 24 * 24 * 3_600.0  # 24 days: the C core keeps a connection's stamps in 32 bits of milliseconds
MOST_CONNECTIONS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one server does. Durations are seconds, sizes bytes. Raises ConfigError."""

    host: str = option("0.0.0.0", TEXT, "address", "address or name to listen on; :: is IPv6", metavar="HOST")
    port: int = option(8080, COUNT, "address", "TCP port", high=65_535, zero="the system chooses one", metavar="PORT")
    uds: str | None = option(
        None,
        TEXT,
        "address",
        "unix socket to listen on, in place of host and port",
        none="none",
        metavar="PATH",
    )
    backlog: int = option(1_024, COUNT, "address", "clients that may wait to be accepted", low=1, high=65_535)
    allow: str | None = option(
        None,
        TEXT,
        "address",
        "networks that may connect, like 10.0.0.0/8,::1; the most specific of all that are allowed or denied decides",
        metavar="NETWORKS",
        none="all, or all that are not denied",
    )
    deny: str | None = option(
        None, TEXT, "address", "networks that may not connect", metavar="NETWORKS", none="none, or all not allowed"
    )

    framing: Literal["stream", "line", "u32"] = option(
        "stream",
        TEXT,
        "messages",
        "where a message ends: with the read that returned it, at its line's end, or after as many bytes as the"
        " 4 before it say",
        choices=("stream", "line", "u32"),
    )
    read_size: int = option(
        64 << 10,
        SIZE,
        "messages",
        "most that one read returns, but for the rest of a long message (line, u32)",
        unit="bytes",
        low=1,
        high=16 << 20,
    )
    reply: str = option(
        "system: {message}",
        TEXT,
        "messages",
        "the answer; {message} and {peer} are filled in, {{ and }} are braces",
        metavar="TEMPLATE",
        empty=True,
    )
    hook: str | None = option(
        None,
        TEXT,
        "messages",
        "a function that answers a message: bytes to bytes, or None for no answer",
        metavar="MODULE:FUNCTION",
        none="none",
    )
    hook_batch: str | None = option(
        None,
        TEXT,
        "messages",
        "the same for a list of messages, which returns a list",
        metavar="MODULE:FUNCTION",
        none="none",
    )

    max_message: int = option(1 << 20, SIZE, "limits", "longest message (line, u32)", unit="bytes", low=1, high=1 << 30)
    max_connections: int | None = option(
        None,
        COUNT,
        "limits",
        "clients served at a time; more wait in the backlog",
        low=1,
        high=MOST_CONNECTIONS,
        none=f"the descriptor limit less {DESCRIPTOR_RESERVE}",
    )
    idle_timeout: float = option(
        300.0,
        DURATION,
        "limits",
        "clients without progress for so long are closed",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
        zero="never",
    )
    message_timeout: float = option(
        30.0,
        DURATION,
        "limits",
        "clients that do not finish a message so long after its first byte are closed (line, u32)",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
        zero="never",
    )
    write_timeout: float = option(
        30.0,
        DURATION,
        "limits",
        "clients that take no byte of their answers for so long are closed",
        unit="seconds",
        low=0.001,
        high=LONGEST_S,
        zero="never",
    )
    max_buffered: int = option(
        256 << 20,
        SIZE,
        "limits",
        "memory for unfinished messages and answers not taken, in equal shares of the loops; when it is full, who holds"
        " the most is closed; a message needs up to 5 times its bytes",
        unit="bytes",
        low=1 << 20,
        high=1 << 44,
    )
    grace: float = option(
        10.0,
        DURATION,
        "limits",
        "how long a stop waits for clients that are owed answers",
        unit="seconds",
        high=LONGEST_S,
    )

    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info", TEXT, "logging", "least level that is logged", choices=("debug", "info", "warning", "error")
    )
    log_format: Literal["text", "json"] = option(
        "text", TEXT, "logging", "lines as text, or one JSON object each", choices=("text", "json")
    )
    log_rate: int = option(
        200,
        COUNT,
        "logging",
        "lines about clients a second, for each loop",
        unit="lines a second",
        high=1_000_000,
        zero="none",
    )

    poller: Literal["auto", "kqueue", "epoll", "poll", "select"] = option(
        "auto",
        TEXT,
        "advanced",
        "the system call under kevent()",
        choices=("auto", "kqueue", "epoll", "poll", "select"),
    )
    spin: float = option(
        0.0,
        DURATION,
        "advanced",
        "how long a loop whose events follow each other closely looks for the next ones before it sleeps",
        unit="seconds",
        high=1.0,
        zero="not at all",
    )
    batch: int = option(1_024, COUNT, "advanced", "events that one wait returns at most", low=1, high=65_536)
    loops: int = option(1, COUNT, "advanced", "event loops, each in a thread of its own", low=1, high=256)

    def __post_init__(self) -> None:
        for name in OPTIONS:
            object.__setattr__(self, name, check(name, getattr(self, name), label=name))
        for name, rival in RIVALS:
            if getattr(self, name) != DEFAULTS[name] and getattr(self, rival) != DEFAULTS[rival]:
                raise ConfigError(f"{name} and {rival} cannot both act: leave one of them out")
        if self.allow is not None or self.deny is not None:
            from kqnative import networks

            networks.of(self.allow, self.deny)
        _check_with_core(self)


OPTIONS = options_of(Config)
DEFAULTS = defaults_of(Config)


def check(name: str, value: object, *, label: str) -> Any:
    """The value of one field; ConfigError under this label if it is wrong."""
    return OPTIONS[name].check(value, label=label)


def parse(name: str, text: str, *, label: str) -> Any:
    """The value of one field from its text; ConfigError under this label if it is wrong."""
    return OPTIONS[name].parse(text, label=label)


def variable(name: str) -> str:
    """A field's variable in the environment."""
    return "KQNATIVE_" + name.upper()


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
