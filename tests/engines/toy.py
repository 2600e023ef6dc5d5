"""A context whose logits are a function of the cells, and nothing else: wrong cells, wrong tokens.

In mode `exact` a cell also remembers the chunk that it was computed in, as a real one does in the
last bits of its numbers: whoever goes on with cells of another lineage says something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.context import DecodeFailed

__all__ = ["PIECES", "ToyContext", "ToyModel"]

PIECES = (
    *(letter.encode() for letter in "abcdefg"),
    *(bytes([byte]) for byte in "€𝄞é".encode()),
    b" ",
    b"ab",
    b"END",
    "é€".encode(),
)
"""Letters, words, and characters cut into bytes; the last token ends a text."""
_END = len(PIECES)
_CELL_BYTES = 8


class ToyModel:
    """As much of a `library.Model` as serving asks for."""

    vocabulary_tokens = len(PIECES) + 1
    has_plain_kv = True
    is_causal = True
    pooling = 0

    def piece(self, token: int, *, shows_specials: bool = False) -> bytes:
        return b"" if token == _END else PIECES[token]

    def is_end(self, token: int) -> bool:
        return token == _END


@dataclass(frozen=True)
class ToySequence:
    """Cells on their way."""

    cells: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return _CELL_BYTES * len(self.cells)


class ToyContext:
    """As much of a `context.Context`."""

    chunk_tokens = CHUNK_TOKENS
    takes_whole_prompts = False

    def __init__(self, shape: KvShape, *, is_exact: bool) -> None:
        self.shape = shape
        self.is_exact = is_exact
        self._cells: list[list[int]] = [[] for _ in range(shape.sequences)]

    def use_threads(self, threads: int) -> None:
        pass

    def prefill(
        self, slot: int, tokens: Sequence[int], position: int, *, wants_logits: bool
    ) -> "np.ndarray[tuple[int], np.dtype[np.float32]] | None":
        chunk = (position, position + len(tokens)) if self.is_exact else (0, 0)
        for at, token in enumerate(tokens, position):
            self._add(slot, token, at, chunk)
        return self._row(slot) if wants_logits else None

    def decode(
        self, slots: Sequence[int], tokens: Sequence[int], positions: Sequence[int]
    ) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        assert list(slots) == sorted(set(slots))
        for slot, token, at in zip(slots, tokens, positions, strict=True):
            self._add(slot, token, at, (at, at + 1) if self.is_exact else (0, 0))
        return np.stack([self._row(slot) for slot in slots])

    def forget(self, slot: int, position: int = 0) -> bool:
        del self._cells[slot][position:]
        return True

    def tokens_in(self, slot: int) -> int:
        return len(self._cells[slot])

    def saved_bytes(self, slot: int) -> int:
        return _CELL_BYTES * len(self._cells[slot])

    def save(self, slot: int) -> ToySequence:
        return ToySequence(tuple(self._cells[slot]))

    def restore(self, slot: int, saved: ToySequence) -> None:
        if len(saved.cells) > self.shape.cells:
            raise DecodeFailed("restored 0 bytes of a sequence")
        self._cells[slot] = list(saved.cells)

    def _add(self, slot: int, token: int, at: int, chunk: tuple[int, int]) -> None:
        cells = self._cells[slot]
        assert len(cells) == at < self.shape.cells, f"place {at} after {len(cells)} cells"
        before = cells[-1] if cells else 0
        cells.append(hash((before, token, chunk)) & 0xFFFFFFFF)

    def _row(self, slot: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        luck = np.random.default_rng(self._cells[slot][-1])
        return (2.0 * luck.standard_normal(ToyModel.vocabulary_tokens)).astype(np.float32)
