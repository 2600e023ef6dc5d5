"""What a workload is like: one pass, in memory that grows with its models but not its requests.

Quantiles are read off bins that are 3 % wide.
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repertory.domain.workloads import Arrival

__all__ = ["Description", "Histogram", "ModelDescription", "Timeline", "describe"]

_BUFFER = 4_096
"""Requests of one model that are counted at once."""
_BINS_PER_OCTAVE = 24
_OCTAVES = (-20, 30)
"""From a microsecond to 30 years, and all token counts."""
_SLOTS = 512
_MINUTE_S = 60.0
_MOST_MODELS = 20_000
"""Each takes 30 KB here, and nobody serves so many."""


@dataclass(slots=True)
class Histogram:
    """Of positive numbers, by logarithm."""

    counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(
            (_OCTAVES[1] - _OCTAVES[0]) * _BINS_PER_OCTAVE, dtype=np.int64
        )
    )

    def add(self, values: NDArray[np.float64]) -> None:
        bins = (np.log2(np.maximum(values, 1e-9)) - _OCTAVES[0]) * _BINS_PER_OCTAVE
        places = np.clip(np.floor(bins), 0, len(self.counts) - 1).astype(np.int64)
        self.counts += np.bincount(places, minlength=len(self.counts))

    def take(self, other: "Histogram") -> None:
        self.counts += other.counts

    def quantile(self, share: float) -> float | None:
        """In the middle of its bin."""
        total = int(self.counts.sum())
        if not total:
            return None
        rank = max(1, math.ceil(share * total))
        place = int(np.searchsorted(np.cumsum(self.counts), rank))
        return float(2 ** (_OCTAVES[0] + (place + 0.5) / _BINS_PER_OCTAVE))

    def shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Upper ends of the bins that hold something, and the share of all up to there."""
        held = np.flatnonzero(self.counts)
        ends = 2 ** (_OCTAVES[0] + (held + 1) / _BINS_PER_OCTAVE)
        return ends, np.cumsum(self.counts[held]) / max(1, int(self.counts.sum()))


@dataclass(slots=True)
class Timeline:
    """Requests by slot of time; where they are too few, slots become twice as wide."""

    slot_s: float
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, model: str, times_s: NDArray[np.float64]) -> None:
        while times_s[-1] >= self.slot_s * _SLOTS:
            self.slot_s *= 2
            for name, old in self.counts.items():
                self.counts[name] = np.concatenate(
                    (old.reshape(-1, 2).sum(axis=1), np.zeros(_SLOTS // 2, dtype=np.int64))
                )
        places = (times_s / self.slot_s).astype(np.int64)
        added = np.bincount(places, minlength=_SLOTS)
        known = self.counts.get(model)
        self.counts[model] = added if known is None else known + added


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Of one model, or of all."""

    name: str
    requests: int
    share: float
    mean_per_s: float
    peak_per_s: float
    """In the busiest minute."""
    gap_cv: float | None
    """Standard deviation of the gaps between requests over their mean; Poisson has 1."""
    longest_gap_s: float | None
    gap_p50_s: float | None
    prompt_mean_tokens: float
    prompt_p50_tokens: float | None
    prompt_p99_tokens: float | None
    output_mean_tokens: float
    output_p50_tokens: float | None
    output_p99_tokens: float | None


@dataclass(frozen=True, slots=True)
class Description:
    total: ModelDescription
    models: tuple[ModelDescription, ...]
    """Most requests first."""
    first_s: float
    last_s: float
    repeated: int
    """Requests equal in all to the one ahead of them: a trace that was joined twice?"""
    prefix_share: float
    """Of prompt tokens, those in a named prefix."""
    top_shares: dict[str, float]
    """Of requests, by the busiest models."""
    timeline: Timeline
    prompts: Histogram
    outputs: Histogram


def describe(arrivals: Iterable[Arrival]) -> Description:
    """Raises ValueError where there are none."""
    counts: dict[str, _Count] = {}
    total = _Count()
    timeline = Timeline(1.0)
    before: Arrival | None = None
    first_s: float | None = None
    repeated = 0
    for arrival in arrivals:
        if first_s is None:
            first_s = arrival.at_s
        repeated += arrival == before
        before = arrival
        count = counts.get(arrival.model)
        if count is None:
            if len(counts) == _MOST_MODELS:
                raise ValueError(f"over {_MOST_MODELS:,} models: is the column a request's name?")
            count = counts[arrival.model] = _Count()
        if count.add(arrival):
            count.flush(arrival.model, timeline)
        if total.add(arrival):
            total.flush("", None)
    if before is None or first_s is None:
        raise ValueError("there are no requests to describe")
    total.flush("", None)
    for name, count in counts.items():
        count.flush(name, timeline)
    span_s = before.at_s - first_s
    models = [count.told(name, total.requests, span_s) for name, count in counts.items()]
    models.sort(key=lambda one: (-one.requests, one.name))
    return Description(
        total=total.told("all", total.requests, span_s),
        models=tuple(models),
        first_s=first_s,
        last_s=before.at_s,
        repeated=repeated,
        prefix_share=total.prefix_tokens / total.prompt_tokens,
        top_shares=_top_shares(models),
        timeline=timeline,
        prompts=total.prompts,
        outputs=total.outputs,
    )


def _top_shares(models: list[ModelDescription]) -> dict[str, float]:
    wanted = {"1": 1, "3": 3, "6 %": math.ceil(len(models) * 0.06), "half": len(models) // 2}
    return {
        name: sum(one.share for one in models[:count])
        for name, count in wanted.items()
        if 0 < count <= len(models)
    }


@dataclass(slots=True)
class _Count:
    times_s: "array[float]" = field(default_factory=lambda: array("d"))
    prompt: "array[int]" = field(default_factory=lambda: array("q"))
    output: "array[int]" = field(default_factory=lambda: array("q"))
    last_s: float | None = None
    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_tokens: int = 0
    prompts: Histogram = field(default_factory=Histogram)
    outputs: Histogram = field(default_factory=Histogram)
    gaps: Histogram = field(default_factory=Histogram)
    gap_sum_s: float = 0.0
    gap_squares: float = 0.0
    longest_gap_s: float = 0.0
    minute: int = -1
    in_minute: int = 0
    peak_in_minute: int = 0

    def add(self, arrival: Arrival) -> bool:
        """Whether it is time to flush."""
        self.times_s.append(arrival.at_s)
        self.prompt.append(arrival.prompt_tokens)
        self.output.append(arrival.output_tokens)
        self.prefix_tokens += arrival.prefix_tokens
        return len(self.times_s) >= _BUFFER

    def flush(self, name: str, timeline: Timeline | None) -> None:
        if not self.times_s:
            return
        times_s = np.array(self.times_s)
        prompt, output = np.array(self.prompt), np.array(self.output)
        self.requests += len(times_s)
        self.prompt_tokens += int(prompt.sum())
        self.output_tokens += int(output.sum())
        self.prompts.add(prompt.astype(np.float64))
        self.outputs.add(output.astype(np.float64))
        self._gaps(times_s)
        self._minutes(times_s)
        if timeline is not None:
            timeline.add(name, times_s)
        self.times_s, self.prompt, self.output = array("d"), array("q"), array("q")

    def _gaps(self, times_s: NDArray[np.float64]) -> None:
        before = times_s[:1] if self.last_s is None else np.array([self.last_s])
        gaps_s = np.diff(times_s, prepend=before)
        gaps_s = gaps_s[1:] if self.last_s is None else gaps_s
        self.last_s = float(times_s[-1])
        if len(gaps_s):
            self.gaps.add(gaps_s)
            self.gap_sum_s += float(gaps_s.sum())
            self.gap_squares += float(np.square(gaps_s).sum())
            self.longest_gap_s = max(self.longest_gap_s, float(gaps_s.max()))

    def _minutes(self, times_s: NDArray[np.float64]) -> None:
        minutes, counts = np.unique((times_s // _MINUTE_S).astype(np.int64), return_counts=True)
        if minutes[0] == self.minute:
            counts[0] += self.in_minute
        self.minute, self.in_minute = int(minutes[-1]), int(counts[-1])
        self.peak_in_minute = max(self.peak_in_minute, int(counts.max()))

    def told(self, name: str, all_requests: int, span_s: float) -> ModelDescription:
        gaps = self.requests - 1
        mean_s = self.gap_sum_s / gaps if gaps else 0.0
        variance = max(0.0, self.gap_squares / gaps - mean_s**2) if gaps else 0.0
        return ModelDescription(
            name=name,
            requests=self.requests,
            share=self.requests / all_requests,
            mean_per_s=self.requests / span_s if span_s else 0.0,
            peak_per_s=self.peak_in_minute / _MINUTE_S,
            gap_cv=math.sqrt(variance) / mean_s if mean_s else None,
            longest_gap_s=self.longest_gap_s if gaps else None,
            gap_p50_s=self.gaps.quantile(0.5),
            prompt_mean_tokens=self.prompt_tokens / self.requests,
            prompt_p50_tokens=self.prompts.quantile(0.5),
            prompt_p99_tokens=self.prompts.quantile(0.99),
            output_mean_tokens=self.output_tokens / self.requests,
            output_p50_tokens=self.outputs.quantile(0.5),
            output_p99_tokens=self.outputs.quantile(0.99),
        )
