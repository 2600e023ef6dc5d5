"""The slots of one context: who has which, what the free ones still hold, and how cells come into
them and out again.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from repertory.domain.errors import EngineError
from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.cells.computed import NOTHING, Computed, Weights, shared_tokens
from repertory.engines.llamacpp.cells.prefixes import Found, Prefixes
from repertory.engines.llamacpp.cells.rates import Copy
from repertory.engines.llamacpp.cells.saved import Saved, SavedKv
from repertory.engines.llamacpp.context import Context, DecodeFailed
from repertory.engines.llamacpp.generations import Generation
from repertory.engines.llamacpp.library import Model

__all__ = ["Copied", "Slots"]

_log = logging.getLogger(__name__)
_MOST_COPY_BYTES = 128 << 20
"""A copy goes through main memory that nobody has accounted for."""


@dataclass(frozen=True, slots=True)
class Copied:
    """KV that went from one place to another."""

    bytes: int = 0
    took_ns: int = 0

    def __add__(self, other: "Copied") -> "Copied":
        return Copied(self.bytes + other.bytes, self.took_ns + other.took_ns)


class Slots:
    """The slots of a replica's context.  By its step loop, but for `save_all`."""

    def __init__(
        self, name: str, model: Model, context: Context, saved: SavedKv, weights: Weights
    ) -> None:
        """`saved` takes what loses its slot; `weights` names the file and form for it."""
        self.context = context
        self._name = name
        self._model = model
        self._saved = saved
        self._weights = weights
        self._occupants: list[Generation | None] = [None] * context.shape.sequences
        self._prefixes = Prefixes(context.shape.sequences, context.is_exact)

    @property
    def taken(self) -> tuple[tuple[int, Generation], ...]:
        """Slots that generations have, ascending."""
        slots = enumerate(self._occupants)
        return tuple((slot, one) for slot, one in slots if one is not None)

    @property
    def stepping(self) -> Iterator[tuple[int, Generation]]:
        """Of those, the ones that take part in steps."""
        return ((slot, one) for slot, one in self.taken if not one.is_held)

    @property
    def has_room(self) -> bool:
        return None in self._occupants

    def at(self, slot: int) -> Generation:
        one = self._occupants[slot]
        assert one is not None, f"slot {slot} of {self._name} is empty"
        return one

    def settle(self, one: Generation) -> None:
        """Give it a free slot.  An embedding reuses nothing: the same text has the same bits."""
        free = [slot for slot, occupant in enumerate(self._occupants) if occupant is None]
        wanted = NOTHING
        if one.pool is None:
            wanted = Computed(tuple(one.tokens), one.prefill_tokens)
        found = self._prefixes.take(free, wanted)
        if len(found.left.tokens) >= found.tokens + CHUNK_TOKENS:
            displaced = self._save(found.slot, found.left)
            one.displaced_bytes, one.displaced_ns = displaced.bytes, displaced.took_ns
        self.context.forget(found.slot, found.tokens)
        tokens = self._borrowed(found, wanted)
        one.computed = one.reused = self._restored(found.slot, one, wanted, tokens)
        self._occupants[found.slot] = one

    def reusable(self, wanted: Computed) -> int:
        """How much of it the slots have now."""
        held = [computed for _, computed in self._prefixes.kept]
        held += [_computed(one) for _, one in self.taken]
        is_exact = self.context.is_exact
        return max((shared_tokens(one, wanted, is_exact=is_exact) for one in held), default=0)

    def close_gap(self, decoding: Sequence[int]) -> None:
        """Keep decoding slots adjacent: the library splits a batch at each gap.

        Measured: four sequences of a 300M take 26 ms in slots 0-3, 37 in slots 0, 2, 4, 6; moving
        512 tokens takes 2.
        """
        if not decoding or decoding[-1] - decoding[0] + 1 == len(decoding):
            return
        free = next((slot for slot, one in enumerate(self._occupants) if one is None), None)
        if free is None or free > decoding[-1]:
            return
        self._save(free, self._prefixes.at(free))
        self.free(free)
        if not _copied(self.context, decoding[-1], self.context, free):
            return
        self._occupants[free] = self._occupants[decoding[-1]]
        self.free(decoding[-1])

    def leave(self, slot: int) -> None:
        """Free a slot, but keep what its generation, or another prompt, may go on from."""
        one = self.at(slot)
        is_kept = bool(one.computed) and one.pool is None and self._model.has_plain_kv
        if is_kept and self.context.forget(slot, one.computed):
            self._occupants[slot] = None
            self._prefixes.keep(slot, _computed(one))
        else:
            self.free(slot)

    def free(self, slot: int) -> None:
        """Nothing of it is worth keeping."""
        self._occupants[slot] = None
        self._prefixes.drop(slot)
        self.context.forget(slot)

    def note_chunk(self, begin: int, tokens: int, took_ns: int) -> None:
        """A chunk was computed.  A short one takes longer per token than those of a replay."""
        if 2 * tokens >= self.context.chunk_tokens:
            middle, token_s = begin + tokens / 2, took_ns / 1e9 / tokens
            self._saved.rates.note_chunk(self._weights, middle, token_s)

    def note_step(self, place: int, took_ns: int) -> None:
        """A token each was computed, of sequences of that length."""
        self._saved.rates.note_step(self._weights, place, took_ns / 1e9)

    def save_all(self) -> Copied:
        """Before its context goes: what may be wanted again, those left longest ago first."""
        return sum((self._save(slot, one) for slot, one in self._prefixes.kept), Copied())

    def check_fits(self, shape: KvShape, waiting: Sequence[Generation]) -> None:
        """Raise unless everything that runs or waits here fits into `shape`."""
        running = [one for _, one in self.taken]
        everybody = [*running, *waiting]
        longest = max((one.spec.max_tokens + len(one.spec.prompt) for one in everybody), default=0)
        if len(running) > shape.sequences or longest > shape.cells:
            raise EngineError(
                f"{len(running)} running generations of up to {longest} cells do not fit into "
                f"{shape.sequences} x {shape.cells}"
            )

    def move_to(self, context: Context) -> Copied:
        """Go on in another context, bit for bit; what was saved of what finds no slot there.

        What cannot be copied is replayed, as a generation that comes from elsewhere.
        """
        running = self.taken
        for target, (slot, one) in enumerate(running):
            if one.computed and not _copied(self.context, slot, context, target):
                one.start_over(is_exact=context.is_exact)
        left = self._prefixes.move(
            context.shape,
            len(running),
            lambda slot, target: _copied(self.context, slot, context, target),
        )
        saved = sum((self._save(slot, one) for slot, one in left), Copied())
        self.context = context
        free = context.shape.sequences - len(running)
        self._occupants = [one for _, one in running] + [None] * free
        return saved

    def _save(self, slot: int, computed: Computed) -> Copied:
        """Copy a free slot's cells out, if that is worth anything."""
        if len(computed.tokens) < CHUNK_TOKENS or not self._model.has_plain_kv:
            return Copied()
        size = self.context.saved_bytes(slot)
        if not self._saved.wants(self._weights, size):
            return Copied()
        way = self._saved.worth(self._weights, computed, size)
        if not way.restores:
            _log.info("cells of %s are not saved: %s", self._name, way.why)
            return Copied()
        began_ns = time.monotonic_ns()
        try:
            sequence = self.context.save(slot)
        except DecodeFailed as error:
            _log.info("a sequence is not saved: %s", error)
            return Copied()
        copied = Copied(size, time.monotonic_ns() - began_ns)
        self._saved.rates.note_copy(Copy.OUT, self._weights, copied.bytes, copied.took_ns)
        self._saved.put(self._weights, computed, sequence, way.replay_s)
        return copied

    def _restored(self, slot: int, one: Generation, wanted: Computed, tokens: int) -> int:
        """Copy saved cells into the slot, if they are a chunk more than it has and that is quicker
        than to compute them; how much of what is wanted is there then.
        """
        cells, is_exact = self.context.shape.cells, self.context.is_exact
        found = self._saved.find(
            self._weights, wanted, tokens + CHUNK_TOKENS, is_exact=is_exact, cells=cells
        )
        if found is None:
            return tokens
        saved, usable = found
        way = self._saved.way_back(saved, wanted, tokens, usable)
        if not way.restores:
            _log.info("cells of %s are computed again: %s", self._name, way.why)
            return tokens
        began_ns = time.monotonic_ns()
        why = self._fault_of_restoring(slot, saved, usable)
        took_ns = time.monotonic_ns() - began_ns
        if why is None:
            self._saved.rates.note_copy(Copy.BACK, self._weights, saved.sequence.bytes, took_ns)
            self._saved.came_back(saved)
            one.restored_bytes, one.restored_from = saved.sequence.bytes, saved.source
            one.restored_ns = took_ns + (saved.read_ns or 0)
            return usable
        _log.warning("saved cells of %s did not come back: %s", self._name, why)
        self._saved.distrust(saved)
        self.context.forget(slot)
        return 0

    def _fault_of_restoring(self, slot: int, saved: Saved, usable: int) -> str | None:
        """None: as many tokens are there as should be."""
        self.context.forget(slot)
        try:
            self.context.restore(slot, saved.sequence)
        except DecodeFailed as error:
            return str(error)
        self.context.forget(slot, usable)
        there = self.context.tokens_in(slot)
        return None if there == usable else f"{there} tokens instead of {usable}"

    def _borrowed(self, found: Found, wanted: Computed) -> int:
        """Copy what a running generation shares with it (a system prompt, mostly), if that is a
        chunk more than the slot has; how much of what is wanted is in the slot then.

        Measured, 50M q8_0: a copy of 1,000 tokens (8 MiB) takes 2 ms, computing them hundreds.
        """
        shared = {slot: self._prefixes.shared(_computed(one), wanted) for slot, one in self.taken}
        slot = max(shared, key=lambda slot: (shared[slot], -slot), default=None)
        if slot is None or shared[slot] < found.tokens + CHUNK_TOKENS:
            return found.tokens
        if not self._model.has_plain_kv or self.context.saved_bytes(slot) > _MOST_COPY_BYTES:
            return found.tokens
        self.context.forget(found.slot)
        if not _copied(self.context, slot, self.context, found.slot):
            return 0
        self.context.forget(found.slot, shared[slot])
        return shared[slot]


def _computed(one: Generation) -> Computed:
    """What of a generation has its cells."""
    return Computed(tuple(one.tokens[: one.computed]), one.prefill_tokens)


def _copied(origin: Context, slot: int, target: Context, target_slot: int) -> bool:
    try:
        target.restore(target_slot, origin.save(slot))
    except DecodeFailed as error:
        _log.info("a sequence is replayed: %s", error)
        return False
    return True
