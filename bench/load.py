"""The load tester's own throughput, beside an epoll client that only counts newlines, against a bare echo server."""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common import (
    CLIENT_CORE,
    READY_SECONDS,
    Rate,
    build,
    free_port,
    pinned,
    print_table,
    processor_seconds,
    require_linux,
    running,
    verdict,
)

CONNECTIONS = 50
DEPTHS = [1, 16]
MESSAGE_BYTES = 64
WARM_UP_SECONDS = 0.5
WANTED_AT_LEAST = 0.95


@dataclass(frozen=True, slots=True)
class Round:
    per_second: float
    processor_us: float  # of the client, for each message


def run_client(command: list[str], seconds: float) -> tuple[str, float]:
    """What a client printed, and the share of its core that it took."""
    with subprocess.Popen(pinned(CLIENT_CORE, command), stdout=subprocess.PIPE, text=True) as client:
        # Python's start takes processor time too, and is no part of a message's cost: it is over by then.
        time.sleep(WARM_UP_SECONDS)
        start, used = time.monotonic(), processor_seconds(client.pid)
        time.sleep(0.8 * seconds)
        share = (processor_seconds(client.pid) - used) / (time.monotonic() - start)
        try:
            printed, _ = client.communicate(timeout=seconds + READY_SECONDS)
        except subprocess.TimeoutExpired:
            client.kill()
            sys.exit(f"it does not end: {shlex.join(command)}")
    if client.returncode != 0:
        sys.exit(f"it failed with {client.returncode}: {shlex.join(command)}")
    return printed, share


def measure_counting(port: int, depth: int, seconds: float) -> Round:
    arguments = [port, CONNECTIONS, depth, MESSAGE_BYTES, seconds]
    printed, share = run_client([build("peers/count_epoll.c"), *map(str, arguments)], seconds)
    messages, elapsed = printed.split()
    per_second = Rate(int(messages), float(elapsed)).per_second
    return Round(per_second, share * 1e6 / per_second)


def measure_ours(port: int, depth: int, seconds: float) -> Round:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "kqnative", "load", f"127.0.0.1:{port}"]
        command += ["-c", str(CONNECTIONS), "-d", f"{seconds}s", "--depth", str(depth), "--size", str(MESSAGE_BYTES)]
        command += ["--framing", "line", "--warmup", f"{WARM_UP_SECONDS}s", "--quiet", "--json", str(result)]
        _, share = run_client(command, seconds)
        per_second = float(json.loads(result.read_text())["messages_per_second"])
    return Round(per_second, share * 1e6 / per_second)


# The second turn of the counting client is the control: what it is off 1 by is noise.
CLIENTS: dict[str, Callable[[int, int, float], Round]] = {
    "counting": measure_counting,
    "kqnative": measure_ours,
    "counting again": measure_counting,
}


def measure(name: str, depth: int, seconds: float) -> Round:
    """One round of one client, against a server started for it."""
    port = free_port()
    with running([build("peers/echo_epoll.c"), str(port)], port):
        return CLIENTS[name](port, depth, seconds)


def report(rounds: dict[str, list[Round]]) -> bool:
    """Prints the table; True if the target is met."""
    rates = {name: statistics.median(one.per_second for one in all_) for name, all_ in rounds.items()}
    costs = {name: statistics.median(one.processor_us for one in all_) for name, all_ in rounds.items()}
    rows = [["client", "median/s", "lowest", "highest", "/ counting", "by round", "CPU us", "/ counting"]]
    for name, all_ in rounds.items():
        counts = [rates[name], min(one.per_second for one in all_), max(one.per_second for one in all_)]
        pairs = zip(all_, rounds["counting"], strict=True)
        by_round = statistics.median(one.per_second / other.per_second for one, other in pairs)
        cells = [f"{count:,.0f}" for count in counts]
        cells += [f"{rates[name] / rates['counting']:.3f}", f"{by_round:.3f}"]
        cells += [f"{costs[name]:.3f}", f"{costs[name] / costs['counting']:.3f}"]
        rows.append([name, *cells])
    print_table(rows)
    ratio = rates["kqnative"] / rates["counting"]
    met = ratio >= WANTED_AT_LEAST
    print(f"kqnative / counting: {ratio:.3f}, at least {WANTED_AT_LEAST} wanted: {verdict(met)}")
    return met


def main() -> int:
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each client (5)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length of a round (3)")
    options = parser.parse_args()
    all_met = True
    for depth in DEPTHS:
        print(
            f"depth {depth}: lines of {MESSAGE_BYTES} bytes, {CONNECTIONS} connections, {depth} in flight on each; "
            f"median of {options.rounds} rounds of {options.seconds:g} s",
            flush=True,
        )
        if pinned(0, []) == [] or pinned(1, []) == []:
            print("(server and client are not pinned: that takes taskset and two cores)")
        rounds: dict[str, list[Round]] = {name: [] for name in CLIENTS}
        for _ in range(options.rounds):
            for name in CLIENTS:
                rounds[name].append(measure(name, depth, options.seconds))
        all_met = report(rounds) and all_met
        print(flush=True)
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
