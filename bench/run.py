"""`make bench`: kqnative beside its peers, round after round in turn. Prints tables and saves JSON.

Ends with 1 if a target was missed, and with 0 otherwise."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import counters
import facts
import load
import measure
from common import BENCH, build, pinned, print_table, require_linux
from judge import Outcome, as_json, judge, notes, table
from scenarios import QUICK, Scenario
from scenarios import SCENARIOS as OF_SERVERS
from servers import BY_NAME

SCENARIOS = [*OF_SERVERS, *load.SCENARIOS]
RESULTS = BENCH / "results"
COUNTERS = "counters"  # the one name that is no scenario of rounds
PUBLISHED = RESULTS / "performance.json"
SECONDS = 0.8
QUICK_ROUNDS, QUICK_SECONDS = 3, 0.5


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def or_none(convert: Callable[[str], float]) -> Callable[[str], float | None]:
    """make hands over an empty word for what was not set."""

    def number(text: str) -> float | None:
        return convert(text) if text else None

    return number


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join([*(scenario.name for scenario in SCENARIOS), COUNTERS])
    parser.add_argument(
        "--scenario", type=names, default=[], metavar="A,B", help=f"only these, or their group: {known}"
    )
    parser.add_argument("--peer", type=names, default=[], metavar="A,B", help="kqnative, and only these beside it")
    parser.add_argument("--quick", action="store_true", help="a selection, 3 rounds of 0.5 s; not to be published")
    parser.add_argument("--rounds", type=or_none(int), metavar="N", help="rounds of each server (most have 7)")
    parser.add_argument("--seconds", type=or_none(float), metavar="S", help=f"length of a round ({SECONDS:g})")
    parser.add_argument("--publish", action="store_true", help=f"put the results into {PUBLISHED.name}")
    options = parser.parse_args()
    if options.quick and options.publish:
        parser.error("what --quick measures is not to be published")
    known_words = [word for word in options.scenario if any(belongs(one, word) for one in SCENARIOS)]
    unknown = [word for word in options.scenario if word not in (*known_words, COUNTERS)]
    known_servers = {server.split()[0] for scenario in SCENARIOS for server in scenario.servers}
    unknown += [word for word in options.peer if word not in known_servers]
    if unknown:
        parser.error(f"not known: {', '.join(unknown)}")
    return options


def belongs(scenario: Scenario, word: str) -> bool:
    return scenario.name == word or scenario.name.startswith(f"{word}_")


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that were asked for, with the servers that were."""
    wanted = []
    for scenario in SCENARIOS:
        if options.scenario and not any(belongs(scenario, word) for word in options.scenario):
            continue
        if options.quick and not options.scenario and scenario.name not in QUICK:
            continue
        servers = scenario.servers
        if options.peer:
            servers = tuple(one for one in servers if is_ours(one) or one.split()[0] in options.peer)
        elif options.quick and scenario.name in QUICK:
            servers = QUICK[scenario.name]
        targets = tuple(one for one in scenario.targets if one.ours in servers and (one.other or one.ours) in servers)
        rounds = options.rounds or (QUICK_ROUNDS if options.quick else scenario.rounds)
        wanted.append(replace(scenario, servers=servers, targets=targets, rounds=int(rounds)))
    return wanted


def is_ours(server: str) -> bool:
    return server.startswith("kqnative")


def prepare(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """Builds what is to be measured; returns which servers are missing, and why."""
    build("client/client.c")
    missing = {}
    for scenario in scenarios:
        for server in scenario.servers:
            name = server.split()[0]
            reason = load.missing(name) if scenario.kind == "load" else BY_NAME[name].prepare()
            if reason and name not in missing:
                missing[name] = reason
                print(f"{name} is missing: {reason}", flush=True)
    return missing


def run(scenario: Scenario, missing: dict[str, str], seconds: float) -> Outcome:
    """All rounds of all servers, in turn. One that fails is left, and the others go on."""
    measure_one = load.measure if scenario.kind == "load" else measure.measure
    outcome = Outcome(scenario, seconds)
    for server in scenario.servers:
        if server.split()[0] in missing:
            outcome.missing[server] = missing[server.split()[0]]
        else:
            outcome.rounds[server] = []
    for _ in range(scenario.rounds):
        for server in list(outcome.rounds):
            try:
                outcome.rounds[server].append(measure_one(scenario, server, seconds))
            except SystemExit as failure:
                outcome.missing[server] = f"failed: {str(failure).splitlines()[0]}"
                del outcome.rounds[server]
    return outcome


def show(outcome: Outcome) -> bool:
    """Prints the results; True unless a target was missed, or a server of ours failed."""
    print_table(table(outcome))
    judgements = judge(outcome)
    print(*notes(outcome), *judgements, "", sep="\n", flush=True)
    failed = any(is_ours(server) and reason.startswith("failed") for server, reason in outcome.missing.items())
    return not failed and all(judgement.met is not False for judgement in judgements)


def count(run_facts: dict[str, Any], commit: dict[str, str], path: Path) -> bool:
    """Instructions, allocations and system calls of a message: figures that repeat."""
    print("counters: what a message costs, counted", flush=True)
    counted = counters.measure()
    costs, calls = counted.get("costs", {}), counted.get("system_calls_per_message", {})
    for one in costs.values():
        one.pop("functions", None)  # thousands of lines, which `counters.py --functions` shows
    if costs:
        counters.print_costs(costs)
    if calls:
        counters.print_calls(calls)
    for tool in counted["missing"]:
        print(f"missing: {tool}")
    all_met = counters.print_figures(counted["figures"])
    print(flush=True)
    save(path, run_facts, counters=counted | {"measured": commit})
    return all_met


def save(path: Path, run_facts: dict[str, Any], scenarios: dict[str, Any] | None = None, **more: Any) -> None:
    """A line for each scenario. What the file has of others stays, so that one can be measured again."""
    saved = json.loads(path.read_text()) if path.exists() else {"run": run_facts, "scenarios": {}}
    peers = saved["run"]["peers"] | run_facts["peers"]
    missing = {name: why for name, why in (saved["run"]["missing"] | run_facts["missing"]).items() if name not in peers}
    saved |= {"run": run_facts | {"peers": peers, "missing": missing}, **more}
    lines = {name: json.dumps(one) for name, one in (saved.pop("scenarios") | (scenarios or {})).items()}
    top = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in saved.items())
    body = ",\n".join(f"{json.dumps(name)}: {line}" for name, line in lines.items())
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'{{\n{top}"scenarios": {{\n{body}\n}}\n}}\n')


def main() -> int:
    require_linux()
    options = read_options()
    scenarios = chosen(options)
    missing = prepare(scenarios)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    used = {server.split()[0] for scenario in scenarios for server in scenario.servers}
    run_facts = facts.of_this_run(options, used, missing)
    commit = facts.of_this_commit()
    path = PUBLISHED if options.publish else RESULTS / time.strftime("%Y-%m-%d-%H%M%S.json")
    if pinned(0, []) == [] or pinned(1, []) == []:
        print("Server and client are not pinned: that takes taskset and two cores.")
    all_met = True
    for scenario in scenarios:
        print(f"{scenario.name}: {scenario.title}; rounds: {scenario.rounds} of {seconds:g} s", flush=True)
        outcome = run(scenario, missing, seconds)
        all_met = show(outcome) and all_met
        save(path, run_facts, {scenario.name: as_json(outcome) | {"measured": commit}})
    if COUNTERS in options.scenario or not (options.scenario or options.peer or options.quick):
        all_met = count(run_facts, commit, path) and all_met
    print(f"saved in {path.relative_to(BENCH.parent)}; {'all targets met' if all_met else 'not all targets met'}")
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
