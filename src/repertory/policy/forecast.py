"""What a model will be asked for, from what it was asked for: small functions of counts by window.

Each takes the counts of all windows so far, oldest first, and says the count of the window that is
`ahead` windows later (1: the next).  They know the length of a day in windows and nothing else.
A forecast is never negative.  Which of them is right for what: `bench/sim/forecast.py`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORECASTERS", "Forecaster", "ewma", "level_and_season", "persistence", "predicted_load"]

Counts = NDArray[np.float64]
Forecaster = Callable[[Counts, int, int], float]
"""(counts so far, windows ahead, windows per day) -> count."""

_HALF_LIFE = 1.0
"""Windows after which a count weighs half: the best of 1, 2, 4, 8 on days 3-6 of SG-20."""
_LEVEL_WINDOWS = 3
"""The level is looked for in so many last windows.  Of 1, 3, 6, 12 the best for an hour ahead
on days 3-6 of SG-20; for ten minutes ahead 1 is."""
_CORRECTING_WINDOWS = 10
"""N of WarmServe's predictor."""


def persistence(counts: Counts, ahead: int, per_day: int) -> float:
    """As now."""
    return float(counts[-1])


def ewma(counts: Counts, ahead: int, per_day: int) -> float:
    """The mean of the past, a window counting half of what came `_HALF_LIFE` windows after it."""
    recent = counts[-16:]
    weights = 0.5 ** (np.arange(len(recent))[::-1] / _HALF_LIFE)
    return float(recent @ weights / weights.sum())


def seasonal_naive(counts: Counts, ahead: int, per_day: int) -> float:
    """As a day before; as now, until a day is known."""
    return float(counts[ahead - 1 - per_day]) if len(counts) > per_day else float(counts[-1])


def seasonal_mean(counts: Counts, ahead: int, per_day: int) -> float:
    """The mean of that time of day; as now, until a day is known."""
    same = _same_time(counts, ahead, per_day)
    return float(same.mean()) if len(same) else float(counts[-1])


def predicted_load(counts: Counts, ahead: int, per_day: int) -> float:
    """WarmServe's predictor (2512.09472): the mean of that time of day, corrected by
    what the last ten windows were off from theirs, the newest counting most: 1, 1/2, 1/4, ...
    """
    if len(counts) <= per_day:
        return float(counts[-1])
    mean = seasonal_mean(counts, ahead, per_day)
    known = min(_CORRECTING_WINDOWS, len(counts) - per_day)
    off = np.array(
        [
            counts[-back] - _same_time(counts, 1 - back, per_day).mean()
            for back in range(1, known + 1)
        ]
    )
    weights = 0.5 ** np.arange(known)
    return max(0.0, float(mean + off @ weights / weights.sum()))


def level_and_season(counts: Counts, ahead: int, per_day: int) -> float:
    """The level of the last windows, times how that time of day stands to theirs on days before."""
    level = float(counts[-_LEVEL_WINDOWS:].mean())
    same = _same_time(counts, ahead, per_day)
    if not len(same):
        return level
    then = np.array(
        [_same_time(counts, 1 - back, per_day).mean() for back in range(1, _LEVEL_WINDOWS + 1)]
        if len(counts) >= per_day + _LEVEL_WINDOWS
        else [0.0]
    ).mean()
    return level * float(same.mean() / then) if then > 0 else level


def _same_time(counts: Counts, ahead: int, per_day: int) -> Counts:
    """What came on earlier days at the time of day that is `ahead` windows from the last one; for
    `ahead` below 1, of days before that window.
    """
    first = (len(counts) - 1 + ahead) % per_day
    end = len(counts) - 1 + ahead
    return counts[first : min(end, len(counts)) : per_day]


FORECASTERS: dict[str, Forecaster] = {
    "persistence": persistence,
    "EWMA": ewma,
    "seasonal naive": seasonal_naive,
    "seasonal mean": seasonal_mean,
    "WarmServe's": predicted_load,
    "level x season": level_and_season,
}
