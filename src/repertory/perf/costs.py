"""Predicted seconds: a profile's law times what real transitions have taught so far.

A prediction says where it comes from, and how far it may be off.  `Estimated` rests on a prior
alone, `Profiled` on what `repertory profile` measured of this model on this device, `Observed` on
at least one real transition of it; a ratio learned from *other* models improves an estimate but
never makes it an observation.
"""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from repertory.perf.profiles import PRIOR_ERROR

__all__ = [
    "GUESSED",
    "Estimated",
    "Grounds",
    "Observed",
    "Prediction",
    "Profiled",
    "Ratio",
    "grounds_of",
    "learn",
    "predict",
    "telling",
    "weakest",
]

_SMOOTHING = 0.3
"""Weight of the newest observation: three agreeing ones outvote an outlier of the noisy kind that
OpenMP barriers give (up to 7 times, facts.md)."""
_CLIP = 8.0
"""One observation never moves a ratio by more than this factor."""
_FIRST_ERROR = 0.3
"""Of a ratio that was seen once: how far single readings lie apart here (10 to 15 % is usual)."""
_SCATTER = 0.1
"""Of single readings, whatever the error is: no law is known better than it is read."""
_DRIFT_ERRORS = 3.0
_DRIFT_LEAST = 0.25
"""A deviation beyond three times the usual one, and beyond a quarter, explains itself no more."""
_DRIFT_RUN = 3
"""So many of them in a row on one side are no outliers: the machine is another now."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """Seconds by a prior."""

    seconds: float
    error: float = PRIOR_ERROR
    """Relative: how far off such predictions have been."""
    basis = "prior"


@dataclass(frozen=True, slots=True)
class Profiled:
    """Seconds by a law that was fitted to readings of this model on this device."""

    seconds: float
    error: float
    basis = "profile"


@dataclass(frozen=True, slots=True)
class Observed:
    """Seconds by a law corrected with real transitions of this very model."""

    seconds: float
    samples: int
    error: float = _FIRST_ERROR
    basis = "measured"


class Grounds(NamedTuple):
    """What seconds rest on that are asked for without saying so."""

    basis: str
    """Of a `Prediction`."""
    error: float
    """Relative."""


Prediction = Estimated | Profiled | Observed
GUESSED = Grounds(Estimated.basis, PRIOR_ERROR)
_CERTAINTY = (Estimated.basis, Profiled.basis, Observed.basis)


class Ratio(NamedTuple):
    """How measured seconds stand to a law's seconds.

    A tuple: four of them are made whenever a generation ends.
    """

    value: float
    samples: int
    error: float = _FIRST_ERROR
    """Mean relative deviation of what was observed from what this said before."""
    run: int = 0
    """Observations in a row that the error does not explain, all above (or, negative, below)."""
    before: float = 0.0
    """The ratio when that run began."""
    has_drifted: bool = False
    """The newest observation made the run too long for chance."""


def learn(
    old: Ratio | None,
    measured_s: float,
    law_s: float,
    profiled_error: float | None = None,
    *,
    weight: float = 1.0,
    believed: float = 1.0,
) -> Ratio:
    """Blend one measurement into a ratio.

    `weight`: what it can tell, see `telling`; what it cannot tell stays as it is `believed`.

    1. The first one is taken as it is; where the law was fitted to readings of this model
       (`profiled_error`), it may be the first of a drift away from them.
    2. Later ones are blended, none moves it by more than a factor of eight.
    3. Three in a row that deviate to one side by more than three times the usual deviation, and by
       a quarter at least, are a drift: the newest is taken as if it were the first.
    """
    newest = _clipped(measured_s / max(law_s, 1e-9), 1e-3, 1e3)
    if old is None:
        first = Ratio(newest if weight == 1.0 else believed + weight * (newest - believed), 1)
        if profiled_error is None or not _is_beyond(newest - 1.0, profiled_error, weight):
            return first
        side = 1 if first.value > 1.0 else -1
        return first._replace(error=profiled_error, run=side, before=1.0)
    seen = _clipped(newest, old.value / _CLIP, old.value * _CLIP)
    before = old.before if old.run else old.value
    deviation = seen / before - 1.0
    part = _SMOOTHING * weight
    value = old.value + part * (seen - old.value)
    if not _is_beyond(deviation, old.error, weight):
        error = old.error + part * (abs(seen / old.value - 1.0) - old.error)
        return Ratio(value, old.samples + 1, error)
    side = 1 if deviation > 0 else -1
    run = old.run + side if old.run * side > 0 else side
    if abs(run) >= _DRIFT_RUN:
        return Ratio(newest, 1, has_drifted=True)
    return Ratio(value, old.samples + 1, old.error, run, before)


def _is_beyond(deviation: float, error: float, weight: float) -> bool:
    """What an error does not explain; one of little weight has a larger one."""
    explained = max(_DRIFT_LEAST, _DRIFT_ERRORS * error)
    return abs(deviation) > (explained if weight == 1.0 else explained / sqrt(weight))


def _clipped(value: float, least: float, most: float) -> float:
    if value < least:
        return least
    return most if value > most else value


def telling(law_s: float, fixed_s: float, error: float) -> float:
    """The weight of a reading of something short, beside which fixed costs of `fixed_s` may stand
    that its law does not know; 0 to 1.

    1. Where the law says less than such costs, a reading speaks of them alone.
    2. Where they are lost in what laws err by anyway, it counts as any other.
    3. Between them, by the variance that it would have without them to that with them.
    """
    if law_s <= fixed_s:  # 1
        return 0.0
    scatter, more = max(error, _SCATTER), fixed_s / law_s
    if more <= scatter / _DRIFT_ERRORS:  # 2
        return 1.0
    return scatter * scatter / (scatter * scatter + more * more)  # 3


def weakest(*grounds: Grounds) -> Grounds:
    """Of a sum: what its parts rest on, the least certain of them."""
    return min(grounds, key=lambda one: (_CERTAINTY.index(one.basis), -one.error))


def grounds_of(own: Ratio | None, profiled_error: float | None) -> Grounds:
    """What `predict` would rest on."""
    if own is not None:
        return Grounds(Observed.basis, own.error)
    return GUESSED if profiled_error is None else Grounds(Profiled.basis, profiled_error)


def predict(
    law_s: float, own: Ratio | None, others: Ratio | None, profiled_error: float | None = None
) -> Prediction:
    """`own` is of this model and kind of work on this device; `others` of the same kind of work,
    where the law is a prior; `profiled_error`: the law was fitted to readings of this model.
    """
    if own is not None:
        return Observed(law_s * own.value, own.samples, own.error)
    if profiled_error is not None:
        return Profiled(law_s, profiled_error)
    return Estimated(law_s * (others.value if others is not None else 1.0))
