"""What the loops have to say: a record of a loop's journal, and the log line that it becomes."""

import errno
import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from kqnative import logs, values
from kqnative.config import Config

KINDS = ("connected", "received", "disconnected", "left_out", "accept_error", "loop_error")


class Record(NamedTuple):
    """One entry of a loop's journal, as api.h describes it."""

    kind: str
    time_ms: int
    fd: int = 0
    peer: str = ""
    size: int = 0
    text: bytes = b""
    reason: str = ""
    error: int = 0
    times: int = 0
    left_out: tuple[int, int, int] = (0, 0, 0)


def reason_text(reason: str, config: Config) -> str:
    """Why a connection ended, as its line says it; empty for the peer's own end."""
    texts = {
        "eof": "",
        "reset": "connection reset",
        "idle": f"idle for {values.show_duration(config.idle_timeout)}",
        "message_timeout": f"message not finished within {values.show_duration(config.message_timeout)}",
        "write_timeout": f"took none of its answers for {values.show_duration(config.write_timeout)}",
        "too_long": f"message longer than {config.max_message} bytes",
        "hook": "hook failed",
        "denied": "address not allowed",
        "buffered": f"held the most when max_buffered, {values.show_size(config.max_buffered)}, had no room",
        "stopped": "server stopped",
        "cut": "server stopped before all answers were taken",
        "error": "no memory or descriptor left, or its loop failed",
    }
    return texts[reason]


class Lines:
    """Turns records into log lines."""

    def __init__(self, config: Config, descriptor_limit: int) -> None:
        self._config = config
        self._descriptor_limit = descriptor_limit
        self._say_kind: dict[str, Callable[[Record], None]] = {
            "connected": self._connected,
            "received": self._received,
            "disconnected": self._disconnected,
            "left_out": self._left_out,
            "accept_error": self._accept_error,
            "loop_error": self._loop_error,
        }

    def say(self, record: Record) -> None:
        """Logs one record's line."""
        self._say_kind[record.kind](record)

    def _client(self, record: Record, message: str, **facts: object) -> None:
        about = {"fd": record.fd, "peer": record.peer, **facts}
        logs.say(logs.CLIENT, logging.INFO, record.kind, message, time_ms=record.time_ms, **about)

    def _connected(self, record: Record) -> None:
        self._client(record, f"New client connected: FD {record.fd}")

    def _received(self, record: Record) -> None:
        self._client(record, f"Received: {logs.message_text(record.text, record.size)}", bytes=record.size)

    def _disconnected(self, record: Record) -> None:
        why = reason_text(record.reason, self._config)
        if record.reason == "denied":  # it was never said to be connected, nor who it is
            why += f", {record.peer}"
        ending = f": {why}" if why else ""
        self._client(record, f"Client FD {record.fd} disconnected{ending}", reason=record.reason)

    def _left_out(self, record: Record) -> None:
        counts = zip(record.left_out, KINDS, strict=False)
        what = ", ".join(f"{count} {kind}" for count, kind in counts if count)
        message = f"Left out {sum(record.left_out)} lines about clients: {what}"
        logs.say(logs.CLIENT, logging.INFO, record.kind, message, time_ms=record.time_ms)

    def _accept_error(self, record: Record) -> None:
        name = errno.errorcode.get(record.error, str(record.error))
        times = f" ({record.times} times)" if record.times > 1 else ""
        message = f"cannot accept clients: {name}{times}: {self._accept_advice(record.error)}"
        logs.say(logs.SERVER, logging.WARNING, record.kind, message, time_ms=record.time_ms)

    def _accept_advice(self, error: int) -> str:
        if error == errno.EMFILE:
            return (
                f"this process may have {self._descriptor_limit} descriptors; raise that with ulimit -n,"
                " or lower max_connections"
            )
        if error == errno.ENFILE:
            return "the system has no descriptor left; raise fs.file-max (Linux) or kern.maxfiles (macOS, BSD)"
        if error in (errno.ENOBUFS, errno.ENOMEM):
            return "the system has no memory for sockets; free some, or lower max_connections"
        return "more errors shared its place" if error == 0 else os.strerror(error)

    def _loop_error(self, record: Record) -> None:
        name = errno.errorcode.get(record.error, str(record.error))
        message = f"an event loop failed and ended: {name}, {os.strerror(record.error)}; restart the server"
        logs.say(logs.SERVER, logging.ERROR, record.kind, message, time_ms=record.time_ms)
