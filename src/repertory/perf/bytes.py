"""How many bytes a replica takes per device, resting and while it moves."""

from repertory.domain.specs import Footprint, KvShape, ModelSpec, WeightsForm

__all__ = [
    "MIN_CELLS",
    "kv_bytes",
    "power_of_two",
    "shape_for",
    "share_there",
    "weights_footprint",
]

MIN_CELLS = 256
"""The smallest KV context class: llama.cpp pads contexts to 256 cells."""


def kv_bytes(spec: ModelSpec, kv: KvShape) -> int:
    """Bytes of the KV memory per device: exact, layers and heads are split over the devices."""
    return _per_device(spec, kv.tokens * spec.kv_bytes_per_token)


def weights_footprint(spec: ModelSpec, form: WeightsForm, layers: int | None = None) -> Footprint:
    """Weights and buffers of a replica, per device; KV comes on top by `kv_bytes`.

    Of `layers` (None: all) only their share of the tensors' bytes lies on the devices.

    A repacked tensor is anonymous memory beside the file's pages until those are let go of, which
    is done at every twentieth part of the way: a 603 MiB q4_0 rests at 578 MiB and what is looked
    up in the file, and peaks at 616 (kept to the end, its pages took it to 1,174).
    """
    if form is WeightsForm.REPACKED:
        resting = spec.weights_bytes + spec.repacked_bytes // 10
        peak = spec.repacked_bytes // 16
    else:
        resting, peak = spec.weights_bytes, 0
    if layers is not None:
        resting, peak = resting * layers // spec.layers, peak * layers // spec.layers
    return Footprint(
        weights_bytes=_per_device(spec, resting + spec.handle_bytes),
        kv_bytes=0,
        buffers_bytes=_per_device(spec, spec.buffers_bytes),
        peak_bytes=_per_device(spec, peak),
    )


def share_there(spec: ModelSpec, layers: int | None) -> float:
    """The share of its weights' bytes on the device, if so many of its layers are there.

    The output head goes there before any layer, as llama.cpp does it.  None: all is there.
    """
    if layers is None:
        return 1.0
    each_bytes = (spec.weights_bytes - spec.head_bytes) / spec.layers
    return (spec.head_bytes + layers * each_bytes) / spec.weights_bytes


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
