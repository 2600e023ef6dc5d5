"""Which items there are, in which order, and about how long each takes."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product

from gpucheck.costs.names import claimant_of, kind_of, layers_of
from gpucheck.maker import stored_bytes, tensors
from gpucheck.shapes import SHAPES, Shape
from repertory.perf.divided import share_of

__all__ = [
    "KINDS",
    "estimate_s",
    "layers_to_try",
    "possible",
    "share_there",
    "wanted",
]

KINDS = {
    "ladder": ("ladder",),
    "layers": ("layers-0", "layers-half", "layers-all"),
    "worker": ("worker",),
    "link": ("link",),
    "resume": ("resume",),
    "offload": (),
    "preempt": (),
}
"""What `--items` may name -> the items that every model has.  Of the others each has its own."""
_SHARES = (1.0, 0.0, 0.5, 0.9, 0.96, 0.8, 0.3, 0.98, 0.94, 0.92, 0.7, 0.1)
"""Yildiz 2026 goes by tens, and by twos above 0.9, where the curve is steep.  All layers first, as
that leaves the KV for the others; then so that a run that is ended early has a coarse curve."""
_START_S, _LOAD_GB_PER_S = 6.0, 4.0
_FAST_S, _SLOW_S = 10.0, 60.0
"""Of an offload item's steps, with all layers on the GPU and with none."""


def wanted(models: Sequence[str], kinds: Iterable[str] = KINDS) -> list[tuple[str, str]]:
    """(model, item) of these models, in the order in which they are measured.

    layers-0 and the offload item of all layers leave what later ones need.  Pairs come last: each
    model is interrupted for the first one, and the first one for each.
    """
    chosen = set(kinds)
    found = [(model, item) for model in models for item in _alone(model) if kind_of(item) in chosen]
    if "preempt" in chosen:
        pairs = [(models[0], one) for one in models] + [(one, models[0]) for one in models[1:]]
        found += [(victim, f"preempt-for-{claimant}") for victim, claimant in pairs]
    return found


def possible() -> list[tuple[str, str]]:
    """Every (model, item) that may have been measured."""
    alone = [(model, item) for model in SHAPES for item in _alone(model)]
    pairs = [(one, f"preempt-for-{other}") for one, other in product(SHAPES, SHAPES)]
    return alone + pairs


def _alone(model: str) -> list[str]:
    fixed = [item for items in KINDS.values() for item in items]
    return fixed + [f"offload-{layers}" for layers in layers_to_try(SHAPES[model])]


def layers_to_try(shape: Shape) -> list[int]:
    """How many layers go to the device, so that the shares of bytes are as near as can be."""
    every = range(shape.layers + 1)
    nearest = [min(every, key=lambda n: abs(share_there(shape, n) - share)) for share in _SHARES]
    return list(dict.fromkeys(nearest))


def share_there(shape: Shape, layers: int) -> float:
    """The share of a step's bytes that the device holds.

    With the first layer goes the output head.  Token embeddings are no part: they stay in main
    memory, and a step looks up one row of them.
    """
    sizes = _sizes_bytes(shape)
    head_bytes = sizes["output.weight"]
    layers_bytes = sum(sizes.values()) - sizes["token_embd.weight"] - head_bytes
    return share_of(layers, shape.layers, head_bytes, layers_bytes)


@cache
def _sizes_bytes(shape: Shape) -> dict[str, int]:
    return {one.name: stored_bytes(one, shape) for one in tensors(shape)}


def estimate_s(model: str, item: str) -> float:
    """A guess for an H100 with 16 cores, to tell people what to expect; nothing is ended by it.

    Nobody has measured it: starting a process with CUDA 6 s, 4 GB/s into the GPU.
    """
    load_s = 1.0 + _gb(model) / _LOAD_GB_PER_S
    match kind_of(item):
        case "ladder":
            return _START_S + 2 * load_s + 2 * _gb(model) + 10.0  # 0.5 GB/s from a disk
        case "layers":
            return _START_S + load_s + 10.0
        case "worker":
            return _START_S + 3 * load_s + 15.0
        case "link":
            return _START_S + 10.0
        case "resume":
            return _START_S + 3 * load_s + 5.0
        case "offload":
            there = layers_of(item) / SHAPES[model].layers
            return _START_S + load_s + there * _FAST_S + (1 - there) * _SLOW_S
        case _:
            points = len(SHAPES[model].points)
            other_s = 1.0 + _gb(claimant_of(item)) / _LOAD_GB_PER_S
            return _START_S + points * (load_s + other_s + 1.0) + 3 * other_s + 10.0


def _gb(model: str) -> float:
    return sum(_sizes_bytes(SHAPES[model]).values()) / 1e9
