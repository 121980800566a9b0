"""The C module, and nothing else that imports it: units, errnos and structs become what Python uses."""

import errno
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from kqnative import address, journal, networks
from kqnative.config import Config
from kqnative.errors import ConfigError, KqnativeError
from kqnative.options import shown
from kqnative.stats import REASONS, Stats

try:
    from kqnative import _kq as _kq
    from kqnative._kq import ffi as ffi  # as: the load tester's engine takes them from here
    from kqnative._kq import lib as lib
except ImportError as missing:
    raise KqnativeError(
        f"the C module kqnative._kq cannot be loaded ({missing}); in a clone, build it with: pip install -e ."
    ) from missing

if lib.kqn_hook_install(id(_kq)) < 0:  # adds _kq.run_loop
    raise MemoryError("kqnative._kq")

JOURNAL_RECORDS = lib.KQN_JOURNAL_RECORDS

POLLERS = {
    "auto": lib.KQN_POLLER_AUTO,
    "kqueue": lib.KQN_POLLER_KQUEUE,
    "epoll": lib.KQN_POLLER_EPOLL,
    "poll": lib.KQN_POLLER_POLL,
    "select": lib.KQN_POLLER_SELECT,
}
FRAMINGS = {"stream": lib.KQN_FRAMING_STREAM, "line": lib.KQN_FRAMING_LINE, "u32": lib.KQN_FRAMING_U32}
_STEPS = {
    lib.KQN_STEP_MEMORY: "memory",
    lib.KQN_STEP_TEMPLATE: "the reply",
    lib.KQN_STEP_ADDRESS: "the address",
    lib.KQN_STEP_SOCKET: "socket",
    lib.KQN_STEP_BIND: "bind",
    lib.KQN_STEP_LISTEN: "listen",
    lib.KQN_STEP_POLLER: "the poller",
}
_PLAIN_COUNTERS = [one.name for one in fields(Stats) if one.type is int]

Reply = Callable[[bytes], Any]
ReplyBatch = Callable[[list[bytes]], Any]


def check_template(template: str) -> None:
    """Raises ConfigError, with the position, unless the text is a server's reply."""
    _check(lib.KQN_TEMPLATE_REPLY, template.encode(), "reply", "{message}, {peer}")


def check_message(template: bytes) -> None:
    """Raises ConfigError, with the position, unless the bytes are a load tester's message."""
    _check(lib.KQN_TEMPLATE_MESSAGE, template, "message", "{n}, {conn}")


def check_expect(template: str) -> None:
    """Raises ConfigError, with the position, unless the text is an answer that a load tester expects."""
    _check(lib.KQN_TEMPLATE_EXPECT, template.encode(), "expect", "{message}")


def _check(use: int, template: bytes, label: str, fields_there: str) -> None:
    error_at = ffi.new("size_t *")
    rc = lib.kqn_template_check(use, template, len(template), error_at)
    if rc == -errno.EINVAL:
        position = len(template[: error_at[0]].decode(errors="ignore")) + 1
        text = shown(template.decode(errors="backslashreplace"))
        raise ConfigError(
            f"{label}: {text} is wrong at character {position};"
            f" it may hold {fields_there}, and {{{{ and }}}} for braces"
        )
    raise_for(rc)


def check_poller(name: str) -> None:
    """Raises ConfigError, naming those there are, unless this system has the poller."""
    if not lib.kqn_poller_available(POLLERS[name]):
        there = [one for one, kind in POLLERS.items() if lib.kqn_poller_available(kind)]
        raise ConfigError(f"poller: this system has no {name}; it has {', '.join(there)}")


def select_limit() -> int:
    """Descriptors that a select() set can hold."""
    return lib.kqn_select_limit()


def raise_descriptor_limit(wanted: int) -> int:
    """Raises this process's limit towards `wanted` (0: as far as it goes); the limit in force."""
    return lib.kqn_descriptors_raise(wanted)


def backlog_limit() -> int | None:
    """How many clients the system lets a listener's queue hold; None: it does not say."""
    limit = lib.kqn_backlog_limit()
    return limit if limit >= 0 else None


class Handle:
    """One open server of the C core. It is freed when nobody refers to it any more, as a running loop does.

    Raises ListenError. Every call in a process that has forked raises RuntimeError.
    """

    def __init__(self, config: Config, *, max_connections: int, log_rate: int, has_hook: bool) -> None:
        host = "" if config.uds else address.resolve(config.host)
        settings, kept = _settings(config, host)
        settings.max_connections = max_connections
        settings.log_rate = log_rate
        if has_hook:
            settings.reply, settings.reply_len = ffi.NULL, 0
        out, step = ffi.new("struct kqn_server **"), ffi.new("enum kqn_step *")
        rc = lib.kqn_server_open(out, settings, step)
        del kept  # what settings point to
        if rc < 0:
            raise address.listen_error(-rc, _STEPS[step[0]], config.uds or (host, config.port))
        self._server = ffi.gc(out[0], lib.kqn_server_close)
        self._records = ffi.new("struct kqn_record[]", JOURNAL_RECORDS)

    def address(self) -> tuple[str, int]:
        """Numeric host and port; nothing and 0 for a unix socket."""
        host, port = ffi.new("char[]", lib.KQN_PEER_TEXT_MAX), ffi.new("int *")
        raise_for(lib.kqn_server_address(self._server, host, port))
        return _text(host), port[0]

    def run(
        self,
        loop_index: int,
        reply: Reply | None,
        reply_batch: ReplyBatch | None,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Runs one loop in this thread until it has stopped. Raises OSError: it failed."""
        if reply is None and reply_batch is None:
            raise_for(lib.kqn_server_run(self._server, loop_index))
            return
        pointer = int(ffi.cast("uintptr_t", self._server))
        raise_for(_kq.run_loop(pointer, loop_index, reply, reply_batch, on_error))

    def stop(self, grace_s: float) -> None:
        """Asks for the stop; the first call decides."""
        raise_for(lib.kqn_server_stop(self._server, ns(grace_s)))

    def stats(self, loop_index: int, wait_s: float) -> Stats:
        """One loop's counters; after so long those that it told last."""
        out = ffi.new("struct kqn_stats *")
        raise_for(lib.kqn_server_stats(self._server, loop_index, out, ns(wait_s)))
        return Stats(
            **{name: getattr(out, name) for name in _PLAIN_COUNTERS},
            closed={reason: out.closed[i] for i, reason in enumerate(REASONS)},
            accept_errors={errno_name(one.error): one.count for one in out.accept_errors if one.count},
        )

    def read_journal(self, loop_index: int) -> list[journal.Record]:
        """Takes out what a loop has to say, a journal's worth at most. One thread at a time."""
        count = lib.kqn_server_read_journal(self._server, loop_index, self._records, JOURNAL_RECORDS)
        raise_for(count)
        return [_record(self._records[i]) for i in range(count)]


def _settings(config: Config, host: str) -> tuple[Any, list[Any]]:
    """The struct, and what it points to, which lives only as long as somebody keeps it."""
    settings = ffi.new("struct kqn_settings *")
    reply = config.reply.encode()
    texts = [ffi.new("char[]", text) for text in (host.encode(), os.fsencode(config.uds or ""), reply)]
    known = networks.of(config.allow, config.deny)
    listed = ffi.new("struct kqn_network[]", known)
    settings.host = texts[0]
    settings.uds_path = texts[1] if config.uds else ffi.NULL
    settings.reply, settings.reply_len = texts[2], len(reply)
    settings.networks, settings.network_count = listed, len(known)
    settings.read_size = config.read_size
    settings.max_message = config.max_message
    settings.max_buffered = config.max_buffered
    settings.idle_timeout_ns = ns(config.idle_timeout)
    settings.spin_ns = ns(config.spin)
    settings.message_timeout_ns = ns(config.message_timeout)
    settings.write_timeout_ns = ns(config.write_timeout)
    settings.poller = POLLERS[config.poller]
    settings.framing = FRAMINGS[config.framing]
    settings.port = config.port
    settings.backlog = config.backlog
    settings.batch = config.batch
    settings.loops = config.loops
    return settings, [*texts, listed]


def _record(raw: Any) -> journal.Record:
    return journal.Record(
        kind=journal.KINDS[raw.kind],
        time_ms=raw.time_ms,
        fd=raw.fd,
        peer=_text(raw.peer),
        size=raw.bytes,
        text=bytes(ffi.buffer(raw.text, raw.text_len)),
        reason=REASONS[raw.reason],
        error=raw.error,
        times=raw.count,
        left_out=tuple(raw.left_out),
    )


def _text(raw: Any) -> str:
    return bytes(ffi.string(raw)).decode("utf-8", "replace")


def errno_name(code: int) -> str:
    """`ECONNRESET`; `other` for 0, which the core counts under when it has no place left."""
    return errno.errorcode.get(code, str(code)) if code else "other"


def ns(seconds: float) -> int:
    """Nanoseconds."""
    return round(seconds * 1_000_000_000)


def raise_for(rc: int) -> None:
    """Raises what a result of the core below 0 means."""
    if rc == -errno.ECHILD:
        raise RuntimeError("this belongs to the process that forked")
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
