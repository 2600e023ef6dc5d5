"""What models lose to each other on a device that does not hold them all: its time has a price.

A switch is time of the device like any other, and whoever cannot be there beside another waits for
the other's answers besides.  So the price of a second rises with all that the device does, and a
model is given it where its own answers gain more than the others lose.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from repertory.policy.objective import late_s, response_factor

__all__ = ["Party", "late_sum_s"]


class Party(NamedTuple):
    """One model of a device."""

    answers: float
    """Until the horizon."""
    per_s: float
    """How often it is asked for."""
    each_s: float
    """Of an answer with the device to itself."""
    share: float
    """Of the device's time, for its answers."""
    switch_s: float
    """To bring it there."""
    alone_s: float
    """Of an answer at its best place, with everything to itself; it loads first."""
    bytes: int
    """It needs there."""


def late_sum_s(parties: Sequence[Party], unit_s: float, room_bytes: int) -> float:
    """What all their answers lose by being late.

    1. Who is asked for a times a second, and those that cannot be there beside it b times in all,
       is found away by b / (a + b) of its requests, and has to be brought back.
    2. It waits for an answer of each of those as often as that one is under way.
    3. All of that takes 1 / (1 - u) of its time, u being the device's share that answers and
       switches ask for.
    4. An answer counts as one of `unit_s` does, however short it is: who asks for little is late
       sooner.
    """
    ordered = sorted(parties, key=lambda one: one.bytes)
    sizes = [one.bytes for one in ordered]
    rates = _from_the_end([one.per_s for one in ordered])
    waits_s = _from_the_end([one.share * one.each_s for one in ordered])
    share, seconds = 0.0, []
    for at, one in enumerate(ordered):
        beyond = bisect_right(sizes, room_bytes - one.bytes)
        rivals, wait_s = rates[beyond], waits_s[beyond]
        if at >= beyond:  # of those is not itself
            rivals, wait_s = rivals - one.per_s, wait_s - one.share * one.each_s
        rivals = max(0.0, rivals)
        away = rivals / max(one.per_s + rivals, 1e-12)
        share += one.share + one.per_s * away * one.switch_s
        seconds.append(one.each_s + away * one.switch_s + max(0.0, wait_s))
    factor = response_factor(share)
    return sum(
        one.answers * late_s(one.alone_s, alone_s * factor) * unit_s / max(one.alone_s, 1e-12)
        for one, alone_s in zip(ordered, seconds, strict=True)
    )


def _from_the_end(values: Sequence[float]) -> list[float]:
    """The n-th: the sum from there to the end."""
    return [*list(accumulate(reversed(values)))[::-1], 0.0]
