"""A server: its threads, its life from start() to stop(), and its counters."""

import atexit
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kqnative import address, hook, limits, logs, memory, values
from kqnative.config import DEFAULTS, DESCRIPTOR_RESERVE, Config, check
from kqnative.errors import ConfigError, KqnativeError
from kqnative.journal import Lines
from kqnative.stats import Stats

if TYPE_CHECKING:
    from kqnative._native import Handle

Reply = Callable[[bytes], Any]
ReplyBatch = Callable[[list[bytes]], Any]

DRAIN_INTERVAL_S = 0.05  # between two looks at the journals; a full one drops, so this bounds the lines a second
LINGER_S = 1.5  # after the grace: the core may still read for half a second, and a hook in its batch may need a moment
STATS_WAIT_S = 1.0  # for a loop that is busy in its hook


class Latch:
    """Opens once. Unlike threading.Event, a signal handler may wait for it while it interrupts a wait."""

    def __init__(self) -> None:
        self._is_open = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Lets everybody through, now and later. To be called once."""
        self._is_open = True
        self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is open, at the latest after so long."""
        if not self._is_open and self._lock.acquire(timeout=timeout_s):
            self._lock.release()
        return self._is_open


class Server:
    """Answers every message of its clients with a template or a Python function.

    `reply` is a template (str) or a function of one message (bytes to bytes, or None: no answer); `reply_batch` is a
    function of a list of messages. Either takes the place of the Config's reply, hook and hook_batch. Other keywords
    are Config's fields. Functions run in the loops' threads: with several loops at the same time where Python has no
    GIL, in turn where it has one.

    Raises ConfigError. After a fork every call in the child raises RuntimeError.
    """

    def __init__(
        self,
        config: Config | None = None,
        /,
        *,
        reply: str | Reply | None = None,
        reply_batch: ReplyBatch | None = None,
        **fields: Any,
    ) -> None:
        self.config = _configured(config, reply, reply_batch, fields)
        self._reply, self._reply_batch = _functions(self.config, reply, reply_batch)
        self._lock = threading.RLock()  # of start and stop; a signal handler may call stop() in the middle of one
        self._count_lock = threading.Lock()  # of _running alone, so that a loop can end while start() holds the other
        self._running = 0
        self._pid = 0  # 0: not started
        self._handle: Handle | None = None  # from start() until the last loop has ended; it ends the core's server
        self._descriptor_limit = 0
        self._address: tuple[str, int] | str | None = None
        self._threads: list[threading.Thread] = []
        self._is_running = False  # all threads have been started
        self._hook_errors = hook.Errors()
        self._failure: BaseException | None = None  # of a loop
        self._stop_grace_s = 0.0
        self._deadline: float | None = None  # when a stop gives up
        self._loops_ended = Latch()
        self._finished = Latch()
        self._final = Stats()

    def start(self) -> None:
        """Binds, and returns when clients are served. Raises ListenError; RuntimeError the second time."""
        self._launch(in_background=True)

    def run(self) -> None:
        """Starts unless that is done, and blocks until stop(). Ctrl-C drains first, then raises KeyboardInterrupt.

        Raises KqnativeError if a loop failed.
        """
        if self._is_own_thread():
            raise RuntimeError("run() would wait for the thread that called it")
        if self._pid == 0:
            self.start()
        self._check_process()
        try:
            # Short waits: on some systems another thread may take the signal, and nothing ends the wait then.
            while not self._finished.wait(0.1) and not (self._failure and self._is_overdue()):
                pass
        except KeyboardInterrupt:
            self.stop()
            raise
        if self._failure is not None:
            raise KqnativeError(f"a loop failed: {self._failure}") from self._failure

    def stop(self, timeout: float | None = None) -> bool:
        """Drains, with this many seconds for answers that are owed (None: the Config's grace), and waits for the end.

        True if no answer that was owed was cut; False too if a hook does not come back. From any thread, any number of
        times; the first call's seconds count. From a hook, and during start(), it only asks, and returns False.
        """
        grace_s = self.config.grace if timeout is None else check("grace", timeout, label="timeout")
        self._check_process()
        if self._pid == 0:
            return True
        self._ask_to_stop(grace_s)
        if self._is_own_thread() or not self._is_running:
            return False
        assert self._deadline is not None
        return self._finished.wait(max(0.0, self._deadline - monotonic())) and self._is_clean()

    def stats(self) -> Stats:
        """The counters now; after the end, the last ones. From a hook those of each loop's last answer."""
        self._check_process()
        handle = self._handle
        if handle is None:
            return self._final
        return self._sum(handle, 0.0 if self._is_own_thread() else STATS_WAIT_S)

    @property
    def address(self) -> tuple[str, int] | str:
        """The address bound: numeric host and port, or the path of a unix socket. RuntimeError before start()."""
        self._check_process()
        if self._address is None:
            raise RuntimeError("this Server has not been started")
        return self._address

    @property
    def port(self) -> int:
        """The port bound; 0 for a unix socket. RuntimeError before start()."""
        bound = self.address
        return 0 if isinstance(bound, str) else bound[1]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pid == os.getpid():  # a child that leaves the block has nothing to stop
            self.stop()

    # The command line uses the next three too: it drains the journals in its main thread.

    def _launch(self, *, in_background: bool) -> None:
        with self._lock:
            self._check_process()
            if self._pid:
                raise RuntimeError("a Server can be started once")
            self._open()
        logs.say(logs.SERVER, logging.INFO, "started", f"Server started on {_shown(self.address)}")
        self._say_what_to_know()  # no loop runs yet: it can't stand between the lines of a client
        self._start_threads(in_background)
        atexit.register(self._stop_at_exit)

    def _drain_until_ended(self, *, gives_up: bool = False) -> bool:
        """Logs what the loops have to say until all have ended; False: it gave up, one did not end in time."""
        lines = Lines(self.config, self._descriptor_limit)
        while not self._loops_ended.wait(DRAIN_INTERVAL_S):
            self._log(lines)
            if gives_up and self._is_overdue():
                return False
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._log(lines, last=True)
        self._finish()
        return True

    def _is_overdue(self) -> bool:
        return self._deadline is not None and monotonic() > self._deadline

    def _is_clean(self) -> bool:
        return self._final.closed["cut"] == 0 and self._failure is None

    def _open(self) -> None:
        from kqnative import _native

        self._descriptor_limit, max_connections = limits.connections(self.config)
        _say_if_lowered(self.config.max_connections, max_connections, self._descriptor_limit)
        self._handle = _native.Handle(
            self.config,
            max_connections=max_connections,
            # Nobody hears them: then the loops need not write them.
            log_rate=self.config.log_rate if logs.CLIENT.isEnabledFor(logging.INFO) else 0,
            has_hook=self._reply is not None or self._reply_batch is not None,
        )
        self._pid = os.getpid()
        self._address = self.config.uds or self._handle.address()

    def _say_what_to_know(self) -> None:
        host = self.address[0] if isinstance(self.address, tuple) else ""
        if host == "::" and sys.platform.startswith("openbsd"):
            _say_info("limit", "OpenBSD: this address takes IPv6 clients alone")
        if host in ("0.0.0.0", "::") and self.config.allow is None:
            _say_info("open_to_all", "It listens on all addresses: --host 127.0.0.1 is for this machine alone")
        queue = limits.backlog(self.config.backlog)
        if queue.value is not None and queue.value < self.config.backlog:
            cut = f"The system cuts backlog from {self.config.backlog} to {queue.value} ({queue.name})"
            _say_info("limit", f"{cut}; for more: {queue.command}")
        share = self.config.max_buffered // self.config.loops
        if self.config.framing != "stream" and share < memory.MOST_GROWTH * self.config.max_message:
            few = f"max_buffered leaves each loop {values.show_size(share)}, which may be too little for a message"
            enough = values.show_size(memory.MOST_GROWTH * self.config.max_message * self.config.loops)
            _say_info("limit", f"{few} of {values.show_size(self.config.max_message)}; {enough} is enough")

    def _start_threads(self, in_background: bool) -> None:
        """Loop 0, which accepts, comes last: no client meets a loop that is not there yet."""
        loops = [
            threading.Thread(target=self._run_loop, args=(i,), name=f"kqnative-{i}", daemon=True)
            for i in range(self.config.loops)
        ]
        log = threading.Thread(target=self._drain_until_ended, name="kqnative-log", daemon=True)
        self._running = len(loops)
        for thread in [*loops[1:], *([log] if in_background else []), loops[0]]:
            self._threads.append(thread)  # first: a hook that calls stop() looks for its thread here
            try:
                thread.start()
            except RuntimeError as error:
                self._threads.pop()
                self._give_up_start(loops, log)
                why = f"cannot start a thread: {error}; ask for fewer loops, or raise ulimit -u"
                raise KqnativeError(why) from error
        self._is_running = True
        if self._deadline is not None:  # somebody could not wait for the start
            self._deadline = monotonic() + self._stop_grace_s + LINGER_S

    def _give_up_start(self, loops: list[threading.Thread], log: threading.Thread) -> None:
        """Ends the threads that did start: they listen to loop 0, which runs here for that."""
        with self._count_lock:
            self._running -= sum(thread not in self._threads for thread in loops[1:])
        self._ask_to_stop(0.0)
        self._run_loop(0)
        if log not in self._threads:
            self._drain_until_ended()

    def _run_loop(self, index: int) -> None:
        handle = self._handle
        assert handle is not None
        try:
            handle.run(index, self._reply, self._reply_batch, self._hook_errors)
        except BaseException as error:
            if self._pid != os.getpid():  # the child of a hook that forked; its locks are nobody's
                return
            self._failure = error.with_traceback(None)  # whose frames would keep the handle
            self._ask_to_stop(self.config.grace)
        del handle
        with self._count_lock:
            self._running -= 1
            is_last = self._running == 0
        if is_last:
            self._loops_ended.open()

    def _ask_to_stop(self, grace_s: float) -> None:
        with self._lock:
            if self._deadline is None:
                self._stop_grace_s = grace_s
                self._deadline = monotonic() + grace_s + LINGER_S
            if self._handle is not None:
                self._handle.stop(self._stop_grace_s)

    def _log(self, lines: Lines, *, last: bool = False) -> None:
        """One look at all journals. Without memory it costs some lines: the loops need none of Python's."""
        assert self._handle is not None
        try:
            for i in range(self.config.loops):
                for record in self._handle.read_journal(i):
                    _safely(lines.say, record)
            for text in self._hook_errors.take(last=last):
                _safely(_say_hook_error, text)
        except MemoryError:
            pass

    def _finish(self) -> None:
        assert self._handle is not None
        self._final = self._sum(self._handle, 0.0)
        with self._lock:
            if self._deadline is None:  # every loop failed by itself
                self._deadline = monotonic()
            self._handle = None  # the last that refers to it, but for a stats() in another thread
        _safely(self._say_end)
        atexit.unregister(self._stop_at_exit)
        self._finished.open()

    def _say_end(self) -> None:
        if cut := self._final.closed["cut"]:
            grace = values.show_duration(self._stop_grace_s)
            message = f"answers owed to clients were cut after a grace of {grace}: {cut} clients; give a longer grace"
            logs.say(logs.SERVER, logging.WARNING, "cut", message)
        message = f"Server stopped: {self._final.summary()}"
        logs.say(logs.SERVER, logging.INFO, "stopped", message, stats=dataclasses.asdict(self._final))

    def _sum(self, handle: "Handle", wait_s: float) -> Stats:
        give_up = monotonic() + wait_s
        loops = range(self.config.loops)
        return sum((handle.stats(i, max(0.0, give_up - monotonic())) for i in loops), start=Stats())

    def _is_own_thread(self) -> bool:
        return threading.current_thread() in self._threads

    def _check_process(self) -> None:
        if self._pid not in (0, os.getpid()):
            raise RuntimeError("this Server belongs to the process that forked")

    def _stop_at_exit(self) -> None:
        if self._pid == os.getpid():
            self.stop()


def _configured(
    config: Config | None, reply: str | Reply | None, reply_batch: ReplyBatch | None, fields: dict[str, Any]
) -> Config:
    for name in fields:
        if name not in DEFAULTS:
            raise ConfigError(f"{name}: Config has no such field; it has {', '.join(DEFAULTS)}")
    given = {"reply": reply, "reply_batch": reply_batch, **fields}
    rivals = [name for name in ("reply", "reply_batch", "hook", "hook_batch") if given.get(name) is not None]
    if len(rivals) > 1:
        raise ConfigError(f"{rivals[0]} and {rivals[1]} cannot both act: leave one of them out")
    if reply is not None or reply_batch is not None:
        template = reply if isinstance(reply, str) else DEFAULTS["reply"]
        fields = {**fields, "reply": template, "hook": None, "hook_batch": None}
    return dataclasses.replace(Config() if config is None else config, **fields)


def _functions(
    config: Config, reply: str | Reply | None, reply_batch: ReplyBatch | None
) -> tuple[Reply | None, ReplyBatch | None]:
    if reply is not None and not isinstance(reply, str):
        return hook.check(reply, "reply"), None
    if reply_batch is not None:
        return None, hook.check(reply_batch, "reply_batch")
    one = hook.load(config.hook, "hook") if config.hook else None
    many = hook.load(config.hook_batch, "hook_batch") if config.hook_batch else None
    return one, many


def _say_if_lowered(asked: int | None, granted: int, descriptor_limit: int) -> None:
    if asked is not None and asked > granted:
        message = (
            f"max_connections is lowered from {asked} to {granted}: this process may have {descriptor_limit}"
            f" descriptors (RLIMIT_NOFILE); raise that with: ulimit -n {asked + DESCRIPTOR_RESERVE}"
        )
        logs.say(logs.SERVER, logging.WARNING, "limit", message)


def _shown(bound: tuple[str, int] | str) -> str:
    return logs.printable(address.text(bound))


def _say_info(event: str, message: str) -> None:
    logs.say(logs.SERVER, logging.INFO, event, message)


def _say_hook_error(text: str) -> None:
    # Indented, so that no line of an exception's text can pass for one of ours.
    lines = [logs.printable(line) for line in text.splitlines()]
    logs.say(logs.HOOK, logging.ERROR, "hook_error", "hook failed: " + "\n  ".join(lines))


def _safely(say: Callable[..., None], *what: object) -> None:
    """What a user's logging handler raises must not end the thread that drains; it is shown as a thread's end is."""
    try:
        say(*what)
    except MemoryError:
        pass  # there is none for an excuse, either
    except Exception as error:
        if logging.raiseExceptions:
            about = (type(error), error, error.__traceback__, threading.current_thread())
            threading.excepthook(threading.ExceptHookArgs(about))
