"""What a model takes at the least while it serves, term by term, and how sizes are said."""

from dataclasses import dataclass

from repertory.domain.specs import KvShape, ModelSpec, WeightsForm
from repertory.perf.bytes import kv_bytes, shape_for, weights_footprint

__all__ = ["Need", "need_of", "size_text"]


@dataclass(frozen=True, slots=True)
class Need:
    """What a model takes at the least while it serves."""

    name: str
    place: str
    weights_bytes: int
    handle_bytes: int
    buffers_bytes: int
    kv: KvShape
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.handle_bytes + self.buffers_bytes + self.kv_bytes

    def text(self) -> str:
        return f"{self.name}: {self.sum_text()}"

    def sum_text(self) -> str:
        """Every term, so that whoever reads it sees what could be smaller."""
        return (
            f"{size_text(self.total_bytes)} = {size_text(self.weights_bytes)} weights"
            f" + {size_text(self.handle_bytes)} tokenizer + {size_text(self.buffers_bytes)} buffers"
            f" + {size_text(self.kv_bytes)} for a KV memory of {self.kv.cells} tokens"
        )


def size_text(size_bytes: int) -> str:
    """Exact enough to be added up by whoever reads it."""
    return f"{size_bytes / 2**20:,.0f} MiB"


def need_of(spec: ModelSpec, cells: int, place: str = "") -> Need:
    """With one slot of so many tokens."""
    foot = weights_footprint(spec, WeightsForm.PLAIN)
    kv = shape_for(spec, 1, cells)
    return Need(
        name=spec.name,
        place=place,
        weights_bytes=foot.weights_bytes - spec.handle_bytes,
        handle_bytes=spec.handle_bytes,
        buffers_bytes=foot.buffers_bytes,
        kv=kv,
        kv_bytes=kv_bytes(spec, kv),
    )
