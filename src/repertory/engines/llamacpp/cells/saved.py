"""KV of sequences that lost their slot, in main memory, until somebody goes on with it.

Found again by its tokens: by a generation that was stopped and goes on, and by the next turn of a
conversation whose model was away meanwhile.  Copying back is a hundred times quicker than computing
again (1,000 tokens of a 50M: 2 ms), and bit for bit.
"""

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace

from repertory.domain.ladder import Rung
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.cells.computed import Computed, Weights, shared_tokens
from repertory.engines.llamacpp.cells.disk import DiskKv, Match, Written
from repertory.engines.llamacpp.cells.rates import Copy, Rates
from repertory.engines.llamacpp.context import SavedSequence
from repertory.policy.requests.keep import Keep
from repertory.policy.requests.regain import Spared, Way, spared_of, way_back, worth_saving

__all__ = ["Saved", "SavedKv"]

_log = logging.getLogger(__name__)
_UNMEASURED_TOKEN_S = 1e-3
"""What is kept has some worth before anything was measured: a 300M on two cores."""
_STAGING_PART = 4
"""Of the memory, one part is for what has lost its place but is not on the disk yet."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A sequence in main memory."""

    name: str
    weights: Weights
    computed: Computed
    sequence: SavedSequence
    read_ns: int | None = None
    """What reading it from the disk took; None: it has not left main memory."""

    @property
    def source(self) -> Rung:
        return Rung.HOST if self.read_ns is None else Rung.DISK


class SavedKv:
    """All that a worker has saved, within a budget.  May be used from any thread."""

    def __init__(self, budget_bytes: int, disk: DiskKv | None = None) -> None:
        self.rates = Rates()
        self.disk = disk if disk is not None and not disk.is_off else None
        self._staging_bytes = 0 if self.disk is None else budget_bytes // _STAGING_PART
        self._keep = Keep(budget_bytes - self._staging_bytes)
        self._saved: dict[str, Saved] = {}
        self._unwritten: dict[str, int] = {}
        """Bytes of those whose turn on the disk is to come."""
        self._staged_bytes = 0
        """Of those, what has no place in memory any more."""
        self._distrusted = set(self.disk.distrusted) if self.disk is not None else set[str]()
        self._count = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        return self._keep.total_bytes + self._staged_bytes

    def wants(self, weights: Weights, size_bytes: int) -> bool:
        """Whether so much of this model may be saved."""
        fits = 0 < size_bytes <= self._keep.budget_bytes
        return fits and weights.kind not in self._distrusted

    def worth(self, weights: Weights, computed: Computed, size_bytes: int) -> Way:
        """Whether copying it out, and back, beats computing it again."""
        out, back = (self.rates.copying(way, weights) for way in (Copy.OUT, Copy.BACK))
        spared = _spared(computed, 0, len(computed.tokens), weights)
        return worth_saving(size_bytes, spared, out, (back,), self.rates.pace(weights))

    def way_back(self, saved: Saved, wanted: Computed, have: int, then: int) -> Way:
        """Whether a saved one is copied back, for one that has so many tokens and would have more
        then."""
        back = self.rates.copying(Copy.BACK, saved.weights)
        spared = _spared(wanted, have, then, saved.weights)
        return way_back(saved.sequence.bytes, spared, (back,), self.rates.pace(saved.weights))

    def put(
        self, weights: Weights, computed: Computed, sequence: SavedSequence, cost_s: float | None
    ) -> None:
        """Save it; what it continues is not needed any more.  `cost_s`: to compute it again."""
        if cost_s is None:
            cost_s = len(computed.tokens) * _UNMEASURED_TOKEN_S
        name = self._take(weights, computed, sequence, cost_s, None)
        if self.disk is not None and self._is_worth_writing(weights, computed, sequence):
            with self._lock:
                self._unwritten[name] = sequence.bytes
                if name not in self._saved:
                    self._stage(name)
            done = self.disk.write(
                Written(weights, computed, sequence, cost_s), lambda: name in self._unwritten
            )
            done.add_done_callback(lambda _: self._written(name))

    def find(
        self,
        weights: Weights,
        wanted: Computed,
        least_tokens: int,
        *,
        is_exact: bool,
        cells: int | None = None,
    ) -> tuple[Saved, int] | None:
        """What spares most of `wanted`, and how many tokens; None if it is fewer than asked for.

        A sequence comes back whole or not at all: one of more tokens than the slot has `cells` is
        none for it.  None: into some slot.
        """
        with self._lock:
            best: tuple[Saved, int] | None = None
            for one in self._saved.values():
                if one.weights != weights:
                    continue
                if cells is not None and len(one.computed.tokens) > cells:
                    continue
                tokens = shared_tokens(one.computed, wanted, is_exact=is_exact)
                if tokens >= least_tokens and (best is None or tokens > best[1]):
                    best = (one, tokens)
            if best is not None:
                self._keep.use(best[0].name)
            return best

    def came_back(self, saved: Saved) -> None:
        """Reading it is paid for: who restores it again has it from main memory."""
        with self._lock:
            if saved.name in self._saved:
                self._saved[saved.name] = replace(saved, read_ns=None)

    def may_fetch(self, weights: Weights, wanted: Computed) -> bool:
        """Whether the disk may have something of it."""
        if self.disk is None or weights.kind in self._distrusted:
            return False
        return self.disk.may_have(weights, wanted)

    def fetch(self, weights: Weights, wanted: Computed, have: int) -> "Future[None]":
        """Bring into memory what the disk has of it, if that is quicker than computing what lies
        beyond the `have` tokens that are in a slot, or in memory.
        """
        assert self.disk is not None, "there is no disk to fetch from"
        return self.disk.read(lambda: self._fetch(weights, wanted, have))

    def distrust(self, saved: Saved) -> None:
        """It did not come back as it should: nothing of its kind is saved or used any more."""
        kind = saved.weights.kind
        with self._lock:
            self._distrusted.add(kind)
            for one in list(self._saved.values()):
                if one.weights.kind == kind:
                    self._drop(one.name)
        if self.disk is not None:
            self.disk.distrust(kind)

    def _take(
        self,
        weights: Weights,
        computed: Computed,
        sequence: SavedSequence,
        cost_s: float,
        read_ns: int | None,
    ) -> str:
        with self._lock:
            for one in list(self._saved.values()):
                size = len(one.computed.tokens)
                if one.weights == weights and one.computed.tokens == computed.tokens[:size]:
                    self._drop(one.name)
            self._count += 1
            name = f"{self._count:012d}"
            self._saved[name] = Saved(name, weights, computed, sequence, read_ns)
            for gone in self._keep.put(name, sequence.bytes, cost_s):
                self._saved.pop(gone, None)
                if gone in self._unwritten:
                    self._stage(gone)
            return name

    def _stage(self, name: str) -> None:
        """It has no place in memory: it waits for the disk where there is room for that, else it is
        lost.  Its bytes are held by what writes it.
        """
        size = self._unwritten[name]
        if self._staged_bytes + size > self._staging_bytes:
            del self._unwritten[name]
        else:
            self._staged_bytes += size

    def _written(self, name: str) -> None:
        with self._lock:
            size = self._unwritten.pop(name, None)
            if size is not None and name not in self._saved:
                self._staged_bytes -= size

    def _is_worth_writing(
        self, weights: Weights, computed: Computed, sequence: SavedSequence
    ) -> bool:
        """Nobody waits for the writing, so only the way back counts."""
        ways = tuple(self.rates.copying(way, weights) for way in (Copy.READ, Copy.BACK))
        spared = _spared(computed, 0, len(computed.tokens), weights)
        return way_back(sequence.bytes, spared, ways, self.rates.pace(weights)).restores

    def _fetch(self, weights: Weights, wanted: Computed, have: int) -> None:
        assert self.disk is not None
        found = self.find(weights, wanted, have + 1, is_exact=weights.is_exact)
        have = have if found is None else found[1]
        match = self.disk.find(weights, wanted, have + CHUNK_TOKENS)
        if match is None or not self.wants(weights, match.head.content_bytes):
            return
        way = self._way_from_disk(weights, wanted, have, match)
        if not way.restores:
            _log.info("saved cells stay on the disk: %s", way.why)
            return
        began_ns = time.monotonic_ns()
        sequence = self.disk.load(match)
        if sequence is None:
            return
        read_ns = time.monotonic_ns() - began_ns
        self.rates.note_copy(Copy.READ, weights, match.head.file_bytes, read_ns)
        self._take(weights, match.computed, sequence, match.head.cost_s, read_ns)

    def _way_from_disk(self, weights: Weights, wanted: Computed, have: int, match: Match) -> Way:
        ways = tuple(self.rates.copying(way, weights) for way in (Copy.READ, Copy.BACK))
        spared = _spared(wanted, have, match.tokens, weights)
        return way_back(match.head.content_bytes, spared, ways, self.rates.pace(weights))

    def _drop(self, name: str) -> None:
        """What takes its place is written instead of it."""
        self._keep.drop(name)
        self._saved.pop(name, None)
        self._unwritten.pop(name, None)


def _spared(wanted: Computed, have: int, then: int, weights: Weights) -> Spared:
    """By default all comes in chunks, whatever it came in before."""
    return spared_of(have, then, wanted.prefill_tokens if weights.is_exact else then)
