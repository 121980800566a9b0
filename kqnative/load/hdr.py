"""An HdrHistogram V2 interval log, as its viewers and libraries read it.

The format is that of HdrHistogram's HistogramLogWriter 1.3: a line for each interval with the histogram in it, counts
as ZigZag LEB128 numbers, a run of empty buckets as one negative number, deflated, in base64. Values are nanoseconds.
"""

import base64
import struct
import time
import zlib

from kqnative._version import __version__
from kqnative.load.engine import Histogram, Progress, RawInterval

DIGITS, LOWEST_NS, HIGHEST_NS = 3, 1, 3_600_000_000_000  # of csrc/load/histogram.h

_V2 = 0x1C849313
_V2_COMPRESSED = 0x1C849314


class HdrLog:
    """Gathers a run's intervals as they end; a watcher of the run."""

    def __init__(self) -> None:
        self._start_s = 0.0
        self._lines: list[str] = []

    def __call__(self, progress: Progress, new: list[RawInterval]) -> None:
        """Takes the intervals that are new."""
        if not self._start_s and progress.measured_s > 0:
            self._start_s = time.time() - progress.measured_s
        for interval in new:
            greatest_ms = (interval.latency.max_us or 0.0) / 1_000
            times = f"{float(interval.index):.3f},{interval.seconds:.3f},{greatest_ms:.3f}"
            self._lines.append(f"{times},{encode(interval.latency)}\n")

    def text(self) -> str:
        """The log."""
        date = time.strftime("%a %b %d %H:%M:%S %Z %Y", time.localtime(self._start_s))
        head = (
            f"#[Logged with kqnative {__version__}]\n"
            "#[Histogram log format version 1.3]\n"
            f"#[StartTime: {self._start_s:.3f} (seconds since epoch), {date}]\n"
            '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n'
        )
        return head + "".join(self._lines)


def encode(histogram: Histogram) -> str:
    """A histogram as the text of a log line."""
    counts = _encoded_counts(histogram)
    # What the layout is: no offset, significant digits, the range, and values that mean themselves.
    head = struct.pack(">iiiiqqd", _V2, len(counts), 0, DIGITS, LOWEST_NS, HIGHEST_NS, 1.0)
    packed = zlib.compress(head + counts)
    return base64.b64encode(struct.pack(">ii", _V2_COMPRESSED, len(packed)) + packed).decode("ascii")


def _encoded_counts(histogram: Histogram) -> bytes:
    out = bytearray()
    empty = 0
    left = len(histogram)
    for count in histogram.counts():
        if left == 0:
            break
        if count == 0:
            empty += 1
            continue
        if empty:
            out += _leb128(2 * empty - 1)  # ZigZag of -empty
            empty = 0
        out += _leb128(2 * count)
        left -= count
    return bytes(out)


def _leb128(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the ninth byte, if there is one, holds eight."""
    out = bytearray()
    while number >= 0x80 and len(out) < 8:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
