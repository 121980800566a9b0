"""Log lines: what a message may look like, both formats, the journal's lines, and a standard error that is no good."""

import errno
import json
import logging
import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kqnative import Config, Stats, hook, journal, logs
from kqnative.stats import REASONS

UNESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def unescaped(text: str) -> bytes:
    """The bytes that a shown message stands for."""

    def one(found: re.Match[bytes]) -> bytes:
        if found[1]:
            return bytes([int(found[1], 16)])
        code = found[2] or found[3]
        return chr(int(code, 16)).encode() if code else b"\\"

    return UNESCAPE.sub(one, text.encode())


@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
@example(b"\\x1b \x1b \x85 \xc2\x85 \\\\ \xed\xa0\x80")
def test_shown_message_is_safe_and_can_be_read_back(data: bytes) -> None:
    """Any bytes become one printable line from which the bytes, but for one ending, can be told."""
    shown = logs.message_text(data, len(data))
    assert all(char.isprintable() or (char.isspace() and ord(char) > 0x7F) for char in shown)
    assert len(shown.splitlines()) <= 1
    back = unescaped(shown)
    assert data in (back, back + b"\n", back + b"\r\n")


@given(st.text(min_size=1, max_size=300).map(str.encode), st.integers(0, 200))
def test_character_that_the_cut_splits_is_not_shown_as_invalid(data: bytes, length: int) -> None:
    """Valid UTF-8 cut anywhere shows whole characters only, and how long the message is."""
    shown = logs.message_text(data[:length], len(data) + 1)
    assert shown.endswith(f"… ({len(data) + 1} bytes)")
    assert data.startswith(unescaped(shown.rpartition("… (")[0]))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"hello\n", "hello"),
        (b"hello\r\n", "hello"),
        (b"hello\n\n", r"hello\x0a"),
        (b"hello\r", r"hello\x0d"),
        (b"\n", ""),
        (b"", ""),
        ("naïve 日本 👍".encode(), "naïve 日本 👍"),
        (b"\x00\x1b[2J\x7f", r"\x00\x1b[2J\x7f"),
        ("\u0085\u202e\u2066\ufeff\u2028".encode(), r"\u0085\u202e\u2066\ufeff\u2028"),
        ("\U000e0041".encode(), r"\U000e0041"),
        (b"\xff\xc3", r"\xff\xc3"),
        (rb"\x1b", r"\\x1b"),
        ("a\u00a0b\u3000c".encode(), "a\u00a0b\u3000c"),
    ],
)
def test_message_text(data: bytes, shown: str) -> None:
    """Text stays text; one ending is left out; controls, what hides or turns text, and invalid bytes are escaped."""
    assert logs.message_text(data, len(data)) == shown


class Kept(logging.Handler):
    """Keeps records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[list[logging.LogRecord]]:
    """All records that kqnative logs in this test."""
    logger, handler = logging.getLogger("kqnative"), Kept()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(before)


def lines_of(records: list[logging.LogRecord]) -> list[str]:
    """The records as text lines."""
    return [logs.TextFormatter().format(record) for record in records]


def test_client_lines_are_those_of_the_transcript(kept: list[logging.LogRecord]) -> None:
    """Connected, received and disconnected are the three lines that the README shows."""
    lines = journal.Lines(Config(), 1_024)
    for record in (
        journal.Record("connected", 1, fd=7),
        journal.Record("received", 2, fd=7, text=b"hello\n", size=6),
        journal.Record("disconnected", 3, fd=7, reason="eof"),
    ):
        lines.say(record)
    assert lines_of(kept) == ["New client connected: FD 7", "Received: hello", "Client FD 7 disconnected"]
    assert {record.name for record in kept} == {"kqnative.client"}


def test_every_reason_has_its_words() -> None:
    """Each reason but the peer's own end is said, no two in the same words."""
    texts = [journal.reason_text(reason, Config()) for reason in REASONS]
    assert texts[0] == ""
    assert all(texts[1:])
    assert len(set(texts)) == len(REASONS)
    assert journal.reason_text("idle", Config(idle_timeout=300)) == "idle for 300 s"
    assert journal.reason_text("too_long", Config()) == "message longer than 1048576 bytes"


def test_left_out_lines_are_counted_by_kind(kept: list[logging.LogRecord]) -> None:
    """What the rate left out is said in one line with a count for each kind."""
    journal.Lines(Config(), 1_024).say(journal.Record("left_out", 1, left_out=(2, 30, 0)))
    assert lines_of(kept) == ["Left out 32 lines about clients: 2 connected, 30 received"]


def test_accept_error_names_errno_limit_and_remedy(kept: list[logging.LogRecord]) -> None:
    """A warning about descriptors names the errno, the limit in force and the command that raises it."""
    journal.Lines(Config(), 1_024).say(journal.Record("accept_error", 1, error=errno.EMFILE, times=3))
    (line,) = lines_of(kept)
    assert line.startswith("warning: cannot accept clients: EMFILE (3 times): ")
    assert "1024 descriptors" in line
    assert "ulimit -n" in line


def test_json_line_has_the_agreed_keys_in_order(kept: list[logging.LogRecord]) -> None:
    """A JSON line is one object: time in UTC with ms, level, logger, event, message, then what applies."""
    received = journal.Record("received", 1_700_000_000_007, fd=7, peer="[::1]:9", text=b"h\n", size=2)
    journal.Lines(Config(), 1_024).say(received)
    assert json.loads(logs.JsonFormatter().format(kept[0])) == {
        "time": "2023-11-14T22:13:20.007Z",
        "level": "info",
        "logger": "kqnative.client",
        "event": "received",
        "message": "Received: h",
        "fd": 7,
        "peer": "[::1]:9",
        "bytes": 2,
    }


def test_message_is_no_format(kept: list[logging.LogRecord]) -> None:
    """A client's % reaches the line as it is."""
    logs.say(logs.CLIENT, logging.INFO, "received", "Received: 100%s %(name)s")
    assert lines_of(kept) == ["Received: 100%s %(name)s"]


def test_summary_names_what_is_not_0() -> None:
    """The last line begins with accepted, messages, answered, and ends with the reasons."""
    stats = Stats(accepted=3, messages=17, answered=17, closed={"eof": 3, "reset": 0}, accept_errors={"EMFILE": 2})
    assert stats.summary() == "accepted 3, messages 17, answered 17, closed eof 3, accept_errors EMFILE 2"


def test_stats_add_up() -> None:
    """The sum of loops is the sum of each counter, by reason and by errno."""
    one = Stats(accepted=1, handed_over=2, accept_errors={"EMFILE": 1})
    other = Stats(handed_over=-2, accept_errors={"EMFILE": 1, "ENFILE": 5})
    assert one + other == Stats(accepted=1, accept_errors={"EMFILE": 2, "ENFILE": 5})


def failing(line: int) -> BaseException:
    """An exception, raised at one of two lines."""
    try:
        if line == 1:
            raise ValueError("first")
        raise ValueError("second")
    except ValueError as error:
        return error


def test_hook_flood_makes_one_traceback_a_cause() -> None:
    """Of many exceptions one traceback for each type and place is logged, and the others are counted."""
    errors = hook.Errors()
    for _ in range(100):
        errors(failing(1))
        errors(failing(2))
    first, second = errors.take()
    assert first.startswith("ValueError: first\nTraceback")
    assert second.startswith("ValueError: second\nTraceback")
    left_out = errors.take(last=True)
    assert [re.sub(r" at .*:\d+", "", text) for text in left_out] == ["ValueError: 99 more left out"] * 2
    assert errors.take(last=True) == []


def test_hook_that_invents_causes_is_bounded() -> None:
    """Endless different exceptions cost a bounded number of texts, and every one is counted."""
    errors = hook.Errors()
    for i in range(1_000):
        errors(type(f"Error{i}", (Exception,), {})())
    texts = errors.take(last=True)
    assert len(texts) <= hook.MOST_CAUSES + 2
    counted = [int(found[1]) for text in texts if (found := re.search(r"(\d+) more left out", text))]
    assert sum(counted) + len([text for text in texts if "left out" not in text]) == 1_000


@pytest.fixture
def stderr() -> Iterator[logs.StderrHandler]:
    """The handler, with descriptor 2 put back afterwards."""
    kept_fd = os.dup(2)
    handler = logs.StderrHandler()
    handler.setFormatter(logs.TextFormatter())
    yield handler
    os.dup2(kept_fd, 2)
    os.close(kept_fd)


def record(message: str) -> logging.LogRecord:
    """A line to be."""
    return logging.makeLogRecord({"msg": message, "levelno": logging.INFO, "levelname": "INFO"})


def test_stopped_reader_is_waited_for_once(stderr: logs.StderrHandler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full pipe costs one short wait; what it did not take is counted, and said when it takes lines again."""
    monkeypatch.setattr(logs, "PATIENCE_S", 0.05)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.set_blocking(writer, False)
    filled = 0
    try:
        while True:
            filled += os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    for i in range(1_000):
        stderr.emit(record(f"lost {i}"))
    while filled > 0:
        filled -= len(os.read(reader, min(filled, 65536)))
    stderr.emit(record("here again"))
    assert os.read(reader, 999) == (
        b"warning: 1000 log lines were lost: the standard error did not take them\nhere again\n"
    )
    os.close(reader)
    os.close(writer)


def test_broken_or_closed_standard_error_is_survived(stderr: logs.StderrHandler) -> None:
    """Nobody reads, or there is no descriptor 2 at all: a line is lost, and nothing else happens."""
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    os.close(reader)
    stderr.emit(record("into a broken pipe"))
    os.close(2)
    stderr.emit(record("into nothing"))
    assert stderr._lost == 2


def test_message_that_cannot_be_shown_is_survived(stderr: logs.StderrHandler) -> None:
    """A record whose own format fails is lost alone."""
    stderr.emit(logging.makeLogRecord({"msg": "%d", "args": ("x",), "levelno": 20, "levelname": "INFO"}))
    assert stderr._lost == 1
