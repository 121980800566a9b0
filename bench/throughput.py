"""Messages a second: kqnative beside its peers, round after round in turn, and every ratio of the medians."""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

from common import (
    BENCH,
    Client,
    build,
    free_port,
    kqnative_command,
    pinned,
    print_table,
    processor_seconds,
    require_linux,
    running,
    verdict,
)

CONNECTIONS = 50
WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    message_bytes: int
    answer_bytes: int
    servers: dict[str, Callable[[int], list[str]]]  # a server's command, for a port
    targets: list[tuple[str, str, float]]  # this server, that one, the ratio wanted at least


def python_peer(*options: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, str(BENCH / "peers" / "echo_uvloop.py"), str(port), *options]


def ours(*options: str) -> Callable[[int], list[str]]:
    return lambda port: kqnative_command(port, *options)


SCENARIOS = {
    "echo": Scenario(
        title="stream echo, 64 bytes",
        message_bytes=64,
        answer_bytes=64,
        servers={
            "kqnative": ours("--reply", "{message}"),
            "epoll": lambda port: [build("peers/echo_epoll.c"), str(port)],
            "uvloop": python_peer(),
            "asyncio": python_peer("--asyncio"),
        },
        targets=[("kqnative", "epoll", 0.90), ("kqnative", "uvloop", 1.2)],
    ),
    "hook": Scenario(
        title="a Python function for each line of 32 bytes",
        message_bytes=32,
        answer_bytes=32 + len("system: "),
        servers={
            "kqnative": ours("--framing", "line", "--hook", "bench_hook:reply"),
            "kqnative-batch": ours("--framing", "line", "--hook-batch", "bench_hook:reply_batch"),
            "uvloop": python_peer("--line"),
            "asyncio": python_peer("--line", "--asyncio"),
        },
        targets=[("kqnative", "uvloop", 1.3)],
    ),
}


@dataclass(frozen=True, slots=True)
class Round:
    per_second: float
    processor_us: float  # of the server, for each message


def measure(scenario: Scenario, name: str, seconds: float) -> Round:
    """One round of one server, started for it."""
    port = free_port()
    with (
        running(scenario.servers[name](port), port) as server,
        Client(port, scenario.message_bytes, scenario.answer_bytes) as client,
    ):
        client.open(CONNECTIONS)
        client.run_seconds(WARM_UP_SECONDS)
        used = processor_seconds(server)
        rate = client.run_seconds(seconds)
        used = processor_seconds(server) - used
        return Round(rate.per_second, used * 1e6 / rate.messages)


def report(scenario: Scenario, rounds: dict[str, list[Round]]) -> bool:
    """Prints the tables; True if every target that could be judged is met."""
    medians = {name: statistics.median(one.per_second for one in all_) for name, all_ in rounds.items()}
    rows = [["server", "median/s", "lowest", "highest", "CPU us", *(f"/ {name}" for name in medians)]]
    for name, median in medians.items():
        rates = [one.per_second for one in rounds[name]]
        processor_us = statistics.median(one.processor_us for one in rounds[name])
        ratios = [f"{median / other:.2f}" for other in medians.values()]
        counts = [f"{rate:,.0f}" for rate in (median, min(rates), max(rates))]
        rows.append([name, *counts, f"{processor_us:.2f}", *ratios])
    print_table(rows)
    all_met = True
    for this, that, wanted in scenario.targets:
        if this in medians and that in medians:
            ratio = medians[this] / medians[that]
            pairs = zip(rounds[this], rounds[that], strict=True)
            by_round = statistics.median(one.per_second / other.per_second for one, other in pairs)
            all_met = all_met and ratio >= wanted
            print(
                f"{this} / {that}: {ratio:.2f}, at least {wanted:.2f} wanted: {verdict(ratio >= wanted)}"
                f" (median of the ratios of each round: {by_round:.2f})"
            )
    return all_met


def main() -> int:
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each server (5)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length of a round (3)")
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--servers", metavar="A,B", help="only these, of those that a scenario has")
    options = parser.parse_args()
    only = options.servers.split(",") if options.servers else None
    all_met = True
    for key, scenario in SCENARIOS.items():
        if options.scenario not in (key, "all"):
            continue
        names = [name for name in scenario.servers if only is None or name in only]
        print(
            f"{key}: {scenario.title}; {CONNECTIONS} connections, one message in flight on each; "
            f"median of {options.rounds} rounds of {options.seconds:g} s",
            flush=True,
        )
        if pinned(0, []) == [] or pinned(1, []) == []:
            print("(server and client are not pinned: that takes taskset and two cores)")
        rounds: dict[str, list[Round]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                rounds[name].append(measure(scenario, name, options.seconds))
        all_met = report(scenario, rounds) and all_met
        print(flush=True)
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
