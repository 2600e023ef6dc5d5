"""Who of a model's queue has the next slot."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from repertory.policy.objective import MISS_PENALTY_S
from repertory.policy.requests.preempt import grown_weight

__all__ = [
    "Place",
    "Standing",
    "band",
    "first_in_line",
    "first_standing",
    "standing",
    "urgency",
]


def band(weight: float) -> int:
    """Weights within a factor of two are one class: API keys share each class fairly, and one that
    spreads its requests over many weights has no more of it.  `batch` is four below `interactive`.
    """
    return math.frexp(weight)[1]


class Place(NamedTuple):
    """The first of those who are alike: of one weight and key.

    A tuple, as `Standing`: a dozen of both are made per event.
    """

    name: str
    weight: float
    since_ns: int
    used_ns: int = 0
    """Device time that its key has had (`policy.requests.fairness`)."""
    began_ns: int | None = None
    """When it had a slot before; None: never."""
    is_returned: bool = False
    """Its worker died, and with it its slot."""
    stopped: int = 0
    """How often it made way for others before its run had paid (`policy.requests.preempt`)."""
    begin_ns: int | None = None
    """By when it must begin for its deadline; None: it has none."""
    served_ns: int = 0
    """When one of its class had a slot of this model last."""


def urgency(
    one: Place, at_ns: int, max_wait_s: float, gap_s: float, *, of_class: bool = False
) -> float:
    """Its weight, grown by waiting, and by a deadline that it misses if it has to wait for another
    slot (`gap_s`).

    As the first `of_class`, it has waited since one of its class last had a slot: a class that is
    served all the time and sends more than the machine can do waits by its own fault.
    """
    _, weight, since_ns, _, _, _, stopped, begin_ns, served_ns = one
    if of_class and served_ns > since_ns:
        since_ns = served_ns
    waited_s = (at_ns - since_ns) / 1e9 if at_ns > since_ns else 0.0
    if begin_ns is not None and at_ns <= begin_ns < at_ns + round(gap_s * 1e9):
        waited_s += MISS_PENALTY_S
    if stopped:
        weight = grown_weight(weight, stopped)
    return weight * (1.0 + waited_s / max_wait_s)


class Standing(NamedTuple):
    """What a place is worth now."""

    name: str
    class_: int
    own: tuple[bool, bool, int, float, int, int, str]
    """Within its class, the least is first."""
    of_class: tuple[bool, float, int, str]
    """As the first of its class, among those of the others."""


def standing(one: Place, at_ns: int, max_wait_s: float, gap_s: float) -> Standing:
    """Rank it by the rules of `first_in_line`."""
    name, weight, since_ns, used_ns, began, is_returned, _, _, served_ns = one
    is_new, is_fresh, began_ns = not is_returned, began is None, began or 0
    urgent = class_urgent = urgency(one, at_ns, max_wait_s, gap_s)
    if served_ns > since_ns:
        class_urgent = urgency(one, at_ns, max_wait_s, gap_s, of_class=True)
    own = (is_new, is_fresh, used_ns if is_fresh else 0, -urgent, began_ns, since_ns, name)
    of_class = (is_new, -class_urgent, began_ns if is_returned else since_ns, name)
    return Standing(name, band(weight), own, of_class)


def first_standing(standings: Iterable[Standing]) -> Standing | None:
    """The first by both ranks."""
    best: dict[int, Standing] = {}
    for one in standings:
        known = best.get(one.class_)
        if known is None or one.own < known.own:
            best[one.class_] = one
    if len(best) == 1:
        return next(iter(best.values()))
    return min(best.values(), key=_rank_of_class, default=None)


def _rank_of_class(one: Standing) -> tuple[bool, float, int, str]:
    return one.of_class


def first_in_line(
    places: Sequence[Place], at_ns: int, max_wait_s: float, gap_s: float
) -> Place | None:
    """Who is next; None: nobody waits.

    1. Who had a slot when its worker died has it again.
    2. In each class of weights (`band`): who was stopped goes on before others begin; then whose
       key has had least; then the most urgent; then the longest-waiting.
    3. Of these, one of each class, the most urgent: so nobody is held up by lighter work that came
       before.  And nobody starves: if no `batch` has had a slot for nine `max_wait`, one goes
       before what is `interactive` and new.
    4. Ties go to the longest-waiting, then to the name.
    """
    first = first_standing(standing(one, at_ns, max_wait_s, gap_s) for one in places)
    return next((one for one in places if first is not None and one.name == first.name), None)
