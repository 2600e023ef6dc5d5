"""What ended generations left in the free slots of a replica, and which slot a new one gets.

All that was computed stays, so that the next turn of a chat finds the last answer too, and a
generation that was stopped goes on where it stood.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repertory.domain.specs import KvShape
from repertory.engines.llamacpp.cells.computed import NOTHING, Computed, shared_tokens

__all__ = ["Found", "Prefixes"]


@dataclass(frozen=True, slots=True)
class Found:
    """A free slot, and how many of a generation's tokens have their cells there."""

    slot: int
    tokens: int
    left: Computed
    """All that lies there."""


class Prefixes:
    """What was computed, by free slot."""

    def __init__(self, sequences: int, is_exact: bool) -> None:
        self._is_exact = is_exact
        self._kept: list[Computed] = [NOTHING] * sequences
        self._left: list[int] = [0] * sequences
        """When a slot was last left, counted."""
        self._leavings = 0

    @property
    def kept(self) -> tuple[tuple[int, Computed], ...]:
        """Slots that hold something, those left longest ago first."""
        slots = sorted(range(len(self._kept)), key=lambda slot: (self._left[slot], slot))
        return tuple((slot, self._kept[slot]) for slot in slots if self._kept[slot].tokens)

    def at(self, slot: int) -> Computed:
        return self._kept[slot]

    def keep(self, slot: int, computed: Computed) -> None:
        self._kept[slot] = computed
        self._leavings += 1
        self._left[slot] = self._leavings

    def drop(self, slot: int) -> None:
        self._kept[slot] = NOTHING

    def take(self, free: Sequence[int], wanted: Computed) -> Found:
        """The slot that holds most of what is wanted, or else the one that loses least.

        By default, a slot that holds half of it; for less, nobody's conversation is overwritten:
        an empty slot, or the one left longest ago.
        """
        reusable = {slot: self.shared(self._kept[slot], wanted) for slot in free}
        count = len(wanted.tokens)
        slot = min(free, key=lambda slot: self._reluctance(slot, reusable[slot], count))
        found = Found(slot, reusable[slot], self._kept[slot])
        self.drop(slot)
        return found

    def shared(self, kept: Computed, wanted: Computed) -> int:
        """How much of `wanted` need not be computed where the cells of `kept` are."""
        return shared_tokens(kept, wanted, is_exact=self._is_exact)

    def move(
        self, shape: KvShape, first_free: int, copy: Callable[[int, int], bool]
    ) -> tuple[tuple[int, Computed], ...]:
        """Go along into another context, as far as there are slots, those left last first; the
        others, those left longest ago first.

        `copy(slot, target)` moves the cells; False where it cannot.
        """
        held = self.kept
        self._kept, self._left = [NOTHING] * shape.sequences, [0] * shape.sequences
        target = first_free
        others: list[tuple[int, Computed]] = []
        for slot, computed in reversed(held):
            fits = len(computed.tokens) <= shape.cells and target < shape.sequences
            if fits and copy(slot, target):
                self._kept[target] = computed
                self._left[target] = self._leavings - (target - first_free)
                target += 1
            else:
                others.append((slot, computed))
        return tuple(reversed(others))

    def _reluctance(self, slot: int, reusable: int, wanted_tokens: int) -> tuple[int, ...]:
        """The slot with the least of it is taken."""
        kept_tokens = len(self._kept[slot].tokens)
        if self._is_exact:
            return (-reusable, kept_tokens, slot)
        is_much = reusable > 0 and 2 * reusable >= wanted_tokens
        return (-reusable if is_much else 0, self._left[slot] if kept_tokens else 0, slot)
