"""From a prompt's hidden states to its embedding, chunk by chunk."""

from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embeddings", "Pool", "Pooling", "pooling_of", "unit"]

Embeddings = NDArray[np.float32]
"""A row of hidden state per token."""


class Pooling(Enum):
    """Which tokens' states count."""

    MEAN = "mean"
    FIRST = "cls"
    LAST = "last"


def pooling_of(stated: int) -> Pooling | None:
    """What a file's `pooling_type` asks for; None for scores of pairs, which are no embedding.

    A file that says nothing is a decoder: its last token has seen the whole text (as vLLM does).
    """
    known = {0: Pooling.LAST, 1: Pooling.MEAN, 2: Pooling.FIRST, 3: Pooling.LAST}
    return known.get(stated)


class Pool:
    """Takes the states of a prompt in order."""

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling
        self._sum: NDArray[np.float64] | None = None

    @property
    def takes_last(self) -> bool:
        """Only the last token's state counts."""
        return self.pooling is Pooling.LAST

    def add(self, rows: Embeddings) -> None:
        """The states of the next tokens, or of the last one alone where only that counts."""
        match self.pooling:
            case Pooling.MEAN:
                state = rows.sum(axis=0, dtype=np.float64)
                self._sum = state if self._sum is None else self._sum + state
            case Pooling.FIRST:
                if self._sum is None:
                    self._sum = rows[0].astype(np.float64)
            case Pooling.LAST:
                self._sum = rows[-1].astype(np.float64)

    def embedding(self) -> tuple[float, ...] | None:
        """Of length 1, as float32; None if the states are no usable numbers.

        A mean and a sum differ in length only, which goes.
        """
        assert self._sum is not None, "no state was added"
        return unit(self._sum)


def unit(state: NDArray[np.float64]) -> tuple[float, ...] | None:
    """The same direction with length 1; None if it has none."""
    length = float(np.linalg.norm(state))
    if not np.isfinite(length) or length == 0.0:
        return None
    return tuple((state / length).astype(np.float32).tolist())
