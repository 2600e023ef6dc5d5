"""Numbers between bounds, as GBNF: digits have no order that a grammar could compare by."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from repertory.domain.errors import BadRequest

__all__ = ["number_rule"]

_MOST_DIGITS = 16
_BEYOND = 10**_MOST_DIGITS - 1


def number_rule(
    is_integer: bool, bounds: Mapping[str, Any], fault: Callable[[str], BadRequest]
) -> str:
    """Numbers within a schema's bounds.  Fractions stand between whole numbers that are inside."""
    for key, value in bounds.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise fault(f"{key!r} must be a number")
    low = max(_at_least(bounds), -_BEYOND)
    high = min(_at_most(bounds), _BEYOND)
    options = _whole(low, high)
    if not is_integer:
        options += _fractions(low, high)
    if not options:
        raise fault("no number is between its bounds that a grammar could write")
    return f"({' | '.join(options)})"


def _at_least(bounds: Mapping[str, Any]) -> int:
    low: int = math.ceil(bounds.get("minimum", -_BEYOND))
    if "exclusiveMinimum" in bounds:
        low = max(low, math.floor(bounds["exclusiveMinimum"]) + 1)
    return low


def _at_most(bounds: Mapping[str, Any]) -> int:
    high: int = math.floor(bounds.get("maximum", _BEYOND))
    if "exclusiveMaximum" in bounds:
        high = min(high, math.ceil(bounds["exclusiveMaximum"]) - 1)
    return high


def _whole(low: int, high: int) -> list[str]:
    options = []
    if low < 0 <= high or low <= high < 0:
        options += [f'"-" {one}' for one in _natural(max(1, -high), -low)]
    if high >= 0:
        options += _natural(max(0, low), high)
    return options


def _fractions(low: int, high: int) -> list[str]:
    """n.f lies between n and n + 1."""
    options = [f'{one} "." digits' for one in _natural(max(0, low), high - 1)]
    return options + [f'"-" {one} "." digits' for one in _natural(max(0, -high), -low - 1)]


def _natural(low: int, high: int) -> list[str]:
    """Whole numbers from `low` to `high`, by their number of digits."""
    if high < low:
        return []
    options = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        last = min(high, 10**digits - 1)
        options.append(f"({_between(str(first), str(last))})")
    return options


def _between(first: str, last: str) -> str:
    """Digit strings of one length, in order."""
    if first == last:
        return f'"{first}"'
    rest = len(first) - 1
    low, high = int(first[0]), int(last[0])
    if rest == 0:
        return f"[{low}-{high}]"
    if low == high:
        return f'"{low}" ({_between(first[1:], last[1:])})'
    options = []
    if first[1:] != "0" * rest:
        options.append(f'"{low}" ({_between(first[1:], "9" * rest)})')
        low += 1
    top = high
    if last[1:] != "9" * rest:
        options.append(f'"{high}" ({_between("0" * rest, last[1:])})')
        top -= 1
    if low <= top:
        options.append(f"[{low}-{top}] [0-9]{{{rest}}}")
    return " | ".join(options)
