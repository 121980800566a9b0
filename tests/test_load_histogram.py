"""The load tester's histogram against sorted samples, and its log against HdrHistogram's own package."""

import math

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st

from kqnative import Server
from kqnative.load import LoadPlan, hdr
from kqnative.load.engine import Histogram, Progress, RawInterval
from kqnative.load.hdr import DIGITS, HIGHEST_NS, LOWEST_NS, HdrLog
from kqnative.load.run import Run

# Of all sizes, and close to the edges of buckets.
DURATIONS = st.one_of(
    st.integers(0, 5_000),
    st.integers(0, HIGHEST_NS),
    st.builds(lambda power, off: max(0, min(HIGHEST_NS, 2**power + off)), st.integers(0, 42), st.integers(-2, 2)),
)
SAMPLES = st.lists(DURATIONS, min_size=1, max_size=200)
PERCENTS = st.one_of(st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.99, 100.0]), st.floats(0.001, 100.0))


def filled(samples: list[int]) -> Histogram:
    """A histogram of these."""
    histogram = Histogram()
    for one in samples:
        histogram.record(one)
    return histogram


@given(SAMPLES, PERCENTS)
def test_a_percentile_is_the_sample_of_its_rank(samples: list[int], percent: float) -> None:
    """A percentile lies at most a thousandth above the sample of that rank, and never below it."""
    histogram = filled(samples)
    rank = max(1, math.ceil(percent / 100 * len(samples) * (1 - 1e-12)))
    exact_ns = sorted(samples)[rank - 1]
    found_us = histogram.percentile_us(percent)
    assert found_us is not None
    assert exact_ns <= round(found_us * 1_000) <= exact_ns * 1.001


@given(SAMPLES)
def test_what_is_no_percentile_is_exact(samples: list[int]) -> None:
    """Number, minimum, maximum and mean are those of the samples."""
    histogram = filled(samples)
    assert len(histogram) == len(samples)
    assert histogram.min_us == min(samples) / 1_000
    assert histogram.max_us == max(samples) / 1_000
    assert histogram.mean_us == pytest.approx(sum(samples) / len(samples) / 1_000)


@given(SAMPLES, SAMPLES)
def test_adding_is_recording_both(first: list[int], second: list[int]) -> None:
    """The sum of two histograms is the histogram of all their samples."""
    together = filled(first)
    together.add(filled(second))
    expected = filled(first + second)
    assert together.counts() == expected.counts()
    assert (together.min_us, together.max_us) == (expected.min_us, expected.max_us)
    assert together.mean_us == pytest.approx(expected.mean_us)


def test_an_empty_histogram_has_no_figures() -> None:
    """Nothing recorded: None, not 0."""
    histogram = Histogram()
    assert [histogram.min_us, histogram.max_us, histogram.mean_us, histogram.percentile_us(50)] == [None] * 4
    filled_one = filled([5])
    filled_one.add(histogram)
    assert (len(filled_one), filled_one.min_us) == (1, 0.005)


def test_durations_beyond_the_range_are_its_ends() -> None:
    """Below 0 is 0, and above an hour is an hour."""
    histogram = filled([-5, HIGHEST_NS + 1])
    assert (histogram.min_us, histogram.max_us) == (0.0, HIGHEST_NS / 1_000)


@given(SAMPLES)
def test_the_layout_and_the_encoding_are_hdr_histograms(samples: list[int]) -> None:
    """What we encode, HdrHistogram's package decodes to the same counts as if it had recorded the samples."""
    decoded = HdrHistogram.decode(hdr.encode(filled(samples)).encode())
    recorded = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
    for one in samples:
        recorded.record_value(one)
    assert list(decoded.counts) == list(recorded.counts)
    assert decoded.get_total_count() == len(samples)


@given(st.lists(st.tuples(DURATIONS, st.integers(1, 2**40)), min_size=1, max_size=5))
def test_great_counts_are_encoded_too(counts: list[tuple[int, int]]) -> None:
    """Counts of any size survive the way through the log."""
    histogram = Histogram()
    for duration_ns, count in counts:
        histogram.record(duration_ns)
        index = next(i for i, value in enumerate(filled([duration_ns]).counts()) if value)
        histogram.raw.counts[index] += count - 1
        histogram.raw.total += count - 1
    decoded = HdrHistogram.decode(hdr.encode(histogram).encode())
    assert [int(one) for one in decoded.counts] == histogram.counts().tolist()


def test_the_log_of_a_run_reads_back() -> None:
    """The intervals of a run's log, read by HdrHistogram's package, add up to what the run reports."""
    log = HdrLog()
    with Server(host="127.0.0.1", port=0, framing="line") as server:
        run = Run(LoadPlan(target=f"127.0.0.1:{server.port}", duration=2.5, warmup=0, rate=2_000))
        result = run.run(log)
    total, intervals = read_log(log.text())
    assert len(intervals) == len(result.intervals)
    assert total.get_total_count() == result.messages
    for percent in (50.0, 90.0, 99.0, 99.9):
        assert total.get_value_at_percentile(percent) / 1_000 == pytest.approx(near(result.latency, percent), rel=0.001)
    assert total.get_max_value() / 1_000 == pytest.approx(result.latency_us["max"], rel=0.001)
    for interval, kept in zip(intervals, result.intervals, strict=True):
        assert interval.get_total_count() == kept.messages


def near(histogram: Histogram, percent: float) -> float:
    """Our percentile at the rank that HdrHistogram's package rounds to, where ours rounds up."""
    rank = max(1, int(percent * len(histogram) / 100 + 0.5))
    value = histogram.percentile_us(100 * rank / len(histogram))
    assert value is not None
    return value


def read_log(text: str) -> tuple[HdrHistogram, list[HdrHistogram]]:
    """All intervals of a log, and their sum."""
    import tempfile

    with tempfile.NamedTemporaryFile("w+", suffix=".hlog") as file:
        file.write(text)
        file.flush()
        total = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
        reader = HistogramLogReader(file.name, HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS))
        intervals = []
        while (one := reader.get_next_interval_histogram()) is not None:
            intervals.append(one)
            total.add(one)
        reader.close()
    return total, intervals


def test_a_log_without_intervals_has_its_head() -> None:
    """A run that measured nothing leaves a log that can be read."""
    log = HdrLog()
    log(Progress("connecting", 0, 0.0), [])
    assert log.text().count("\n") == 4
    assert read_log(log.text())[1] == []


def test_an_interval_s_line_says_when_and_how_long() -> None:
    """A line has the start, the length, the maximum in ms, and the histogram."""
    log = HdrLog()
    log(Progress("measuring", 1, 3.0), [RawInterval(2, 0.5, 1, 1, 0, filled([1_500_000]))])
    start, length, maximum, packed = log.text().splitlines()[-1].split(",")
    assert (start, length, maximum) == ("2.000", "0.500", "1.500")
    assert packed.startswith("HISTFA")
