"""kqnative compare: two JSON reports of the load tester, figure by figure."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kqnative import cli
from kqnative.errors import ConfigError
from kqnative.options import shown

if TYPE_CHECKING:
    from rich.table import Table

USAGE = "kqnative compare [options] OLD.json NEW.json"
DESCRIPTION = "Compares two reports that 'kqnative load --json' wrote."
EPILOG = """\
A figure is the same when both runs' values lie inside the spread of the other
run's seconds: the seconds' own rates for rate, their p50 for min, mean and p50,
their p99 for what lies above.

examples:
  kqnative compare old.json new.json
  kqnative compare old.json new.json --fail-if 'p99 +10%' --fail-if 'rate -5%'
"""

SCHEMA = "kqnative.load/1"
SHORT_INTERVAL_S = 0.5  # of the measured time's seconds, a shorter rest says nothing of the spread

_CHANGE = re.compile(r"\s*(\S+)\s+([+-])\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both reports."""

    name: str
    old: float | None
    new: float | None
    old_spread: tuple[float, float] | None  # the least and the greatest it may have been, by the run's seconds
    new_spread: tuple[float, float] | None
    more_is_better: bool = False

    @property
    def change(self) -> float | None:
        """In percent of the old value; None where that can't be said."""
        if self.old is None or self.new is None or (self.old == 0 and self.new != 0):
            return None
        return 100 * (self.new - self.old) / self.old if self.old else 0.0

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `same`; a dash where there is nothing to compare."""
        if self.old is None or self.new is None:
            return "-"
        if self.old == self.new or (_inside(self.new, self.old_spread) and _inside(self.old, self.new_spread)):
            return "same"
        return "better" if (self.new > self.old) == self.more_is_better else "worse"


def main(arguments: list[str]) -> int:
    """Compares; the exit code."""
    options = _parser().understand(arguments)
    if isinstance(options, int):
        return options
    try:
        if len(options["reports"]) != 2:
            raise ConfigError("give two reports, the old one and the new one; see: kqnative compare --help")
        old, new = map(_read, options["reports"])
        if not options["force"]:
            _check_settings(old, new)
        figures = list(figures_of(old, new))
        broken = [one for one in options["fail_if"] or () if _breaks(one, figures)]
    except ConfigError as error:
        return cli.complain(str(error), cli.USAGE)
    code = cli.say(_text(figures))
    for one in broken:
        code = cli.complain(f"failed condition: {one.strip()}", cli.FAILED)
    return code


def figures_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Figure]:
    """All figures that both reports can have."""
    rates = [_seconds(one, lambda second: second["messages"] / second["seconds"]) for one in (old, new)]
    yield _figure("rate", [one["messages_per_second"] for one in (old, new)], rates, more_is_better=True)
    yield _figure("errors", [one["errors"]["total"] for one in (old, new)], [[], []])
    for key in (key for key in old["latency_us"] if key in new["latency_us"]):
        near = "p50_us" if key in ("min", "mean", "p50") else "p99_us"
        spreads = [_seconds(one, lambda second, near=near: second[near]) for one in (old, new)]
        yield _figure(key.replace("_", "."), [one["latency_us"][key] for one in (old, new)], spreads)


def _figure(name: str, pair: list[float | None], seconds: list[list[float]], *, more_is_better: bool = False) -> Figure:
    spreads = [_spread(value, of_run) for value, of_run in zip(pair, seconds, strict=True)]
    return Figure(name, pair[0], pair[1], spreads[0], spreads[1], more_is_better)


def _seconds(report: Mapping[str, Any], figure: Any) -> list[float]:
    """A figure of each second of the measured time."""
    within = [
        one
        for one in report["intervals"]
        if one["start"] < report["seconds"] and (one["seconds"] >= SHORT_INTERVAL_S or len(report["intervals"]) == 1)
    ]
    return sorted(value for value in map(figure, within) if value is not None)


def _spread(value: float | None, of_seconds: list[float]) -> tuple[float, float] | None:
    """How far a figure may lie from its value, as the run's seconds lie from their median."""
    if value is None or not of_seconds:
        return None
    middle = of_seconds[len(of_seconds) // 2]
    if not middle:
        return None
    return value * of_seconds[0] / middle, value * of_seconds[-1] / middle


def _inside(value: float, spread: tuple[float, float] | None) -> bool:
    return spread is not None and spread[0] <= value <= spread[1]


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: this is not JSON: {error}") from error
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise ConfigError(f"{path}: its schema is {shown(schema)}, not {SCHEMA}; write it with: kqnative load --json")
    try:
        list(figures_of(report, report))
        settings = dict(report["settings"])
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise ConfigError(f"{path}: this is no whole report; write it with: kqnative load --json") from None
    if report.get("probes"):
        settings["rate"] = None  # it is what was found, not what was asked for
    return {**report, "settings": settings}


def _check_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = old["settings"], new["settings"]
    different = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if different:
        parts = [f"{key} {shown(before.get(key))} and {shown(after.get(key))}" for key in different]
        raise ConfigError(f"the runs had different settings: {'; '.join(parts)}; to compare all the same: --force")


def _breaks(condition: str, figures: list[Figure]) -> bool:
    """Whether `p99 +10%` (it grew by more) or `rate -5%` (it shrank by more) holds."""
    found = _CHANGE.fullmatch(condition)
    if found is None:
        raise ConfigError(
            f"--fail-if: {shown(condition)} is not a figure and its change, as in 'p99 +10%' or 'rate -5%'"
        )
    name = found[1].replace("_", ".")
    figure = next((one for one in figures if one.name == name), None)
    if figure is None:
        names = ", ".join(one.name for one in figures)
        raise ConfigError(f"--fail-if: {shown(condition)} names no figure of both reports; there are: {names}")
    if figure.new is None:
        return True  # nothing was measured, so nothing can be said for it
    if figure.change is None:
        return found[2] == "+"  # from nothing to something
    change = figure.change if found[2] == "+" else -figure.change
    return change > float(found[3])


def _text(figures: list[Figure]) -> str:
    from rich.console import Console

    from kqnative.load.report import drawn

    return drawn(Console(), lambda console: console.print(_table(figures)))


def _table(figures: list[Figure]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for name, justify in (("figure", "left"), ("old", "right"), ("new", "right"), ("change", "right"), ("", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    colours = {"better": "green", "worse": "red"}
    for one in figures:
        change = "-" if one.change is None else f"{one.change:+.1f} %"
        style = colours.get(one.verdict, "")
        table.add_row(one.name, _shown(one, one.old), _shown(one, one.new), change, one.verdict, style=style)
    return table


def _shown(figure: Figure, value: float | None) -> str:
    from kqnative.load.report import show_rate, show_us

    if figure.name == "rate":
        return show_rate(value)
    return f"{value:,}" if figure.name == "errors" else show_us(value)


def _parser() -> cli.Parser:
    parser = cli.Parser("compare", usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("reports", nargs="*", metavar="REPORT", help="the old one, then the new one")
    parser.general.add_argument("--force", action="store_true", help="compare runs with different settings too")
    parser.general.add_argument(
        "--fail-if",
        action="append",
        metavar="CHANGE",
        help="exit with 1 if a figure changed by more: 'p99 +10%%', 'rate -5%%' (default: none; repeatable)",
    )
    return parser
