"""An echo server in Python, on uvloop or on asyncio's own loop, written as their users would for speed.

Usage: echo_uvloop.py PORT [--asyncio] [--line]. With --line it splits its input into lines and answers each
with what bench_hook.reply makes of it, and a line feed. The folder of bench_hook.py must be on the path.
"""

import argparse
import asyncio
from collections.abc import Callable
from typing import cast


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write  # uvloop's own class is not derived from it

    def data_received(self, data: bytes) -> None:
        self.write(data)


class Lines(asyncio.Protocol):
    """Calls a function for each line."""

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.reply = reply
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write  # uvloop's own class is not derived from it

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        *lines, self.rest = data.split(b"\n")
        reply = self.reply
        if len(lines) == 1:
            self.write(reply(lines[0]) + b"\n")
        elif lines:
            self.write(b"".join([reply(line) + b"\n" for line in lines]))


async def serve(port: int, factory: Callable[[], asyncio.Protocol]) -> None:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--asyncio", action="store_true", help="asyncio's own loop")
    parser.add_argument("--line", action="store_true", help="a function per line, not an echo")
    options = parser.parse_args()
    factory: Callable[[], asyncio.Protocol] = Echo
    if options.line:
        import bench_hook

        def factory() -> asyncio.Protocol:
            return Lines(bench_hook.reply)

    if options.asyncio:
        asyncio.run(serve(options.port, factory))
    else:
        import uvloop

        uvloop.run(serve(options.port, factory))


if __name__ == "__main__":
    main()
