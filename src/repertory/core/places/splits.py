"""Some of a model's layers on an accelerator, the others in main memory: how many, and when.

How much slower that is says the model's own curve (`perf.profiles`).  For most models it is flat
and then steep, so that few layers pay little; but that is for the sum of harm to find.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from repertory.core.places.tiers import buffer_needs, fixed_needs, stretch
from repertory.core.state import ModelState, State
from repertory.domain.specs import KvShape, NodeSpec, Placement
from repertory.perf.bytes import kv_needs, most_layers
from repertory.policy.places.evict import Eviction

__all__ = ["Division", "Room", "can_divide", "divisions", "has_accelerators"]

_TRIES = 6
"""Sets of victims that are looked at for one KV memory: bounds the work per event.  Each gives
room for all the layers that it can."""


class Room(NamedTuple):
    """Memory that others have, and could give."""

    reach: Mapping[str, int]
    """By pool: what could be free at the most."""
    evict: Callable[[dict[str, int]], tuple[Eviction, ...] | None]
    """Who must go for so much; None: it cannot be."""


@dataclass(frozen=True, slots=True)
class Division:
    """A placement with some of the layers on its accelerator, and who must go for it."""

    placement: Placement
    need_bytes: dict[str, int]
    evictions: tuple[Eviction, ...]


def has_accelerators(state: State) -> bool:
    """Some node has another choice than all or nothing on one kind of device."""
    for node in state.nodes.values():
        if node.capabilities.partial_layers:
            for one in node.devices:
                if one.backend != "cpu":
                    return True
    return False


def can_divide(node: NodeSpec, placement: Placement) -> bool:
    """All of it is to go on one accelerator, and there is other memory beside that."""
    return (
        node.capabilities.partial_layers
        and placement.rest is not None
        and placement.layers is None
        and len(placement.devices) == 1
    )


def divisions(
    state: State, model: ModelState, whole: Placement, kv: KvShape, room: Room
) -> Iterator[Division]:
    """First the most layers that fit without an eviction, then for each set of victims that gives
    room for more of them the most that then fit; never all.
    """
    spec, (device,) = model.spec, whole.devices
    buffers = buffer_needs(model, whole)[device] + model.extra_bytes
    free, grown = state.devices[device].available_bytes, stretch(model, whole).there
    layers = max(1, most_layers(spec, kv, free, buffers, grown), _fewest(model, whole, kv, room))
    most = min(spec.layers - 1, most_layers(spec, kv, room.reach[device], buffers, grown))
    for _ in range(_TRIES):
        if layers > most:
            return
        need = _need(model, whole.holding(layers), kv)
        evictions = room.evict(need)
        if evictions:
            freed = sum(one.freed.get(device, 0) for one in evictions)
            more = min(most, most_layers(spec, kv, free + freed, buffers, grown))
            if layers < more:
                need = _need(model, whole.holding(more), kv)
                layers, evictions = more, room.evict(need)
        if evictions is not None:
            yield Division(whole.holding(layers), need, evictions)
        layers += 1


def _fewest(model: ModelState, whole: Placement, kv: KvShape, room: Room) -> int:
    """So many layers leave no more for main memory than could be free there."""
    assert whole.rest is not None
    need = _need(model, whole.holding(1), kv)[whole.rest]
    spec = model.spec
    weights = round(spec.all_layers_bytes * stretch(model, whole).rest)
    each = (weights + kv.tokens * spec.kv_bytes_per_token) // spec.layers
    return 1 + max(0, -(-(need - room.reach[whole.rest]) // max(1, each)))


def _need(model: ModelState, placement: Placement, kv: KvShape) -> dict[str, int]:
    needs = kv_needs(model.spec, placement, kv)
    fixed = fixed_needs(model, placement, loads=True)
    return {pool: size + needs[pool] for pool, size in fixed.items()}
