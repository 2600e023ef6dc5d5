"""What a replica takes in each pool that it lies in, by the best knowledge there is.

A pool is a device's memory.  A replica on an accelerator may lie in two: there, and in the memory
of the set of cores that its placement names for the rest (docs/decisions/offload.md).
"""

from dataclasses import replace

from repertory.core.ledger import Charge
from repertory.core.state import Lies, ModelState, ReplicaState, State
from repertory.domain.specs import KvShape, Placement
from repertory.perf.bytes import Stretch, kv_needs, placed_weights, rest_footprint

__all__ = [
    "buffer_needs",
    "fixed_needs",
    "lies",
    "measured_stretch",
    "reserve_kv",
    "stretch",
    "weights_bytes",
    "weights_needs",
]


def lies(placement: Placement) -> Lies:
    """What of a placement the bytes of its weights depend on."""
    return placement.form, placement.layers, placement.rest is not None


def weights_bytes(model: ModelState, placement: Placement) -> tuple[int, int]:
    """Resting and peak bytes of the weights per device; measured ones replace predicted."""
    resting, peak = placed_weights(model.spec, placement)
    measured = model.measured_weights_bytes.get(lies(placement))
    if measured is not None:
        resting = -(-measured // model.spec.devices_per_replica)
    elif placement.rest is not None:
        resting = round(resting * stretch(model, placement).there)
    return resting + model.extra_bytes, peak


def stretch(model: ModelState, placement: Placement) -> Stretch:
    """How weights measured up; reckoned once, until more of them are measured."""
    key = placement.form, placement.rest is not None
    found = model.stretches.get(key)
    if found is None:
        found = model.stretches[key] = measured_stretch(model, placement)
    return found


def measured_stretch(model: ModelState, placement: Placement) -> Stretch:
    """The most that was found where other numbers of layers were measured: what is wrong of eleven
    layers is wrong of twelve.  What was found smaller is not counted on.
    """
    there = rest = 1.0
    for known, measured in model.measured_weights_bytes.items():
        form, layers, has_rest = known
        if form is not placement.form:
            continue
        place = replace(placement, layers=layers, rest=placement.rest if has_rest else None)
        each = -(-measured // model.spec.devices_per_replica)
        grown = each / placed_weights(model.spec, place)[0]
        there, rest = max(there, grown), max(rest, 1.0 if has_rest else grown)
        if known in model.measured_rest_bytes:
            predicted = rest_footprint(model.spec, place).weights_bytes
            rest = max(rest, model.measured_rest_bytes[known] / max(1, predicted))
    return Stretch(there, rest)


def weights_needs(model: ModelState, placement: Placement) -> dict[str, int]:
    """Resting bytes of the weights by pool."""
    needs = dict.fromkeys(placement.devices, weights_bytes(model, placement)[0])
    if placement.rest is not None:
        needs[placement.rest] = _rest_weights_bytes(model, placement)
    return needs


def buffer_needs(model: ModelState, placement: Placement) -> dict[str, int]:
    """Compute buffers of a serving replica by pool."""
    buffers = model.measured_buffers_bytes or model.spec.buffers_bytes
    needs = dict.fromkeys(placement.devices, -(-buffers // model.spec.devices_per_replica))
    if placement.rest is not None:
        needs[placement.rest] = model.measured_rest_buffers_bytes or model.spec.buffers_bytes
    return needs


def fixed_needs(model: ModelState, placement: Placement, *, loads: bool) -> dict[str, int]:
    """By pool, whatever the KV memory: buffers, and if it `loads` the weights at their peak."""
    needs = buffer_needs(model, placement)
    if loads:
        resting, peak = weights_bytes(model, placement)
        for device in placement.devices:
            needs[device] += resting + peak
        if placement.rest is not None:
            needs[placement.rest] += _rest_weights_bytes(model, placement)
    return needs


def reserve_kv(state: State, replica: ReplicaState, kind: Charge, kv: KvShape) -> None:
    """In every pool, before it is made."""
    for pool, size in kv_needs(replica.spec, replica.placement, kv).items():
        state.devices[pool].reserve(replica.id, kind, size)


def _rest_weights_bytes(model: ModelState, placement: Placement) -> int:
    measured = model.measured_rest_bytes.get(lies(placement))
    if measured is None:
        predicted = rest_footprint(model.spec, placement).weights_bytes
        measured = round(predicted * stretch(model, placement).rest)
    return measured + (model.extra_bytes if placement.layers is not None else 0)
