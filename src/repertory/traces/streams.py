"""Made arrivals: renewal streams under rate curves and bursts, merged lazily by time.

Luck is drawn per (seed, stream's name, day): another stream beside it changes nothing, and days
7-13 alone are the same arrivals as in days 0-13.  Times are whole microseconds.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from repertory.domain.workloads import Arrival
from repertory.traces.columns import MOST_TOKENS

__all__ = [
    "DAY_S",
    "WEEK_S",
    "Bursts",
    "Days",
    "Floats",
    "Lengths",
    "LogNormal",
    "Quantile",
    "RateCurve",
    "Stream",
    "arrivals_of",
    "luck",
    "merged",
    "power_law",
    "thinned",
]

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
_BLOCK = 8_192
"""Gaps drawn at once: 64 KiB."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Days = tuple[int, int]
"""First and last, both in it; the first begins at 0 s of the workload."""


def luck(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for each name: no draw here moves a draw elsewhere."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def power_law(count: int, alpha: float) -> Floats:
    """Shares proportional to (i + 1) ** -alpha, in sum 1."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -alpha
    shares: Floats = weights / weights.sum()
    return shares


class Lengths(Protocol):
    """Of prompts or of answers."""

    def draw(self, luck: np.random.Generator, count: int) -> Ints: ...


@dataclass(frozen=True, slots=True)
class LogNormal:
    median_tokens: float
    sigma: float
    """Of the logarithm: 1.0 puts the 84th percentile at 2.7 medians."""
    most_tokens: int = 8_192

    def draw(self, luck: np.random.Generator, count: int) -> Ints:
        drawn = self.median_tokens * np.exp(self.sigma * luck.standard_normal(count))
        return _whole(np.minimum(drawn, self.most_tokens))


@dataclass(frozen=True, slots=True, eq=False)
class Quantile:
    """By a published table of quantiles, linear between them."""

    levels: Floats
    tokens: Floats

    def draw(self, luck: np.random.Generator, count: int) -> Ints:
        return _whole(np.interp(luck.random(count), self.levels, self.tokens))


def _whole(tokens: Floats) -> Ints:
    return np.clip(np.rint(tokens), 1, MOST_TOKENS).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class RateCurve:
    """A rate that repeats itself: constant over each step, or a line from one to the next."""

    step_s: float
    rates_per_s: Floats
    is_linear: bool = False

    @property
    def mean_per_s(self) -> float:
        """Over a whole turn; lines lose at one end what they win at the other."""
        return float(self.rates_per_s.mean())

    def times(self, factor: float) -> "RateCurve":
        return RateCurve(self.step_s, self.rates_per_s * factor, self.is_linear)

    def later(self, shift_s: float) -> "RateCurve":
        """Moved by whole steps."""
        steps = round(shift_s / self.step_s)
        return RateCurve(self.step_s, np.roll(self.rates_per_s, steps), self.is_linear)

    def pieces(self, begin_s: float, end_s: float) -> tuple[Floats, Floats, Floats]:
        """Knots, and the rates after and before each piece's ends."""
        first, last = int(begin_s // self.step_s), int(np.ceil(end_s / self.step_s))
        knots = np.clip(np.arange(first, last + 1) * self.step_s, begin_s, end_s)
        left = self.at(knots[:-1])
        right = self.at(knots[1:]) if self.is_linear else left
        return knots, left, right

    def at(self, times_s: Floats) -> Floats:
        across = times_s / self.step_s
        below = np.floor(across + 1e-9).astype(np.int64)
        count = len(self.rates_per_s)
        here = self.rates_per_s[below % count]
        if not self.is_linear:
            return here
        share = np.clip(across - below, 0.0, 1.0)
        return here * (1 - share) + self.rates_per_s[(below + 1) % count] * share


@dataclass(frozen=True, slots=True)
class Bursts:
    """A Markov chain of two states that multiplies the rate; in the long mean by 1."""

    calm_s: float
    """Mean stay."""
    burst_s: float
    calm_factor: float
    """0: silence between bursts."""

    @property
    def burst_factor(self) -> float:
        share = self.burst_s / (self.calm_s + self.burst_s)
        return (1 - (1 - share) * self.calm_factor) / share

    def path(self, luck: np.random.Generator, length_s: float) -> tuple[Floats, Floats]:
        """When each state begins, and its factor; from the long mean's state."""
        is_burst = luck.random() < self.burst_s / (self.calm_s + self.burst_s)
        begins, factors, now_s = [], [], 0.0
        while now_s < length_s:
            begins.append(now_s)
            factors.append(self.burst_factor if is_burst else self.calm_factor)
            now_s += luck.exponential(self.burst_s if is_burst else self.calm_s)
            is_burst = not is_burst
        return np.array(begins), np.array(factors)


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One source of requests for one model."""

    name: str
    model: str
    curve: RateCurve
    prompt: Lengths
    output: Lengths
    cv: float = 1.0
    """Of the gaps where the rate stands still; 1: Poisson, over 1: Gamma, bursty."""
    bursts: Bursts | None = None
    priority: str = ""
    key: str = ""

    def arrivals(self, seed: int, days: Days, share: float = 1.0) -> Iterator[Arrival]:
        """`share`: each request stays with this probability."""
        for day in range(days[0], days[1] + 1):
            sizes = luck(seed, self.name, day, "tokens")
            stays = luck(seed, self.name, day, "thinned")
            offset_s = (day - days[0]) * DAY_S
            for times_s in self._times(seed, day):
                yield from arrivals_of(self, thinned(times_s, share, stays) + offset_s, sizes)

    def mean_per_s(self, days: Days) -> float:
        """Over these days, before luck."""
        knots, left, right = self.curve.pieces(days[0] * DAY_S, (days[1] + 1) * DAY_S)
        return float(((left + right) / 2 * np.diff(knots)).sum() / (knots[-1] - knots[0]))

    def _times(self, seed: int, day: int) -> Iterator[Floats]:
        """Of one day, from its beginning: a renewal process of mean gap 1 in the integral of the
        rate, carried back into time.
        """
        knots, left, right = self.curve.pieces(day * DAY_S, (day + 1) * DAY_S)
        knots = knots - day * DAY_S
        if self.bursts is not None:
            path = self.bursts.path(luck(seed, self.name, day, "bursts"), DAY_S)
            knots, left, right = _modulated(knots, left, right, path)
        total = np.concatenate(([0.0], np.cumsum((left + right) / 2 * np.diff(knots))))
        gaps = luck(seed, self.name, day, "gaps")
        for amounts in _renewals(gaps, float(total[-1]), self.cv):
            yield _inverted(amounts, total, knots, left, right)


class Source(Protocol):
    """What a stream of another make needs to have to become arrivals."""

    @property
    def model(self) -> str: ...
    @property
    def prompt(self) -> Lengths: ...
    @property
    def output(self) -> Lengths: ...
    @property
    def priority(self) -> str: ...
    @property
    def key(self) -> str: ...


def arrivals_of(source: Source, times_s: Floats, sizes: np.random.Generator) -> Iterator[Arrival]:
    """Prompt and answer are drawn apart: published lengths are marginals."""
    count = len(times_s)
    prompts = source.prompt.draw(sizes, count).tolist()
    outputs = source.output.draw(sizes, count).tolist()
    model, priority, key = source.model, source.priority, source.key
    for at_s, prompt, output in zip(np.round(times_s, 6).tolist(), prompts, outputs, strict=True):
        yield Arrival(at_s, model, prompt, output, priority=priority, key=key)


def _renewals(luck: np.random.Generator, until: float, cv: float) -> Iterator[Floats]:
    """Sorted amounts under `until`, in blocks; from the start as if it had always run."""
    shape, scale = 1 / cv**2, cv**2
    block = int(min(_BLOCK, until * 1.2 + 16))
    reached = luck.random() * luck.gamma(shape + 1, scale)
    while reached < until:
        amounts = reached + np.concatenate(([0.0], np.cumsum(luck.gamma(shape, scale, block))))
        reached = float(amounts[-1])
        yield amounts[: int(np.searchsorted(amounts[:-1], until))]


def _inverted(amounts: Floats, total: Floats, knots: Floats, left: Floats, right: Floats) -> Floats:
    """When the integral of the rate comes to these amounts."""
    piece = np.clip(np.searchsorted(total, amounts, side="right") - 1, 0, len(left) - 1)
    rest = amounts - total[piece]
    begin, slope = left[piece], (right - left)[piece] / np.diff(knots)[piece]
    root = np.sqrt(np.maximum(begin * begin + 2 * slope * rest, 0.0))
    within = np.divide(2 * rest, begin + root, out=np.zeros_like(rest), where=begin + root > 0)
    return np.asarray(np.minimum(knots[piece] + within, knots[piece + 1]), dtype=np.float64)


def _modulated(
    knots: Floats, left: Floats, right: Floats, path: tuple[Floats, Floats]
) -> tuple[Floats, Floats, Floats]:
    """The same pieces, cut where the state changes, times its factor."""
    begins, factors = path
    cut = np.union1d(knots, begins[begins < knots[-1]])
    piece = np.searchsorted(knots, cut[:-1], side="right") - 1
    factor = factors[np.searchsorted(begins, cut[:-1], side="right") - 1]
    slope = ((right - left) / np.diff(knots))[piece]
    cut_left = left[piece] + slope * (cut[:-1] - knots[piece])
    cut_right = left[piece] + slope * (cut[1:] - knots[piece])
    return cut, cut_left * factor, cut_right * factor


def merged(streams: Sequence[Iterable[Arrival]]) -> Iterator[Arrival]:
    """By time, lazily: one arrival of each stream is held.  Equal times: the earlier stream's."""
    return heapq.merge(*streams, key=attrgetter("at_s"))


def thinned(times_s: Floats, share: float, stays: np.random.Generator) -> Floats:
    """Each stays with this probability, whatever became of the others: shares and shapes stay, and
    time keeps its pace, as it would not if it were compressed.
    """
    return times_s if share >= 1 else times_s[stays.random(len(times_s)) < share]
