"""The busiest stretch of a workload, and what it asks for.

A fleet is chosen for its worst hour: the first requests of a week are a night's.
"""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from repertory.domain.errors import ConfigError
from repertory.domain.workloads import Arrival
from repertory.sim.many import Workload

__all__ = ["Asked", "Lengths", "Stretch", "busiest"]

_PROMPT_TOKENS = 8.0
"""So many of a prompt weigh as much as one of an answer, as in SG-20's ranking by demand."""
_WARM_SHARE = 0.1
"""Of the stretch: the first requests find an empty fleet, which is no part of what is planned."""
_MOST_KEPT = 100_000
"""Requests of a stretch that is kept between runs, some 250 bytes each; longer ones are made anew
for each run, as is all that comes before them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many requests of a workload from a time on, `load` times as fast."""

    workload: Workload
    begin_s: float
    span_s: float
    """By the seed that it was chosen with."""
    requests: int
    load: float = 1.0

    @property
    def warm_s(self) -> float:
        """Requests before it are not counted."""
        return self.span_s * _WARM_SHARE / self.load

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        begin_s, load = self.begin_s, self.load
        made = _kept if self.requests <= _MOST_KEPT else _made
        return (
            replace(one, at_s=(one.at_s - begin_s) / load)
            for one in made(self.workload, begin_s, self.requests, seed)
        )


def _made(workload: Workload, begin_s: float, requests: int, seed: int) -> Iterator[Arrival]:
    return islice((one for one in workload.arrivals(seed) if one.at_s >= begin_s), requests)


@lru_cache(maxsize=8)
def _kept(workload: Workload, begin_s: float, requests: int, seed: int) -> tuple[Arrival, ...]:
    """Of a workload of many days, what comes before takes longer to make than a run to simulate."""
    return tuple(_made(workload, begin_s, requests, seed))


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Of the requests for one model, one by one."""

    prompt: NDArray[np.int32]
    output: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Asked:
    """A stretch, and what is in it."""

    stretch: Stretch
    whole_requests: int
    whole_s: float
    counted: int
    """Requests after the warm-up."""
    models: Mapping[str, Lengths]


def busiest(workload: Workload, seed: int, requests: int) -> Asked:
    """Of all stretches of so many requests, the one with the most work per second; the first of
    equals.  One pass; 20 bytes per request, and as much again some times over while it is looked
    for.
    """
    names: dict[str, int] = {}
    times_s, models = array("d"), array("i")
    prompts, outputs = array("i"), array("i")
    for one in workload.arrivals(seed):
        times_s.append(one.at_s)
        models.append(names.setdefault(one.model, len(names)))
        prompts.append(one.prompt_tokens)
        outputs.append(one.output_tokens)
    if not times_s:
        raise ConfigError(f"{workload.name}: there are no requests in it; nothing can be planned")
    at_s, prompt, output = np.asarray(times_s), np.asarray(prompts), np.asarray(outputs)
    count = min(requests, len(at_s))
    first = _first(at_s, prompt / _PROMPT_TOKENS + output, count)
    part = slice(first, first + count)
    begin_s = float(at_s[first]) if first else 0.0
    stretch = Stretch(workload, begin_s, float(at_s[part][-1]) - begin_s, count)
    which = np.asarray(models)[part]
    asked = {
        name: Lengths(prompt[part][which == at], output[part][which == at])
        for name, at in names.items()
        if (which == at).any()
    }
    counted = int((at_s[part] - begin_s >= stretch.warm_s).sum())
    return Asked(stretch, len(at_s), float(at_s[-1] - at_s[0]), counted, asked)


def _first(at_s: NDArray[np.float64], work: NDArray[np.float64], count: int) -> int:
    """Where it begins: with the first request of an instant, for a stretch is found again by it."""
    done = np.concatenate(([0.0], np.cumsum(work)))
    last = len(at_s) - count + 1
    spans_s = np.maximum(at_s[count - 1 :] - at_s[:last], 1e-6)
    first = int(np.argmax((done[count:] - done[:last]) / spans_s))
    return int(np.searchsorted(at_s, at_s[first]))
