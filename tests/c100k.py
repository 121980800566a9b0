"""A hundred thousand connections at once, over several server processes, for one of them may not have so many.

Each server has a port of its own, and a load tester as its clients, with a source address of its own: one address has
too few ports for all.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

from conftest import RunningServer
from crowd import hold
from figures import record

CONNECTIONS = 100_000
RATE = 18_000  # messages a second, over all


def main() -> None:
    parser = argparse.ArgumentParser(description="Holds 100,000 connections with messages on all of them.")
    parser.add_argument("--servers", type=int, default=6, metavar="N", help="server processes (default: 6)")
    parser.add_argument("--seconds", type=float, default=15, metavar="N", help="how long they are held (default: 15)")
    options = parser.parse_args()
    each = -(-CONNECTIONS // options.servers)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = []
        for _ in range(options.servers):
            servers.append(RunningServer(("--framing", "line"), exit_code=0, cwd=folder, env={}))
            stack.callback(servers[-1].clean_up)
        crowd = hold(servers, each, RATE // options.servers, options.seconds)
        for server in servers:
            server.finish()
    record(f"c100k: {crowd.connections:,} connections over {options.servers} server processes, {crowd}")


if __name__ == "__main__":
    main()
