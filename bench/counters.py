"""What a message costs, in figures that repeat: instructions and allocations by callgrind, system calls by strace.

    python bench/counters.py                          a table, with the stored ceilings beside it
    python bench/counters.py --functions 'line 32 B'  and which functions the instructions are in
    python bench/counters.py --store                  makes what is measured the ceilings of this compiler

How they are counted stands in instructions.py and system_calls.py. A figure may be 5 % above its ceiling; where there
is none for the compiler, it is only shown.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import instructions
import system_calls
from common import print_table, require_linux, verdict

CEILINGS = Path(__file__).with_name("ceilings.json")
ROOM = 1.05
POLLER_AT_MOST = 60  # instructions of the poller for an event
POLLER_SCENARIO = instructions.ONE_LOOP
LOOPS_DIFFER_AT_MOST = 0.01  # instructions of a message with two loops, against one


@dataclass(frozen=True, slots=True)
class Figure:
    """Something counted, and what it may be at most; None: nobody has said."""

    name: str
    value: float
    at_most: float | None

    @property
    def is_met(self) -> bool:
        """Whether it is no more than it may be."""
        return self.at_most is None or self.value <= self.at_most


def stored() -> dict[str, float]:
    """What a message cost with this compiler when it was last stored, by scenario; empty for another compiler."""
    ceilings: dict[str, dict[str, float]] = json.loads(CEILINGS.read_text())
    return ceilings.get(instructions.compiler_name(), {})


def store(costs: dict[str, instructions.Cost]) -> None:
    """Replaces the ceilings of this compiler."""
    ceilings = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    ceilings[instructions.compiler_name()] = {name: round(cost.instructions, 1) for name, cost in costs.items()}
    CEILINGS.write_text(json.dumps(ceilings, indent=2, sort_keys=True) + "\n")


def figures_of(costs: dict[str, instructions.Cost]) -> list[Figure]:
    """Each scenario's instructions beside its ceiling, and what holds with every compiler."""
    ceilings = stored()
    figures = [
        Figure(
            f"{name}: instructions a message", cost.instructions, ROOM * ceilings[name] if name in ceilings else None
        )
        for name, cost in costs.items()
    ]
    figures += [Figure(f"{name}: allocations a message", cost.allocations, 0) for name, cost in costs.items()]
    poller = costs[POLLER_SCENARIO].poller_instructions_per_event
    assert poller is not None
    figures.append(Figure(f"{POLLER_SCENARIO}: instructions of the poller an event", poller, POLLER_AT_MOST))
    one, two = (costs[name].instructions for name in (instructions.ONE_LOOP, instructions.TWO_LOOPS))
    figures.append(Figure("instructions with two loops, off those with one", abs(two / one - 1), LOOPS_DIFFER_AT_MOST))
    return figures


def figure_of_calls(calls: dict[str, float]) -> Figure:
    """All of them."""
    total = sum(calls.values())
    return Figure("stream 64 B: system calls a message", total, system_calls.AT_MOST)


def measure() -> dict[str, Any]:
    """All that can be counted here, as it goes into the results; "missing" names the tools that are not installed."""
    missing = [tool for tool in ("valgrind", "strace") if shutil.which(tool) is None]
    measured: dict[str, Any] = {"compiler": instructions.compiler_name(), "missing": missing}
    figures = []
    if "valgrind" not in missing:
        costs = instructions.costs()
        figures += figures_of(costs)
        measured["costs"] = {
            name: {
                "instructions_per_message": cost.instructions,
                "library_instructions_per_message": cost.library_instructions,
                "allocations_per_message": cost.allocations,
                "poller_instructions_per_event": cost.poller_instructions_per_event,
                "functions": cost.functions,
            }
            for name, cost in costs.items()
        }
    if "strace" not in missing:
        calls = system_calls.calls_per_message()
        figures.append(figure_of_calls(calls))
        measured["system_calls_per_message"] = calls
    measured["figures"] = [
        {"name": one.name, "value": one.value, "at_most": one.at_most, "is_met": one.is_met} for one in figures
    ]
    return measured


def print_costs(costs: dict[str, dict[str, Any]]) -> None:
    """A line for each scenario."""
    ceilings = stored()
    rows = [["a message", "instructions", "stored", "C library's", "allocations", "poller's, an event"]]
    for name, cost in costs.items():
        poller = cost["poller_instructions_per_event"]
        rows.append(
            [
                name,
                f"{cost['instructions_per_message']:.1f}",
                f"{ceilings[name]:.1f}" if name in ceilings else "-",
                f"{cost['library_instructions_per_message']:.1f}",
                f"{cost['allocations_per_message']:.3f}",
                "-" if poller is None else f"{poller:.1f}",
            ]
        )
    print_table(rows)


def print_functions(cost: dict[str, Any], most: int = 25) -> None:
    """Where a scenario's instructions are."""
    functions = list(cost["functions"].items())[:most]
    print()
    print_table([["function", "instructions"], *([name, f"{count:.2f}"] for name, count in functions)])


def print_calls(calls: dict[str, float]) -> None:
    """A line for each system call."""
    print()
    rows = [["system call", "a message"], *([name, f"{count:.4f}"] for name, count in calls.items())]
    print_table([*rows, ["all", f"{sum(calls.values()):.4f}"]])


def print_figures(figures: list[dict[str, Any]]) -> bool:
    """Those that have a bound; whether all keep it."""
    print()
    rows = [["figure", "counted", "at most", ""]]
    for one in figures:
        if one["at_most"] is not None:
            rows.append([one["name"], f"{one['value']:.4g}", f"{one['at_most']:.4g}", verdict(one["is_met"])])
    print_table(rows)
    return all(one["is_met"] for one in figures)


def main() -> int:
    """The command."""
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true", help="make what is measured the ceilings of this compiler")
    names = [one.name for one in instructions.SCENARIOS]
    parser.add_argument("--functions", metavar="SCENARIO", choices=names, help="one of: " + ", ".join(names))
    options = parser.parse_args()
    if options.store:
        if shutil.which("valgrind") is None:
            sys.exit("this needs valgrind")
        store(instructions.costs())
        print(f"stored for {instructions.compiler_name()}")
        return 0
    measured = measure()
    print(f"compiler: {measured['compiler']}")
    if "costs" in measured:
        print_costs(measured["costs"])
        if options.functions:
            print_functions(measured["costs"][options.functions])
    if "system_calls_per_message" in measured:
        print_calls(measured["system_calls_per_message"])
    for tool in measured["missing"]:
        print(f"missing: {tool}")
    return 0 if print_figures(measured["figures"]) else 1


if __name__ == "__main__":
    sys.exit(main())
