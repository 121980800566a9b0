"""Private memory for each open connection: the growth of a warmed-up server from 5,000 to 15,000 of them."""

import argparse
import sys
import time
from pathlib import Path

from common import Client, free_port, kqnative_command, require_linux, running, verdict

MESSAGE_BYTES = 64
WARM_UP_CONNECTIONS = 50
WARM_UP_MESSAGES = 100_000
WANTED_BYTES_EACH = 128
BLOCK_BYTES = 65_536  # once, for whatever grows in steps
SETTLE_SECONDS = 1.0


def private_bytes(process: int) -> int:
    total = 0
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        words = line.split()
        if words[0] in ("Private_Clean:", "Private_Dirty:"):
            total += int(words[1]) * 1024
    return total


def grown_to(connections: int, client: Client, process: int) -> int:
    """Private memory with so many connections, each of which has exchanged a message."""
    client.open(connections)
    client.run_messages(connections)
    time.sleep(SETTLE_SECONDS)  # the log's lines follow the messages
    size = private_bytes(process)
    print(f"{connections:>6,} connections: {size:,} bytes", flush=True)
    return size


def main() -> int:
    require_linux()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=5_000, metavar="N", help="connections at first (5000)")
    parser.add_argument("--many", type=int, default=15_000, metavar="N", help="connections at last (15000)")
    options = parser.parse_args()
    port = free_port()
    command = kqnative_command(port, "--reply", "{message}")
    with running(command, port) as process, Client(port, MESSAGE_BYTES, MESSAGE_BYTES) as client:
        client.open(WARM_UP_CONNECTIONS)
        client.run_messages(WARM_UP_MESSAGES)
        few = grown_to(options.few, client, process)
        many = grown_to(options.many, client, process)
    more = options.many - options.few
    growth = many - few
    met = growth <= WANTED_BYTES_EACH * more + BLOCK_BYTES
    print(
        f"{growth:,} bytes for {more:,} more connections, {growth / more:.1f} each; "
        f"at most {WANTED_BYTES_EACH} each and {BLOCK_BYTES:,} in all wanted: {verdict(met)}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
