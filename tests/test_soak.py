"""The soak, in short, and that it finds what grows."""

import os
import random

import pytest
from samples import LONG_S, MOST_GROWTH_BYTES, MOST_TREND_BYTES, Sample, check_memory
from soak import soak

SOAK_S = float(os.environ.get("KQNATIVE_SOAK_S", "30"))
PATIENCE_S = 60.0  # for its beginning and its end


@pytest.mark.timeout(SOAK_S + PATIENCE_S)
def test_nothing_grows_under_chaos() -> None:
    """Clients of all kinds leave memory flat and no descriptor behind, and no other client waits for a second."""
    soak(SOAK_S, random.SystemRandom().getrandbits(32))


def growing(duration_s: int, bytes_each_s: float) -> list[Sample]:
    """Samples of a server that needs a while to warm up, then stays as it is but for this growth, with some noise."""
    chooser = random.Random(1)

    def size(at_s: int) -> int:
        warm = min(1.0, at_s / (0.2 * duration_s))
        return int(10e6 + 5e6 * warm + bytes_each_s * at_s + chooser.uniform(-1e5, 1e5))

    return [Sample(float(at_s), size(at_s), 10) for at_s in range(1, duration_s + 1)]


def test_a_soak_judges_memory_behind_the_warm_up() -> None:
    """What is needed in the first fifth, and noise, is no growth."""
    check_memory(growing(30, 0))
    check_memory(growing(int(LONG_S), 0))


def test_a_short_soak_finds_a_quick_leak() -> None:
    """More than a megabyte from the end of the warm-up on is too much."""
    leak = 2 * MOST_GROWTH_BYTES / 30
    with pytest.raises(AssertionError, match="memory grew by"):
        check_memory(growing(30, leak))


def test_a_long_soak_finds_a_slow_leak() -> None:
    """Over ten minutes the line through all samples shows what is less than the ups and downs of one of them."""
    leak = 1.5 * MOST_TREND_BYTES / LONG_S
    with pytest.raises(AssertionError, match="by the line through it"):
        check_memory(growing(int(LONG_S), leak))
