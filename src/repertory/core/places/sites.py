"""Where a model could stand: its places, what it needs there at the least, and how large they are.

A place on an accelerator has two pools, where its node has a set of cores beside it: the tables
and the tokenizer always lie in main memory, and so may some of the layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from repertory.core.places.tiers import buffer_needs, fixed_needs
from repertory.core.state import ModelState, ReplicaState, State
from repertory.domain.ladder import Rung
from repertory.domain.specs import KvShape, ModelSpec, NodeSpec, Placement, WeightsForm
from repertory.perf.bytes import kv_needs, shape_for
from repertory.policy.places.fit import Split

__all__ = [
    "USUAL_CELLS",
    "Site",
    "empty_rooms",
    "empty_splits",
    "fits_whole",
    "is_blocked",
    "is_faster_than_cores",
    "need_bytes",
    "place_on",
    "roomiest_bytes",
    "sites",
    "standing",
]

USUAL_CELLS = 2048
"""Slot length of a replica that is brought up before anybody asks."""


_ORDER = {Rung.DEVICE: 0, Rung.HOST: 1, Rung.DISK: 2}


@dataclass(frozen=True, slots=True)
class Site:
    """A place for a model, and the rung on which its weights are there."""

    node: NodeSpec
    placement: Placement
    rung: Rung


def standing(model: ModelState) -> ReplicaState | None:
    """The replica of a starved model that can go up again: the highest rung, then the name."""
    found = [
        one
        for one in model.replicas.values()
        if one.rung in _ORDER and one.transition is None and one.retiring is None
    ]
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda one: (_ORDER[one.rung], one.id))


def sites(state: State, model: ModelState, *, elsewhere: bool = False) -> list[Site]:
    """Where it could go up whole.  Weights that hold memory stay where they are, with the layers
    that are there, unless `elsewhere`.
    """
    replica = standing(model)
    if replica is not None and _is_bound(state, replica):
        if not elsewhere:
            return [Site(state.node_of(replica), replica.placement, replica.rung)]
    elif elsewhere:
        return []
    found = [
        Site(node, place_on(state, node, devices, form), _rung_at(node, replica))
        for node, devices in _device_sets(state, model.spec)
        for form in _forms(model.spec, node, devices)
    ]
    if not elsewhere or replica is None:
        return found
    here = replica.placement.devices
    return [one for one in found if one.placement.devices != here or _is_divisible(one)]


def _is_divisible(site: Site) -> bool:
    """On the same device, fewer layers leave more room for KV memory."""
    return site.placement.rest is not None and len(site.placement.devices) == 1


def place_on(
    state: State, node: NodeSpec, devices: tuple[str, ...], form: WeightsForm
) -> Placement:
    """All of a model on these devices; beside accelerators, what need not be there elsewhere.

    Of several sets of cores the one with the most memory to give holds it, by name if equal.
    """
    if not node.capabilities.partial_layers or not is_faster_than_cores(node, devices):
        return Placement(devices, form)
    cores = [one.id for one in node.devices if one.backend == "cpu"]
    if not cores:
        return Placement(devices, form)
    rest = min(cores, key=lambda name: (-state.devices[name].available_bytes, name))
    return Placement(devices, form, rest=rest)


def is_faster_than_cores(node: NodeSpec, devices: tuple[str, ...]) -> bool:
    """All of them are accelerators."""
    return all(one.backend != "cpu" for one in node.devices if one.id in devices)


def need_bytes(state: State, model: ModelState) -> int:
    """The least on a device that serves its head from where its weights are.

    Kept until the head, the rung, or what is known of its bytes changes.
    """
    head = model.oldest
    head_id = head.request.id if head is not None else None
    if model.need_bytes is None or model.head_id != head_id:
        model.head_id = head_id
        model.need_bytes = _least_bytes(state, model, standing(model))
    return model.need_bytes


def is_blocked(state: State, model: ModelState) -> bool:
    """Whatever ends, its head finds no room: pinned models hold it, or no such device is up."""
    rooms = {name: ledger.budget_bytes for name, ledger in state.devices.items()}
    for replica in state.on_devices.values():
        owner = state.models[replica.model]
        if owner.is_pinned and owner is not model and not owner.is_spare(replica):
            for pool in replica.placement.pools:
                rooms[pool] -= state.devices[pool].held_by(replica.id)
    above = standing(model)
    if above is not None and above.rung is Rung.DEVICE:
        needs = buffer_needs(model, above.placement)
        for pool, size in kv_needs(model.spec, above.placement, _least_kv(model)).items():
            held = state.devices[pool].held_by(above.id)
            needs[pool] += size + held
        if all(size <= rooms[pool] for pool, size in needs.items()):
            return False
    return not any(
        _fits_in(state, model, node, devices, rooms)
        for node, devices in _device_sets(state, model.spec)
    )


def fits_whole(state: State, model: ModelState) -> bool:
    """Some accelerator, if it were empty, would hold all of it."""
    rooms = {name: ledger.budget_bytes for name, ledger in state.devices.items()}
    return any(
        is_faster_than_cores(node, devices)
        and _holds(model, place_on(state, node, devices, WeightsForm.PLAIN), rooms)
        for node, devices in _device_sets(state, model.spec)
    )


def _holds(model: ModelState, place: Placement, rooms: dict[str, int]) -> bool:
    needs = fixed_needs(model, place, loads=True)
    kv = kv_needs(model.spec, place, _least_kv(model))
    return all(size + kv[pool] <= rooms[pool] for pool, size in needs.items())


def _fits_in(
    state: State, model: ModelState, node: NodeSpec, devices: tuple[str, ...], rooms: dict[str, int]
) -> bool:
    """Whole, or with as many layers there as find room."""
    for form in _forms(model.spec, node, devices):
        place = place_on(state, node, devices, form)
        if _holds(model, place, rooms):
            return True
        if place.rest is not None and len(devices) == 1:
            parts = (place.holding(count) for count in range(1, model.spec.layers))
            if any(_holds(model, part, rooms) for part in parts):
                return True
    return False


def roomiest_bytes(state: State, spec: ModelSpec) -> int:
    """What an otherwise empty placement offers per device; 0: there is none."""
    return max(empty_rooms(state, spec).values(), default=0)


def empty_rooms(state: State, spec: ModelSpec) -> dict[str, int]:
    """Bytes per device of each placement that it could have to itself."""
    return {
        "+".join(devices): min(one.memory_bytes for one in node.devices if one.id in devices)
        for node, devices in _device_sets(state, spec)
    }


def empty_splits(state: State, spec: ModelSpec) -> tuple[Split, ...]:
    """The accelerators that it could share with main memory, had it both to itself."""
    if spec.devices_per_replica != 1:
        return ()
    return tuple(split for node in state.nodes.values() for split in Split.of(node))


def _device_sets(state: State, spec: ModelSpec) -> Iterator[tuple[NodeSpec, tuple[str, ...]]]:
    for node in state.nodes.values():
        if spec.devices_per_replica <= node.capabilities.max_devices_per_replica:
            for devices in combinations(node.devices, spec.devices_per_replica):
                yield node, tuple(device.id for device in devices)


def _forms(spec: ModelSpec, node: NodeSpec, devices: tuple[str, ...]) -> tuple[WeightsForm, ...]:
    """Weights are repacked for cores only."""
    if spec.repacked_bytes and not is_faster_than_cores(node, devices):
        return tuple(WeightsForm)
    return (WeightsForm.PLAIN,)


def _is_bound(state: State, replica: ReplicaState) -> bool:
    """Its weights hold memory where they are: on the devices, or asleep on the host."""
    page_cache = state.node_of(replica).capabilities.host_is_page_cache
    return replica.rung is Rung.DEVICE or (replica.rung is Rung.HOST and not page_cache)


def _rung_at(node: NodeSpec, replica: ReplicaState | None) -> Rung:
    """The page cache of a node serves all its devices."""
    is_cached = (
        replica is not None
        and replica.node_id == node.id
        and replica.rung is not Rung.DISK
        and node.capabilities.host_is_page_cache
    )
    return Rung.HOST if is_cached else Rung.DISK


def _least_kv(model: ModelState) -> KvShape:
    head = model.oldest
    cells = head.request.cells if head is not None else min(USUAL_CELLS, model.largest_cells)
    return shape_for(model.spec, 1, max(1, cells))


def _least_bytes(state: State, model: ModelState, above: ReplicaState | None) -> int:
    """On one device, the one where it needs the least there."""
    kv = _least_kv(model)
    if above is not None and above.rung is Rung.DEVICE:
        needs = buffer_needs(model, above.placement)
        return needs[above.placement.devices[0]] + _kv_there(model, above.placement, kv)
    least = min(
        fixed_needs(model, place, loads=True)[place.devices[0]] + _kv_there(model, place, kv)
        for place in _kinds(state, model)
    )
    if above is not None and above.rung is Rung.HOST:
        least -= state.node_of(above).capabilities.asleep_residue_bytes
    return least


def _kv_there(model: ModelState, placement: Placement, kv: KvShape) -> int:
    return kv_needs(model.spec, placement, kv)[placement.devices[0]]


def _kinds(state: State, model: ModelState) -> list[Placement]:
    """One placement of each kind that the nodes have, whatever the names of the devices."""
    spec = model.spec
    anywhere = tuple(f"#{at}" for at in range(spec.devices_per_replica))
    forms = WeightsForm if spec.repacked_bytes else (WeightsForm.PLAIN,)
    kinds = [Placement(anywhere, form) for form in forms]
    if any(True for _ in empty_splits(state, spec)):
        kinds.append(Placement(anywhere, rest="#rest"))
        if spec.layers > 1:
            kinds.append(Placement(anywhere, layers=1, rest="#rest"))
    return kinds
