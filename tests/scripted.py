"""TCP servers that do just what a test says: one function talks to each connection, in a thread of its own."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

Talk = Callable[[socket.socket], None]


class ScriptedServer:
    """Listens on a port of 127.0.0.1 while it is entered."""

    def __init__(self, talk: Talk, *, backlog: int = 128, path: str | None = None) -> None:
        self._talk = talk
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
            self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(backlog)
            self.target = f"unix:{path}"
        self.peers: list[object] = []
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.go_away()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def go_away(self) -> None:
        """Listens no more, and ends every connection."""
        for one in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self._listener.accept()
                if connection.family == socket.AF_INET:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.peers.append(peer)
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._run, args=(connection,)))
                self._threads[-1].start()

    def _run(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._talk(connection)


def lines_of(connection: socket.socket) -> Iterator[bytes]:
    """Each line that comes, with its LF."""
    with connection.makefile("rb") as file:
        yield from file


def echo(connection: socket.socket) -> None:
    """Answers each line with itself."""
    for line in lines_of(connection):
        connection.sendall(line)


def reset(connection: socket.socket) -> None:
    """Ends a connection as a crash does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
