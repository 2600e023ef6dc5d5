"""Profiles of whole layers (LLMServingSim) of one model, and whether there is one."""

import csv
import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from repertory.perf.vllm.grids import Grid, grid_of
from repertory.perf.vllm.layers import LayerProfile, LayerTimes
from repertory.perf.vllm.shapes import ModelShape
from repertory.sim.vllm.gpus import Gpu

__all__ = ["layer_times"]

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
_PER_SEQUENCE = ("lm_head", "sampler")


def layer_times(
    gpu: Gpu, shape: ModelShape, tp: int, max_num_seqs: int, reduce: Grid | None
) -> LayerTimes | None:
    """None: no such model was profiled on that GPU with so many of them."""
    if gpu.layers is None or shape.weights != "bfloat16":
        return None
    for meta_file in sorted(gpu.layers.glob("*/*/bf16/meta.yaml")):
        meta: Any = yaml.safe_load(meta_file.read_text())
        folder = meta_file.parent / f"tp{tp}"
        has_experts = (folder / "moe.csv").exists()
        if _is_of(meta, shape) and folder.is_dir() and has_experts == bool(shape.experts):
            skew = meta["skew_fit"].get("per_tp", {}).get(tp, {}).get("alpha_default", 0.0)
            return LayerTimes(shape, _profile(folder, skew), reduce, max_num_seqs)
    return None


def _is_of(meta: Mapping[str, Any], shape: ModelShape) -> bool:
    """By sizes, whatever the model is called; the file has those of its largest split."""
    split = meta["tp_degrees"][-1]
    sizes = meta["engine_effective"]["hf_overrides"]
    return (
        _ARCHITECTURES.get(meta["architecture"]) == shape.architecture
        and sizes["num_attention_heads"] * split == shape.heads
        and sizes["num_key_value_heads"] * split == shape.kv_heads
        and sizes["vocab_size"] * split == shape.vocabulary
        and (bool(shape.experts) or sizes["intermediate_size"] * split == shape.inner)
    )


def _profile(folder: Path, skew: float) -> LayerProfile:
    sequences = _layers(folder / "per_sequence.csv", "sequences")
    attention = {
        tuple(
            float(row[axis]) for axis in ("n_decode", "prefill_chunk", "kv_prefill", "kv_decode")
        ): float(row["time_us"]) * 1e-6
        for row in _rows(folder / "attention.csv.gz")
    }
    experts = folder / "moe.csv"
    return LayerProfile(
        _layers(folder / "dense.csv", "tokens"),
        {name: sequences[name] for name in _PER_SEQUENCE},
        grid_of(attention),
        _experts(experts) if experts.exists() else None,
        skew,
    )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        yield from csv.DictReader(file)


def _layers(path: Path, axis: str) -> dict[str, Grid]:
    points: dict[str, dict[tuple[float, ...], float]] = {}
    for row in _rows(path):
        points.setdefault(row["layer"], {})[(float(row[axis]),)] = float(row["time_us"]) * 1e-6
    return {name: grid_of(found) for name, found in points.items()}


def _experts(path: Path) -> Grid:
    return grid_of(
        {
            (float(row["tokens"]), float(row["activated_experts"])): float(row["time_us"]) * 1e-6
            for row in _rows(path)
        }
    )
