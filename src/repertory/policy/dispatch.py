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


def choose_replica(slots: Sequence[Slot]) -> str | None:
    """The replica with the least predicted completion; ties go to the name."""
    best = min(slots, key=lambda slot: (slot.remaining_s, slot.replica_id), default=None)
    return best.replica_id if best is not None else None
