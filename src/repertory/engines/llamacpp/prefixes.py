"""What ended generations left in the free slots of a replica, and which slot a new one gets.

In mode `exact` these are whole chunks of prompts, for only those would be computed again with the
same bits; else all that was computed, so that the next turn of a chat finds the last answer too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import CHUNK_TOKENS

__all__ = ["Found", "Prefixes"]


@dataclass(frozen=True, slots=True)
class Found:
    """A free slot, and how many of a prompt's tokens have their cells there."""

    slot: int
    tokens: int


class Prefixes:
    """Tokens whose cells lie in free slots."""

    def __init__(self, sequences: int, is_exact: bool) -> None:
        self._is_exact = is_exact
        self._kept: list[tuple[int, ...]] = [()] * sequences
        self._left: list[int] = [0] * sequences
        """When a slot was last left, counted."""
        self._leavings = 0

    def keepable(self, computed: int, prompt_tokens: int) -> int:
        """How many of a generation's computed tokens may be kept."""
        if self._is_exact:
            return min(computed, prompt_tokens) // CHUNK_TOKENS * CHUNK_TOKENS
        return computed

    def keep(self, slot: int, tokens: tuple[int, ...]) -> None:
        self._kept[slot] = tokens
        self._leavings += 1
        self._left[slot] = self._leavings

    def drop(self, slot: int) -> None:
        self._kept[slot] = ()

    def take(self, free: Sequence[int], prompt: tuple[int, ...]) -> Found:
        """The slot that holds most of the prompt, or else the one that loses least.

        By default, a slot that holds half of the prompt; for less, nobody's conversation is
        overwritten: an empty slot, or the one left longest ago.
        """
        reusable = {slot: self.shared(self._kept[slot], prompt) for slot in free}
        slot = min(free, key=lambda slot: self._reluctance(slot, reusable[slot], len(prompt)))
        self.drop(slot)
        return Found(slot, reusable[slot])

    def shared(self, tokens: tuple[int, ...], prompt: tuple[int, ...]) -> int:
        """How much of a prompt need not be computed where the cells of `tokens` are."""
        return (_shared_chunks if self._is_exact else _shared_tokens)(tokens, prompt)

    def move(self, shape: KvShape, first_free: int, copy: Callable[[int, int], bool]) -> None:
        """Go along into another context, as far as there are slots, those left last first.

        `copy(slot, target)` moves the cells; False where it cannot.
        """
        old, order = self._kept, sorted(range(len(self._kept)), key=lambda n: (self._left[n], n))
        self._kept, self._left = [()] * shape.sequences, [0] * shape.sequences
        target = first_free
        for slot in reversed(order):
            fits = 0 < len(old[slot]) <= shape.cells and target < shape.sequences
            if fits and copy(slot, target):
                self._kept[target] = old[slot]
                self._left[target] = self._leavings - (target - first_free)
                target += 1

    def _reluctance(self, slot: int, reusable: int, prompt_tokens: int) -> tuple[int, ...]:
        """The slot with the least of it is taken."""
        kept_tokens = len(self._kept[slot])
        if self._is_exact:
            return (-reusable, kept_tokens, slot)
        is_much = reusable > 0 and 2 * reusable >= prompt_tokens
        return (-reusable if is_much else 0, self._left[slot] if kept_tokens else 0, slot)


def _shared_tokens(kept: tuple[int, ...], prompt: tuple[int, ...]) -> int:
    """How many tokens both begin with; one token at least is left to compute."""
    most = max(0, min(len(kept), len(prompt) - 1))
    if kept[:most] == prompt[:most]:
        return most
    return next(at for at in range(most) if kept[at] != prompt[at])


def _shared_chunks(kept: tuple[int, ...], prompt: tuple[int, ...]) -> int:
    """How many whole chunks' tokens both begin with; one token at least is left to compute."""
    most = max(0, min(len(kept), len(prompt) - 1)) // CHUNK_TOKENS * CHUNK_TOKENS
    return next(
        (
            start
            for start in range(0, most, CHUNK_TOKENS)
            if kept[start : start + CHUNK_TOKENS] != prompt[start : start + CHUNK_TOKENS]
        ),
        most,
    )
