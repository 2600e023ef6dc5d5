"""Goodput in the simulator: the desk, and three equal models in several rooms, by four rules.

Every rule plays the same traces, seed by seed; what they stand apart by is a mean over the seeds,
with its standard error.
"""

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product

from bench.checks import Check, at_least
from bench.costs import curves, desk
from bench.costs.ruled import RULES
from bench.serve.run import Run

__all__ = ["simulated"]

_SEEDS = range(4)
_ROOMS = (1.6, 2.4, 2.7)
_Job = tuple[str, float, str, int]
"""A curve, a load or a room, a rule and a seed."""


def simulated(run: Run) -> list[Check]:
    checks = []
    for title, xs, play in (("desk", desk.LOADS, _desk), ("room", _ROOMS, _room)):
        jobs = list(product(curves.SHAPES, xs, RULES, _SEEDS))
        with ProcessPoolExecutor(2) as pool:
            found = dict(zip(jobs, pool.map(play, jobs, chunksize=8), strict=True))
        run.keep(f"simulated, {title}", [(*job, *values) for job, values in found.items()])
        for name, x in product(curves.SHAPES, xs):
            by = {(rule, seed): found[name, x, rule, seed] for rule in RULES for seed in _SEEDS}
            checks += _compared(run, f"{title} {x}, {name}", by)
    return checks


def _desk(job: _Job) -> tuple[float, float]:
    name, load, rule, seed = job
    found = desk.result(curves.SHAPES[name], RULES[rule], seed, load)
    return found.goodput, found.answer_s


def _room(job: _Job) -> tuple[float, float]:
    name, room, rule, seed = job
    shape = curves.SHAPES[name]
    load = curves.LOADS[seed % len(curves.LOADS)][1]
    played = curves.play(shape, RULES[rule], list(curves.trace(shape, seed, load)), room)
    limit_s = 3.0 * (shape.usual_s + shape.load_s)
    took_s = [(played.ended_ns[key] - one.at_ns) / 1e9 for key, one in played.arrived.items()]
    return played.goodput(limit_s), statistics.mean(took_s)


def _compared(
    run: Run, title: str, found: Mapping[tuple[str, int], tuple[float, float]]
) -> list[Check]:
    checks, words = [], []
    ours = [found["by_harm", seed][0] for seed in _SEEDS]
    for rule in RULES:
        goodputs, seconds = zip(*(found[rule, seed] for seed in _SEEDS), strict=True)
        words.append(f"{rule} {statistics.mean(goodputs):.2f} ({statistics.mean(seconds):.1f} s)")
        if rule == "by_harm":
            continue
        mean, error = _apart(ours, goodputs)
        words[-1] += f" {mean:+.1%} +- {error:.1%}"
        checks.append(at_least(f"{title}: to {rule}", "", 1.0 + mean, 1.0))
    run.say(f"simulated, {title}: {'; '.join(words)}")
    return checks


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """How far ours is ahead, relatively, and the standard error of that."""
    ahead = [one / other - 1.0 for one, other in zip(ours, theirs, strict=True)]
    return statistics.mean(ahead), statistics.stdev(ahead) / len(ahead) ** 0.5
