"""All policies on all recipes; the load curve of each; devices that each needs for one SLO."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from statistics import mean
from typing import TypeVar

from bench.checks import Check
from bench.serve.run import Run
from bench.sim.contest import POLICIES, SLO, STANDS, Case, Figures, played
from bench.sim.data import DATA

__all__ = ["devices_needed", "load_curves", "policies"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

SEEDS = 3
REQUESTS = 3_000
"""Per run at the usual rate; other factors play the same time, so many times as many."""
CURVES = ("sg-20", "mux-16")
FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)
NEEDS_SHARE = 0.99
"""Of the requests, that a fleet must answer within both limits."""
SIZES = range(4, 132, 4)
"""Devices: a 70B takes four."""


def policies(run: Run) -> list[Check]:
    found = _flat(_mapped(run, _together, _table_cases()))
    for recipe in STANDS:
        run.say(f"{recipe}\n" + "\n".join(_table(found, recipe)))
    run.keep("policies", [asdict(one) for one in found])
    return []


def load_curves(run: Run) -> list[Check]:
    found = _flat(_mapped(run, _together, _curve_cases()))
    for recipe in CURVES:
        run.say(f"{recipe}, goodput to oracle's\n" + "\n".join(_curve(found, recipe)))
    run.keep("policies, load curves", [asdict(one) for one in found])
    return []


def devices_needed(run: Run) -> list[Check]:
    wanted = [
        (recipe, policy, seed) for policy in POLICIES for recipe in CURVES for seed in range(SEEDS)
    ]
    needs = list(_mapped(run, _devices_needed, wanted))
    for recipe in CURVES:
        for policy in POLICIES:
            each = [devices for *what, _, devices in needs if what == [recipe, policy]]
            words = ", ".join(str(one or f"over {SIZES[-1]}") for one in each)
            run.say(f"{recipe}, {policy}: {words} devices")
    run.keep("policies, devices needed", needs)
    return []


def _mapped(run: Run, what: Callable[[_In], _Out], of: Sequence[_In]) -> list[_Out]:
    """In as many processes as there are cores; in order."""
    if not DATA.is_dir():
        sys.exit(f"no traces in {DATA}: name their folder in REPERTORY_DATA")
    run.say(f"simulated; SLO {SLO}")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        return list(pool.map(what, of))


def _table_cases() -> list[list[Case]]:
    """By workload: its arrivals are made once."""
    return [
        [Case(stand, policy, seed, REQUESTS) for policy in POLICIES]
        for stand in STANDS.values()
        for seed in range(SEEDS)
    ]


def _curve_cases() -> list[list[Case]]:
    return [
        [Case(STANDS[recipe], policy, seed, REQUESTS, factor) for policy in POLICIES]
        for recipe in CURVES
        for factor in reversed(FACTORS)
        for seed in range(SEEDS)
    ]


def _together(cases: Sequence[Case]) -> list[Figures]:
    return [played(case) for case in cases]


def _flat(found: Iterable[list[Figures]]) -> list[Figures]:
    return [one for each in found for one in each]


def _devices_needed(wanted: tuple[str, str, int]) -> tuple[str, str, int, int | None]:
    """The least size that is enough, if more devices are never worse; None: the largest is not."""
    recipe, policy, seed = wanted
    case = Case(STANDS[recipe], policy, seed, REQUESTS)

    def is_enough(at: int) -> bool:
        return played(replace(case, devices=SIZES[at])).met_share >= NEEDS_SHARE

    low, high = 0, len(SIZES)
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return recipe, policy, seed, SIZES[low] if low < len(SIZES) else None


def _table(found: Sequence[Figures], recipe: str) -> list[str]:
    """Means over seeds; a dash where a seed's quantile was of a request without a first token."""
    lines = [
        "| policy | TTFT p50 | p95 | p99 | under 100 ms | in SLO | goodput/s | loads/1,000"
        " | device-s/1,000 |",
        "|" + "---|" * 9,
    ]
    for policy in POLICIES:
        each = [one for one in found if one.recipe == recipe and one.policy == policy]
        ttft = [
            _seconds([one.ttft_p50_s for one in each]),
            _seconds([one.ttft_p95_s for one in each]),
            _seconds([one.ttft_p99_s for one in each]),
        ]
        shares = [mean(one.at_once_share for one in each), mean(one.met_share for one in each)]
        cells = [policy, *ttft, *(f"{100 * one:.1f} %" for one in shares)]
        cells.append(f"{mean(one.goodput_per_s for one in each):.2f}")
        cells.append(f"{mean(one.loads_per_1000 for one in each):.1f}")
        cells.append(f"{mean(one.device_s_per_1000 for one in each):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _seconds(values: Sequence[float | None]) -> str:
    known = [one for one in values if one is not None]
    return f"{mean(known):.3g} s" if len(known) == len(values) else "-"


def _curve(found: Sequence[Figures], recipe: str) -> list[str]:
    lines = [
        "| policy | " + " | ".join(f"x{factor:g}" for factor in FACTORS) + " |",
        "|" + "---|" * (len(FACTORS) + 1),
    ]
    goodput = {
        (policy, factor): mean(
            one.goodput_per_s
            for one in found
            if (one.recipe, one.policy, one.factor) == (recipe, policy, factor)
        )
        for policy in POLICIES
        for factor in FACTORS
    }
    for policy in POLICIES:
        ratios = (goodput[policy, one] / goodput["oracle", one] for one in FACTORS)
        lines.append(f"| {policy} | " + " | ".join(f"{one:.2f}" for one in ratios) + " |")
    best = " | ".join(f"{goodput['oracle', one]:.2f}/s" for one in FACTORS)
    return [*lines, f"| (oracle's own) | {best} |"]
