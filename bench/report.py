"""Writes the tables and pictures of docs/performance.md from bench/results/performance.json.

A table stands between <!-- begin: NAME --> and <!-- end: NAME -->, where NAME is a scenario's, or one of BLOCKS. All
else on the page is written by hand."""

import json
import re
import statistics
import sys
from collections.abc import Callable
from typing import Any

import load
import pictures
from common import BENCH, verdict
from judge import Judgement, Outcome, from_json, judge, notes, table
from scenarios import SCENARIOS, Target

SAVED = BENCH / "results" / "performance.json"
POLLERS = BENCH / "results" / "pollers.json"
PAGE = BENCH.parent / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)
NOT_MEASURED = "Not measured."


def markdown(rows: list[list[str]]) -> str:
    """The first column to the left, all others to the right."""
    heading, *body = rows
    lines = [heading, ["---", *["--:"] * (len(heading) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_scenario(outcome: Outcome) -> str:
    name = outcome.scenario.name
    rounds = max((len(each) for each in outcome.rounds.values()), default=0)
    heading = f"**{outcome.scenario.title}** (`{name}`; rounds: {rounds} of {outcome.seconds:g} s)"
    said = [f"- {line}" for line in notes(outcome)]
    return "\n\n".join(part for part in (heading, markdown(table(outcome)), "\n".join(said)) if part)


def targets(saved: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    """All of them, whether they were met or not: a row for those of one scenario that have one bound."""
    rows: dict[tuple[str, str], list[Judgement]] = {}
    for name, outcome in outcomes.items():
        for one in judge(outcome):
            rows.setdefault((f"`{name}`", bound(one.target)), []).append(one)
    lines = [[name, what, ", ".join(map(result, all_)), word(all_)] for (name, what), all_ in rows.items()]
    return markdown([["scenario", "wanted", "measured", ""], *counted_targets(saved), *lines]).replace("--:", "---")


def bound(target: Target) -> str:
    sign, value = ("at least", target.at_least) if target.at_least is not None else ("at most", target.at_most)
    unit = " times" if target.other else ""
    return f"{target.ours} {sign} {value:g}{unit}{', or as near as the control' if target.or_noise else ''}"


def result(one: Judgement) -> str:
    if not one.values:
        return f"{one.target.other or one.target.ours} not measured"
    mark = "**" if one.met is False else ""
    return f"{mark}{one.target.other or ''} {one.median:.2f}{mark}".replace("** ", "**").strip()


def word(all_: list[Judgement]) -> str:
    verdicts = {one.met for one in all_}
    return "**missed**" if False in verdicts else "met" if True in verdicts else "not judged"


def counted_targets(saved: dict[str, Any]) -> list[list[str]]:
    """Of the counters. The stored ceilings, which only tell of changes, are not among them."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in saved.get("counters", {}).get("figures", []):
        what = one["name"].rpartition(": ")[2]
        if one["at_most"] is not None and what != "instructions a message":
            groups.setdefault(f"{what}: at most {one['at_most']:g}", []).append(one)
    return [
        ["`counters`", what, f"{max(one['value'] for one in all_):.3g}", verdict(all(one["is_met"] for one in all_))]
        for what, all_ in groups.items()
    ]


def machine(saved: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    facts = saved["run"]["machine"]
    commits = sorted({f"{each['commit']} ({each['tree']} tree, {each['date']})" for each in measured(saved)})
    kind = "virtual machine" if facts["virtual"] else "machine"
    rows = [
        ["what", "which"],
        ["processor", f"{facts['processor']}, {facts['cores']} cores of a {kind}"],
        ["kernel", f"{facts['kernel']}, {facts['libc']}"],
        ["Python", saved["run"]["python"]],
        ["C compiler", saved["run"]["compiler"]],
        ["commit", ", ".join(commits)],
    ]
    return markdown(rows)


def measured(saved: dict[str, Any]) -> list[dict[str, str]]:
    return [each["measured"] for each in saved["scenarios"].values()]


def peers(saved: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    rows = [["server", "written in", "what it is", "version"]]
    for name, peer in saved["run"]["peers"].items():
        rows.append([name, peer["language"], peer["about"], peer["version"]])
    rows += [[name, "", f"missing: {reason}", ""] for name, reason in saved["run"]["missing"].items()]
    return markdown(rows).replace("--:", "---")


def counted(saved: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    if "counters" not in saved:
        return NOT_MEASURED
    counters = saved["counters"]
    rows = [["a message", "instructions", "C library's, beside them", "allocations", "poller's instructions, an event"]]
    for name, cost in counters.get("costs", {}).items():
        poller = cost["poller_instructions_per_event"]
        figures = [cost[f"{what}_per_message"] for what in ("instructions", "library_instructions", "allocations")]
        rows.append([name, *(f"{figure:.1f}" for figure in figures), "" if poller is None else f"{poller:.1f}"])
    calls = counters.get("system_calls_per_message", {})
    said = f"System calls of a message (stream 64 B): {sum(calls.values()):.3f}" if calls else ""
    named = ", ".join(f"`{name}` {count:.3f}" for name, count in calls.items() if count >= 0.001)
    missing = ", ".join(counters["missing"])
    return "\n\n".join(
        part
        for part in (
            f"Compiler: {counters['compiler']}.",
            markdown(rows) if len(rows) > 1 else "",
            f"{said}, of which {named}." if said else "",
            f"Missing: {missing}." if missing else "",
        )
        if part
    )


def compared_pollers(saved: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    """From the file of `make compare-pollers`."""
    if not POLLERS.exists():
        return NOT_MEASURED
    points = json.loads(POLLERS.read_text())["points"]
    pollers = list(dict.fromkeys(point["poller"] for point in points))
    rows = [
        ["idle connections", *(f"{name}, messages/s" for name in pollers), *(f"{name}, CPU us" for name in pollers)]
    ]
    for idle in sorted({point["idle"] for point in points}):
        here = {point["poller"]: point for point in points if point["idle"] == idle}
        rates = [f"{statistics.median(here[name]['rates']):,.0f}" if name in here else "" for name in pollers]
        costs = [f"{statistics.median(here[name]['cpu_us']):.2f}" if name in here else "" for name in pollers]
        rows.append([f"{idle:,}", *rates, *costs])
    return markdown(rows)


BLOCKS: dict[str, Callable[[dict[str, Any], dict[str, Outcome]], str]] = {
    "targets": targets,
    "machine": machine,
    "peers": peers,
    "counters": counted,
    "pollers": compared_pollers,
}


def fill(page: str, saved: dict[str, Any], outcomes: dict[str, Outcome]) -> str:
    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name in BLOCKS:
            text = BLOCKS[name](saved, outcomes)
        else:
            text = one_scenario(outcomes[name]) if name in outcomes else NOT_MEASURED
        return f"{begin}{text}\n{end}"

    without = [name for name in outcomes if f"<!-- begin: {name} -->" not in page]
    if without:
        sys.exit(f"{PAGE.name} has no place for {', '.join(without)}")
    return MARKED.sub(block, page)


def main() -> int:
    if not SAVED.exists():
        sys.exit(f"no {SAVED.relative_to(BENCH.parent)}: that takes a run with --publish")
    saved = json.loads(SAVED.read_text())
    known = {scenario.name: scenario for scenario in (*SCENARIOS, *load.SCENARIOS)}
    order = [name for name in known if name in saved["scenarios"]]
    outcomes = {name: from_json(known[name], saved["scenarios"][name]) for name in order}
    PAGE.write_text(fill(PAGE.read_text(), saved, outcomes))
    for path in pictures.draw(outcomes, PAGE.parent):
        print(f"wrote {path.relative_to(BENCH.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
