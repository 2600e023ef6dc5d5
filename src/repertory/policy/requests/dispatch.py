"""Which serving replica of a model a request goes to."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Slot", "choose_replica"]


@dataclass(frozen=True, slots=True)
class Slot:
    """An open replica with a free sequence that holds the request."""

    replica_id: str
    remaining_s: float
    """Predicted seconds of the work it already runs."""
    first_s: float
    """Until its first token there."""


def choose_replica(slots: Sequence[Slot]) -> str | None:
    """Its first token soonest; where that is equal, the least work; ties go to the name."""
    best = min(
        slots, key=lambda slot: (slot.first_s, slot.remaining_s, slot.replica_id), default=None
    )
    return best.replica_id if best is not None else None
