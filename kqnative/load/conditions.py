"""What a run must not be, or must be: `p99 > 5ms`, `errors > 0.1%`, `rate < 45k`, `not valid`."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from kqnative import values
from kqnative.errors import ConfigError
from kqnative.load.result import LoadResult
from kqnative.options import shown

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
PLAIN_FIGURES: dict[str, Callable[[LoadResult], float | None]] = {
    "rate": lambda result: result.messages_per_second,
    "errors": lambda result: result.errors["total"],
    "messages": lambda result: result.messages,
    "unsent": lambda result: result.unsent,
    "reconnects": lambda result: result.reconnects,
}
NAMES = "min mean max p50 p99.9 (any percentile) rate errors messages unsent reconnects"

_PERCENTILE = re.compile(r"p(\d{1,2}(?:[._]\d{1,6})?|100)")
_PARTS = re.compile(
    r"\s*(?P<figure>[A-Za-z0-9_.]*)\s*(?P<comparison>[<>=!]*)\s*(?P<value>[0-9.]*)\s*(?P<unit>[^\s]*)\s*"
)


def percentile_of(figure: str) -> float | None:
    """99.9 for `p99.9` or `p99_9`; None for what is no percentile."""
    found = _PERCENTILE.fullmatch(figure)
    return float(found[1].replace("_", ".")) if found else None


def latency_us(figure: str, result: LoadResult) -> float | None:
    """A latency of a result, in microseconds."""
    percent = percentile_of(figure)
    return result.latency_us[figure] if percent is None else result.latency.percentile_us(percent)


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of one figure; `not valid` is one of its own."""

    text: str
    figure: str
    comparison: str = ""
    value: float = 0.0  # microseconds, messages/s, a count, or percent
    is_percent: bool = False

    def holds(self, result: LoadResult) -> bool | None:
        """Whether it holds of this result; None: there is no such figure in it."""
        if self.figure == "valid":
            return not result.valid
        if self.is_percent:
            actual = 100 * result.errors["total"] / result.sent if result.sent else None
        elif self.figure in PLAIN_FIGURES:
            actual = PLAIN_FIGURES[self.figure](result)
        else:
            actual = latency_us(self.figure, result)
        return None if actual is None else COMPARISONS[self.comparison](actual, self.value)


def parse(text: str, label: str) -> Condition:
    """The condition that a text says. Raises ConfigError, with the position of what is wrong."""
    if re.fullmatch(r"\s*not\s+valid\s*", text):
        return Condition(text, "valid")
    found = _PARTS.match(text)
    assert found is not None  # every part of it may be empty
    figure, comparison, value = found["figure"], found["comparison"], found["value"]
    is_latency = figure in ("min", "mean", "max") or percentile_of(figure) is not None
    if not is_latency and figure not in PLAIN_FIGURES:
        raise _wrong(label, text, found.start("figure"), f"there is no such figure; there are: {NAMES}")
    if comparison not in COMPARISONS:
        raise _wrong(label, text, found.start("comparison"), "here should be < <= > or >=")
    if not value:
        raise _wrong(label, text, found.start("value"), "here should be a number")
    if found.end() < len(text):
        raise _wrong(label, text, found.end(), "it should end with the value")
    amount, is_percent = _amount(found, figure, is_latency, text, label)
    return Condition(text, figure, comparison, amount, is_percent)


def _amount(found: re.Match[str], figure: str, is_latency: bool, text: str, label: str) -> tuple[float, bool]:
    value, unit = found["value"], found["unit"]
    if is_latency and unit not in values.DURATION_UNITS:
        raise _wrong(label, text, found.start("unit"), f"a latency needs its unit, as in {value}ms: us ms s m h")
    is_percent = figure == "errors" and unit == "%"
    try:
        if is_latency:
            return values.parse_duration(value + unit) * 1e6, False
        return values.parse_rate(value if is_percent else value + unit), is_percent
    except ValueError as error:
        raise _wrong(label, text, found.start("value"), f"here should be {error}") from None


def _wrong(label: str, text: str, position: int, why: str) -> ConfigError:
    return ConfigError(f"{label}: {shown(text)} is wrong at character {position + 1}: {why}")


def failed(conditions: list[Condition], result: LoadResult) -> list[str]:
    """Those that fail a run: they hold, or nothing can be said because nothing was measured."""
    lines = []
    for one in conditions:
        holds = one.holds(result)
        if holds is None:
            lines.append(f"{one.text.strip()} (nothing was measured)")
        elif holds:
            lines.append(one.text.strip())
    return lines
