"""`simulate --engine vllm`: one engine's requests on a GPU that is not here."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from repertory.cli.shared import table

if TYPE_CHECKING:
    from repertory.sim.vllm.engine import RequestTimes
    from repertory.sim.vllm.play import Setup, Started

__all__ = ["simulate_vllm"]


def simulate_vllm(
    setup: "Setup", profiles: Path, model_config: Path, workload: Path, json: bool
) -> None:
    """Raises `ConfigError` for what is wrong with the files, the flags or a request."""
    from repertory.sim.vllm.play import play, read_config, start
    from repertory.sim.vllm.requests import read_requests

    started = start(profiles, read_config(model_config), setup)
    ended = play(started, read_requests(workload))
    summary = _summary(started, ended)
    if json:
        requests = [_row(each) for each in ended]
        document = {"requests": requests, "summary": summary}
        typer.echo(msgspec.json.encode(document).decode())
    else:
        table(("simulated", ""), [(name, _shown(value)) for name, value in summary.items()])


def _row(each: "RequestTimes") -> dict[str, object]:
    return {
        "request_id": each.request_id,
        "arrival_s": each.arrival_s,
        "queued_s": each.queued_s,
        "first_token_s": each.first_token_s,
        "finished_s": each.finished_s,
        "output_tokens": each.output_tokens,
    }


def _summary(started: "Started", ended: Sequence["RequestTimes"]) -> dict[str, object]:
    ttft = [each.first_token_s - each.arrival_s for each in ended]
    latency = [each.finished_s - each.arrival_s for each in ended]
    tpot = [
        (each.finished_s - each.first_token_s) / (each.output_tokens - 1)
        for each in ended
        if each.output_tokens > 1
    ]
    makespan_s = max(each.finished_s for each in ended)
    return {
        "origin": "simulated",
        "gpu": started.gpu.name,
        "kernel_times": started.source,
        "kv_blocks": started.limits.kv_blocks,
        "requests": len(ended),
        "preemptions": sum(each.preemptions for each in ended),
        "makespan_s": makespan_s,
        "output_tokens_per_s": sum(each.output_tokens for each in ended) / makespan_s,
        "ttft_mean_s": statistics.mean(ttft),
        "ttft_p50_s": statistics.median(ttft),
        "tpot_mean_s": statistics.mean(tpot) if tpot else None,
        "latency_mean_s": statistics.mean(latency),
        "latency_p50_s": statistics.median(latency),
    }


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
