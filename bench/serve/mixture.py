"""Eight models in memory for about three: open loop, skewed popularity."""

import asyncio
import math
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.checks import Check, at_most, percentile
from bench.serve.client import Answer, Ask, play, prompt_of
from bench.serve.models import EIGHT, folder_of
from bench.serve.run import Run
from bench.serve.swaps import router_flags
from bench.serve.systems import System, llama_server, repertory

__all__ = ["mixture", "workload"]

MEMORY_MIB = 1331
"""1.3 GiB."""
SEEDS = (1, 2, 3)
REQUESTS = 134
"""Of each seed: 402 at each rate."""
BUSY, CALM = 1.2, 0.4
"""Requests per second."""
TIMEOUT_S = 120.0
_SKEW = 1.0
"""Zipf's exponent."""
_MEDIAN_PROMPT, _MEDIAN_OUTPUT = 96, 32
_SIGMA = 0.6
"""Of the logarithm of both lengths: one in twenty is 2.7 times the median."""
_MOST_PROMPT, _MOST_OUTPUT = 900, 200
_READ_BYTES = 8 << 20


def workload(rate: float, seed: int) -> list[Ask]:
    """Poisson arrivals; equal seeds give equal workloads."""
    luck = random.Random(seed)
    shares = [1 / (rank + 1) ** _SKEW for rank in range(len(EIGHT))]
    asks: list[Ask] = []
    at_s = 0.0
    for _ in range(REQUESTS):
        at_s += luck.expovariate(rate)
        (model,) = luck.choices(EIGHT, shares)
        prompt = prompt_of(_length(_MEDIAN_PROMPT, _MOST_PROMPT, luck), luck)
        asks.append(Ask(model, prompt, _length(_MEDIAN_OUTPUT, _MOST_OUTPUT, luck), at_s))
    return asks


def _length(median: int, most: int, luck: random.Random) -> int:
    return max(1, min(most, round(median * math.exp(luck.gauss(0.0, _SIGMA)))))


def mixture(run: Run) -> list[Check]:
    folder = str(folder_of(EIGHT, run.root, run.say))
    models, threads = _chosen(run, folder)
    raw: dict[str, Any] = {"router": {"models_max": models, "threads": threads}}
    checks: list[Check] = []
    state_dir = run.state_dir()  # a server that is started again knows its files
    for rate in (BUSY, CALM):
        told: dict[str, list[Answer]] = {"repertory": [], "router": []}
        for seed in SEEDS:
            asks = workload(rate, seed)
            flags = ("--memory", f"{MEMORY_MIB}MiB")
            with repertory(folder_of(EIGHT, run.root, run.say), state_dir, *flags) as ours:
                told["repertory"] += _measured(run, ours, asks, f"{rate}/s, seed {seed}", raw)
            with llama_server(run.peer, run.log(), router_flags(folder, models, threads)) as peer:
                told["router"] += _measured(run, peer, asks, f"{rate}/s, seed {seed}", raw)
        raw[f"{rate}/s"] = {
            name: {
                "ttft_s": [one.ttft_or(TIMEOUT_S) for one in each],
                "failures": [one.failure for one in each if one.failure],
            }
            for name, each in told.items()
        }
        checks += _judge(rate, told)
    run.keep("mixture", raw)
    return checks


def _judge(rate: float, told: dict[str, list[Answer]]) -> list[Check]:
    bars = {0.5: 0.25, 0.99: 0.25} if rate == BUSY else {0.95: 0.6}
    ttft = {name: [one.ttft_or(TIMEOUT_S) for one in each] for name, each in told.items()}
    checks = []
    for share, bar in bars.items():
        mine, other = (percentile(ttft[name], share) for name in ("repertory", "router"))
        name = (
            f"eight models, {rate}/s: TTFT p{share * 100:.0f} {mine:.2f} s / router {other:.2f} s"
        )
        checks.append(at_most(name, "x", mine / other, bar))
    failures = sum(bool(one.failure) for one in told["repertory"])
    return [*checks, at_most(f"eight models, {rate}/s: failures", "", failures, 0)]


def _measured(
    run: Run, system: System, asks: list[Ask], title: str, raw: dict[str, Any]
) -> list[Answer]:
    _warm(run)
    with _peak_memory(system) as peak:
        told = asyncio.run(play(system.url, asks, TIMEOUT_S))
    ttft = [one.ttft_or(TIMEOUT_S) for one in told]
    failures = sum(bool(one.failure) for one in told)
    run.say(
        f"{title}, {system.name}: TTFT p50 {percentile(ttft, 0.5):.2f} p95 "
        f"{percentile(ttft, 0.95):.2f} p99 {percentile(ttft, 0.99):.2f} s, {failures} failures, "
        f"peak {max(peak) >> 20} MiB"
    )
    raw.setdefault("peak_bytes", {}).setdefault(system.name, []).append(max(peak))
    return told


def _warm(run: Run) -> None:
    """Every file into the page cache: no system shall read the disk for the next one."""
    for path in folder_of(EIGHT, run.root, run.say).iterdir():
        with path.open("rb") as file:
            while file.read(_READ_BYTES):
                pass


@contextmanager
def _peak_memory(system: System) -> Iterator[list[int]]:
    """PSS of everything, twice a second."""
    seen = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            seen.append(system.memory_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _chosen(run: Run, folder: str) -> tuple[int, int]:
    """The largest `--models-max` whose measured memory fits the budget, at the better threads.

    It counts models and knows no sizes: what counts is the memory of those that were loaded while
    the busy workload of the first seed went on, whatever its threads.
    """
    best = (1, 1)
    for models in range(1, len(EIGHT) + 1):
        median_s: dict[int, float] = {}
        for threads in (1, 2):
            peak_bytes, median_s[threads] = _tried(run, folder, models, threads)
            if models > 1 and peak_bytes > MEMORY_MIB << 20:
                return best
        best = models, min(median_s, key=lambda count: median_s[count])
    return best


def _tried(run: Run, folder: str, models: int, threads: int) -> tuple[int, float]:
    """The router's peak memory, and its median time to the first token."""
    flags = router_flags(folder, models, threads)
    with llama_server(run.peer, run.log(), flags) as peer, _peak_memory(peer) as peak:
        _warm(run)
        told = asyncio.run(play(peer.url, workload(BUSY, SEEDS[0]), TIMEOUT_S))
    p50_s = percentile([one.ttft_or(TIMEOUT_S) for one in told], 0.5)
    run.say(
        f"router --models-max {models} -t {threads}: peak {max(peak) >> 20} MiB, "
        f"TTFT p50 {p50_s:.2f} s"
    )
    return max(peak), p50_s
