"""What one step computes, and who can say how long that takes."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Batch", "Chunk", "StepTimes", "padded_tokens"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one prompt."""

    tokens: int
    history_tokens: int
    """Of it that are in the KV cache already."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Decodes and pieces of prompts, computed in one step."""

    decodes: int
    context_tokens: int = 0
    """Of all decodes together, in the KV cache."""
    longest_tokens: int = 0
    """The longest context of a decode."""
    chunks: tuple[Chunk, ...] = ()

    @property
    def tokens(self) -> int:
        return self.decodes + sum(chunk.tokens for chunk in self.chunks)

    @property
    def sequences(self) -> int:
        """Each gets logits: vLLM samples unfinished prompts too, and drops what it sampled."""
        return self.decodes + len(self.chunks)


class StepTimes(Protocol):
    """Time on the GPU alone; what the host adds is not in it."""

    def step_s(self, batch: Batch) -> float: ...

    def context_knots(self, decodes: int) -> tuple[float, ...]:
        """Between two of these, ascending, such a step grows linearly with its contexts."""
        ...


_SIZES: tuple[int, ...] = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
"""The batch sizes for which vLLM captures CUDA graphs (0.19, `cudagraph_capture_sizes`)."""


def padded_tokens(tokens: int, max_num_seqs: int) -> int:
    """As many as are computed: graphs exist up to twice `max_num_seqs`, and at most for 512."""
    if tokens > min(2 * max_num_seqs, _SIZES[-1]):
        return tokens
    return _SIZES[bisect_left(_SIZES, tokens)]
