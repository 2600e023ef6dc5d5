"""A million requests: SG-20's test week on 16 GPUs, on one core."""

import sys

from bench.checks import Check, at_most
from bench.serve.run import Run
from bench.sim.data import DATA
from bench.sim.stand import timed

__all__ = ["MILLION", "RATE_PER_S", "speed"]

MILLION = 1_000_000
RATE_PER_S = 5.0
"""SG-20 has some 180/s; thinned to this, a million requests take two days and a half, and time
keeps its pace."""
SECONDS_BAR, MEMORY_BAR_MIB = 300.0, 1536.0
PROFILED = 20_000


def speed(run: Run) -> list[Check]:
    if not DATA.is_dir():
        sys.exit(f"no traces in {DATA}: name their folder in REPERTORY_DATA")
    hashed = timed(requests=MILLION, rate_per_s=RATE_PER_S)
    run.say(f"a million requests, rolling hash: {hashed['seconds']:.0f} s")
    logged = timed(requests=MILLION, rate_per_s=RATE_PER_S, log=True)
    run.say(f"with the full log: {logged['seconds']:.0f} s")
    silent = timed(requests=MILLION // 10, rate_per_s=RATE_PER_S, sink="none")
    profiled = timed(requests=PROFILED, rate_per_s=RATE_PER_S, profile=True)
    for part, share in profiled["shares"].items():
        run.say(f"{part}: {100 * share:.0f} % of the time, as the profiler sees it")
    run.keep("speed", [hashed, logged, silent, profiled])
    assert hashed["digest"] == logged["digest"], "the sink changes nothing"
    return [
        at_most(
            "SG-20, 16 GPUs, a million requests, rolling hash", "s", hashed["seconds"], SECONDS_BAR
        ),
        at_most("  its memory", "MiB", hashed["peak_mib"], MEMORY_BAR_MIB),
        at_most(
            "  with the full log, to a rolling hash",
            "x",
            logged["seconds"] / hashed["seconds"],
            1.5,
        ),
    ]
