"""The models that are measured: shapes of real ones, and what is asked of each."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["SHAPES", "Shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama-like model, and the contexts and lengths that it is measured with."""

    embedding: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    weights: Literal["f16", "q4_0"]
    cells: int = 1024
    """Of each of `sequences` slots: the prompt, and decoding alone and in company."""
    sequences: int = 8
    prompt_tokens: int = 512
    decode_tokens: int = 128

    @property
    def head(self) -> int:
        return self.embedding // self.heads

    @property
    def kv_bytes_per_token(self) -> int:
        """16-bit keys and values in all layers."""
        return self.layers * self.kv_heads * self.head * 2 * 2


def _llama_8b(weights: Literal["f16", "q4_0"]) -> Shape:
    return Shape(4096, 32, 32, 8, 14336, 128256, weights)


SHAPES = {
    "8b-q4_0": _llama_8b("q4_0"),
    "8b-f16": _llama_8b("f16"),
    # A 32B of the Qwen family has these widths.
    "32b-q4_0": Shape(5120, 64, 40, 8, 27648, 152064, "q4_0"),
    # A rehearsal: every stage in seconds on two cores.
    "tiny": Shape(
        256, 4, 4, 2, 768, 4096, "q4_0", cells=192, sequences=8, prompt_tokens=96, decode_tokens=24
    ),
}
