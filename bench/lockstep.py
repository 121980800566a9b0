"""The other side of a counted program: lets its loops wait when all that they are to find is there (counted/gate.c)."""

import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 60.0
ROOM = 1 << 20
ACCEPTS_PER_TURN = 64


class Gate:
    """Where the loops of one program stand before each wait."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kqnative-gate-")
        self.folder = Path(self._folder.name)  # for whatever comes out of this run
        self.path = str(self.folder / "gate")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(PATIENCE_S)
        self._listener.bind(self.path)
        self._listener.listen()
        self._loops: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self._listener.close()
        self._folder.cleanup()

    def await_loops(self, count: int) -> None:
        """Returns when so many loops stand there for the first time."""
        for _ in range(count):
            loop, _ = self._listener.accept()
            loop.settimeout(PATIENCE_S)
            self._loops.append(loop)
        self._await_all()

    def _await_all(self) -> bool:
        words = [loop.recv(1) for loop in self._loops]  # of all, whatever the first says
        return all(words)

    def pass_on(self, has_events: bool) -> bool:
        """Lets each loop through, and returns when all are back; False: the program has ended. has_events: there is
        something for each, so that it may wait for it."""
        try:
            for loop in self._loops:
                loop.sendall(b"w" if has_events else b"p")
            return self._await_all()
        except ConnectionError:
            return False

    def leave(self) -> None:
        """From now on nobody holds the loops."""
        for loop in self._loops:
            loop.close()
        self._loops.clear()


class Clients:
    """Connections that all send, and then all await their answers."""

    def __init__(self, gate: Gate, port: int, count: int) -> None:
        self._gate = gate
        self._connections = [socket.create_connection(("127.0.0.1", port), PATIENCE_S) for _ in range(count)]
        for connection in self._connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
        self._let_be_seen()

    def _let_be_seen(self) -> None:
        """A loop accepts so many in a turn at most, and hands some to others, who see them a turn later."""
        for _ in range(len(self._connections) // ACCEPTS_PER_TURN + 3):
            self._gate.pass_on(False)

    def exchange(self, message: bytes, answer_bytes: int) -> None:
        """One round."""
        for connection in self._connections:
            assert connection.send(message) == len(message)
        missing = dict.fromkeys(self._connections, answer_bytes)
        has_events = True
        while missing:
            assert self._gate.pass_on(has_events), "the server ended"
            has_events = False
            for connection in list(missing):
                missing[connection] -= self._receive(connection)
                if missing[connection] <= 0:
                    assert missing.pop(connection) == 0, "more than the answer came"

    @staticmethod
    def _receive(connection: socket.socket) -> int:
        try:
            return len(connection.recv(ROOM))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Closes them all."""
        for connection in self._connections:
            connection.close()
        self._let_be_seen()


class Echo:
    """A server that answers whatever has come when the program stands at the gate."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []

    def serve(self, gate: Gate) -> None:
        """Until the program has ended."""
        has_answered = False
        while gate.pass_on(has_answered):
            self._accept()
            answered = [self._answer(connection) for connection in self._connections]
            has_answered = any(answered)

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setblocking(False)
                self._connections.append(connection)
        except BlockingIOError:
            pass

    @staticmethod
    def _answer(connection: socket.socket) -> bool:
        try:
            data = connection.recv(ROOM)
        except (BlockingIOError, ConnectionError):
            return False
        if data:
            assert connection.send(data) == len(data)
        return bool(data)

    def close(self) -> None:
        """Closes all."""
        for one in (self._listener, *self._connections):
            one.close()
