"""Real GPUs and models by name: what their makers publish, for machines that nobody has measured.

GPUs: the makers' datasheets, as collected in aiconfigurator (NVIDIA, Apache-2.0; `systems/*.yaml`:
mem_capacity, mem_bw, bfloat16_tc_flops, pcie_bw).  Models: their published `config.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from repertory.domain.fleets import Gpu
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, ModelSpec, WeightsForm
from repertory.perf.profiles import Law, Profile, StepLaw, prior_profile, straight

__all__ = ["GPUS", "SHAPES", "Shape", "datasheet_profile"]

_CORES = DeviceSpec("", 0)
"""What moves besides weights and KV is as on cores."""
_GIB = 1 << 30
_MIB = 1 << 20

GPUS: Mapping[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100_pcie", 80 * _GIB, 1.935e12, 312e12, 32e9),
        Gpu("a100_sxm", 80 * _GIB, 2.039e12, 312e12, 32e9),
        Gpu("b200_sxm", 180 * _GIB, 7.7e12, 2250e12, 128e9),
        Gpu("b300_sxm", 275040 * _MIB, 7.75e12, 2250e12, 128e9),
        Gpu("h100_pcie", 80 * _GIB, 2.0e12, 756.5e12, 64e9),
        Gpu("h100_sxm", 80 * _GIB, 3.35e12, 989e12, 64e9),
        Gpu("h200_sxm", 141 * _GIB, 4.8e12, 989e12, 64e9),
        Gpu("l4", 24 * _GIB, 0.3e12, 121e12, 32e9),
        Gpu("l40s", 46068 * _MIB, 0.864e12, 362.05e12, 32e9),
        Gpu("rtx_pro_6000_server", 97887 * _MIB, 1.792e12, 467.8e12, 64e9),
    )
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model's configuration costs anything, in 16 bits."""

    parameters: int
    layers: int
    kv_bytes_per_token: int
    context_tokens: int


def _shape(billions: float, layers: int, kv_heads: int, context_tokens: int) -> Shape:
    """All of them have heads of 128."""
    return Shape(round(billions * 1e9), layers, 2 * 2 * 128 * layers * kv_heads, context_tokens)


SHAPES: Mapping[str, Shape] = {
    "llama-3.1-8b": _shape(8.03, 32, 8, 131072),
    "llama-3.1-70b": _shape(70.55, 80, 8, 131072),
    "qwen3-0.6b": _shape(0.60, 28, 8, 40960),
    "qwen3-4b": _shape(4.02, 36, 8, 40960),
    "qwen3-8b": _shape(8.19, 36, 8, 40960),
    "qwen3-14b": _shape(14.77, 40, 8, 40960),
    "qwen3-32b": _shape(32.76, 64, 8, 40960),
}

_MEMORY_SHARE = 0.75
"""Of the datasheet's bandwidth that a decode step of one sequence reaches: 0.64 to 0.84 over five
models on five GPUs (`derived_step_times_vllm_bf16.csv`)."""
_FLOPS_SHARE = 0.85
"""Of the datasheet's operations, once the reading of the weights is taken off: prompts of 2,048
tokens then come to 0.61 to 0.89 of it all in all, as they were measured."""
_KV_SHARE = 0.8
"""Of the bandwidth when KV is read: 0.59 to 1.03 there."""
_STEP_S = 0.002
"""The host's part of a step, which kernels' times leave out: 1 to 3 ms."""
_BYTES_PER_PARAMETER = 2.0
_OPENING_S = 0.1
"""A load's part that does not grow with the bytes: ServerlessLLM's store opens 16 GB in 0.68 s, of
which the disk takes 0.55."""
_CARD_LINK_SHARE = 0.8
"""Of PCIe that pinned memory reaches: 52 of 64 GB/s (the same source)."""


def datasheet_profile(
    spec: ModelSpec, gpu: Gpu, disk_bytes_per_s: float, engine_start_s: float = 0.0
) -> Profile:
    """A roofline: a step reads all weights and computes two operations per parameter and token.

    Both are added, as measured: 256 sequences take twice as long as one, not no longer.  A prompt's
    attention is four operations per layer, width and pair, the width being that of a model with so
    many parameters in so many layers.  Split over devices, each has its share.
    """
    width = spec.devices_per_replica
    read_s = spec.weights_bytes / width / (gpu.memory_bytes_per_s * _MEMORY_SHARE)
    parameters = spec.weights_bytes / _BYTES_PER_PARAMETER / width
    token_s = 2.0 * parameters / (gpu.flops_per_s * _FLOPS_SHARE)
    base = straight(_STEP_S + read_s, token_s)
    kv_s = spec.kv_bytes_per_token / width / (gpu.memory_bytes_per_s * _KV_SHARE)
    hidden = (spec.weights_bytes / _BYTES_PER_PARAMETER / 12.0 / spec.layers) ** 0.5
    pair_s = 4.0 * spec.layers * hidden / width / (gpu.flops_per_s * _FLOPS_SHARE)
    link = gpu.bus_bytes_per_s * _CARD_LINK_SHARE * width
    loads = {
        Rung.DISK: Law(_OPENING_S + engine_start_s, 1.0 / min(link, disk_bytes_per_s)),
        Rung.HOST: Law(_OPENING_S, 1.0 / link),
    }
    copy = Law(0.0002, 1.0 / link)
    cpu = prior_profile(spec, _CORES)
    return replace(
        cpu,
        load={(form, source): law for form in WeightsForm for source, law in loads.items()},
        stage=Law(0.002, 1.0 / disk_bytes_per_s),
        activate=Law(0.05 + 3.0 * (_STEP_S + read_s), 0.0),
        move_kv=Law(0.001, 2.0 / gpu.memory_bytes_per_s),
        prefill={form: StepLaw(base, pair_s) for form in WeightsForm},
        decode={form: StepLaw(base, kv_s) for form in WeightsForm},
        kv_out=copy,
        kv_in=copy,
    )
