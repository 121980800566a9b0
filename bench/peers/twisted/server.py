"""A server on Twisted's epoll reactor: PORT MODE, with protocols as its users write for speed.

One write for all that one read has completed. Left out is all that a server needs beside: no limit on a line or a
frame, no timeout, and no producer that pauses for a client that does not read.
"""

from hooks import reply
from peers.shared import BACKLOG, HEADER_BYTES, allow_many_connections, complete_frames, port_and_mode
from twisted.internet import epollreactor

epollreactor.install()  # before the reactor is imported

from twisted.internet import reactor  # noqa: E402
from twisted.internet.protocol import Factory, Protocol  # noqa: E402

READ_BYTES = 256 * 1024  # four times Twisted's own, for frames; more is no faster
WRITE_BYTES = 1024 * 1024


class Echo(Protocol):
    """Sends back what comes."""

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.setTcpNoDelay(True)
        self.write = self.transport.write

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.write(data)


class Lines(Echo):
    """Answers each line with the same line."""

    rest = b""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self.rest:
            data = self.rest + data
        lines = data.split(b"\n")
        self.rest = lines[-1]
        if len(lines) > 1:
            lines[-1] = b""  # so that the last answer ends with a line feed as well
            self.write(b"\n".join(lines))


class Function(Echo):
    """Answers each line with what a function makes of it."""

    rest = b""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
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


class Frames(Echo):
    """Answers each frame with the same frame. It is joined when it is complete, so that each byte is copied once."""

    def connectionMade(self) -> None:  # noqa: N802
        super().connectionMade()
        self.transport.bufferSize = READ_BYTES
        self.transport.SEND_LIMIT = WRITE_BYTES
        self.parts: list[bytes] = []
        self.held = 0
        self.wanted = HEADER_BYTES

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.parts.append(data)
        self.held += len(data)
        if self.held < self.wanted:
            return
        data = b"".join(self.parts)
        end, self.wanted = complete_frames(data, self.held)
        self.write(data[:end])
        self.parts = [data[end:]]
        self.held -= end


MODES = {"echo": Echo, "line": Lines, "u32": Frames, "function": Function}


def main() -> None:
    port, mode = port_and_mode(MODES)
    allow_many_connections()
    reactor.listenTCP(port, Factory.forProtocol(MODES[mode]), backlog=BACKLOG, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
