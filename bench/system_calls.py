"""System calls of a message, by strace: of the loop's thread alone, in the server as everybody runs it."""

import signal
import subprocess
import tempfile
from pathlib import Path

from common import Client, free_port, kqnative_command, processor_seconds, running

CONNECTIONS = 50
MESSAGE_BYTES = 64
WARM_UP_MESSAGES = 50_000
COUNTED_MESSAGES = 10_000
AT_MOST = 2.05
TRIES = 3


def busiest_thread(process: int, client: Client) -> int:
    """The loop's thread is the one that runs while messages do."""

    def used() -> dict[int, float]:
        threads = [int(path.name) for path in Path(f"/proc/{process}/task").iterdir()]
        return {thread: processor_seconds(process, thread) for thread in threads}

    before = used()
    client.run_messages(WARM_UP_MESSAGES)
    after = used()
    return max(after, key=lambda thread: after[thread] - before.get(thread, 0))


def count_calls(thread: int, client: Client, messages: int) -> dict[str, int]:
    """By name, while the client exchanges the messages."""
    with tempfile.NamedTemporaryFile("r") as summary:
        command = ["strace", "-c", "-U", "calls,name", "-p", str(thread), "-o", summary.name]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            if "attached" not in said:
                tracer.wait()
                raise RuntimeError(f"strace can't attach: {said.strip()}")
            client.run_messages(messages)
            tracer.send_signal(signal.SIGINT)
            tracer.stderr.read()
        rows = [line.split() for line in summary.read().splitlines()]
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdecimal() and row[1] != "total"}


def calls_per_message() -> dict[str, float]:
    """By name: 50 connections with one message in flight on each. The fewest of some tries: where the client is held up
    by other programs, its messages come one by one, and each wait brings fewer of them."""
    port = free_port()
    fewest: dict[str, int] = {}
    with (
        running(kqnative_command(port, "--reply", "{message}"), port) as process,
        Client(port, "stream", MESSAGE_BYTES, MESSAGE_BYTES) as client,
    ):
        client.open(CONNECTIONS)
        thread = busiest_thread(process, client)
        for _ in range(TRIES):
            counts = count_calls(thread, client, COUNTED_MESSAGES)
            if not fewest or sum(counts.values()) < sum(fewest.values()):
                fewest = counts
            if sum(fewest.values()) <= AT_MOST * COUNTED_MESSAGES:
                break
    return {name: count / COUNTED_MESSAGES for name, count in fewest.items()}
