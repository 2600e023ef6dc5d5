"""Profiles of single kernels (aiconfigurator) for one model, GPU and tensor-parallel size."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repertory.domain.errors import ConfigError
from repertory.perf.vllm.grids import Grid, grid_of
from repertory.perf.vllm.kernels import Attention, Kernels, KernelTimes, Memory
from repertory.perf.vllm.links import over_link
from repertory.perf.vllm.shapes import ModelShape
from repertory.sim.vllm.gpus import Gpu
from repertory.sim.vllm.tables import rows_of

__all__ = ["kernel_times", "reduce_times"]

_Row = Mapping[str, Any]
_MIXED = 2.6
"""With prompts in the step FlashAttention 2 takes so many times as long for decodes: the median of
45 mixed batches profiled on an RTX PRO 6000 (32 to 128 decodes at 512 to 2048 tokens, pieces of 64
to 1024 tokens; 2.3 to 3.5.  RTX 4090: 1.9).  Of FlashAttention 3 no mixed batch was profiled."""
_SPREAD = ("power_law_1.01", "power_law_1.2", "balanced")
"""How tokens choose experts, the likeliest first."""


def kernel_times(
    gpu: Gpu, shape: ModelShape, tp: int, max_num_seqs: int, reduce: Grid | None
) -> KernelTimes:
    """Raises `ConfigError` where the profile has nothing to go by."""
    assert gpu.kernels is not None
    gemm_file = _newest(gpu.kernels, "gemm", "gemm_perf.parquet")
    head = _gemm(gemm_file, "bfloat16", shape.hidden)
    gemm = head if shape.weights == "bfloat16" else _gemm(gemm_file, shape.weights, shape.hidden)
    kernels = Kernels(
        gemm,
        head,
        _attention(gpu.kernels, shape, tp),
        Memory(gpu.bytes_per_s, gpu.launch_s),
        _experts(gpu.kernels, shape, tp) if shape.experts else None,
    )
    return KernelTimes(shape, tp, kernels, reduce, max_num_seqs)


def reduce_times(gpu: Gpu, tp: int, link_bytes_per_s: float | None) -> Grid | None:
    """vLLM's own kernel over NVLink, NCCL over PCIe and for what is more than the former takes."""
    if tp == 1:
        return None
    if gpu.kernels is None:
        raise ConfigError(f"GPU {gpu.name!r}: communication was not profiled: tp is 1 at most")
    nccl = rows_of(
        _newest(gpu.kernels, "comm/nccl", "nccl_perf.parquet"),
        ("message_size", "latency"),
        {"num_gpus": tp, "op_name": "all_reduce", "nccl_dtype": "half"},
    )
    own = rows_of(
        _newest(gpu.kernels, "comm/vllm", "custom_allreduce_perf.parquet"),
        ("message_size", "latency"),
        {"num_gpus": tp, "kernel_source": "vLLM_custom_graph"},
    )
    points = _by(nccl, "message_size")
    if gpu.is_linked:
        points |= {at: s for at, s in _by(own, "message_size").items() if at[0] <= _OWN_BYTES}
    if not points:
        raise ConfigError(f"GPU {gpu.name!r}: tp {tp} was not profiled; profiled: 1, 2, 4, 8")
    return over_link(grid_of(points), tp, link_bytes_per_s)


_OWN_BYTES = 8 << 20
"""The most that vLLM's own all-reduce takes (`custom_all_reduce.py`, max_size)."""


def _newest(kernels: Path, kind: str, name: str) -> Path:
    found = sorted((kernels / kind).rglob(name), key=_version)
    if not found:
        raise ConfigError(f"{kernels / kind}: no {name} in there")
    return found[-1]


def _version(path: Path) -> list[int]:
    return [int(part) for part in path.parent.name.split(".")]


def _by(rows: Sequence[_Row], *axes: str) -> dict[tuple[float, ...], float]:
    """Seconds at points; tables are in milliseconds."""
    return {tuple(float(row[axis]) for axis in axes): row["latency"] * 1e-3 for row in rows}


def _gemm(path: Path, dtype: str, hidden: int) -> Grid:
    """Of 128 x 128 nothing follows for a model: a line through such points leads anywhere."""
    rows = rows_of(path, ("m", "n", "k", "latency"), {"gemm_dtype": dtype})
    if max((row["k"] for row in rows), default=0) < hidden:
        raise ConfigError(
            f"{path}: no GEMM of {dtype} as large as the model's: "
            "this GPU was not profiled with it; without quantization_config it is seen in 16 bits"
        )
    return grid_of(_by(rows, "n", "k", "m"))


_ATTENTION = ("num_heads", "num_key_value_heads", "batch_size", "isl", "step", "kernel_source")


def _attention(kernels: Path, shape: ModelShape, tp: int) -> Attention:
    heads, kv_heads = shape.heads // tp, max(1, shape.kv_heads // tp)
    context = _newest(kernels, "attention", "context_attention_perf.parquet")
    prompts = _rows_of_heads(context, shape.head_dim, {"batch_size": 1})
    generation = _newest(kernels, "attention", "generation_attention_perf.parquet")
    decodes = _rows_of_heads(generation, shape.head_dim, {})
    is_third = "fa3" in decodes[0]["kernel_source"]
    return Attention(
        grid_of(_nearest_heads(prompts, heads, kv_heads, "num_heads", ("isl",))),
        grid_of(
            _nearest_heads(decodes, heads, kv_heads, "num_key_value_heads", ("batch_size", "step"))
        ),
        1.0 if is_third else _MIXED,
    )


def _rows_of_heads(path: Path, size: int, where: Mapping[str, object]) -> list[_Row]:
    """Heads of that size, or in proportion to it the nearest profiled one, twice or half of it at
    most: what is read and computed grows with it.
    """
    plain = {"kv_cache_dtype": "bfloat16", "window_size": 0, **where}
    sizes = {row["head_dim"] for row in rows_of(path, ("head_dim",), plain)}
    nearest = min(sizes, key=lambda one: (abs(math.log(one / size)), one), default=0)
    if not size / 2 <= nearest <= size * 2:
        raise ConfigError(f"{path}: heads of {size} were not profiled")
    rows = rows_of(path, (*_ATTENTION, "latency"), plain | {"head_dim": nearest})
    return [{**row, "latency": row["latency"] * size / nearest} for row in rows]


def _nearest_heads(
    rows: Sequence[_Row], heads: int, kv_heads: int, scaling: str, axes: tuple[str, ...]
) -> dict[tuple[float, ...], float]:
    """The nearest profiled grouping of heads, in proportion to what it computes or reads."""

    def distance(row: _Row) -> tuple[float, float]:
        group = row["num_heads"] / row["num_key_value_heads"]
        off = abs(math.log(group * kv_heads / heads))
        return off, abs(math.log(row["num_key_value_heads"] / kv_heads))

    best = min(rows, key=distance)
    key = (best["num_heads"], best["num_key_value_heads"])
    scale = (heads if scaling == "num_heads" else kv_heads) / best[scaling]
    chosen = [row for row in rows if (row["num_heads"], row["num_key_value_heads"]) == key]
    return {at: seconds * scale for at, seconds in _by(chosen, *axes).items()}


def _experts(kernels: Path, shape: ModelShape, tp: int) -> Grid:
    """Of the same experts if they were profiled, else in proportion to the likest ones."""
    path = _newest(kernels, "moe", "moe_perf.parquet")
    columns = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "distribution")
    dtype = {"moe_dtype": shape.weights, "moe_tp_size": tp, "moe_ep_size": 1}
    rows = rows_of(path, (*columns, "latency"), dtype)
    if not rows:
        raise ConfigError(f"{path}: no experts of {shape.weights} at tp {tp}: not profiled")
    likest = min(rows, key=_unlike(shape))
    same = [row for row in rows if all(row[key] == likest[key] for key in columns[1:])]
    ratio = shape.hidden * shape.expert_inner / (likest["hidden_size"] * likest["inter_size"])
    return grid_of({at: seconds * ratio for at, seconds in _by(same, "num_tokens").items()})


def _unlike(shape: ModelShape) -> Callable[[_Row], tuple[float, int]]:
    def unlike(row: _Row) -> tuple[float, int]:
        off = abs(math.log(row["num_experts"] / shape.experts))
        off += abs(math.log(row["topk"] / shape.experts_per_token))
        off += abs(math.log(row["hidden_size"] / shape.hidden))
        off += abs(math.log(row["inter_size"] / shape.expert_inner))
        return off, _SPREAD.index(row["distribution"])

    return unlike
