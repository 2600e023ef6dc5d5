"""Who of a model's queue has the next slot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repertory.policy.objective import MISS_PENALTY_S, Due, missed_weight

__all__ = ["Place", "band", "first_in_line", "urgency"]


def band(weight: float) -> int:
    """Weights within a factor of two are one class: API keys share each class fairly, and one that
    spreads its requests over many weights has no more of it.  `batch` is four below `interactive`.
    """
    return math.frexp(weight)[1]


@dataclass(frozen=True, slots=True)
class Place:
    """The first of those who are alike: of one weight and key."""

    name: str
    weight: float
    since_ns: int
    used_ns: int = 0
    """Device time that its key has had (`policy.fairness`)."""
    began_ns: int | None = None
    """When it had a slot before; None: never."""
    is_returned: bool = False
    """Its worker died, and with it its slot."""
    stopped: int = 0
    """How often it made way for others."""
    begin_ns: int | None = None
    """By when it must begin for its deadline; None: it has none."""
    served_ns: int = 0
    """When one of its class had a slot of this model last."""

    @property
    def grown(self) -> float:
        """Each time that it was stopped doubles what it weighs (`policy.preempt`)."""
        return self.weight * 2.0**self.stopped


def urgency(
    one: Place, at_ns: int, max_wait_s: float, gap_s: float, *, of_class: bool = False
) -> float:
    """Its weight, grown by waiting, and by a deadline that it misses if it has to wait for another
    slot (`gap_s`).

    As the first `of_class`, it has waited since one of its class last had a slot: a class that is
    served all the time and sends more than the machine can do waits by its own fault.
    """
    since_ns = max(one.since_ns, one.served_ns) if of_class else one.since_ns
    waited_s = max(0, at_ns - since_ns) / 1e9
    if one.begin_ns is not None and missed_weight([Due(1.0, one.begin_ns)], at_ns, gap_s):
        waited_s += MISS_PENALTY_S
    return one.grown * (1.0 + waited_s / max_wait_s)


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
    returned = [one for one in places if one.is_returned]
    if returned:
        return min(returned, key=lambda one: (one.began_ns or 0, one.since_ns, one.name))
    urgent = {one.name: urgency(one, at_ns, max_wait_s, gap_s) for one in places}
    best: dict[int, Place] = {}
    for one in sorted(
        places,
        key=lambda one: (
            one.began_ns is None,
            one.used_ns if one.began_ns is None else 0,
            -urgent[one.name],
            one.began_ns or 0,
            one.since_ns,
            one.name,
        ),
    ):
        best.setdefault(band(one.weight), one)

    def place_of(one: Place) -> tuple[float, int, str]:
        of_class = urgency(one, at_ns, max_wait_s, gap_s, of_class=True)
        return -of_class, one.since_ns, one.name

    return min(best.values(), key=place_of, default=None)
