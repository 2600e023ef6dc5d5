"""What every decision minimises, in one place (design.md §6).

    harm = Σ over affected requests  w_r · added seconds until its first token
         + Σ over affected requests  w_r · MISS_PENALTY_S · [its deadline is missed]
         + Σ over replicas given up  P(use soon) · seconds to bring it back
         + Σ over their models' next requests  seconds until it serves again

`w_r` is the request's own weight, grown by waiting (aging): after `max_wait_s` it counts double,
and from then on its model is next on some feasible device whatever else (`in_order`).
Stalls of running streams are weighed where they are caused (`policy.requests.preempt`).

A penalty is paid once, so it counts where a choice decides it: for a deadline that is met one way
and missed the other.  One that is missed already, or met anyway, changes nothing.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop
from typing import NamedTuple

__all__ = [
    "MISS_PENALTY_S",
    "Due",
    "Starving",
    "absence_s",
    "aged_weight",
    "at_risk",
    "in_order",
    "late_s",
    "missed_weight",
    "probability_of_use",
    "response_factor",
]

MISS_PENALTY_S = 10.0
"""A missed deadline is as bad as having waited for the default `max_wait`, which is the longest
that anybody should.  So it outweighs a switch there and back on everything measured so far (0.05 to
3 s), and a deadline does decide; and it doubles a fresh request's weight at most, so whoever names
one cannot outlaw those who have waited."""


@dataclass(frozen=True, slots=True)
class Due:
    """A waiting request with a deadline."""

    weight: float
    begin_ns: int
    """Its deadline less its own prompt: when it must be able to begin."""


def missed_weight(dues: Sequence[Due], at_ns: int, wait_s: float) -> float:
    """Σ w of those whose deadlines are missed by having to wait so long, and were not before."""
    if not dues:  # as a rule
        return 0.0
    end_ns = at_ns + round(wait_s * 1e9)
    return sum(due.weight for due in dues if at_ns <= due.begin_ns < end_ns)


def at_risk(dues: Sequence[Due], at_ns: int, there_s: float, wait_s: float) -> float:
    """Σ w of those whose deadlines are met if the way to them begins now (it takes `there_s`), and
    missed if it begins `wait_s` later.
    """
    if not dues:
        return 0.0
    return missed_weight(dues, at_ns + round(there_s * 1e9), wait_s)


def aged_weight(weight: float, weighted_wait_s: float, max_wait_s: float) -> float:
    """Σ w_r of waiting requests, from Σ of their own weights and Σ weight x seconds waited."""
    return weight + weighted_wait_s / max_wait_s


def probability_of_use(arrivals_per_s: float, reload_s: float, floor_s: float) -> float:
    """P(at least one request soon), Poisson.  Soon: ten reloads ahead, but at least `floor_s`.

    worker.md, Dispatch: p = 1 - exp(-rate · max(60 s, 10 · reload)).
    """
    return -math.expm1(-arrivals_per_s * max(floor_s, 10.0 * reload_s))


def absence_s(arrivals_per_s: float, away_s: float) -> float:
    """What those who come while a model is away wait for it, in sum: half of that time, each.

    Where memory is there again at once it is nothing beside a reload; where many wait for it, a
    model that is asked for all the time loses by far more than that.
    """
    return arrivals_per_s * away_s * away_s / 2.0


_STEADY_SHARE = 0.95
"""Up to here the queue of a device settles within the time that is looked ahead."""


def response_factor(share: float) -> float:
    """How many times as long an answer takes on a device that is asked for so much of its time as
    on an idle one (processor sharing, M/G/1).

    Beyond what settles it goes on along the tangent: a device that is asked for more than all of
    its time has a queue that grows for as long as that lasts, so that whatever else it is given
    always costs the others something.
    """
    steady = 1.0 / (1.0 - min(share, _STEADY_SHARE))
    return steady + max(0.0, share - _STEADY_SHARE) * steady * steady


_PATIENCE = 3.0
"""Who names no deadline is taken to bear so many times what the answer takes that has everything to
itself and loads first.  An assumption; `bench.costs.desk` measures goodput by the same."""


def late_s(alone_s: float, seconds: float) -> float:
    """What is lost, on the average, of an answer that takes so long and would take `alone_s`.

    The chance that it is late, were answers of all lengths (exponential), times what it would bear.
    So it is finite: an answer that is late anyway is not worth ever more of the others' time, as it
    is where seconds are summed and a device is asked for more than it can do.
    """
    bears_s = _PATIENCE * alone_s
    return bears_s * math.exp(-bears_s / max(seconds, 1e-12))


class Starving(NamedTuple):
    """A model that has demand and no replica: what its turn and its chances depend on.

    A tuple: made anew for every request that comes for it.
    """

    name: str
    since_ns: int | None
    """Arrival of its oldest request; None: nobody waits, an operator asked for it."""
    weight: float
    """Σ of its requests' own weights."""
    weighted_since_s: float
    """Σ weight x second of arrival."""
    work_ns: int
    """Predicted device time to bring it up and to work its queue off."""
    switch_ns: int
    """The part of it that brings it up."""
    need_bytes: int
    """The least per device that serves its oldest request."""
    devices: int
    """On so many devices at once."""
    heaviest: float = 0.0
    """Of those who wait."""
    dues: tuple[Due, ...] = ()
    """Of those who wait, the first ones."""


def in_order(starving: Sequence[Starving], at_ns: int, max_wait_s: float) -> Iterator[Starving]:
    """Which model is placed first.

    1. Overdue models first, the longest-waiting of them before the others.
    2. Then the most harm saved per second of device time (weighted shortest job first), where
       Σ w_r = Σ w + Σ w · waited / max_wait, from the running sums, and a deadline that is met now
       and missed one `max_wait` later counts as having waited for its penalty.
    3. Ties go to the name.
    """
    overdue_ns = at_ns - round(max_wait_s * 1e9)
    # Heaps: as a rule only the first is asked for, and finding it is all that is then paid.
    overdue = [
        (one.since_ns, one.name, one)
        for one in starving
        if one.since_ns is not None and one.since_ns <= overdue_ns
    ]
    heapify(overdue)
    while overdue:
        yield heappop(overdue)[2]
    per_weight = 1.0 + at_ns / 1e9 / max_wait_s
    others = []
    for one in starving:
        if one.since_ns is None or one.since_ns > overdue_ns:
            sum_ = one.weight * per_weight - one.weighted_since_s / max_wait_s
            if one.dues:
                risked = at_risk(one.dues, at_ns, one.switch_ns / 1e9, max_wait_s)
                sum_ += risked * MISS_PENALTY_S / max_wait_s
            others.append((-sum_ / (one.work_ns + 1), one.name, one))
    heapify(others)
    while others:
        yield heappop(others)[2]
