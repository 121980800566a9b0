"""A server on asyncio's own loop: PORT MODE. The folder that `hooks` and `peers` are in must be on the path."""

import asyncio
from collections.abc import Callable, Coroutine

from peers.asyncio.protocols import MODES
from peers.shared import BACKLOG, allow_many_connections, port_and_mode


async def serve(port: int, mode: str) -> None:
    server = await asyncio.get_running_loop().create_server(MODES[mode], "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


def main(run: Callable[[Coroutine[None, None, None]], None]) -> None:
    """Serves on the loop that `run` brings, until a signal ends the process."""
    port, mode = port_and_mode(MODES)
    allow_many_connections()
    run(serve(port, mode))


if __name__ == "__main__":
    main(asyncio.run)
