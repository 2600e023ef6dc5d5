"""A step from times of whole layers, profiled for one model and tensor-parallel size.

The profile measured attention of mixed batches as such.  That matters: with pieces of prompts in
the batch, FlashAttention 2 reads the contexts of decodes three times as slowly as without.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from repertory.perf.vllm.batches import Batch, padded_tokens
from repertory.perf.vllm.grids import Grid
from repertory.perf.vllm.shapes import ModelShape

__all__ = ["LayerProfile", "LayerTimes"]

_IN_EACH_LAYER = ("qkv_proj", "qk_norm", "rotary_emb", "o_proj", "gate_up_proj", "act_fn")
_ONCE = ("embedding", "final_layernorm")
_PER_SEQUENCE = ("lm_head", "sampler")


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """In seconds."""

    dense: Mapping[str, Grid]
    """By layer: over tokens."""
    per_sequence: Mapping[str, Grid]
    attention: Grid
    """Over decodes, new prompt tokens, prompt tokens in the cache, and the mean context."""
    experts: Grid | None = None
    """Over tokens and the experts that they go to."""
    skew: float = 0.0
    """How far a batch of unequal contexts is from its mean, on the way to its longest."""


@dataclass(frozen=True, slots=True)
class LayerTimes:
    shape: ModelShape
    profile: LayerProfile
    reduce: Grid | None
    """Adding up over the GPUs, by bytes; None with one GPU."""
    max_num_seqs: int

    def step_s(self, batch: Batch) -> float:
        tokens = padded_tokens(batch.tokens, self.max_num_seqs)
        dense = self.profile.dense
        each_s = 2 * dense["layernorm"].at(tokens) + self._attention_s(batch)
        each_s += sum(dense[name].at(tokens) for name in _IN_EACH_LAYER if name in dense)
        each_s += self._rest_s(tokens, batch)
        if self.reduce is not None:
            each_s += 2 * self.reduce.at(tokens * self.shape.hidden * 2)
        once_s = sum(dense[name].at(tokens) for name in _ONCE)
        once_s += sum(self.profile.per_sequence[n].at(batch.sequences) for n in _PER_SEQUENCE)
        return self.shape.layers * each_s + once_s

    def context_knots(self, decodes: int) -> tuple[float, ...]:
        return tuple(sorted(self.profile.attention.last_knots()))

    def _rest_s(self, tokens: int, batch: Batch) -> float:
        if self.profile.experts is None:
            return self.profile.dense["down_proj"].at(tokens)
        return self.profile.experts.at(batch.tokens, self.shape.experts_met(batch.tokens))

    def _attention_s(self, batch: Batch) -> float:
        new = sum(chunk.tokens for chunk in batch.chunks)
        history = sum(chunk.history_tokens for chunk in batch.chunks)
        mean = batch.context_tokens / batch.decodes if batch.decodes else 0.0
        mean_s = self.profile.attention.at(batch.decodes, new, history, mean)
        if not self.profile.skew or not batch.decodes:
            return mean_s
        most_s = self.profile.attention.at(batch.decodes, new, history, batch.longest_tokens)
        return mean_s + self.profile.skew * (most_s - mean_s)
