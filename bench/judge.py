"""What rounds come to: medians, the ratio of each round's two servers, tables, and whether targets were met."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from common import verdict
from scenarios import Scenario, Target


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario's results. The rounds of all servers have the same order, so those of one index are neighbours."""

    scenario: Scenario
    seconds: float
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # a server, and why there is nothing of it

    def values(self, server: str, figure: str = "") -> list[float]:
        return [one[figure or self.scenario.figure] for one in self.rounds.get(server, [])]

    def median(self, server: str, figure: str = "") -> float:
        return statistics.median(self.values(server, figure))

    def ratios(self, ours: str, other: str) -> list[float]:
        """Of each round."""
        pairs = zip(self.values(ours), self.values(other), strict=False)
        return [this / that for this, that in pairs if that > 0]

    def noise(self) -> float:
        """By what factor the control was off the server that it repeats, by the median; 1 without one."""
        factors = [1.0]
        for control in self.rounds:
            if control.endswith(" again"):
                ratios = self.ratios(control, control.removesuffix(" again"))
                off = [max(ratio, 1 / ratio) for ratio in ratios if ratio > 0]
                factors += [statistics.median(off)] if off else []
        return max(factors)


@dataclass(frozen=True, slots=True)
class Judgement:
    target: Target
    values: list[float]  # of each round; empty: could not be judged
    met: bool | None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if self.met is None:
            return f"{self.target}: not judged"
        return f"{self.target}: {self.median:.3g} ({spread(self.values)}): {verdict(self.met)}"


def judge(outcome: Outcome) -> list[Judgement]:
    return [judge_one(outcome, target) for target in outcome.scenario.targets]


def judge_one(outcome: Outcome, target: Target) -> Judgement:
    values = outcome.ratios(target.ours, target.other) if target.other else outcome.values(target.ours)
    if not values:
        return Judgement(target, values, None)
    median = statistics.median(values)
    room = outcome.noise() if target.or_noise else 1.0
    met = True
    if target.at_least is not None:
        met = median >= min(target.at_least, 1 / room if target.or_noise else target.at_least)
    if target.at_most is not None:
        met = met and median <= max(target.at_most, room if target.or_noise else target.at_most)
    return Judgement(target, values, met)


# ---- tables

FIGURES = {  # heading and format; "rate" comes in the scenario's unit
    "rate": ("messages/s", ",.0f"),
    "cpu_us": ("CPU us", ".2f"),
    "client_us": ("client us", ".2f"),
    "bytes_each": ("bytes each", ",.0f"),
    "p50_us": ("p50 us", ",.0f"),
    "p99_us": ("p99 us", ",.0f"),
    "p999_us": ("p99.9 us", ",.0f"),
    "asked_rate": ("asked/s", ",.0f"),
    "invalid": ("invalid", ".0f"),
    "ms": ("ms", ",.1f"),
    "cpu_percent": ("CPU %", ".2f"),
}


def spread(values: list[float]) -> str:
    """From the lowest to the highest."""
    return f"{min(values):.2f}-{max(values):.2f}"


def table(outcome: Outcome) -> list[list[str]]:
    """A heading, and a row for each server, missing ones too."""
    scenario = outcome.scenario
    others = other_figures(outcome)
    heading, _ = FIGURES[scenario.figure]
    first = scenario.servers[0]
    names = [FIGURES[figure][0] for figure in others]
    compared = [f"{first} / it", "in rounds"] if scenario.compared else []
    rows = [["server", scenario.unit or heading, "lowest", "highest", *names, *compared]]
    for server in scenario.servers:
        if server in outcome.missing:
            word = "failed" if outcome.missing[server].startswith("failed") else "missing"
            rows.append([server, word, *[""] * (len(rows[0]) - 2)])
        elif outcome.rounds.get(server):
            rows.append([server, *cells(outcome, server, others)])
    return rows


def notes(outcome: Outcome) -> list[str]:
    """What has to be said below the table."""
    lines = [f"{server}: {reason}" for server, reason in outcome.missing.items()]
    return [*lines, outcome.scenario.note] if outcome.scenario.note else lines


def other_figures(outcome: Outcome) -> list[str]:
    for rounds in outcome.rounds.values():
        for one in rounds:
            return [figure for figure in one if figure != outcome.scenario.figure]
    return []


def cells(outcome: Outcome, server: str, others: list[str]) -> Iterator[str]:
    scenario = outcome.scenario
    values = outcome.values(server)
    for value in (outcome.median(server), min(values), max(values)):
        yield show(scenario, scenario.figure, value)
    for figure in others:
        yield show(scenario, figure, outcome.median(server, figure))
    if not scenario.compared:
        return
    ratios = outcome.ratios(scenario.servers[0], server) if server != scenario.servers[0] else []
    yield f"{statistics.median(ratios):.2f}" if ratios else ""
    yield spread(ratios) if ratios else ""


def show(scenario: Scenario, figure: str, value: float) -> str:
    if figure == "rate" and scenario.unit == "MB/s":
        value *= scenario.message_bytes / 1e6
    return format(value, FIGURES[figure][1])


# ---- JSON


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All that was measured, and what it comes to."""
    return {
        "title": outcome.scenario.title,
        "seconds": outcome.seconds,
        "medians": {server: outcome.median(server) for server, rounds in outcome.rounds.items() if rounds},
        "targets": [
            {
                "target": str(one.target),
                "median": one.median if one.values else None,
                "rounds": one.values,
                "met": one.met,
            }
            for one in judge(outcome)
        ],
        "rounds": outcome.rounds,
        "missing": outcome.missing,
    }


def from_json(scenario: Scenario, saved: dict[str, Any]) -> Outcome:
    return Outcome(scenario, saved["seconds"], saved["rounds"], saved["missing"])
