"""A server's counters, in the words that the C core, the log and metrics use too."""

from dataclasses import dataclass, field, fields
from typing import Any

REASONS = (
    "eof",
    "reset",
    "idle",
    "message_timeout",
    "write_timeout",
    "too_long",
    "hook",
    "denied",
    "buffered",
    "stopped",
    "cut",
    "error",
)


def _no_closes() -> dict[str, int]:
    return dict.fromkeys(REASONS, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """One moment's counters, summed over the loops.

    accepted = open + handed_over + the sum of closed, and
    messages = answered + declined + failed + unanswered + pending, at every moment.
    """

    accepted: int = 0
    open: int = 0
    handed_over: int = 0  # on their way from the accepting loop to another
    closed: dict[str, int] = field(default_factory=_no_closes)  # by reason; every reason is there
    messages: int = 0
    answered: int = 0  # the buffer that held the answer was written whole
    declined: int = 0  # the hook returned None
    failed: int = 0  # the hook raised, or returned a wrong type
    unanswered: int = 0  # the connection ended first
    pending: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_discarded: int = 0  # read only to be thrown away, while a connection ended
    log_dropped: int = 0  # lines that found their loop's journal full
    accept_errors: dict[str, int] = field(default_factory=dict)  # by the errno's name; "other": all that share a place
    accept_pauses: int = 0
    stale_events: int = 0
    turns: int = 0
    events: int = 0

    def __add__(self, other: "Stats") -> "Stats":
        sums: dict[str, Any] = {f.name: _sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(Stats)}
        return Stats(**sums)

    def summary(self) -> str:
        """The counters that are not 0: `accepted 3, messages 17, answered 17, …, closed eof 3`."""
        parts, by_name = [], []
        for f in fields(Stats):
            value = getattr(self, f.name)
            if isinstance(value, dict):
                by_name += [f"{f.name} {name} {count}" for name, count in value.items() if count]
            elif value:
                parts.append(f"{f.name} {value}")
        return ", ".join(parts + by_name) or "accepted 0"


def _sum(one: int | dict[str, int], other: int | dict[str, int]) -> int | dict[str, int]:
    if isinstance(one, int):
        assert isinstance(other, int)
        return one + other
    assert isinstance(other, dict)
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
