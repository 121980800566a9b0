"""Numbers with units, as the command line, the environment and a file write them, and as help and errors show them.

Durations are seconds, sizes bytes. Digits are ASCII digits only.
"""

import re
from fractions import Fraction

DURATION_UNITS = {
    "us": Fraction(1, 1_000_000),
    "ms": Fraction(1, 1_000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3_600),
}
SIZE_UNITS = {
    "k": Fraction(1 << 10),
    "M": Fraction(1 << 20),
    "G": Fraction(1 << 30),
    "KiB": Fraction(1 << 10),
    "MiB": Fraction(1 << 20),
    "GiB": Fraction(1 << 30),
}
COUNT_UNITS = {"k": Fraction(1_000), "M": Fraction(1_000_000)}

# At most 30 digits: what is longer is out of every range, and Python refuses to convert it at some length.
_NUMBER = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?) ?([A-Za-z]*)")


def _parse(text: str, units: dict[str, Fraction]) -> Fraction:
    found = _NUMBER.fullmatch(text)
    if found is None or (found[2] and found[2] not in units):
        raise ValueError(f"a number, or one with a unit: {' '.join(units)}")
    return Fraction(found[1]) * (units[found[2]] if found[2] else 1)


def _whole(value: Fraction) -> int:
    if value.denominator != 1:
        raise ValueError("a whole number")
    return int(value)


def parse_duration(text: str) -> float:
    """Seconds; a bare number is seconds. Raises ValueError, which says what it should be."""
    return float(_parse(text, DURATION_UNITS))


def parse_size(text: str) -> int:
    """Bytes; units are 1,024-based. Raises ValueError, which says what it should be."""
    return _whole(_parse(text, SIZE_UNITS))


def parse_count(text: str) -> int:
    """A count or a rate; units are 1,000-based. Raises ValueError, which says what it should be."""
    return _whole(_parse(text, COUNT_UNITS))


def show_duration(seconds: float) -> str:
    """`300 s`, `1 ms`, `576 h`: a unit in which it stays short and exact."""
    for unit, scale in (("h", 3_600), ("s", 1)):
        if seconds >= 10 * scale and seconds % scale == 0:
            return f"{seconds / scale:.10g} {unit}"
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
