"""Step times from single kernels beside two other sources: sums made of the same kernels, and real
prompts and tokens of Llama 2 70B on A100 and H100 (Splitwise, MIT; older kernels than vLLM's).
Residuals, without bars: a median of ratios, ours over theirs.
"""

import csv
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.checks import Check
from bench.serve.run import Run
from bench.sim.data import DATA
from repertory.perf.vllm.batches import Batch, Chunk, StepTimes
from repertory.perf.vllm.shapes import shape_of
from repertory.sim.vllm.play import Setup, start

__all__ = ["steps"]

_PROFILES = DATA / "profiles"
_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
_SIZES = {
    "Llama-3.1-8B": (32, 4096, 32, 8, 14336, 128256),
    "Llama-3.3-70B": (80, 8192, 64, 8, 28672, 128256),
    "Qwen3-8B": (36, 4096, 32, 8, 12288, 151936),
    "Qwen3-14B": (40, 5120, 40, 8, 17408, 151936),
    "Qwen3-32B": (64, 5120, 64, 8, 25600, 151936),
    "llama2-70b": (80, 8192, 64, 8, 28672, 32000),
}
"""From their config.json; heads are of 128."""


def steps(run: Run) -> list[Check]:
    if not _PROFILES.is_dir():
        run.say(f"steps is skipped: {_PROFILES} is not here")
        return []
    ratios: dict[str, list[float]] = {}
    known: dict[tuple[str, str, int], StepTimes] = {}
    for name, where, batch, seconds in (*_derived(), *_splitwise()):
        if where not in known:
            known[where] = _times(*where)
        ratios.setdefault(name, []).append(known[where].step_s(batch) / seconds)
    for name, found in sorted(ratios.items()):
        low, high = statistics.quantiles(found, n=10)[0], statistics.quantiles(found, n=10)[-1]
        middle = statistics.median(found)
        run.keep(f"steps, {name}", {"n": len(found), "median": middle, "p10": low, "p90": high})
        run.say(f"{name}: ours / theirs {middle:.2f} (p10 {low:.2f}, p90 {high:.2f}, {len(found)})")
    return []


def _times(gpu: str, model: str, tp: int) -> StepTimes:
    name = "Qwen3ForCausalLM" if model.startswith("Qwen") else "LlamaForCausalLM"
    sizes = dict(zip(_KEYS, _SIZES[model], strict=True))
    config: Mapping[str, Any] = {"architectures": [name], "head_dim": 128, **sizes}
    # blocks are given, as these tables hold models that no such card has room for
    return start(_PROFILES, shape_of(config, model), Setup(gpu, tp, 256, 2048, 1000), True).times


_Row = tuple[str, tuple[str, str, int], Batch, float]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from csv.DictReader(file)


def _derived() -> Iterator[_Row]:
    for row in _rows(_PROFILES / "derived_step_times_vllm_bf16.csv"):
        tokens, count = int(row["ctx_or_prompt_tokens"]), int(row["batch"])
        name = f"derived, {row['gpu']} tp {row['tp']} {row['phase']}"
        where = (row["gpu"], row["model"], int(row["tp"]))
        yield name, where, _batch(row["phase"] == "prefill", count, tokens), _s(row["kernel_ms"])


def _splitwise() -> Iterator[_Row]:
    gpus = {"a100-80gb": "a100", "h100-80gb": "h100", "h100-80gb-pcap": ""}
    for row in _rows(_PROFILES / "splitwise/perf_model.csv"):
        tp, gpu = int(row["tensor_parallel"]), gpus.get(row["hardware"], "")
        if row["model"] == "llama2-70b" and gpu and tp in (2, 4, 8):
            tokens, count = int(row["prompt_size"]), int(row["batch_size"])
            name, where = f"splitwise, {gpu} tp {tp}", (gpu, row["model"], tp)
            prompt = _batch(True, count, tokens)
            yield f"{name} prompt", where, prompt, _s(row["prompt_time"])
            context = tokens + int(row["token_size"]) // 2
            yield f"{name} token", where, _batch(False, count, context), _s(row["token_time"])


def _s(ms: str) -> float:
    return float(ms) * 1e-3


def _batch(is_prompt: bool, count: int, tokens: int) -> Batch:
    if is_prompt:
        return Batch(0, chunks=tuple(Chunk(tokens, 0) for _ in range(count)))
    return Batch(count, count * tokens, tokens)
