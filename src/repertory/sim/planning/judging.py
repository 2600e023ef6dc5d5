"""What runs of one fleet say: one run is no proof.

A fleet *meets* if the share of answers in time, averaged over seeds, is high enough by the lower
end of its confidence interval; it *fails* if it is too low by the upper end; else nobody knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import sqrt
from statistics import fmean, stdev

from repertory.sim.planning.evidence import Evidence

__all__ = ["Standing", "Trial", "can_still_meet", "first_look", "judge"]

_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782)
"""One-sided 95 % points of Student's t for 1 to 12 degrees of freedom (any table of it)."""
_T95_MANY = 1.771
"""For 13; beyond it is less, so that the interval is no narrower than it should be."""
_FAR = 2.0
"""So many times as many late answers as are allowed: no seed makes that good."""
_PARTS = 64
"""Between the mean and 1: so many outcomes of further seeds are tried."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run, seen against the objective: a value for each of its terms."""

    met: tuple[float, ...]
    """The share of answers within the limit."""
    at_s: tuple[float | None, ...]
    """The quantile that the limit is on; None: it falls on an answer that never came."""
    evidence: Evidence
    requests: int
    """That were counted."""
    is_cut: bool = False
    """It was stopped when so many were late that the rest could not make it good."""


class Standing(Enum):
    MEETS = "meets"
    FAILS = "fails"
    UNSURE = "unsure"
    """Its seeds lie on both sides, or too near the edge."""


def judge(trials: Sequence[Trial], wanted: Sequence[float]) -> Standing:
    """By the 95 % confidence interval over seeds of each term's share.  Of one run: as it is."""
    standings = [
        _standing([trial.met[at] for trial in trials], share) for at, share in enumerate(wanted)
    ]
    for worst in (Standing.FAILS, Standing.UNSURE):
        if worst in standings:
            return worst
    return Standing.MEETS


def _standing(shares: Sequence[float], wanted: float) -> Standing:
    mean, freedom = fmean(shares), len(shares) - 1
    width = 0.0
    if freedom:
        t95 = _T95[freedom - 1] if freedom <= len(_T95) else _T95_MANY
        width = t95 * stdev(shares) / sqrt(len(shares))
    if mean - width >= wanted:
        return Standing.MEETS
    return Standing.FAILS if mean + width < wanted else Standing.UNSURE


def first_look(trial: Trial, wanted: Sequence[float]) -> Standing:
    is_far = any(1 - met > _FAR * (1 - share) for met, share in zip(trial.met, wanted, strict=True))
    return Standing.FAILS if is_far or trial.is_cut else Standing.UNSURE


def can_still_meet(trials: Sequence[Trial], wanted: Sequence[float], more: int) -> bool:
    """If so many further runs came out as well as could be.

    That is all alike, and not always perfect: far above the others they would widen the interval.
    """
    return all(
        _can_still_meet([trial.met[at] for trial in trials], share, more)
        for at, share in enumerate(wanted)
    )


def _can_still_meet(shares: Sequence[float], wanted: float, more: int) -> bool:
    mean = fmean(shares)
    hoped = (mean + (1.0 - mean) * part / _PARTS for part in range(_PARTS + 1))
    return any(_standing([*shares, *[hope] * more], wanted) is Standing.MEETS for hope in hoped)
