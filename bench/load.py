"""The load tester's own ceiling: `kqnative load` beside the benchmark's client and beside wrk, on the same server.

Here the clients are what is compared, round after round in turn; the server is bare_c. "rate" counts messages a second,
"client_us" is the client's processor time for each of them: where the server is the slower side, the rates say only
what the server can do, and the client's own cost is what its core could come to."""

import argparse
import json
import math
import re
import resource
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from common import CLIENT_CORE, Client, free_port, pinned, print_table, require_linux, running
from judge import Outcome, judge, table
from scenarios import Scenario, Target, over
from servers import BY_NAME, missing_tools

SECONDS = 2.0
WARM_UP_SECONDS = 0.3
PATIENCE_SECONDS = 10.0
Figures = dict[str, float]


def scenarios() -> tuple[Scenario, ...]:
    depths = [
        Scenario(
            name=f"load_{depth}",
            title=f"`kqnative load` and the benchmark's client: lines of 64 bytes, 50 connections, {depth} in flight",
            servers=("kqnative", "client", "client again"),
            targets=over(1.0, "client"),
            kind="load",
            mode="line",
            framing="line",
            depth=depth,
        )
        for depth in (1, 16)
    ]
    http = Scenario(
        name="load_http",
        title="`kqnative load` and wrk, one thread on one core: the same HTTP requests, 50 connections, one in flight",
        servers=("kqnative", "wrk", "wrk again"),
        targets=(Target(ours="kqnative", other="wrk", at_most=1.0),),
        kind="load",
        figure="client_us",
        mode="http",
        note="The client's processor time for a message is one by the messages that one core of it can exchange. wrk "
        "parses each response, and kqnative load counts its bytes.",
    )
    return (*depths, http)


SCENARIOS = scenarios()


def missing(label: str) -> str:
    """Why this client can't be measured here, or ""."""
    return BY_NAME["bare_c"].prepare() or (missing_tools("wrk") if label.startswith("wrk") else "")


def measure(scenario: Scenario, label: str, seconds: float) -> Figures:
    """One round of one client, against a server started for it."""
    port = free_port()
    with running(BY_NAME["bare_c"].command(port, scenario.mode), port):
        return CLIENTS[label.partition(" ")[0]](scenario, port, seconds)


def outcome(scenario: Scenario, rounds: int, seconds: float) -> Outcome:
    """All rounds, in turn."""
    reasons = {label: missing(label) for label in scenario.servers}
    result = Outcome(scenario, seconds, missing={label: reason for label, reason in reasons.items() if reason})
    for _ in range(rounds):
        for label in scenario.servers:
            if label not in result.missing:
                result.rounds.setdefault(label, []).append(measure(scenario, label, seconds))
    return result


# ---- clients


def finish(command: list[str], seconds: float) -> tuple[str, float]:
    """What a client printed that ends by itself after so long, and the processor seconds it has used, start-up too."""
    before = children_seconds()
    try:
        run = subprocess.run(
            pinned(CLIENT_CORE, command), stdout=subprocess.PIPE, text=True, timeout=seconds + PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"it does not end: {shlex.join(command)}")
    if run.returncode != 0:
        sys.exit(f"it failed with {run.returncode}: {shlex.join(command)}")
    return run.stdout, children_seconds() - before


def children_seconds() -> float:
    """Of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_client(scenario: Scenario, port: int, seconds: float) -> Figures:
    """The benchmark's own, which says itself what it has used."""
    with Client(port, scenario.framing, scenario.message_bytes, scenario.message_bytes, scenario.depth) as client:
        client.open(scenario.connections)
        client.run_seconds(WARM_UP_SECONDS)
        rate = client.run_seconds(seconds)
    return {"rate": rate.per_second, "client_us": rate.processor_seconds * 1e6 / rate.messages}


def run_kqnative(scenario: Scenario, port: int, seconds: float) -> Figures:
    options = ["--framing", scenario.framing, *message_options(scenario, port)]
    options += ["--connections", str(scenario.connections), "--depth", str(scenario.depth)]
    options += ["--warmup", f"{WARM_UP_SECONDS}s", "--duration", f"{seconds}s"]
    start_up = start_up_seconds()
    printed, used = finish(kqnative_load(port, *options), WARM_UP_SECONDS + seconds)
    report = json.loads(printed)
    if report["errors"]["total"] > 0:
        sys.exit(f"messages failed: kqnative load {shlex.join(options)}")
    messages = report["warmup_messages"] + report["messages"]
    return {"rate": float(report["messages_per_second"]), "client_us": (used - start_up) * 1e6 / messages}


def kqnative_load(port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "kqnative", "load", f"127.0.0.1:{port}", *options, "--quiet", "--json", "-"]


@cache
def start_up_seconds() -> float:
    """What Python's start and end take, which are no part of a message's cost: that of a run of one message."""
    port = free_port()
    command = kqnative_load(port, "--connections", "1", "--messages", "1")
    with running(BY_NAME["bare_c"].command(port, "line"), port):
        return min(finish(command, 0)[1] for _ in range(3))


def message_options(scenario: Scenario, port: int) -> list[str]:
    if scenario.mode != "http":
        return ["--size", str(scenario.message_bytes)]
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"  # byte for byte what wrk 4.1 sends
    message = request.encode("unicode_escape").decode()
    return ["--message", message, "--reply-size", str(answer_bytes(port, request.encode()))]


def answer_bytes(port: int, request: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
        connection.sendall(request)
        return len(connection.recv(65536))


def run_wrk(scenario: Scenario, port: int, seconds: float) -> Figures:
    whole_seconds = math.ceil(seconds)  # it takes no others
    command = ["wrk", "--threads", "1", "--connections", str(scenario.connections), "--duration", f"{whole_seconds}s"]
    printed, used = finish([*command, f"http://127.0.0.1:{port}/"], whole_seconds)
    requests, rate = re.search(r"(\d+) requests in ", printed), re.search(r"Requests/sec: *([\d.]+)", printed)
    if requests is None or rate is None or "errors" in printed or "Non-2xx" in printed:
        sys.exit(f"requests failed:\n{printed}")
    return {"rate": float(rate[1]), "client_us": used * 1e6 / int(requests[1])}


CLIENTS: dict[str, Callable[[Scenario, int, float], Figures]] = {
    "kqnative": run_kqnative,
    "client": run_client,
    "wrk": run_wrk,
}


def main() -> int:
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each client (5)")
    parser.add_argument("--seconds", type=float, default=SECONDS, metavar="S", help=f"length of a round ({SECONDS:g})")
    options = parser.parse_args()
    all_met = True
    for scenario in SCENARIOS:
        print(f"{scenario.name}: {scenario.title}; {options.rounds} rounds of {options.seconds:g} s", flush=True)
        result = outcome(scenario, options.rounds, options.seconds)
        print_table(table(result))
        if scenario.note:
            print(scenario.note)
        for judgement in judge(result):
            print(judgement)
            all_met = all_met and judgement.met is not False
        print(flush=True)
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
