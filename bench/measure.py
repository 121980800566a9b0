"""One round of one server in one scenario: starts it, warms it up, and returns what was measured, by name.

"rate" counts messages a second, "cpu_us" is the server's processor time for each of them."""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from common import (
    BENCH,
    CLIENT_CORE,
    SERVER_CORE,
    Client,
    Rate,
    free_port,
    pinned,
    processor_seconds,
    running,
)
from scenarios import Scenario
from servers import BY_NAME, PREFIX_BYTES, Peer

WARM_UP_SECONDS = 0.3
START_UP_SECONDS = 20.0
FEW, MANY = 5_000, 15_000  # connections between which memory grows
MEMORY_WARM_UP_MESSAGES = 50_000
SETTLE_SECONDS = 0.5
PEAK_ROUNDS = 3
Figures = dict[str, float]


def measure(scenario: Scenario, label: str, seconds: float) -> Figures:
    name, _, part = label.partition(" ")
    return KINDS[scenario.kind](scenario, BY_NAME[name], part, seconds)


@contextmanager
def serving(scenario: Scenario, peer: Peer, mode: str = "") -> Iterator[tuple[int, int]]:
    """The server's process and its port."""
    port = free_port()
    with running(peer.command(port, mode or scenario.mode), port, scenario.cores) as process:
        yield process, port


@contextmanager
def connected(scenario: Scenario, peer: Peer, part: str = "") -> Iterator[tuple[int, Client]]:
    """A server's process, and the client of it."""
    mode = "echo" if part == "echo" else scenario.mode
    prefix_bytes = PREFIX_BYTES if mode == "function" else peer.prefix_bytes
    sizes = (scenario.message_bytes, scenario.message_bytes + prefix_bytes)
    with (
        serving(scenario, peer, mode) as (process, port),
        Client(port, scenario.framing, *sizes, scenario.depth) as client,
    ):
        yield process, client


def costs(process: int, run: Callable[[], Rate]) -> Figures:
    used = processor_seconds(process)
    rate = run()
    used = processor_seconds(process) - used
    messages = max(rate.messages, 1)
    return {
        "rate": rate.per_second,
        "cpu_us": used * 1e6 / messages,
        "client_us": rate.processor_seconds * 1e6 / messages,
    }


def exchange(scenario: Scenario, peer: Peer, part: str, seconds: float) -> Figures:
    with connected(scenario, peer, part) as (process, client):
        client.open(scenario.connections + (0 if part == "alone" else scenario.idle))
        client.busy(scenario.connections)
        client.run_seconds(WARM_UP_SECONDS)
        return costs(process, lambda: client.run_seconds(seconds))


def churn(scenario: Scenario, peer: Peer, part: str, seconds: float) -> Figures:
    with connected(scenario, peer) as (process, client):
        client.churn(WARM_UP_SECONDS, scenario.connections)
        return costs(process, lambda: client.churn(seconds, scenario.connections))


def memory(scenario: Scenario, peer: Peer, part: str, seconds: float) -> Figures:
    """Growth of a warmed-up server."""
    with connected(scenario, peer) as (process, client):
        client.open(scenario.connections)
        client.run_messages(MEMORY_WARM_UP_MESSAGES)
        sizes = []
        for connections in (FEW, MANY):
            client.open(connections)
            client.run_messages(connections)
            time.sleep(SETTLE_SECONDS)  # a log's lines follow the messages
            sizes.append(private_bytes(process))
    return {"bytes_each": (sizes[1] - sizes[0]) / (MANY - FEW)}


def private_bytes(process: int) -> int:
    total = 0
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        words = line.split()
        if words[0] in ("Private_Clean:", "Private_Dirty:"):
            total += int(words[1]) * 1024
    return total


def idle_share(scenario: Scenario, peer: Peer, part: str, seconds: float) -> Figures:
    """Of a server that was busy until just before."""
    with connected(scenario, peer) as (process, client):
        client.open(scenario.connections)
        client.run_seconds(WARM_UP_SECONDS)
        start, used = time.monotonic(), processor_seconds(process)
        time.sleep(seconds)
        return {"cpu_percent": 100 * (processor_seconds(process) - used) / (time.monotonic() - start)}


@cache
def half_of_peak(scenario: Scenario, seconds: float) -> float:
    """Half of the messages a second that the slower of kqnative and bare_c comes to in a closed loop."""
    peers = [BY_NAME["kqnative"], BY_NAME["bare_c"]]
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(PEAK_ROUNDS):
        for peer in peers:
            rates[peer.name].append(exchange(scenario, peer, "", seconds)["rate"])
    return round(min(map(statistics.median, rates.values())) / 2)


def latency(scenario: Scenario, peer: Peer, part: str, seconds: float) -> Figures:
    rate = half_of_peak(scenario, seconds)
    with serving(scenario, peer) as (_, port):
        command = [sys.executable, "-m", "kqnative", "load", f"127.0.0.1:{port}"]
        command += ["--rate", f"{rate:.0f}", "--connections", str(scenario.connections), "--framing", scenario.framing]
        command += ["--size", str(scenario.message_bytes), "--reply-size", str(scenario.message_bytes)]
        command += ["--warmup", f"{WARM_UP_SECONDS}s", "--duration", f"{seconds}s", "--quiet", "--json", "-"]
        run = subprocess.run(pinned(CLIENT_CORE, command), cwd=BENCH, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"kqnative load failed: {run.stderr.strip()}")
    report = json.loads(run.stdout)
    names = {"p50": "p50_us", "p99": "p99_us", "p99_9": "p999_us"}
    figures = {ours: float(report["latency_us"][theirs]) for theirs, ours in names.items()}
    return figures | {"asked_rate": rate, "invalid": float(not report["valid"])}


def startup(scenario: Scenario, peer: Peer, part: str, seconds: float) -> Figures:
    port = free_port()
    command = pinned(SERVER_CORE, peer.command(port, scenario.mode))
    environment = os.environ | {"PYTHONPATH": str(BENCH)}
    start = time.monotonic()
    with subprocess.Popen(command, cwd=BENCH, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            if peer.modes:
                ask_once(port, start + START_UP_SECONDS)
            else:
                process.wait(START_UP_SECONDS)
            return {"ms": (time.monotonic() - start) * 1e3}
        finally:
            process.terminate()


def ask_once(port: int, deadline: float) -> None:
    """Connects as soon as somebody listens, and waits for one answer."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"hello")
                if client.recv(5):
                    return
        except ConnectionRefusedError:
            time.sleep(0.0005)
    sys.exit("no answer")


KINDS: dict[str, Callable[[Scenario, Peer, str, float], Figures]] = {
    "exchange": exchange,
    "churn": churn,
    "memory": memory,
    "idle_share": idle_share,
    "latency": latency,
    "startup": startup,
}
