"""Predicted seconds: a profile's law times what real transitions have taught so far.

A prediction says where it comes from.  `Estimated` rests on a prior alone; `Observed` on at least
one real transition of this model; a ratio learned from *other* models improves an estimate but
never makes it an observation.
"""

from dataclasses import dataclass

__all__ = ["Estimated", "Observed", "Prediction", "Ratio", "learn", "predict"]

_SMOOTHING = 0.3
"""Weight of the newest observation: three agreeing ones outvote an outlier of the noisy kind that
OpenMP barriers give (up to 7 times, facts.md)."""
_CLIP = 8.0
"""One observation never moves a ratio by more than this factor."""


@dataclass(frozen=True, slots=True)
class Estimated:
    """Seconds by a prior."""

    seconds: float
    basis = "prior"


@dataclass(frozen=True, slots=True)
class Observed:
    """Seconds by a law corrected with real transitions of this very model."""

    seconds: float
    samples: int
    basis = "measured"


Prediction = Estimated | Observed


@dataclass(frozen=True, slots=True)
class Ratio:
    """How measured seconds stand to a law's seconds."""

    value: float
    samples: int


def learn(old: Ratio | None, measured_s: float, law_s: float) -> Ratio:
    """Blend one measurement into a ratio.  The first one is taken as it is."""
    seen = measured_s / max(law_s, 1e-9)
    if old is None:
        return Ratio(min(max(seen, 1e-3), 1e3), 1)
    seen = min(max(seen, old.value / _CLIP), old.value * _CLIP)
    return Ratio(old.value + _SMOOTHING * (seen - old.value), old.samples + 1)


def predict(law_s: float, own: Ratio | None, others: Ratio | None) -> Prediction:
    """`own` is of this model and kind of work; `others` of the same kind of work on this node."""
    if own is not None:
        return Observed(law_s * own.value, own.samples)
    return Estimated(law_s * (others.value if others is not None else 1.0))
