"""Loggers, what a line may hold, how it is written, and the handler that the command line uses."""

import codecs
import logging
import os
import select
from time import gmtime, monotonic, strftime
from typing import Any, Literal

SERVER = logging.getLogger("kqnative.server")
CLIENT = logging.getLogger("kqnative.client")
HOOK = logging.getLogger("kqnative.hook")

JSON_KEYS = ("fd", "peer", "bytes", "reason", "stats")  # after time, level, logger, event and message
PATIENCE_S = 1.0  # how long one line may wait for room on the standard error


def say(
    logger: logging.Logger, level: int, event: str, message: str, *, time_ms: int | None = None, **facts: Any
) -> None:
    """Logs one line; facts become attributes of the record, and keys in JSON. The message is not a format."""
    if not logger.isEnabledFor(level):
        return
    record = logger.makeRecord(logger.name, level, "kqnative", 0, message, (), None)
    record.__dict__.update(facts, event=event)
    if time_ms is not None:  # when it happened: it may have waited in a journal
        record.created, record.msecs = time_ms / 1_000, float(time_ms % 1_000)
    logger.handle(record)


def printable(text: str, *, also: str = "") -> str:
    r"""The text with all that a terminal would obey or hide, and the characters of `also`, as \xNN, \uNNNN or \U….

    A byte that was not UTF-8, a surrogate escape in the text, is \xNN; so are controls below 128.
    """
    if text.isprintable() and not any(char in text for char in also):
        return text
    return "".join(_escaped(char) if char in also or not _is_shown(char) else char for char in text)


def message_text(data: bytes, size: int) -> str:
    r"""A message as a log line shows it: `data` are its first bytes, `size` is how many it has.

    Without one trailing LF or CRLF; a backslash is \\, so that what is escaped can be told from what was sent.
    """
    is_cut = len(data) < size
    # Not final: a character cut in two by the end is no invalid one.
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(data, final=not is_cut)
    if is_cut:
        return f"{printable(text, also=_BACKSLASH)}… ({size} bytes)"
    return printable(text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text, also=_BACKSLASH)


_BACKSLASH = "\\"


def _is_shown(char: str) -> bool:
    # str.isprintable() takes the spaces of other scripts for unprintable; isspace() takes controls for spaces.
    return char.isprintable() or (char.isspace() and ord(char) >= 0xA0 and char not in "\u2028\u2029")


def _escaped(char: str) -> str:
    code = ord(char)
    if char == _BACKSLASH:
        return r"\\"
    if 0xDC80 <= code <= 0xDCFF:  # how surrogateescape keeps an invalid byte
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class TextFormatter(logging.Formatter):
    """The bare message, with its level in front from WARNING up."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {message}"


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        seconds, ms = divmod(round(record.created * 1_000), 1_000)
        line = {
            "time": f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(seconds))}.{ms:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        line |= {key: getattr(record, key) for key in JSON_KEYS if hasattr(record, key)}
        return json.dumps(line, ensure_ascii=False, default=str)


class StderrHandler(logging.Handler):
    """Writes lines to descriptor 2, and neither fails nor waits for long when nobody takes them.

    What is lost is counted, and said with the next line that gets through.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0
        self._is_torn = False  # the last line that was lost had been written in part

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record's line, or counts it as lost."""
        try:
            lines = [self._lost_line(), self.format(record)] if self._lost else [self.format(record)]
            text = "".join(f"{line}\n" for line in lines)
        except Exception:  # a message whose own parts raise; there is nobody to tell
            self._lost += 1
            return
        patience_s = 0.0 if self._lost else PATIENCE_S  # a reader that has stopped is waited for once
        if self._write(text.encode("utf-8", "backslashreplace"), patience_s):
            self._lost = 0
        else:
            self._lost += 1

    def _lost_line(self) -> str:
        message = f"{self._lost} log lines were lost: the standard error did not take them"
        facts = {"name": SERVER.name, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message}
        return self.format(logging.makeLogRecord({**facts, "event": "log_lost"}))

    def _write(self, data: bytes, patience_s: float) -> bool:
        if self._is_torn:
            data = b"\n" + data
        deadline = monotonic() + patience_s
        left = memoryview(data)
        try:
            # A pipe that select() calls writable takes this much at once: no write waits.
            while left and select.select([], [2], [], max(0.0, deadline - monotonic()))[1]:
                left = left[os.write(2, left[: select.PIPE_BUF]) :]
        except (OSError, ValueError):  # closed, broken, or its disk is full
            pass
        if len(left) < len(data):
            self._is_torn = bool(left)
        return not left


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Sends the lines of all our loggers to the standard error. For the command line only."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger("kqnative")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(level.upper())
