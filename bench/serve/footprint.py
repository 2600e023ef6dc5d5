"""What the server itself takes: CPU per streamed token, memory without models, and after many."""

import asyncio
import random
import statistics
from typing import Any

from bench.checks import Check, at_most
from bench.serve.client import Ask, play, prompt_of
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import Ours, repertory

__all__ = ["footprint"]

MODEL = "50m-a"
STREAMS, OUTPUT_TOKENS = 16, 512
ROUNDS = 5
CPU_BAR_US = 60.0
MEMORY_BAR_MIB = 150.0
CYCLES = 200
GROWTH_BAR = 1.05
_SETTLED = 10
"""Cycles whose median is a side of the comparison."""


def footprint(run: Run) -> list[Check]:
    with repertory(folder_of((MODEL,), run.root, run.say), run.state_dir()) as ours:
        empty_mib = ours.memory_bytes() / (1 << 20)
        cpu_us = _cpu_per_token_us(ours)
        sizes = _cycles(run, ours)
    first, last = (statistics.median(one) for one in (sizes[:_SETTLED], sizes[-_SETTLED:]))
    raw: dict[str, Any] = {"empty_mib": empty_mib, "cpu_us": cpu_us, "cycle_bytes": sizes}
    run.keep("footprint", raw)
    cpu = statistics.median(cpu_us)
    run.say(f"CPU {cpu:.0f} us per token, {empty_mib:.0f} MiB empty")
    return [
        at_most(f"CPU of the server per token, {STREAMS} streams", "us", cpu, CPU_BAR_US),
        at_most("server and worker without models", "MiB", empty_mib, MEMORY_BAR_MIB),
        at_most(f"memory after {CYCLES} loads / after the first", "x", last / first, GROWTH_BAR),
    ]


def _cpu_per_token_us(ours: Ours) -> list[float]:
    """Of the server process alone: the worker's CPU is the model's."""
    luck = random.Random(0)
    ours.wish(MODEL, "load", "loaded")
    found = []
    for number in range(ROUNDS + 1):
        asks = [Ask(MODEL, prompt_of(16, luck), OUTPUT_TOKENS) for _ in range(STREAMS)]
        before_s = ours.cpu_s()[ours.pid]
        told = asyncio.run(play(ours.url, asks, 300.0))
        spent_s = ours.cpu_s()[ours.pid] - before_s
        if any(one.failure for one in told):
            raise RuntimeError(f"a stream failed: {told}")
        if number:  # the first one makes the KV memory grow
            found.append(spent_s / sum(one.tokens for one in told) * 1e6)
    ours.wish(MODEL, "unload", "unloaded")
    return found


def _cycles(run: Run, ours: Ours) -> list[int]:
    """Load, unload, and read what all processes hold."""
    sizes = []
    for number in range(CYCLES):
        ours.wish(MODEL, "load", "loaded")
        ours.wish(MODEL, "unload", "unloaded")
        sizes.append(ours.memory_bytes())
        if number % 50 == 0:
            run.say(f"cycle {number}: {sizes[-1] >> 20} MiB")
    return sizes
