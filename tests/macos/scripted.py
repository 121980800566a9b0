"""One library in execution: the calls that start it, and a transcript of which every line must be expected."""

import functools
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import darwin
from cffi import FFI  # type: ignore[import-untyped]
from darwin import MILLISECOND_NS, Darwin, Socket, bytes_text
from machine import Machine

API = Path(__file__).resolve().parents[2] / "csrc" / "api.h"
BATCH = 7
READ_SIZE = 32
IDLE_MS = 2000
GRACE_NS = 10_000_000_000
REPLY = b"system: "
PATH = "/tmp/kq"

Script = Iterator[float]


@functools.cache
def load_api() -> Any:
    """The types of api.h, which an LP64 host lays out as both kinds of Mac do."""
    ffi = FFI()
    ffi.cdef("\n".join(line for line in API.read_text(encoding="utf-8").splitlines() if not line.startswith("#")))
    if (ffi.sizeof("void *"), ffi.sizeof("long"), sys.byteorder) != (8, 8, "little"):
        raise RuntimeError("this check needs a 64-bit host that is no Windows")
    return ffi


# Lines of the transcript, and parts of them; * stands for anything.
read_on = "EVFILT_READ {} EV_ADD|EV_ENABLE".format
read_off = "EVFILT_READ {} EV_DISABLE".format
read_gone = "EVFILT_READ {} EV_DELETE".format
write_on = "EVFILT_WRITE {} EV_ADD|EV_ENABLE".format
write_gone = "EVFILT_WRITE {} EV_DELETE".format


def wait(*changes: str) -> str:
    """A kevent() with these changes that waits for events, however long."""
    return f"kevent(queue, [{', '.join(f'{change} udata *' for change in changes)}], {BATCH} events, *)"


def events(*shown: str) -> str:
    return f"  events: {', '.join(shown)}"


def read(name: str, data: bytes, size: int | str = READ_SIZE) -> str:
    return f"read({name}, {size}) = {bytes_text(data)}"


def write(name: str, data: bytes, taken: int | None = None) -> str:
    return f"write({name}, {bytes_text(data)}) = {len(data) if taken is None else taken}"


def write_two(name: str, first: bytes, second: bytes, taken: int | None = None) -> str:
    count = len(first) + len(second) if taken is None else taken
    return f"writev({name}, [{bytes_text(first)}, {bytes_text(second)}]) = {count}"


def made_ready(name: str) -> tuple[str, ...]:
    """The calls that give what was accepted its flags."""
    return (
        f"fcntl({name}, F_GETFL) = O_RDWR|O_NONBLOCK",
        f"fcntl({name}, F_SETFL, O_RDWR|O_NONBLOCK) = 0",
        f"fcntl({name}, F_SETFD, FD_CLOEXEC) = 0",
    )


def moved(call: str, name: str, number: int) -> tuple[str, ...]:
    """The calls that make this at a standard descriptor's number, and move it out of the way."""
    return (
        f"{call} = {name} at {number}",
        f"fcntl({name} at {number}, F_DUPFD_CLOEXEC, 3) = {name}",
        f"close({name} at {number}) = 0",
    )


def unread(name: str, count: int) -> str:
    return f"getsockopt({name}, SOL_SOCKET, SO_NREAD) = {count}"


def unsent(name: str, count: int) -> str:
    return f"getsockopt({name}, SOL_SOCKET, SO_NWRITE) = {count}"


def accepted(*names: str) -> tuple[str, ...]:
    """The calls that take these clients in, and find no other."""
    calls: list[str] = []
    for name in names:
        calls += [f"accept(listener) = {name}", *made_ready(name)]
    return (*calls, "accept(listener) = EAGAIN")


IDLE = wait()
WOKEN = ("kevent(queue, [EVFILT_USER 0 NOTE_TRIGGER udata 0x0], 0 events, 0 ms)", events("none"))
OPENED = (
    "fcntl(listener, F_GETFL) = O_RDWR",
    "fcntl(listener, F_SETFL, O_RDWR|O_NONBLOCK) = 0",
    "fcntl(listener, F_SETFD, FD_CLOEXEC) = 0",
    "setsockopt(listener, SOL_SOCKET, SO_NOSIGPIPE, 1) = 0",
)
TCP_OPENED = (
    *OPENED,
    "setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, 1) = 0",
    "setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, 1) = 0",
)
LISTENING = ("listen(listener, 5) = 0", "getsockname(listener) = 0")
QUEUE_OPENED = (
    "kqueue() = queue",
    "fcntl(queue, F_SETFD, FD_CLOEXEC) = 0",
    "kevent(queue, [EVFILT_USER 0 EV_ADD|EV_CLEAR udata 0x0], 0 events, 0 ms)",
    events("none"),
    *WOKEN,
    "kevent(queue, [], 1 events, 0 ms)",
    events("EVFILT_USER 0 0"),
)


def fits(line: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), line) is not None


def without_idle_turns(lines: list[str]) -> list[str]:
    """A wait that ends with no event, and begins again with no change, is the same wait."""
    kept: list[str] = []
    for line in lines:
        if kept and kept[-1] == events("none") and fits(line, IDLE):
            kept.pop()
        else:
            kept.append(line)
    return kept


class Run:
    """A library in execution, and its transcript, every line of which must be expected."""

    def __init__(self, library: Path) -> None:
        self.machine = Machine(library)
        self.kernel = Darwin(self.machine)
        self.kernel.batch = BATCH
        self.ffi = load_api()
        self.numbers = self.ffi.dlopen(None)  # enumerators are in no library
        self.server = 0
        self.peers: dict[str, Socket] = {}  # of this server
        self.addresses: dict[str, str] = {}
        self.stopped_ns = 0
        self.situations = 0
        self.lines_expected = 0

    def situation(self, title: str) -> None:
        self.expect()
        self.situations += 1
        self.kernel.transcript.append(f"{self.situations}. {title}")
        self.lines_expected += 1

    def expect(self, *patterns: str) -> None:
        """The lines since the last time are these, but for turns in which nothing happened."""
        lines = without_idle_turns(self.kernel.transcript[self.lines_expected :])
        self.lines_expected = len(self.kernel.transcript)
        before = "the beginning"
        for pattern, line in zip_longest(patterns, lines, fillvalue="nothing"):
            self.check(fits(line, pattern), f"after {before}\n  there should be {pattern}\n  but there is   {line}")
            before = line

    def check(self, holds: bool, words: str) -> None:
        if not holds:
            raise AssertionError(f"situation {self.situations}: {words}")

    def arrive(self, name: str, host: str = "192.0.2.1") -> Socket:
        """A client connects."""
        port = 5000 + len(self.peers)
        self.peers[name] = peer = self.kernel.connect(name, host, port)
        texts = {darwin.AF_INET: f"{host}:{port}", darwin.AF_INET6: f"[{host}]:{port}", darwin.AF_UNIX: "unix"}
        self.addresses[name] = texts[peer.family]
        return peer

    def call(self, function: str, *arguments: int) -> int:
        result = self.machine.call(function, *arguments)
        self.check(result >= 0, f"{function}() returns {result}")
        return result

    def text(self, words: str) -> Any:
        return self.ffi.cast("char *", self.kernel.place(words.encode() + b"\0"))

    def open(self, **more: Any) -> None:
        self.peers = {}
        settings = self.ffi.new("struct kqn_settings *")
        values = {
            "reply": self.text("system: {message}"),
            "reply_len": len("system: {message}"),
            "read_size": READ_SIZE,
            "max_message": 1000,
            "max_buffered": 1 << 20,
            "idle_timeout_ns": IDLE_MS * MILLISECOND_NS,
            "backlog": 5,
            "batch": BATCH,
            "loops": 1,
            "max_connections": 100,
            "log_rate": 1000,
        }
        for name, value in (values | more).items():
            setattr(settings, name, value)
        out, step = self.kernel.place(bytes(8)), self.kernel.place(bytes(4))
        self.call("kqn_server_open", out, self.kernel.place(bytes(self.ffi.buffer(settings))), step)
        self.server = self.machine.read_word(out)

    def networks(self, *networks: tuple[str, int, bool]) -> dict[str, Any]:
        """The settings that let clients of these IPv4 networks in, or keep them out."""
        listed = [
            (list(socket.inet_pton(socket.AF_INET6, f"::ffff:{host}")), 96 + bits, is_allowed)
            for host, bits, is_allowed in networks
        ]
        place = self.kernel.place(bytes(self.ffi.buffer(self.ffi.new("struct kqn_network[]", listed))))
        return {"networks": self.ffi.cast("struct kqn_network *", place), "network_count": len(listed)}

    def serve(self, *situations: Callable[["Run"], Script]) -> None:
        """Runs the loop through these situations, each of which has its name in its docstring."""
        self.situation("The listener is registered once it listens.")
        self.kernel.script = script = self.play(situations)
        self.call("kqn_server_run", self.server, 0)
        self.check(next(script, None) is None, "the server ends before the script does")

    def play(self, situations: Sequence[Callable[["Run"], Script]]) -> Script:
        self.expect(wait(read_on("listener")))
        for situation in situations:
            self.situation(str(situation.__doc__))
            yield from situation(self)

    def stop(self) -> None:
        """As another thread does, while the loop waits."""
        self.stopped_ns = self.kernel.now_ns
        self.call("kqn_server_stop", self.server, GRACE_NS)

    def stats(self) -> Any:
        place = self.kernel.place(bytes(self.ffi.sizeof("struct kqn_stats")))
        self.call("kqn_server_stats", self.server, 0, place, 0)
        return self.struct_at(place, "struct kqn_stats")

    def records(self) -> list[Any]:
        """What the journal holds."""
        size = self.ffi.sizeof("struct kqn_record")
        most = self.numbers.KQN_JOURNAL_RECORDS
        place = self.kernel.place(bytes(most * size))
        count = self.call("kqn_server_read_journal", self.server, 0, place, most)
        return [self.struct_at(place + i * size, "struct kqn_record") for i in range(count)]

    def struct_at(self, place: int, name: str) -> Any:
        copy = self.ffi.new(f"{name} *")
        buffer = self.ffi.buffer(copy)
        buffer[:] = self.machine.read(place, len(buffer))
        return copy

    def finish(self, closed: dict[str, int], owed: Callable[[bytes], bytes]) -> Any:
        """Closes the server that has stopped, and looks at what it leaves. owed: the answer to all that a peer said."""
        stats = self.stats()
        peers = [peer for peer in self.peers.values() if peer.closed_at_ns is not None and not peer.is_broken]
        for peer in peers:
            said, got = bytes(peer.said), bytes(peer.got)
            self.check(got == (owed(said) if said else b""), f"{peer.name} said {said!r} and got {got!r}")
        self.check_counters(stats, peers, closed)
        self.check_journal(stats, peers)
        self.machine.call("kqn_server_close", self.server)
        self.expect(*WOKEN, "close(queue) = 0")
        left = [*self.kernel.files, *self.kernel.blocks, *self.kernel.locked]
        self.check(not left, f"descriptors, memory or mutexes are not given back: {left}")
        return stats

    def check_counters(self, stats: Any, peers: list[Socket], closed: dict[str, int]) -> None:
        reasons = self.ffi.typeof("enum kqn_reason").elements
        counted = {reasons[i].removeprefix("KQN_REASON_"): count for i, count in enumerate(stats.closed) if count}
        self.check(counted == closed, f"closed: {counted}")
        self.check(stats.accepted == len(peers) == sum(closed.values()), f"{stats.accepted} accepted")
        self.check(stats.messages == stats.answered + stats.unanswered, f"{stats.messages} messages")
        moved = sum(peer.bytes_read for peer in peers), sum(len(peer.got) for peer in peers)
        self.check(
            (stats.bytes_in, stats.bytes_out) == moved, f"{stats.bytes_in} and {stats.bytes_out}, not {moved} bytes"
        )
        self.check(stats.open == stats.pending == stats.handed_over == stats.stale_events == 0, "something is left")

    def check_journal(self, stats: Any, peers: list[Socket]) -> None:
        records = self.records()
        connected = [record for record in records if record.kind == self.numbers.KQN_RECORD_CONNECTED]
        denied = [record for record in records if record.reason == self.numbers.KQN_REASON_DENIED]
        told, denied_told = ([self.ffi.string(record.peer).decode() for record in some] for some in (connected, denied))
        met = [self.addresses[peer.name] for peer in peers]
        self.check(told == [address for address in met if address not in denied_told], f"connected: {told}")
        self.check(len(denied_told) == stats.closed[self.numbers.KQN_REASON_DENIED], f"denied: {denied_told}")
        received = sum(record.kind == self.numbers.KQN_RECORD_RECEIVED for record in records)
        self.check(received == stats.messages, f"{received} messages in the journal")
