"""Whether cells that were computed once are copied back or computed again, and whether copying
them out is worth it: whichever is quicker by what was measured.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from repertory.perf.profiles import Law

__all__ = ["Pace", "Regained", "Spared", "Way", "spared_of", "way_back", "worth_saving"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How quick a model computes cells."""

    chunk: Law
    """Seconds per token of a chunk, by its place in the sequence: attention looks at all before."""
    step: Law
    """Seconds of a step that computes one token of each sequence, by the place."""


@dataclass(frozen=True, slots=True)
class Spared:
    """Places whose cells need not be computed: first those of chunks, then those one by one."""

    begin: int
    chunked_end: int
    end: int

    def seconds(self, pace: Pace) -> float:
        """To compute them.  The laws are lines: the middle of a stretch stands for all of it."""
        chunked = self.chunked_end - self.begin
        single = self.end - self.chunked_end
        in_chunks_s = chunked * pace.chunk.seconds(self.begin + chunked / 2)
        return in_chunks_s + single * pace.step.seconds(self.chunked_end + single / 2)


def spared_of(have: int, then: int, prefill_tokens: int) -> Spared:
    """From `have` tokens to `then`, of which those after the first `prefill_tokens` would come one
    by one (mode `exact`; by default all come in chunks).
    """
    assert have <= then, f"{have} tokens are there, {then} would be"
    return Spared(have, max(have, min(then, prefill_tokens)), then)


@dataclass(frozen=True, slots=True)
class Way:
    """What was chosen, and what both ways would take.  None: nobody has measured it."""

    restores: bool
    restore_s: float | None
    replay_s: float | None
    why: str


Regained = Law | None
"""Seconds of a copy, by bytes; None before the first."""


def way_back(
    size_bytes: int, spared: Spared, copies: tuple[Regained, ...], pace: Pace | None
) -> Way:
    """Copy `size_bytes` back, over each of `copies` in turn (disk, memory), or compute again.

    1. What nobody has measured is tried: a copy was a hundred times quicker wherever it was
       measured, and the first one tells.
    2. The quicker one; where both take the same, the copy, which has the same bits for sure.
    """
    copy_s = _sum(law.seconds(size_bytes) if law is not None else None for law in copies)
    replay_s = spared.seconds(pace) if pace is not None else None
    tokens = spared.end - spared.begin
    if copy_s is None or replay_s is None:  # 1
        return Way(True, copy_s, replay_s, "nobody has measured both ways")
    said = f"{size_bytes / 2**20:.3g} MiB in {copy_s:.3g} s, {tokens} tokens in {replay_s:.3g} s"
    if copy_s <= replay_s:  # 2
        return Way(True, copy_s, replay_s, f"copying is quicker: {said}")
    return Way(False, copy_s, replay_s, f"computing is quicker: {said}")


def worth_saving(
    size_bytes: int, spared: Spared, out: Regained, back: tuple[Regained, ...], pace: Pace | None
) -> Way:
    """Copy out now for the sake of a copy back later, or compute again then: `restores` says
    whether to save.  Both copies together must be quicker, else saving gains nobody anything.
    """
    return way_back(size_bytes, spared, (out, *back), pace)


def _sum(terms: Iterable[float | None]) -> float | None:
    total = 0.0
    for one in terms:
        if one is None:
            return None
        total += one
    return total
