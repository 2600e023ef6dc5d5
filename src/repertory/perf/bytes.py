"""How many bytes a replica takes per device, resting and while it moves.

With k of n layers on an accelerator there are two tiers: the accelerator holds the output head,
k layers, their KV memory and compute buffers; main memory holds the tables that rows are taken
from, the other layers with theirs, and the tokenizer.
"""

from typing import NamedTuple

from repertory.domain.specs import Footprint, KvShape, ModelSpec, Placement, WeightsForm
from repertory.perf.divided import share_of

__all__ = [
    "MIN_CELLS",
    "Stretch",
    "kv_bytes",
    "kv_needs",
    "most_layers",
    "placed_footprint",
    "placed_weights",
    "power_of_two",
    "rest_footprint",
    "shape_for",
    "share_there",
    "weights_footprint",
]

MIN_CELLS = 256
"""The smallest KV context class: llama.cpp pads contexts to 256 cells."""


class Stretch(NamedTuple):
    """How weights measured up to their prediction, in each tier."""

    there: float
    rest: float


def kv_bytes(spec: ModelSpec, kv: KvShape, layers: int | None = None) -> int:
    """Bytes of the KV memory per device: exact, layers and heads are split over the devices.

    Of `layers` (None: all) only theirs: a layer's KV memory lies with the layer.
    """
    total = kv.sequences * kv.cells * spec.kv_bytes_per_token
    if layers is not None:
        total = -(-total * layers // spec.layers)
    return -(-total // spec.devices_per_replica)


def kv_needs(spec: ModelSpec, placement: Placement, kv: KvShape) -> dict[str, int]:
    """The same by pool."""
    needs = dict.fromkeys(placement.devices, kv_bytes(spec, kv, placement.layers))
    if placement.rest is not None:
        rest = 0 if placement.layers is None else spec.layers - placement.layers
        needs[placement.rest] = -(-kv.tokens * spec.kv_bytes_per_token * rest // spec.layers)
    return needs


def weights_footprint(spec: ModelSpec, form: WeightsForm, layers: int | None = None) -> Footprint:
    """Weights and buffers of a replica, per device; KV comes on top by `kv_bytes`.

    Of `layers` (None: all) only the head and their bytes lie on the devices.

    A repacked tensor is anonymous memory beside the file's pages until those are let go of, which
    is done at every twentieth part of the way: a 603 MiB q4_0 rests at 578 MiB and what is looked
    up in the file, and peaks at 616 (kept to the end, its pages took it to 1,174).
    """
    return _footprint(spec, _held(spec, form, layers))


def placed_footprint(spec: ModelSpec, placement: Placement) -> Footprint:
    """The same of a placement: where something is held elsewhere, it is not held here."""
    return _footprint(spec, placed_weights(spec, placement))


def placed_weights(spec: ModelSpec, placement: Placement) -> tuple[int, int]:
    """Its weights alone, resting and at their peak."""
    if placement.rest is None:
        return _held(spec, placement.form, placement.layers)
    layers = spec.layers if placement.layers is None else placement.layers
    return _per_device(spec, _there_bytes(spec, layers)), 0


def rest_footprint(spec: ModelSpec, placement: Placement) -> Footprint:
    """What a replica on accelerators takes in main memory, but for KV.

    Both tiers compute, so both have buffers; each is taken to need those of the whole model, an
    upper bound that the first activation corrects.
    """
    layers = spec.layers if placement.layers is None else placement.layers
    here = spec.all_layers_bytes - spec.all_layers_bytes * layers // spec.layers
    return Footprint(spec.kept_bytes + here + spec.handle_bytes, 0, spec.buffers_bytes, 0)


def share_there(spec: ModelSpec, layers: int | None) -> float:
    """The share of the bytes that a step reads that lies on the devices, if `layers` are there."""
    if layers is None:
        return 1.0
    return share_of(layers, spec.layers, spec.head_bytes, spec.all_layers_bytes)


def most_layers(
    spec: ModelSpec, kv: KvShape, room_bytes: int, buffers_bytes: int, stretch: float = 1.0
) -> int:
    """How many layers go into so much memory of an accelerator, with their KV; 0: none.

    `stretch`: how much larger weights proved to be than they were predicted.
    """
    tokens_bytes = kv.tokens * spec.kv_bytes_per_token
    each = (spec.all_layers_bytes * stretch + tokens_bytes) / spec.layers
    left = room_bytes - buffers_bytes - spec.head_bytes * stretch
    most = min(spec.layers, int(left / each)) if left > 0 else 0
    while most:
        weights = round(_there_bytes(spec, most) * stretch)
        if buffers_bytes + weights + kv_bytes(spec, kv, most) <= room_bytes:
            break
        most -= 1  # what is rounded up may be one layer too many
    return most


def _held(spec: ModelSpec, form: WeightsForm, layers: int | None) -> tuple[int, int]:
    """Per device, resting and at the peak."""
    resting, peak, handle = spec.weights_bytes, 0, spec.handle_bytes
    if layers is not None:
        resting, handle = _there_bytes(spec, layers), 0
    elif form is WeightsForm.REPACKED:
        resting += spec.repacked_bytes // 10
        peak = spec.repacked_bytes // 16
    return _per_device(spec, resting + handle), _per_device(spec, peak)


def _there_bytes(spec: ModelSpec, layers: int) -> int:
    return spec.head_bytes + _layers_there(spec, layers)


def _layers_there(spec: ModelSpec, layers: int) -> int:
    return -(-spec.all_layers_bytes * layers // spec.layers)


def _footprint(spec: ModelSpec, weights: tuple[int, int]) -> Footprint:
    resting, peak = weights
    return Footprint(resting, 0, _per_device(spec, spec.buffers_bytes), peak)


def power_of_two(value: int) -> int:
    """The least power of two that is not below `value` (1 for 0)."""
    return 1 << max(0, value - 1).bit_length()


def shape_for(spec: ModelSpec, sequences: int, cells: int) -> KvShape:
    """The least context class for that many sequences of that many tokens.

    Classes are powers of two, so that few different sizes exist and growing doubles; the largest
    are the offered context and the model's most sequences themselves.
    """
    return KvShape(
        sequences=min(power_of_two(sequences), spec.max_sequences),
        cells=min(max(MIN_CELLS, power_of_two(cells)), max(MIN_CELLS, spec.context_tokens)),
    )


def _per_device(spec: ModelSpec, total_bytes: int) -> int:
    return -(-total_bytes // spec.devices_per_replica)
