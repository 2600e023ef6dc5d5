"""Sizes and durations as people write them.  `None` means: cannot be understood.

The patterns stand in the JSON schema too: they keep to what every dialect of them has.
"""

import math
import re

__all__ = ["DURATION", "MOST_SECONDS", "NEVER", "SIZE", "duration_s", "size_bytes"]

NEVER = ("never", "-1")
MOST_SECONDS = 10**12 - 1

_NUMBER = "[0-9]{1,12}(\\.[0-9]{1,12})?"
_SIZE_UNIT = "([kKmMgGtT][iI]?[bB]|[bB])"
_TIME_UNIT = "([mM][sS]|[sS]|[mM]|[hH]|[dD])"

SIZE = f"{_NUMBER} *{_SIZE_UNIT}"
DURATION = f"{_NUMBER}|({_NUMBER} *{_TIME_UNIT})+"

_SIZE = re.compile(f"({_NUMBER}) *{_SIZE_UNIT}")
_POWERS = {"b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_TIME = re.compile(f"({_NUMBER}) *{_TIME_UNIT}")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def size_bytes(text: str) -> int | None:
    """`8GiB` is 8·2³⁰, `500MB` is 500·10⁶.  A unit is a must: `8` of what?"""
    match = _SIZE.fullmatch(text.strip(" "))
    if match is None:
        return None
    unit = match[3].lower()
    step = 1024 if "i" in unit else 1000
    return int(float(match[1]) * step ** _POWERS[unit[0]])


def duration_s(text: str) -> float | None:
    """`30m`, `1h30m`, `500ms`; a bare number is seconds, as in `keep_alive`."""
    text = text.strip(" ")
    if re.fullmatch(DURATION, text) is None:
        return None
    if re.fullmatch(_NUMBER, text):
        return float(text)
    parts = _TIME.findall(text)
    return math.fsum(float(number) * _SECONDS[unit.lower()] for number, _, unit in parts)
