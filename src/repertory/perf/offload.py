"""Speed with a part of a model's bytes on its device: the curve of Yildiz 2026, §1.3, as a law.

    t(f, L) = f (a_g + b_g L) + (1 - f)(a_c + b_c L) + c        seconds per step

The law of `perf.divided` with the tokens of context, `L`, in it, fitted to a whole sweep.  In
tokens per second it is a hyperbola, flat and then steep near f = 1, as the paper draws it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from repertory.perf.divided import divided_s
from repertory.perf.profiles import Law

__all__ = ["Fitted", "OffloadLaw", "Point", "fit"]


@dataclass(frozen=True, slots=True)
class Point:
    """A measured step."""

    share: float
    """Of the bytes on the device."""
    context_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class OffloadLaw:
    """Seconds of a step, by share and context."""

    device: Law
    """All on the device, per token of context."""
    host: Law
    """All on the host."""
    crossing_s: float = 0.0

    def seconds(self, share: float, context_tokens: int) -> float:
        there_s, here_s = self.device.seconds(context_tokens), self.host.seconds(context_tokens)
        return divided_s(share, there_s, here_s, self.crossing_s)

    def normalised(self, share: float, context_tokens: int) -> float:
        """Throughput relative to the whole model on the device: the paper's ordinate."""
        return self.seconds(1.0, context_tokens) / self.seconds(share, context_tokens)

    def gap(self, context_tokens: int) -> float:
        """How many times as long a byte takes on the host: the paper's rho."""
        return self.host.seconds(context_tokens) / self.device.seconds(context_tokens)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A law and how well it describes the points that it was made from."""

    law: OffloadLaw
    residual: float
    """Root mean square of the relative errors."""
    points: int


def fit(points: Sequence[Point]) -> Fitted:
    """The law that errs least, relatively; two points at different shares suffice.

    What the points cannot tell stays zero: growth with the context where all have the same one,
    the cost of crossing where none has a share between 0 and 1.  No coefficient is negative.
    """
    assert len({one.share for one in points}) > 1, "a curve needs two shares"
    scale = max(1.0, *(float(one.context_tokens) for one in points))
    has_contexts = len({one.context_tokens for one in points}) > 1
    rows = np.array(
        [
            (
                one.share,
                one.share * one.context_tokens / scale * has_contexts,
                1.0 - one.share,
                (1.0 - one.share) * one.context_tokens / scale * has_contexts,
                float(0.0 < one.share < 1.0),
            )
            for one in points
        ]
    )
    seconds = np.array([one.seconds for one in points])
    if len({one.share for one in points}) == 2:
        rows[:, 4] = 0.0  # two shares are a line, and a line has no step
    found = _not_negative(rows / seconds[:, None], np.ones(len(points)))
    law = OffloadLaw(
        Law(float(found[0]), float(found[1]) / scale),
        Law(float(found[2]), float(found[3]) / scale),
        float(found[4]),
    )
    errors = [law.seconds(one.share, one.context_tokens) / one.seconds - 1.0 for one in points]
    residual = math.sqrt(sum(error * error for error in errors) / len(errors))
    return Fitted(law, residual, len(points))


def _not_negative(rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares without negative coefficients: the best of all subsets that has none.

    Five coefficients have 31 subsets.  Of equally good ones the smallest is taken, so that what the
    points cannot tell apart stays zero.
    """
    count = rows.shape[1]
    best, least = np.zeros(count), math.inf
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            columns = rows[:, chosen]
            values = np.linalg.lstsq(columns, wanted, rcond=None)[0]
            error = float(((columns @ values - wanted) ** 2).sum())
            if values.min() >= 0.0 and error < least - 1e-16 * len(wanted):
                least, best = error, np.zeros(count)
                best[list(chosen)] = values
    return best
