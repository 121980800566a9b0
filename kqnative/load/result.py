"""What a run came to, as Python and JSON have it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from kqnative._version import __version__
from kqnative.load.engine import ERROR_KINDS, Histogram, Outcome, RawInterval, bytes_of, other_errors

SCHEMA = "kqnative.load/1"
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)
LATE_SHARE_MAX = 0.01  # of the measured messages, by the tester's own fault; beyond, a run is not valid
BUSY_SHARE = 0.9  # of a core; beyond, the figures may be the tester's own


def percentile_key(percent: float) -> str:
    """`p50`, `p99_9`: a percentile's name in JSON."""
    return "p" + f"{percent:.6f}".rstrip("0").rstrip(".").replace(".", "_")


@dataclass(frozen=True, slots=True)
class Interval:
    """A second of the measured time; the last one holds the answers that were still awaited then."""

    start: float  # seconds since measuring began
    seconds: float
    messages: int
    sent: int
    errors: int
    p50_us: float | None
    p99_us: float | None

    @classmethod
    def of(cls, raw: RawInterval) -> "Interval":
        """What is kept of an interval."""
        latency = raw.latency
        p50_us, p99_us = latency.percentile_us(50), latency.percentile_us(99)
        return cls(float(raw.index), raw.seconds, raw.messages, raw.sent, raw.errors, p50_us, p99_us)


@dataclass(frozen=True, slots=True)
class WrongAnswer:
    """An example of an answer that was not as expected; the texts' first bytes, escaped."""

    connection: int
    expected: str | None  # None: no message was in flight
    got: str


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of a search for the highest rate."""

    rate: float
    messages_per_second: float | None
    latency_us: dict[str, float | None]
    errors: dict[str, int]
    valid: bool
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What one run came to. The fields are the keys of `--json`, but for the histograms."""

    target: str
    settings: dict[str, Any]
    started: str  # RFC 3339
    mode: str  # open, closed
    seconds: float = 0.0
    messages: int = 0
    sent: int = 0
    unsent: int = 0
    warmup_messages: int = 0
    messages_per_second: float | None = None
    requested_rate: float | None = None
    bytes_sent: int = 0
    bytes_received: int = 0
    connections: int = 0
    reconnects: int = 0
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*ERROR_KINDS, "total"), 0))
    other_errors: dict[str, int] = field(default_factory=dict)  # by errno
    wrong_answers: list[WrongAnswer] = field(default_factory=list)
    late: dict[str, float | None] = field(default_factory=lambda: {"share": None, "max_us": None})
    cpu_share: float | None = None  # of a core, that the busiest loop used
    valid: bool = True
    invalid_because: str | None = None
    interrupted: bool = False
    ended_because: str | None = None  # why the run could not be done as it was asked for
    failed_conditions: list[str] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    probes: list[Probe] | None = None
    percentiles: tuple[float, ...] = PERCENTILES
    latency: Histogram = field(default_factory=Histogram, repr=False, compare=False)
    service: Histogram = field(default_factory=Histogram, repr=False, compare=False)
    connect: Histogram = field(default_factory=Histogram, repr=False, compare=False)

    @property
    def latency_us(self) -> dict[str, float | None]:
        """Response time in an open loop, round trip in a closed one."""
        return self._latencies(self.latency)

    @property
    def service_us(self) -> dict[str, float | None]:
        """Open loop: from a message's actual sending to its answer."""
        return self._latencies(self.service)

    @property
    def connect_us(self) -> dict[str, float | None]:
        """How long connects took."""
        return self._latencies(self.connect)

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` writes it; docs/load-report.schema.json describes it."""
        hidden = ("latency", "service", "connect", "percentiles")
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden}
        for name in ("intervals", "wrong_answers", "probes"):
            plain[name] = None if plain[name] is None else [dataclasses.asdict(one) for one in plain[name]]
        latencies = {"latency_us": self.latency_us, "service_us": self.service_us, "connect_us": self.connect_us}
        return {"schema": SCHEMA, "version": __version__} | plain | latencies

    def _latencies(self, histogram: Histogram) -> dict[str, float | None]:
        wanted = sorted({*PERCENTILES, *self.percentiles})
        return (
            {"min": histogram.min_us, "mean": histogram.mean_us}
            | {percentile_key(percent): histogram.percentile_us(percent) for percent in wanted}
            | {"max": histogram.max_us}
        )


def result_of(outcome: Outcome, **known: Any) -> LoadResult:
    """The result of a run that has been measured, or ended before that."""
    totals = outcome.totals
    seconds = totals.seconds_ns / 1e9
    errors = {kind: totals.errors[i] for i, kind in enumerate(ERROR_KINDS)}
    late_share = totals.late / totals.sent if totals.sent else None
    invalid = _invalid_because(totals, late_share)
    return LoadResult(
        **known,
        seconds=seconds,
        messages=totals.messages,
        sent=totals.sent,
        unsent=totals.unsent,
        warmup_messages=totals.warmup_messages,
        messages_per_second=totals.in_time / seconds if seconds > 0 else None,
        bytes_sent=totals.bytes_sent,
        bytes_received=totals.bytes_received,
        reconnects=totals.reconnects,
        errors=errors | {"total": sum(errors.values())},
        other_errors=other_errors(totals),
        wrong_answers=[_wrong_answer(totals.examples[i]) for i in range(totals.example_count)],
        late={"share": late_share, "max_us": totals.late_max_ns / 1_000 if totals.sent else None},
        cpu_share=totals.busiest_share if totals.measured else None,
        valid=invalid is None,
        invalid_because=invalid,
        latency=outcome.latency,
        service=outcome.service,
        connect=outcome.connect,
    )


def _invalid_because(totals: Any, late_share: float | None) -> str | None:
    """Why the figures are not those of the server."""
    if late_share is not None and late_share > LATE_SHARE_MAX:
        return f"the tester was too slow: it sent {late_share:.1%} of the messages over 1 ms late by its own fault"
    due = totals.sent + totals.unsent
    if due and totals.unsent_own > LATE_SHARE_MAX * due:
        return f"the tester was too slow: it did not send {totals.unsent_own / due:.1%} of the messages"
    return None


def _wrong_answer(raw: Any) -> WrongAnswer:
    return WrongAnswer(
        connection=raw.conn,
        expected=_text(raw.expected, raw.expected_len, raw.expected_is_cut) if raw.asked else None,
        got=_text(raw.got, raw.got_len, raw.got_is_cut),
    )


def _text(raw: Any, size: int, is_cut: bool) -> str:
    from kqnative.logs import printable

    shown = printable(bytes_of(raw, size).decode("utf-8", "surrogateescape"), also="\\")
    return f"{shown}…" if is_cut else shown
