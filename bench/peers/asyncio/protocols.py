"""The protocol of each mode, for asyncio's own loop and for uvloop, written as their users write for speed.

One write for all that one read has completed, no task and no stream for a connection. Left out is all that a server
needs beside: no limit on a line or a frame, no timeout, and no pause_reading() for a client that does not read.
"""

import asyncio

from hooks import reply
from peers.shared import complete_frames

LARGE_FRAME_BYTES = 64 * 1024
READ_BYTES = 256 * 1024  # what both loops read at once by themselves


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    __slots__ = ("write",)

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.write = transport.write  # TCP_NODELAY is on: both loops set it

    def data_received(self, data: bytes) -> None:
        self.write(data)


class Lines(asyncio.Protocol):
    """Answers each line with the same line."""

    __slots__ = ("rest", "write")

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        lines = data.split(b"\n")
        self.rest = lines[-1]
        if len(lines) > 1:
            lines[-1] = b""  # so that the last answer ends with a line feed as well
            self.write(b"\n".join(lines))


class Function(asyncio.Protocol):
    """Answers each line with what a function makes of it."""

    __slots__ = ("rest", "write")

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        lines = data.split(b"\n")
        self.rest = lines.pop()
        if len(lines) == 1:
            self.write(reply(lines[0]) + b"\n")
        elif lines:
            answers = list(map(reply, lines))
            answers.append(b"")
            self.write(b"\n".join(answers))


class Frames(asyncio.Protocol):
    """Answers each frame with the same frame. From the first large one on, LargeFrames reads its connection.

    Small frames are answered with the very bytes that were read. To join a large one out of many reads costs uvloop
    twice the processor time that reading it into one buffer does.
    """

    __slots__ = ("rest", "transport")

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        end, wanted = complete_frames(data, len(data))
        if end > 0:
            self.transport.write(data[:end])
        self.rest = data[end:]
        if wanted > LARGE_FRAME_BYTES:
            self.transport.set_protocol(LargeFrames(self.transport, self.rest, wanted))


class LargeFrames(asyncio.BufferedProtocol):
    """Reads into a buffer that holds the longest frame so far, and has begun to receive one.

    What it writes is a copy, since both loops may keep what they are given until there is room.
    """

    __slots__ = ("buffer", "held", "transport", "wanted")

    def __init__(self, transport: asyncio.Transport, begun: bytes, wanted: int) -> None:
        self.transport = transport
        self.buffer = memoryview(bytearray(max(wanted, READ_BYTES)))
        self.held = len(begun)
        self.wanted = wanted
        self.buffer[: self.held] = begun

    def get_buffer(self, size_hint: int) -> memoryview:
        return self.buffer[self.held :]

    def buffer_updated(self, count: int) -> None:
        self.held += count
        if self.held < self.wanted:
            return
        buffer = self.buffer
        end, self.wanted = complete_frames(buffer, self.held)
        if end > 0:
            self.transport.write(bytes(buffer[:end]))
        if self.wanted > len(buffer):
            self.buffer = memoryview(bytearray(self.wanted))
        self.held -= end
        if self.held > 0:
            self.buffer[: self.held] = buffer[end : end + self.held]


MODES = {"echo": Echo, "line": Lines, "u32": Frames, "function": Function}
