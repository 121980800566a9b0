"""The C core of the load tester: plans become its structs, and what it counted becomes Python's numbers."""

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kqnative._native import FRAMINGS, POLLERS, errno_name, ffi, lib, ns, raise_for
from kqnative.load.plan import LoadPlan
from kqnative.load.target import Endpoint

NS_PER_US = 1_000

ERROR_KINDS = (
    "refused",
    "reset",
    "timeout",
    "closed",
    "wrong_answer",
    "short_answer",
    "no_local_port",
    "no_descriptor",
    "other",
)
PHASES = ("connecting", "warming", "settling", "measuring", "waiting", "done")


class Histogram:
    """Durations in buckets of 3 significant digits, up to 1 hour; the layout is HdrHistogram's, in nanoseconds."""

    def __init__(self) -> None:
        self.raw = ffi.new("struct kqn_histogram *")

    def __len__(self) -> int:
        return int(self.raw.total)

    @property
    def min_us(self) -> float | None:
        """The smallest, exactly; None without any."""
        return self.raw.min_ns / NS_PER_US if self.raw.total else None

    @property
    def max_us(self) -> float | None:
        """The greatest, exactly; None without any."""
        return self.raw.max_ns / NS_PER_US if self.raw.total else None

    @property
    def mean_us(self) -> float | None:
        """The mean, exactly; None without any."""
        return self.raw.sum_ns / self.raw.total / NS_PER_US if self.raw.total else None

    def percentile_us(self, percent: float) -> float | None:
        """The smallest duration that `percent` of all do not exceed, to 3 digits; None without any."""
        if not self.raw.total:
            return None
        return lib.kqn_histogram_percentile(self.raw, percent) / NS_PER_US

    def record(self, duration_ns: int) -> None:
        """Counts one more."""
        lib.kqn_histogram_record(self.raw, duration_ns)

    def add(self, other: "Histogram") -> None:
        """Counts all of another one too."""
        lib.kqn_histogram_add(self.raw, other.raw)

    def counts(self) -> memoryview:
        """How many fell into each bucket; valid while this object is."""
        return memoryview(ffi.buffer(self.raw.counts)).cast("B").cast("Q")

    def buckets(self) -> Iterator[tuple[float, int]]:
        """(greatest duration in microseconds, how many) of each bucket that is not empty; csrc/load/histogram.h."""
        for index, count in enumerate(self.counts()):
            if count:
                shift = max(0, (index >> 10) - 1)
                yield (((index - (shift << 10) + 1) << shift) - 1) / NS_PER_US, count


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is."""

    phase: str
    open: int
    measured_s: float


@dataclass(frozen=True, slots=True)
class RawInterval:
    """A second of the measured time, or what was left of it, with the latencies of its messages."""

    index: int
    seconds: float
    messages: int
    sent: int
    errors: int
    latency: Histogram


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, over all its loops."""

    totals: Any
    latency: Histogram
    service: Histogram
    connect: Histogram


class Handle:
    """One run of the C core. Raises OSError; every call in a process that has forked raises RuntimeError."""

    def __init__(self, plan: LoadPlan, endpoint: Endpoint) -> None:
        settings, kept = _settings(plan, endpoint)
        out = ffi.new("struct kqn_load **")
        rc = lib.kqn_load_open(out, settings)
        del kept  # the texts that settings point to
        raise_for(rc)
        self._load = ffi.gc(out[0], lib.kqn_load_close)
        self._spare = Histogram()  # for the next interval: there is none yet most of the times that somebody asks

    def run(self, loop_index: int) -> None:
        """Runs one loop in this thread to the end. Raises OSError: it failed, and the run with it."""
        raise_for(lib.kqn_load_run(self._load, loop_index))

    def stop(self) -> None:
        """Ends the measured time now; from any thread, and from a signal handler."""
        raise_for(lib.kqn_load_stop(self._load))

    def progress(self) -> Progress:
        """Where the loop is that is furthest behind."""
        out = ffi.new("struct kqn_load_progress *")
        raise_for(lib.kqn_load_progress(self._load, out))
        return Progress(PHASES[out.phase], out.open, out.measured_ns / 1e9)

    def take_intervals(self) -> Iterable[RawInterval]:
        """The intervals that have been completed since the last call."""
        raw = ffi.new("struct kqn_load_interval *")
        while True:
            latency = self._spare
            rc = lib.kqn_load_take_interval(self._load, raw, latency.raw)
            if rc in (0, -errno.ENOENT):
                return
            raise_for(rc)
            self._spare = Histogram()
            yield RawInterval(raw.index, raw.length_ns / 1e9, raw.messages, raw.sent, raw.errors, latency)

    def outcome(self) -> Outcome:
        """What came out, when no loop runs any more."""
        outcome = Outcome(ffi.new("struct kqn_load_totals *"), Histogram(), Histogram(), Histogram())
        raise_for(
            lib.kqn_load_result(
                self._load, outcome.totals, outcome.latency.raw, outcome.service.raw, outcome.connect.raw
            )
        )
        return outcome


def bytes_of(raw: Any, size: int) -> bytes:
    """The first bytes of a C array."""
    return bytes(ffi.buffer(raw, size))


def other_errors(totals: Any) -> dict[str, int]:
    """The errors of kind `other` by the name of their errno."""
    return {errno_name(one.error): one.count for one in totals.other_errors if one.count}


def _settings(plan: LoadPlan, endpoint: Endpoint) -> tuple[Any, list[Any]]:
    """The struct, and the texts that live only as long as somebody keeps them."""
    settings = ffi.new("struct kqn_load_settings *")
    sources = [ffi.new("char[]", one.encode()) for one in plan.source if (":" in one) == (":" in endpoint.host)]
    bodies = [ffi.new("uint8_t[]", one or b"\0") for one in plan._bodies.fixed]
    kept = [
        ffi.new("char[]", endpoint.host.encode()),
        ffi.new("char[]", os.fsencode(endpoint.path)),
        ffi.new("char *[]", sources or 1),
        ffi.new("uint8_t *[]", bodies or 1),
        ffi.new("size_t[]", [len(one) for one in plan._bodies.fixed] or 1),
        ffi.new("char[]", plan._bodies.template),
        ffi.new("char[]", (plan.expect or "").encode()),
        sources,
        bodies,
    ]
    settings.host, settings.port = kept[0], endpoint.port
    settings.uds_path = kept[1] if endpoint.path else ffi.NULL
    settings.sources, settings.source_count = kept[2], len(sources)
    settings.bodies = kept[3] if bodies else ffi.NULL
    settings.body_lens, settings.body_count = kept[4], len(bodies)
    settings.message_template, settings.message_template_len = kept[5], len(plan._bodies.template)
    settings.body_pad = plan._bodies.pad
    settings.expect = ffi.NULL if plan.expect is None else kept[6]
    settings.expect_len = len((plan.expect or "").encode())
    settings.reply_size = plan.reply_size or 0
    settings.duration_ns = ns(plan.duration_in_force or 0)
    settings.max_messages = plan.messages or 0
    settings.warmup_ns = ns(plan.warmup_in_force)
    settings.timeout_ns = ns(plan.timeout)
    settings.connect_timeout_ns = ns(plan.connect_timeout)
    settings.think_ns = ns(plan.think_time or 0)
    settings.connect_rate = plan.connect_rate or 0
    settings.rate = plan.rate or 0
    settings.poisson = plan.arrivals == "poisson"
    settings.framing = FRAMINGS[plan.framing]
    settings.poller = POLLERS[plan.poller]
    settings.connections = plan.connections
    settings.depth = plan.depth
    settings.loops = plan.loops
    settings.reconnect_every = plan.reconnect_every or 0
    return settings, kept
