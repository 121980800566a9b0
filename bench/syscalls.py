"""System calls of the loop's thread for each message, by strace: 50 connections, one in flight on each."""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from common import (
    Client,
    free_port,
    kqnative_command,
    print_table,
    processor_seconds,
    require_linux,
    running,
    verdict,
)

CONNECTIONS = 50
MESSAGE_BYTES = 64
WARM_UP_MESSAGES = 100_000
WANTED_AT_MOST = 2.1


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
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            sys.exit(f"strace can't attach: {said.strip()}")
        client.run_messages(messages)
        tracer.send_signal(signal.SIGINT)
        tracer.stderr.read()
        tracer.wait()
        rows = [line.split() for line in summary.read().splitlines()]
    rows = [row for row in rows if len(row) == 2 and row[0].isdecimal() and row[1] != "total"]
    return {name: int(count) for count, name in rows}


def main() -> int:
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000, metavar="N", help="to count over (10000)")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        sys.exit("this needs strace")
    port = free_port()
    command = kqnative_command(port, "--reply", "{message}")
    with running(command, port) as process, Client(port, MESSAGE_BYTES, MESSAGE_BYTES) as client:
        client.open(CONNECTIONS)
        calls = count_calls(busiest_thread(process, client), client, options.messages)
    rows = [["call", "count", "a message"]]
    rows += [[name, f"{count:,}", f"{count / options.messages:.4f}"] for name, count in calls.items()]
    total = sum(calls.values())
    each = total / options.messages
    rows.append(["all", f"{total:,}", f"{each:.4f}"])
    print_table(rows)
    met = 0 < each <= WANTED_AT_MOST
    print(f"{each:.4f} a message, at most {WANTED_AT_MOST} wanted: {verdict(met)}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
