"""The busiest stretch of a workload, and what it asks for.

A fleet is chosen for its worst hour: the first requests of a week are a night's.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from repertory.domain.errors import ConfigError
from repertory.domain.workloads import Arrival
from repertory.sim.many import Workload

__all__ = ["Asked", "Stretch", "Tokens", "busiest"]

_PROMPT_TOKENS = 8.0
"""So many of a prompt weigh as much as one of an answer, as in SG-20's ranking by demand."""
_WARM_SHARE = 0.1
"""Of the stretch: the first requests find an empty fleet, which is no part of what is planned."""


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
        later = (one for one in self.workload.arrivals(seed) if one.at_s >= begin_s)
        return (
            replace(one, at_s=(one.at_s - begin_s) / load) for one in islice(later, self.requests)
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int
    output: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A stretch, and what is in it."""

    stretch: Stretch
    whole_requests: int
    whole_s: float
    counted: int
    """Requests after the warm-up."""
    models: Mapping[str, Tokens]


def busiest(workload: Workload, seed: int, requests: int) -> Asked:
    """Of all stretches of so many requests, the one with the most work per second; the first of
    equals.  One pass, 20 bytes per request.
    """
    names: dict[str, int] = {}
    rows = [
        (one.at_s, names.setdefault(one.model, len(names)), one.prompt_tokens, one.output_tokens)
        for one in workload.arrivals(seed)
    ]
    if not rows:
        raise ConfigError(f"{workload.name}: there are no requests in it; nothing can be planned")
    at_s = np.array([row[0] for row in rows])
    which, prompt, output = np.array([row[1:] for row in rows], dtype=np.int64).T
    count = min(requests, len(rows))
    work = np.concatenate(([0.0], np.cumsum(prompt / _PROMPT_TOKENS + output)))
    spans = np.maximum(at_s[count - 1 :] - at_s[: len(rows) - count + 1], 1e-6)
    first = int(np.argmax((work[count:] - work[: len(rows) - count + 1]) / spans))
    part = slice(first, first + count)
    begin_s = float(at_s[first]) if first else 0.0
    span_s = float(at_s[part][-1]) - begin_s
    stretch = Stretch(workload, begin_s, span_s, count)
    models = {}
    for name, number in names.items():
        of_it = which[part] == number
        if of_it.any():
            models[name] = Tokens(int(prompt[part][of_it].sum()), int(output[part][of_it].sum()))
    counted = int((at_s[part] - begin_s >= stretch.warm_s).sum())
    return Asked(stretch, len(rows), float(at_s[-1] - at_s[0]), counted, models)
