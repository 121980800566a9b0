"""Numbers with units, as the command line, the environment and a file write them, and as help and errors show them.

Durations are seconds, sizes bytes. Digits are ASCII digits only.
"""

import re

DURATION_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}  # microseconds
SIZE_UNITS = {"k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
COUNT_UNITS = {"k": 1_000, "M": 1_000_000}

# At most 30 digits: what is longer is out of every range, and Python refuses to convert it at some length.
_NUMBER = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,30}))? ?([A-Za-z]*)")


def _parse(text: str, units: dict[str, int], bare: int) -> tuple[int, int]:
    """The value as an exact fraction; without a unit the number counts `bare`."""
    found = _NUMBER.fullmatch(text)
    if found is None or (found[3] and found[3] not in units):
        raise ValueError(f"a number, or one with a unit: {' '.join(units)}")
    decimals = found[2] or ""
    return int(found[1] + decimals) * (units[found[3]] if found[3] else bare), 10 ** len(decimals)


def _whole(numerator: int, denominator: int) -> int:
    if numerator % denominator:
        raise ValueError("a whole number")
    return numerator // denominator


def parse_duration(text: str) -> float:
    """Seconds; a bare number is seconds. Raises ValueError, which says what it should be."""
    numerator, denominator = _parse(text, DURATION_UNITS, bare=1_000_000)
    return numerator / (denominator * 1_000_000)


def parse_size(text: str) -> int:
    """Bytes; units are 1,024-based. Raises ValueError, which says what it should be."""
    return _whole(*_parse(text, SIZE_UNITS, bare=1))


def parse_count(text: str) -> int:
    """A count or a rate; units are 1,000-based. Raises ValueError, which says what it should be."""
    return _whole(*_parse(text, COUNT_UNITS, bare=1))


def parse_rate(text: str) -> float:
    """A rate, which may be broken; units are 1,000-based. Raises ValueError, which says what it should be."""
    numerator, denominator = _parse(text, COUNT_UNITS, bare=1)
    return numerator / denominator


def show_duration(seconds: float) -> str:
    """`300 s`, `1 ms`, `576 h`: a unit in which it stays short and exact."""
    for unit, scale in (("h", 3_600), ("s", 1)):
        if seconds >= 10 * scale and seconds % scale == 0:
            return f"{seconds / scale:.10g} {unit}"
    if 0 < seconds < 0.001:
        return f"{seconds * 1_000_000:.10g} us"
    return f"{seconds * 1_000:.10g} ms" if 0 < seconds < 1 else f"{seconds:.10g} s"


def show_size(size: int) -> str:
    """`64 KiB`, `1000 bytes`."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} byte{'' if size == 1 else 's'}"


def show_count(count: int) -> str:
    """`1024`: as it can be typed again."""
    return str(count)


def show_rate(rate: float) -> str:
    """`20000`, `0.5`: as it can be typed again."""
    return f"{rate:.12g}"
