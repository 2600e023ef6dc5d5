"""Two real runs of vLLM by others (LLMServingSim, MIT), simulated from profiles of their GPUs.

The only number that is fitted is the host's share of a step, on one run, and tested on the other:
the least mean error of end-to-end latency, from 0 to 4 ms.  What the runs' files say of the machine
is taken as said: blocks of KV memory (`meta.json`), the link between GPUs (`config.json`).

Two errors are told.  Of the means: as the published simulator reports itself, from the time that
the engine took a request in (`queued_ts`; `validation/summary.txt`).  By request: the mean of what
each is off by, relatively; where KV memory is full, which request is preempted turns on a
millisecond, and that is in it.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.checks import Check, at_most
from bench.serve.run import Run
from bench.sim.data import DATA
from repertory.perf.vllm.shapes import shape_of
from repertory.sim.vllm.engine import Asked, RequestTimes
from repertory.sim.vllm.play import HOST_S, Setup, Started, play, start
from repertory.sim.vllm.requests import read_requests

__all__ = ["truth"]

_PROFILES = DATA / "profiles"
_BARS = {"tpot": 0.05, "latency": 0.05, "ttft": 0.15}
_HOSTS_S = tuple(step * 2e-4 for step in range(21))
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
"""meta-llama/Llama-3.1-8B."""
_QWEN = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 25600,
    "vocab_size": 151936,
}
"""Qwen/Qwen3-32B."""


@dataclass(frozen=True)
class _Real:
    """One run and the engine that it was of."""

    name: str
    started: Started
    asked: Sequence[Asked]
    rows: Sequence[dict[str, Any]]

    def simulated(self, host_s: float) -> list[RequestTimes]:
        return play(self.started, self.asked, host_s)


def truth(run: Run) -> list[Check]:
    if not _PROFILES.is_dir():
        run.say(f"truth is skipped: {_PROFILES} is not here")
        return []
    qwen = _real("RTXPRO6000/Qwen3-32B", _QWEN, Setup("rtx_pro_6000", 2, 128, 2048))
    llama = _real("RTX4090/Llama-3.1-8B", _LLAMA, Setup("rtx_4090", 1, 256, 2048))
    bare = _real("RTXPRO6000/Qwen3-32B", _QWEN, Setup("rtx_pro_6000", 2, 128, 2048), False)
    single = _real("RTXPRO6000/Qwen3-32B", _QWEN, Setup("rtx_pro_6000", 2, 128, 2048), True, True)
    checks: list[Check] = []
    for tested, fitted_on in ((qwen, llama), (llama, qwen)):
        host_s = min(_HOSTS_S, key=lambda one: _latency_error(fitted_on, one))
        run.say(f"{tested.name}: host {host_s * 1e3:.1f} ms, fitted on {fitted_on.name}")
        found = _errors(tested, host_s)
        run.keep(f"truth, {tested.name}", {"host_s": host_s, **found})
        for name, bar in _BARS.items():
            for way in ("of means", "by request"):
                title = f"{tested.name}: {name}, error {way}"
                checks.append(at_most(title, "", found[f"{name} {way}"], bar))
    host_s = min(_HOSTS_S, key=lambda one: _latency_error(bare, one))
    run.keep(f"truth, {llama.name}, host as without the link", _errors(llama, host_s))
    run.say(f"without its link {bare.name} fits {host_s * 1e3:.1f} ms, by which on {llama.name}:")
    run.say(str({name: round(value, 3) for name, value in _errors(llama, host_s).items()}))
    for name, other in (("without its link", bare), ("by single kernels", single)):
        found = _errors(other, HOST_S)
        run.keep(f"truth, {other.name}, {name}", found)
        for key, value in found.items():
            run.say(f"{other.name} {name}, host 0: {key} {value:.3f}")
    return checks


def _real(
    name: str,
    config: dict[str, Any],
    setup: Setup,
    is_linked: bool = True,
    by_kernels: bool = False,
) -> _Real:
    folder = _PROFILES / "llmservingsim/bench" / name
    meta = json.loads((folder / "vllm/meta.json").read_text())
    machine = json.loads((folder / "config.json").read_text())
    told = Setup(
        setup.gpu,
        setup.tp,
        setup.max_num_seqs,
        setup.max_num_batched_tokens,
        meta.get("kv_cache", {}).get("num_gpu_blocks"),
        machine["link_bw"] * 1e9 if is_linked else None,
    )
    started = start(_PROFILES, shape_of(config, name), told, by_kernels)
    requests = folder / "vllm/requests.jsonl"
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    return _Real(name, started, read_requests(requests), rows)


def _latency_error(real: _Real, host_s: float) -> float:
    return _errors(real, host_s)["latency of means"]


_OF_ROW: dict[str, Callable[[dict[str, Any]], float]] = {
    "ttft": lambda row: row["first_token_ts"] - row["queued_ts"],
    "tpot": lambda row: (row["last_token_ts"] - row["first_token_ts"]) / (row["output_toks"] - 1),
    "latency": lambda row: row["last_token_ts"] - row["queued_ts"],
}
_OF_TIMES: dict[str, Callable[[RequestTimes], float]] = {
    "ttft": lambda one: one.first_token_s - one.queued_s,
    "tpot": lambda one: (one.finished_s - one.first_token_s) / (one.output_tokens - 1),
    "latency": lambda one: one.finished_s - one.queued_s,
}


def _errors(real: _Real, host_s: float) -> dict[str, float]:
    ended = real.simulated(host_s)
    found: dict[str, float] = {}
    for name, of_row in _OF_ROW.items():
        measured = [of_row(row) for row in real.rows]
        simulated = [_OF_TIMES[name](one) for one in ended]
        of_means = statistics.mean(simulated) / statistics.mean(measured) - 1.0
        found[f"{name} of means"] = abs(of_means)
        each = [abs(s / m - 1.0) for s, m in zip(simulated, measured, strict=True)]
        found[f"{name} by request"] = statistics.mean(each)
    return found
