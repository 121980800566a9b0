"""`make compare-pollers`: select, poll and epoll under the same server, as idle connections grow beside 50 busy ones.

Each round starts the server once with each poller, and opens more and more connections that say nothing. The busy ones
have one message of 64 bytes in flight each. select() takes no descriptor above FD_SETSIZE, so its line ends where the
server is full. Needs Linux, as the client does, so kqueue is not among them.
"""

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import facts
from common import (
    BENCH,
    BUILT,
    Client,
    free_port,
    kqnative_command,
    print_table,
    processor_seconds,
    require_linux,
    running,
)
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pictures import STYLE

from kqnative import _native
from kqnative.config import DESCRIPTOR_RESERVE

BUSY = 50
MESSAGE_BYTES = 64
IDLE = [0, 100, 300, 1_000, 3_000, 10_000]
ROUNDS, SECONDS = 5, 1.0
QUICK_IDLE, QUICK_ROUNDS, QUICK_SECONDS = [0, 1_000, 10_000], 2, 0.3
WARM_UP_SECONDS = 0.2
POLLERS = ["epoll", "poll", "select"]
SELECT_LIMIT = _native.select_limit()
MOST = {"select": SELECT_LIMIT - DESCRIPTOR_RESERVE}  # connections that the server takes with it

COLOURS = {"epoll": "#0072B2", "poll": "#D55E00", "select": "#009E73"}  # which the colour-blind can tell apart
MARKS = {"epoll": "o", "poll": "s", "select": "^"}
PLACE_OF_NONE = 30  # of 0 on a logarithmic axis, where the distances to 100 and on to 300 are alike
COST_TICKS = [2, 5, 10, 20, 50, 100, 200]

RESULTS = BENCH / "results" / "pollers.json"
PICTURE = BENCH.parent / "docs" / "pollers.svg"


@dataclass(slots=True)
class Point:
    """One poller beside so many idle connections: what each round measured."""

    poller: str
    idle: int
    rates: list[float] = field(default_factory=list)  # messages a second
    cpu_us: list[float] = field(default_factory=list)  # the server's, for each message


def points_of(poller: str, idle_counts: list[int]) -> list[Point]:
    """Where a poller is measured: up to what it can hold, and there."""
    most = MOST.get(poller, idle_counts[-1] + BUSY) - BUSY
    counts = [idle for idle in idle_counts if idle < most] + [most]
    return [Point(poller, idle) for idle in counts]


def measure(points: list[Point], seconds: float) -> None:
    """One round of one poller."""
    port = free_port()
    command = kqnative_command(port, "--reply", "{message}", "--poller", points[0].poller)
    with running(command, port) as process, Client(port, "stream", MESSAGE_BYTES, MESSAGE_BYTES) as client:
        for point in points:
            client.open(BUSY + point.idle)
            client.busy(BUSY)
            client.run_seconds(WARM_UP_SECONDS)
            before = processor_seconds(process)
            rate = client.run_seconds(seconds)
            used = processor_seconds(process) - before
            point.rates.append(rate.per_second)
            point.cpu_us.append(used * 1e6 / rate.messages)


def idle_counts_that_fit(wanted: list[int]) -> list[int]:
    """Server and client need a descriptor for each connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard - 2 * DESCRIPTOR_RESERVE - BUSY
    fitting = wanted if hard == resource.RLIM_INFINITY else [idle for idle in wanted if idle <= most]
    if fitting != wanted:
        print(f"only up to {fitting[-1]:,} idle connections: a process may have {hard:,} descriptors (ulimit -Hn)")
    return fitting


def run(idle_counts: list[int], rounds: int, seconds: float) -> list[Point]:
    """All rounds. The pollers take turns, and each round begins with another."""
    lines = [points_of(poller, idle_counts) for poller in POLLERS]
    for number in range(rounds):
        first = number % len(lines)
        for points in lines[first:] + lines[:first]:
            measure(points, seconds)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return [point for points in lines for point in points]


def show(points: list[Point]) -> None:
    """Medians of the rounds: a row for each number of idle connections."""
    rows = [["idle", *(f"{one} {what}" for what in ("messages/s", "CPU us") for one in POLLERS)]]
    for idle in sorted({point.idle for point in points}):
        here = {point.poller: point for point in points if point.idle == idle}
        rates = [f"{statistics.median(here[one].rates):,.0f}" if one in here else "-" for one in POLLERS]
        cpu_us = [f"{statistics.median(here[one].cpu_us):.2f}" if one in here else "-" for one in POLLERS]
        rows.append([f"{idle:,}", *rates, *cpu_us])
    print_table(rows)
    print(f"select() takes no descriptor from {SELECT_LIMIT} on (FD_SETSIZE): the server is full with {MOST['select']}")


def place(idle: int) -> int:
    """On the axis."""
    return idle or PLACE_OF_NONE


def draw(points: list[Point], path: Path) -> None:
    """Two panels over the same axis: what is served, and what a message costs."""
    with rc_context(STYLE | {"axes.spines.left": True}):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_panel(left, points, lambda point: [rate / 1_000 for rate in point.rates])
        draw_panel(right, points, lambda point: point.cpu_us)
        left.set_title("Thousand messages a second")
        left.set_ylim(bottom=0)
        right.set_title("The server's processor time for a message, µs")
        right.set_yscale("log")
        right.set_yticks(COST_TICKS, [str(tick) for tick in COST_TICKS])
        right.set_yticks([], minor=True)
        figure.supxlabel(f"idle connections beside {BUSY} busy ones", fontsize=9)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def draw_panel(axis: Axes, points: list[Point], values: Callable[[Point], list[float]]) -> None:
    """A line through the medians for each poller, the rounds' spread as a bar, and its name at its end."""
    for poller in POLLERS:
        own = [point for point in points if point.poller == poller]
        places = [place(point.idle) for point in own]
        medians = [statistics.median(values(point)) for point in own]
        colour = COLOURS[poller]
        axis.plot(places, medians, color=colour, marker=MARKS[poller], markersize=4.5, linewidth=1.8)
        for at, point in zip(places, own, strict=True):
            axis.plot([at, at], [min(values(point)), max(values(point))], color=colour, linewidth=1)
        label = f"{poller}, up to FD_SETSIZE" if poller in MOST else poller
        end = (places[-1], medians[-1])
        axis.annotate(label, end, (6, -3), textcoords="offset points", color=colour, weight="bold")
    ticks = sorted({point.idle for point in points} - {most - BUSY for most in MOST.values()})
    axis.set_xscale("log")
    axis.set_xticks([place(idle) for idle in ticks], [f"{idle:,}" for idle in ticks])
    axis.set_xticks([], minor=True)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axis.set_axisbelow(True)


def save(points: list[Point], options: dict[str, Any], path: Path) -> None:
    """As JSON, with what the figures depend on."""
    found = {
        **facts.of_this_commit(),
        "processor": facts.cpu_field("model name"),
        "options": options,
        "busy": BUSY,
        "select_most": MOST["select"],
        "points": [asdict(point) for point in points],
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    """The command."""
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of each poller ({ROUNDS})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"length of a measurement ({SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter; shown, and kept in .cache alone")
    parser.add_argument("--draw", action="store_true", help=f"measure nothing; draw {RESULTS.name} again")
    options = parser.parse_args()
    if options.draw:
        points = [Point(**point) for point in json.loads(RESULTS.read_text())["points"]]
        show(points)
        draw(points, PICTURE)
        return 0
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    idle_counts = idle_counts_that_fit(QUICK_IDLE if options.quick else IDLE)
    points = run(idle_counts, rounds, seconds)
    show(points)
    results, picture = (BUILT / RESULTS.name, BUILT / PICTURE.name) if options.quick else (RESULTS, PICTURE)
    results.parent.mkdir(parents=True, exist_ok=True)
    save(points, {"rounds": rounds, "seconds": seconds}, results)
    draw(points, picture)
    print(f"saved {results} and {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
