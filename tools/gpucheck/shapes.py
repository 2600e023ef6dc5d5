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
    lengths: tuple[int, ...] = (50, 150, 500, 1000, 5000)
    """Contexts of the offload curve: of those of Yildiz 2026, without 300."""
    points: tuple[int, ...] = (100, 200, 500, 1000, 1500, 2000, 3000, 4000, 5000)
    """After so many tokens a generation is interrupted: nine, as in Yildiz 2026."""

    @property
    def head(self) -> int:
        return self.embedding // self.heads

    @property
    def kv_bytes_per_token(self) -> int:
        """16-bit keys and values in all layers."""
        return self.layers * self.kv_heads * self.head * 2 * 2


def _llama_8b(weights: Literal["f16", "q4_0"]) -> Shape:
    return Shape(4096, 32, 32, 8, 14336, 128256, weights)


def _rehearsal(embedding: int, layers: int) -> Shape:
    return Shape(
        *(embedding, layers, embedding // 64, 2, 3 * embedding, 4096, "q4_0"),
        cells=192,
        prompt_tokens=96,
        decode_tokens=24,
        lengths=(20, 150),
        points=(20, 40, 60, 80, 100, 150, 200, 300, 400),
    )


SHAPES = {
    "8b-q4_0": _llama_8b("q4_0"),
    "8b-f16": _llama_8b("f16"),
    # A 14B and a 32B of the Qwen family have these widths.
    "14b-q4_0": Shape(5120, 48, 40, 8, 13824, 152064, "q4_0"),
    "32b-q4_0": Shape(5120, 64, 40, 8, 27648, 152064, "q4_0"),
    # A rehearsal, and its partner: every stage in seconds on two cores.
    "tiny": _rehearsal(256, 4),
    "small": _rehearsal(512, 8),
}
