"""The slow clock: which idle models to bring to `DEVICE` in memory that nobody uses.

The forecast is persistence: a model's rate over the next horizon is its rate now.  Below ten
minutes that beats every seasonal mean on real client streams (facts.md, Forecasting).
"""

import math

from repertory.domain.plans import Candidate, Plan, Prewarm, Problem

__all__ = ["solve"]

_LEAST_USE = 0.05
"""A model less likely than this to be asked for within the horizon is not worth the disk's time."""


def solve(problem: Problem) -> Plan:
    """Fill free memory by expected seconds saved per byte; ties go to the name."""
    free = dict(problem.free_bytes)
    prewarms: list[Prewarm] = []
    ranked = sorted(
        problem.candidates,
        key=lambda one: (
            -_saved_s(one, problem.horizon_s) / one.bytes_per_device,
            one.model,
            one.placement.devices,
        ),
    )
    for one in ranked:
        use = _use(one, problem.horizon_s)
        devices = one.placement.devices
        if use < _LEAST_USE or any(one.model == done.model for done in prewarms):
            continue
        if any(free[device] < one.bytes_per_device for device in devices):
            continue
        for device in devices:
            free[device] -= one.bytes_per_device
        why = (
            f"P(use in {problem.horizon_s:.0f} s) = {use:.2f} at {one.arrivals_per_s:.3g} "
            f"requests/s; saves {one.load_s:.3g} s"
        )
        prewarms.append(Prewarm(one.model, one.placement, why))
    return Plan(problem.id, tuple(prewarms))


def _use(one: Candidate, horizon_s: float) -> float:
    return -math.expm1(-one.arrivals_per_s * horizon_s)


def _saved_s(one: Candidate, horizon_s: float) -> float:
    return _use(one, horizon_s) * one.load_s
