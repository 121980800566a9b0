"""Slow and hostile clients: `chaos.py PORT SEED MAX_MESSAGE` talks to a line server that answers `system: `.

It begins with a flood, says when that is over, and goes on until a SIGTERM. The slow ones, and those of the hostile
that are owed answers, must get exactly theirs; the exit code is 0 when all did.
"""

import asyncio
import contextlib
import random
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

SLOW_READERS = 10
SLOW_WRITERS = 10
HOSTILE = 10
FIRST_FLOOD = 40
PATIENCE_S = 30.0  # for any conversation
SMALL_WINDOW_BYTES = 32_768  # what a slow reader's kernel takes for it
SHORT_LINES_BYTES = 2_000_000  # of half as many, the answers already are more than the server's kernel takes
OFTEN_LF = bytes(ord("\n") if byte % 3 == 0 else byte for byte in range(256))
TLS_HELLO = bytes.fromhex("16030100c8010000c40303")


def answers_to(data: bytes) -> bytes:
    """What all of this and its end are answered: each line, with the ending that it has."""
    answers = b"system: " + data.replace(b"\n", b"\nsystem: ")
    return answers if data and not data.endswith(b"\n") else answers.removesuffix(b"system: ")


@dataclass(frozen=True)
class Manner:
    """How a client sends and reads: in pieces of at most so many bytes, with pauses of at most so long."""

    sends_bytes: int = 1 << 20
    sends_every_s: float = 0.0
    reads_bytes: int = 1 << 20
    reads_every_s: float = 0.0
    window_bytes: int = 0  # 0: what the system gives


QUICK = Manner()


class Clients:
    """Clients of one server, one conversation after another, all chosen by one seed."""

    def __init__(self, port: int, seed: int, max_message: int) -> None:
        self._port = port
        self._max_message = max_message
        self._chooser = random.Random(seed)
        self._loop = asyncio.get_running_loop()

    # --- What they have in common ---

    @contextlib.asynccontextmanager
    async def _connected(self, window_bytes: int = 0) -> AsyncIterator[socket.socket]:
        with socket.socket() as client:
            client.setblocking(False)
            if window_bytes:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
            await self._loop.sock_connect(client, ("127.0.0.1", self._port))
            yield client

    def _lines(self, most: int, longest: int) -> bytes:
        """Lines of many lengths, short ones more often."""
        text = self._chooser.randbytes(longest).replace(b"\n", b"-")
        count = self._chooser.randint(1, most)
        sizes = [int(longest ** self._chooser.random()) for _ in range(count)]
        endings = self._chooser.choices([b"\n", b"\r\n"], k=count)
        return b"".join(text[:size] + ending for size, ending in zip(sizes, endings, strict=True))

    def _short_lines(self) -> bytes:
        """Lines so short that their answers are several times as long: those wait in the server."""
        size = self._chooser.randint(SHORT_LINES_BYTES // 2, SHORT_LINES_BYTES)
        return self._chooser.randbytes(size).translate(OFTEN_LF)

    async def _pause(self, most_s: float) -> None:
        if most_s:
            await asyncio.sleep(self._chooser.uniform(0, most_s))

    async def _send(self, client: socket.socket, data: bytes, manner: Manner) -> None:
        while data:
            size = self._chooser.randint(1, manner.sends_bytes)
            await self._loop.sock_sendall(client, data[:size])
            data = data[size:]
            await self._pause(manner.sends_every_s)
        client.shutdown(socket.SHUT_WR)

    async def _read_to_end(self, client: socket.socket, expected: bytes, manner: Manner = QUICK) -> None:
        """Fails at the first byte that is not the expected one, or the missing one."""
        at = 0
        while data := await self._loop.sock_recv(client, manner.reads_bytes):
            assert expected.startswith(data, at), f"wrong answer at {at}: {data[:80]!r}, not {expected[at : at + 80]!r}"
            at += len(data)
            await self._pause(manner.reads_every_s)
        assert at == len(expected), f"{len(expected) - at} of {len(expected)} bytes are missing"

    async def _converse(self, data: bytes, manner: Manner = QUICK) -> None:
        """Sends all, ends our side, and checks all answers."""
        async with self._connected(manner.window_bytes) as client, asyncio.TaskGroup() as both:
            both.create_task(self._send(client, data, manner))
            both.create_task(self._read_to_end(client, answers_to(data), manner))

    def _reset(self, client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    # --- The slow ---

    async def read_slowly(self) -> None:
        """Takes answers in so small parts that they wait in the server."""
        manner = Manner(reads_every_s=0.03, window_bytes=SMALL_WINDOW_BYTES)
        await self._converse(self._short_lines(), manner)

    async def write_slowly(self) -> None:
        """Sends a few bytes now and then, so that lines stay unfinished with the server."""
        await self._converse(self._lines(20, 2_000), Manner(sends_bytes=300, sends_every_s=0.03))

    # --- The hostile ---

    async def _scan(self) -> None:
        async with self._connected():
            pass

    async def _reset_at_once(self) -> None:
        async with self._connected() as client:
            self._reset(client)

    async def _leave_unread(self) -> None:
        """Leaves answers unread and a line unfinished."""
        async with self._connected() as client:
            await self._loop.sock_sendall(client, self._lines(20, 1_000) + b"unfinished")

    async def flood(self) -> None:
        """Takes hardly anything of many answers, and goes while they wait."""
        async with self._connected(SMALL_WINDOW_BYTES) as client:
            sending = asyncio.ensure_future(self._loop.sock_sendall(client, self._short_lines()))
            await self._loop.sock_recv(client, 10_000)
            await self._pause(1)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            self._reset(client)

    async def _half_close(self) -> None:
        await self._converse(self._lines(200, 1_000) + self._chooser.choice([b"", b"unfinished"]))

    async def _send_garbage(self) -> None:
        beginning = self._chooser.choice([b"", TLS_HELLO, b"GET / HTTP/1.1\r\n\r\n", b"\0\xff\r\r\n\n\x1b[2J"])
        await self._converse(beginning + self._chooser.randbytes(self._chooser.randint(1, 20_000)))

    async def _send_too_long_a_line(self) -> None:
        """What came before the line is answered, and then the server ends the connection."""
        before = self._lines(20, 1_000)
        async with self._connected() as client:
            too_long = b"x" * (self._max_message + self._chooser.randint(1, 1_000))
            await self._loop.sock_sendall(client, before + too_long)
            await self._read_to_end(client, answers_to(before))

    async def _say_nothing(self) -> None:
        """Is ended for being idle, with or without a line begun."""
        async with self._connected() as client:
            await self._loop.sock_sendall(client, self._chooser.choice([b"", b"unfinished"]))
            await self._read_to_end(client, b"")

    async def be_hostile(self) -> None:
        """One of many ways to be so, and a short rest."""
        seldom: list[Callable[[], Awaitable[None]]] = [self._say_nothing]
        often = [
            self._scan,
            self._reset_at_once,
            self._leave_unread,
            self.flood,
            self._half_close,
            self._send_garbage,
            self._send_too_long_a_line,
        ]
        await self._chooser.choice(seldom if self._chooser.random() < 0.01 else often)()
        await self._pause(0.1)


async def repeat(converse: Callable[[], Awaitable[None]]) -> None:
    """One client that is replaced by the next of its kind, for ever."""
    while True:
        async with asyncio.timeout(PATIENCE_S):
            await converse()


async def run(port: int, seed: int, max_message: int) -> None:
    """All clients, until a SIGTERM or the first failure."""
    clients = Clients(port, seed, max_message)
    # The server keeps some memory of what it once needed: it comes to the most of that now, and not bit by bit.
    await asyncio.gather(*(clients.flood() for _ in range(FIRST_FLOOD)))
    print("flooded", flush=True)
    kinds = [(SLOW_READERS, clients.read_slowly), (SLOW_WRITERS, clients.write_slowly), (HOSTILE, clients.be_hostile)]
    tasks = [asyncio.ensure_future(repeat(converse)) for count, converse in kinds for _ in range(count)]
    everything = asyncio.gather(*tasks)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, everything.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await everything


if __name__ == "__main__":
    asyncio.run(run(*map(int, sys.argv[1:])))
