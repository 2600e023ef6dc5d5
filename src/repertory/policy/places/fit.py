"""Fitting: the models that no device can ever serve, however empty it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from repertory.domain.specs import KvShape, ModelSpec, NodeSpec, Placement
from repertory.perf.bytes import MIN_CELLS, kv_needs, most_layers, rest_footprint, shape_for
from repertory.perf.needs import need_of, size_text

__all__ = ["Split", "misfit", "split_layers"]

_MIB = 1 << 20
_DEVICE, _REST = "device", "rest"


@dataclass(frozen=True, slots=True)
class Split:
    """Room for the two parts of a model: on an accelerator, and in main memory."""

    device_bytes: int
    rest_bytes: int

    @staticmethod
    def of(node: NodeSpec) -> "Iterator[Split]":
        """Each accelerator with the roomiest set of cores of its node, if layers can be split."""
        cores = [one.memory_bytes for one in node.devices if one.backend == "cpu"]
        if cores and node.capabilities.partial_layers:
            for one in node.devices:
                if one.backend != "cpu":
                    yield Split(one.memory_bytes, max(cores))


def split_layers(spec: ModelSpec, kv: KvShape, split: Split) -> int:
    """How many layers, but not all, go to the accelerator if the others find room; 0: none do.

    As many as fit there: the more are there, the fewer need room elsewhere.
    """
    most = most_layers(spec, kv, split.device_bytes, spec.buffers_bytes)
    layers = min(most, spec.layers - 1)
    if layers < 1:
        return 0
    place = Placement((_DEVICE,), layers=layers, rest=_REST)
    foot = rest_footprint(spec, place)
    need = foot.resting_bytes + kv_needs(spec, place, kv)[_REST]
    return layers if need <= split.rest_bytes else 0


def misfit(spec: ModelSpec, rooms: Mapping[str, int], splits: Sequence[Split] = ()) -> str | None:
    """Why a model cannot be served there, to be read after its name; None: it can.

    `rooms`: bytes per device of each placement that it could have to itself; none is no room.
    `splits`: accelerators that may hold a part of it.  What is needed is its weights and the least
    KV memory that serves a short request.
    """
    need = need_of(spec, MIN_CELLS)
    name, room = min(rooms.items(), key=lambda one: (-one[1], one[0]), default=("none", 0))
    if need.total_bytes <= room:
        return None
    if any(split_layers(spec, shape_for(spec, 1, MIN_CELLS), split) for split in splits):
        return None
    missing = -(-(need.total_bytes - room) // _MIB) * _MIB
    return (
        f"cannot be served: it needs {need.sum_text()}, and the largest device, {name}, has "
        f"{size_text(room)}; give {size_text(missing)} more memory, or choose a smaller file"
    )
