"""One engine on one workload: from files and flags to the times of every request."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repertory.domain.errors import ConfigError
from repertory.perf.vllm.batches import StepTimes
from repertory.perf.vllm.shapes import ModelShape, shape_of
from repertory.sim.vllm.engine import Asked, Engine, RequestTimes
from repertory.sim.vllm.gpus import Gpu, find_gpu
from repertory.sim.vllm.kernel_files import kernel_times, reduce_times
from repertory.sim.vllm.layer_files import layer_times
from repertory.sim.vllm.scheduler import Limits

__all__ = ["HOST_S", "Setup", "Started", "play", "read_config", "start"]

HOST_S = 0.0
"""What a step takes besides its kernels: with asynchronous scheduling the host works while the GPU
does.  Fitted on each of the two real runs: 0 (docs/results/sim.md)."""
_UTILISATION = 0.9
"""vLLM's default `gpu_memory_utilization`."""
_RESERVE_BYTES = 1_240_000_000
"""Activations, CUDA graphs and context: read off the one published start of vLLM 0.19 that tells
its blocks (RTX 4090, Llama 3.1 8B: 2588 blocks of 16 tokens)."""


@dataclass(frozen=True, slots=True)
class Setup:
    """An engine's flags, as vLLM names them."""

    gpu: str
    tp: int
    max_num_seqs: int
    max_num_batched_tokens: int
    blocks: int | None = None
    """`--num-gpu-blocks-override`; None: what memory has room for."""
    link_bytes_per_s: float | None = None
    """Between GPUs, where it is less than in the machine that was profiled."""


@dataclass(frozen=True, slots=True)
class Started:
    """An engine that would run."""

    gpu: Gpu
    shape: ModelShape
    times: StepTimes
    limits: Limits
    source: str
    """Of kernel times: whole layers of this model, or single kernels."""


def read_config(path: Path) -> ModelShape:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: this is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: this is no model's config.json")
    return shape_of(config, str(path))


def start(profiles: Path, shape: ModelShape, setup: Setup, by_kernels: bool = False) -> Started:
    """Raises `ConfigError` for what vLLM would refuse, and for what was not profiled."""
    gpu = find_gpu(profiles, setup.gpu)
    _check_split(shape, setup.tp)
    if setup.max_num_batched_tokens < setup.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens ({setup.max_num_batched_tokens}) is less than "
            f"max_num_seqs ({setup.max_num_seqs}): every running request needs a token a step"
        )
    reduce = reduce_times(gpu, setup.tp, setup.link_bytes_per_s)
    seqs = setup.max_num_seqs
    times: StepTimes | None = None
    if not by_kernels:
        times = layer_times(gpu, shape, setup.tp, seqs, reduce)
    source = "layers of this model" if times is not None else "kernels"
    if times is None:
        if gpu.kernels is None:
            raise ConfigError(
                f"GPU {gpu.name!r}: only whole layers of certain models were profiled, "
                f"not of this one at tp {setup.tp}"
            )
        times = kernel_times(gpu, shape, setup.tp, seqs, reduce)
    blocks = setup.blocks or _blocks(gpu, shape, setup.tp)
    return Started(gpu, shape, times, Limits(seqs, setup.max_num_batched_tokens, blocks), source)


def play(started: Started, workload: Sequence[Asked], host_s: float = HOST_S) -> list[RequestTimes]:
    """In the order of the workload."""
    for asked in workload:
        _check_length(started, asked)
    engine = Engine(started.times, started.limits, host_s)
    ended = {each.request_id: each for each in engine.serve(_arriving(workload))}
    return [ended[asked.request_id] for asked in workload]


def _arriving(workload: Sequence[Asked]) -> Iterator[Asked]:
    yield from workload


def _check_split(shape: ModelShape, tp: int) -> None:
    if shape.heads % tp:
        raise ConfigError(f"tp {tp} does not divide {shape.heads} attention heads")
    if shape.kv_heads % tp and tp % shape.kv_heads:
        raise ConfigError(f"tp {tp} and {shape.kv_heads} KV heads: neither divides the other")


def _blocks(gpu: Gpu, shape: ModelShape, tp: int) -> int:
    room = gpu.memory_bytes * _UTILISATION - shape.weight_bytes / tp - _RESERVE_BYTES
    blocks = math.floor(room / (shape.kv_bytes_per_token(tp) * 16))
    if blocks < 2:
        needed = (shape.weight_bytes / tp + _RESERVE_BYTES) / 1e9
        raise ConfigError(
            f"no room for KV: weights and buffers take {needed:.1f} GB of each {gpu.name}, "
            f"which has {gpu.memory_bytes * _UTILISATION / 1e9:.1f} GB for vLLM; raise tp"
        )
    return blocks


def _check_length(started: Started, asked: Asked) -> None:
    tokens = asked.prompt_tokens + asked.output_tokens
    if tokens > started.shape.context_tokens:
        raise ConfigError(
            f"request {asked.request_id!r}: {tokens} tokens are more than the model's context of "
            f"{started.shape.context_tokens} (max_position_embeddings)"
        )
    if tokens > started.limits.kv_tokens:
        raise ConfigError(
            f"request {asked.request_id!r}: {tokens} tokens are more than all KV memory holds "
            f"({started.limits.kv_tokens})"
        )
