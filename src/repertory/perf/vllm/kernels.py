"""A step from times of single kernels, for any model whose layers they are.

What no table holds is computed from the memory's bandwidth: norms, rotations, activations and the
like, each a read, a write and a launch.  Sampling is left to the host's share.
"""

from dataclasses import dataclass

from repertory.perf.vllm.batches import Batch, padded_tokens
from repertory.perf.vllm.grids import Grid
from repertory.perf.vllm.shapes import ModelShape

__all__ = ["Attention", "KernelTimes", "Kernels", "Memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """What an element-wise kernel takes."""

    bytes_per_s: float
    launch_s: float

    def seconds(self, moved_bytes: float) -> float:
        return self.launch_s + moved_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Attention:
    prompts: Grid
    """One sequence from nothing, over its tokens."""
    decodes: Grid
    """Over sequences and their context."""
    mixed: float
    """How many times as long decodes take in a step that also computes prompts."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """In seconds."""

    gemm: Grid
    """Weights as in the model; over n, k and m."""
    head: Grid
    """The same in 16 bits: the output head is never quantised."""
    attention: Attention
    memory: Memory
    experts: Grid | None = None
    """The experts of one layer, over tokens."""


@dataclass(frozen=True, slots=True)
class KernelTimes:
    shape: ModelShape
    tp: int
    kernels: Kernels
    reduce: Grid | None
    """Adding up over the GPUs, by bytes; None with one GPU."""
    max_num_seqs: int

    def step_s(self, batch: Batch) -> float:
        tokens = padded_tokens(batch.tokens, self.max_num_seqs)
        shape = self.shape
        each_s = self._around_s(tokens) + self._attention_s(batch)
        if self.reduce is not None:
            each_s += 2 * self.reduce.at(tokens * shape.hidden * 2)
        total_s = shape.layers * each_s
        total_s += (shape.layers - shape.expert_layers) * self._mlp_s(tokens, shape.inner)
        if shape.expert_layers:
            total_s += shape.expert_layers * self._experts_s(tokens)
        head_s = self.kernels.head.at(shape.vocabulary / self.tp, shape.hidden, batch.sequences)
        embedding_s = self.kernels.memory.seconds(4 * tokens * shape.hidden)
        return total_s + embedding_s + head_s

    def context_knots(self, decodes: int) -> tuple[float, ...]:
        return tuple(sorted(self.kernels.attention.decodes.last_knots()))

    def _around_s(self, tokens: int) -> float:
        """The projections before and after attention, two norms, and the turning of heads."""
        shape, kernels = self.shape, self.kernels
        wide = shape.heads * shape.head_dim / self.tp
        both = 2 * max(shape.kv_heads / self.tp, 1) * shape.head_dim
        seconds = kernels.gemm.at(wide + both, shape.hidden, tokens)
        seconds += kernels.gemm.at(shape.hidden, wide, tokens)
        seconds += 2 * kernels.memory.seconds(8 * tokens * shape.hidden)
        turned_bytes = 4 * tokens * (wide + both / 2)
        return seconds + (3 if shape.has_qk_norm else 1) * kernels.memory.seconds(turned_bytes)

    def _mlp_s(self, tokens: int, inner: int) -> float:
        part = inner / self.tp
        seconds = self.kernels.gemm.at(2 * part, self.shape.hidden, tokens)
        seconds += self.kernels.gemm.at(self.shape.hidden, part, tokens)
        return seconds + self.kernels.memory.seconds(6 * tokens * part)

    def _experts_s(self, tokens: int) -> float:
        assert self.kernels.experts is not None, "a model with experts has their times"
        seconds = self.kernels.experts.at(tokens)
        seconds += self.kernels.head.at(self.shape.experts, self.shape.hidden, tokens)
        if self.shape.shared_inner:
            seconds += self._mlp_s(tokens, self.shape.shared_inner)
        return seconds

    def _attention_s(self, batch: Batch) -> float:
        """Pieces of prompts cost what one prompt of as many pairs of tokens does."""
        attention = self.kernels.attention
        pairs = sum(c.tokens * (c.tokens + 2 * c.history_tokens) for c in batch.chunks)
        prompts_s = attention.prompts.at(pairs**0.5) if pairs else 0.0
        if not batch.decodes:
            return prompts_s
        decodes_s = attention.decodes.at(batch.decodes, batch.context_tokens / batch.decodes)
        return prompts_s + decodes_s * (attention.mixed if pairs else 1.0)
