"""The witness: a client that nothing is done to, while something is done to the server or to other clients."""

import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

from conftest import FRAMED, RunningServer, read_exactly

MOST_GAP_S = 1.0


class Witness:
    """A client in lock-step on connections of its own, in a thread; its messages are numbered and tagged.

    Leaving the block checks that no byte was wrong, and that no answer took longer than `most_gap_s` (None: it is not
    checked, where the loop itself is stopped). With several loops, so many connections witness each of them, for
    clients are handed out in turn.
    """

    def __init__(
        self,
        server: RunningServer,
        *,
        framing: str = "stream",
        connections: int = 1,
        most_gap_s: float | None = MOST_GAP_S,
    ) -> None:
        self.answered = 0
        self.longest_gap_s = 0.0
        self._most_gap_s = most_gap_s
        self._framed = FRAMED[framing]
        self._clients = [server.connect() for _ in range(connections)]
        self._tag = os.urandom(4).hex().encode()
        self._error: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        try:
            is_last = False  # an exchange is made after the block, too: the server is alive then
            while not is_last:
                is_last = self._is_over.wait(0.001)
                for client in self._clients:
                    self._exchange(client)
        except (OSError, AssertionError) as error:
            self._error = error

    def _exchange(self, client: socket.socket) -> None:
        text = b"%s %d" % (self._tag, self.answered)
        expected = self._framed(b"system: " + text)
        asked_at = time.monotonic()
        client.sendall(self._framed(text))
        answer = read_exactly(client, len(expected))
        self.longest_gap_s = max(self.longest_gap_s, time.monotonic() - asked_at)
        assert answer == expected, f"the witness was answered {answer!r}"
        self.answered += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
        for client in self._clients:
            client.close()
        if error is not None:
            return
        assert self._error is None, f"the witness failed: {self._error!r}"
        assert self.answered > 0
        if self._most_gap_s is not None:
            assert self.longest_gap_s <= self._most_gap_s, f"the witness waited {self.longest_gap_s:.3f} s"
