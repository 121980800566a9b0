"""The C module as csrc/api.h declares it, and run_loop, which kqn_hook_install() adds. A test compares the names."""

from collections.abc import Callable
from typing import Any, Final

ffi: Any  # cffi.FFI, which has no types of its own that would say what new() returns

class _Lib:
    KQN_DESCRIPTOR_RESERVE: Final[int]
    KQN_ERRNO_KINDS: Final[int]
    KQN_RECORD_TEXT_MAX: Final[int]
    KQN_JOURNAL_RECORDS: Final[int]
    KQN_PEER_TEXT_MAX: Final[int]
    KQN_ANSWER_MAX: Final[int]
    KQN_HISTOGRAM_COUNTS: Final[int]
    KQN_EXAMPLES_MAX: Final[int]
    KQN_EXAMPLE_TEXT_MAX: Final[int]

    KQN_POLLER_AUTO: Final[int]
    KQN_POLLER_KQUEUE: Final[int]
    KQN_POLLER_EPOLL: Final[int]
    KQN_POLLER_POLL: Final[int]
    KQN_POLLER_SELECT: Final[int]

    KQN_FRAMING_STREAM: Final[int]
    KQN_FRAMING_LINE: Final[int]
    KQN_FRAMING_U32: Final[int]

    KQN_TEMPLATE_REPLY: Final[int]
    KQN_TEMPLATE_MESSAGE: Final[int]
    KQN_TEMPLATE_EXPECT: Final[int]

    KQN_REASON_EOF: Final[int]
    KQN_REASON_RESET: Final[int]
    KQN_REASON_IDLE: Final[int]
    KQN_REASON_MESSAGE_TIMEOUT: Final[int]
    KQN_REASON_WRITE_TIMEOUT: Final[int]
    KQN_REASON_TOO_LONG: Final[int]
    KQN_REASON_HOOK: Final[int]
    KQN_REASON_DENIED: Final[int]
    KQN_REASON_BUFFERED: Final[int]
    KQN_REASON_STOPPED: Final[int]
    KQN_REASON_CUT: Final[int]
    KQN_REASON_ERROR: Final[int]
    KQN_REASON_COUNT: Final[int]

    KQN_STEP_MEMORY: Final[int]
    KQN_STEP_TEMPLATE: Final[int]
    KQN_STEP_ADDRESS: Final[int]
    KQN_STEP_SOCKET: Final[int]
    KQN_STEP_BIND: Final[int]
    KQN_STEP_LISTEN: Final[int]
    KQN_STEP_POLLER: Final[int]

    KQN_RECORD_CONNECTED: Final[int]
    KQN_RECORD_RECEIVED: Final[int]
    KQN_RECORD_DISCONNECTED: Final[int]
    KQN_RECORD_LEFT_OUT: Final[int]
    KQN_RECORD_ACCEPT_ERROR: Final[int]
    KQN_RECORD_LOOP_ERROR: Final[int]

    KQN_LOAD_REFUSED: Final[int]
    KQN_LOAD_RESET: Final[int]
    KQN_LOAD_TIMEOUT: Final[int]
    KQN_LOAD_CLOSED: Final[int]
    KQN_LOAD_WRONG_ANSWER: Final[int]
    KQN_LOAD_SHORT_ANSWER: Final[int]
    KQN_LOAD_NO_LOCAL_PORT: Final[int]
    KQN_LOAD_NO_DESCRIPTOR: Final[int]
    KQN_LOAD_OTHER: Final[int]
    KQN_LOAD_ERROR_COUNT: Final[int]

    KQN_LOAD_CONNECTING: Final[int]
    KQN_LOAD_WARMING: Final[int]
    KQN_LOAD_SETTLING: Final[int]
    KQN_LOAD_MEASURING: Final[int]
    KQN_LOAD_WAITING: Final[int]
    KQN_LOAD_DONE: Final[int]

    # Any: a pointer or a struct of the C side, made by ffi.
    def kqn_poller_available(self, kind: int, /) -> bool: ...
    def kqn_poller_default(self) -> int: ...
    def kqn_select_limit(self) -> int: ...
    def kqn_build_target(self) -> Any: ...
    def kqn_descriptors_raise(self, wanted: int, /) -> int: ...
    def kqn_backlog_limit(self) -> int: ...
    def kqn_template_check(self, use: int, text: bytes, text_len: int, error_at: Any, /) -> int: ...
    def kqn_server_open(self, out: Any, settings: Any, failed_step: Any, /) -> int: ...
    def kqn_server_address(self, server: Any, host: Any, port: Any, /) -> int: ...
    def kqn_server_run(self, server: Any, loop_index: int, /) -> int: ...
    def kqn_server_stop(self, server: Any, grace_ns: int, /) -> int: ...
    def kqn_server_stats(self, server: Any, loop_index: int, out: Any, wait_ns: int, /) -> int: ...
    def kqn_server_read_journal(self, server: Any, loop_index: int, records: Any, max_records: int, /) -> int: ...
    def kqn_server_close(self, server: Any, /) -> None: ...
    def kqn_load_open(self, out: Any, settings: Any, /) -> int: ...
    def kqn_load_run(self, load: Any, loop_index: int, /) -> int: ...
    def kqn_load_stop(self, load: Any, /) -> int: ...
    def kqn_load_progress(self, load: Any, out: Any, /) -> int: ...
    def kqn_load_take_interval(self, load: Any, out: Any, latency: Any, /) -> int: ...
    def kqn_load_result(self, load: Any, out: Any, latency: Any, service: Any, connect: Any, /) -> int: ...
    def kqn_load_close(self, load: Any, /) -> None: ...
    def kqn_histogram_record(self, histogram: Any, duration_ns: int, /) -> None: ...
    def kqn_histogram_add(self, into: Any, other: Any, /) -> None: ...
    def kqn_histogram_percentile(self, histogram: Any, percent: float, /) -> int: ...
    def kqn_hook_install(self, module: int, /) -> int: ...

lib: _Lib

def run_loop(
    server_address: int,
    loop_index: int,
    reply: Callable[[bytes], Any] | None,
    reply_batch: Callable[[list[bytes]], Any] | None,
    on_error: Callable[[BaseException], None],
    /,
) -> int: ...
