"""How the time grows: with requests, with models, with devices."""

import math
import sys

from bench.checks import Check, at_most
from bench.serve.run import Run
from bench.sim.data import DATA
from bench.sim.speed import RATE_PER_S
from bench.sim.stand import timed

__all__ = ["growth"]

SLACK = 1.3
"""Of two readings on a shared machine, one may be so much off."""
REQUESTS = (10_000, 100_000, 1_000_000)
FEW = 20_000
MODELS = {"mux-16": 16, "tail-100": 100}
DEVICES = (16, 128)


def growth(run: Run) -> list[Check]:
    if not DATA.is_dir():
        sys.exit(f"no traces in {DATA}: name their folder in REPERTORY_DATA")
    by_requests = [timed(requests=count, rate_per_s=RATE_PER_S) for count in REQUESTS]
    by_models = [timed(requests=FEW, recipe=name) for name in MODELS]
    by_devices = [timed(requests=FEW, rate_per_s=RATE_PER_S, devices=count) for count in DEVICES]
    for one in (*by_requests, *by_models, *by_devices):
        run.say(
            f"{one['requests']:9,} requests, {one['models']:3} models, {one['devices']:3} devices: "
            f"{each_us(one):.0f} us/request, {one['peak_mib']:.0f} MiB"
        )
    run.keep("growth", [*by_requests, *by_models, *by_devices])
    first, *_, last = by_requests
    few, many = MODELS.values()
    models = each_us(by_models[1]) / each_us(by_models[0])
    devices = each_us(by_devices[1]) / each_us(by_devices[0])
    return [
        at_most(
            "per request, of 1,000,000 to of 10,000", "x", each_us(last) / each_us(first), SLACK
        ),
        at_most(f"per request, {many} models to {few}", "x", models, SLACK * n_log_n(many, few)),
        at_most(
            f"per request, {DEVICES[1]} devices to {DEVICES[0]}",
            "x",
            devices,
            SLACK * n_log_n(*reversed(DEVICES)),
        ),
    ]


def each_us(one: dict[str, float] | object) -> float:
    return 1e6 * one["seconds"] / one["requests"]  # type: ignore[index,no-any-return]


def n_log_n(many: int, few: int) -> float:
    return many * math.log(many) / (few * math.log(few))
