"""What was seen of a server, second by second, and whether it stayed flat."""

import statistics
from dataclasses import dataclass

WARM_UP_SHARE = 0.2
MOST_GROWTH_BYTES = 1024 * 1024
LONG_S = 600.0  # from here on a slope means something
MOST_TREND_BYTES = 512 * 1024


@dataclass(frozen=True)
class Sample:
    """What was seen at one time."""

    at_s: float
    memory_bytes: int
    descriptors: int


def behind_warm_up(samples: list[Sample]) -> list[Sample]:
    """Those that must be flat."""
    return samples[int(len(samples) * WARM_UP_SHARE) :]


def growth_bytes(samples: list[Sample]) -> int:
    """How much more memory there was in the last tenth of the samples (five at least) than behind the warm-up."""
    sizes = [one.memory_bytes for one in behind_warm_up(samples)]
    count = max(5, len(sizes) // 10)
    return int(statistics.median(sizes[-count:]) - statistics.median(sizes[:count]))


def trend_bytes(samples: list[Sample]) -> float:
    """The same by the straight line that fits all of that time best."""
    flat = behind_warm_up(samples)
    line = statistics.linear_regression([one.at_s for one in flat], [one.memory_bytes for one in flat])
    return line.slope * (flat[-1].at_s - flat[0].at_s)


def check_memory(samples: list[Sample]) -> None:
    """Memory stayed flat."""
    growth, sizes = growth_bytes(samples), [one.memory_bytes for one in samples]
    assert growth <= MOST_GROWTH_BYTES, f"memory grew by {growth:,} bytes: {sizes}"
    if samples[-1].at_s >= LONG_S:
        trend = trend_bytes(samples)
        assert trend <= MOST_TREND_BYTES, f"memory grew by {trend:,.0f} bytes, by the line through it: {sizes}"
