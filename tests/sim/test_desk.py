"""The mixed desk: one trace for every rule, and what ours is held to on it."""

from functools import cache
from statistics import mean

import pytest

from bench.costs.curves import SHAPES
from bench.costs.desk import MODELS, ROOM, Result, dear, limits_s, result, specs, trace
from repertory.policy.places.offload import Rule, by_harm, evict_then_most, offload_always

QUIET = 0.15
"""As a workstation has it: the device would be busy for a seventh of the time."""
SEEDS = range(4)
"""By which rules are told apart: one trace has a hundred and fifty answers, and two or three that
are late or not are a part of luck.
"""


@cache
def found(name: str, rule: Rule, seed: int) -> Result:
    return result(SHAPES[name], rule, seed, QUIET)


def usual(name: str, rule: Rule) -> float:
    return mean(found(name, rule, seed).goodput for seed in SEEDS)


def test_the_same_wishes_for_all_and_the_popular_ones_most() -> None:
    shape = dear(SHAPES["Llama 3 8B"])
    arrivals = trace(shape, 3, QUIET)
    assert arrivals == trace(shape, 3, QUIET)
    counts = [sum(one.request.model == use.name for one in arrivals) for use in MODELS]
    assert counts[0] == max(counts)
    sizes = [one.weights_bytes / (ROOM * shape.weights_bytes) for one in specs(shape)]
    assert sum(size < 1.0 for size in sizes) == 4, "one nearly fits and one never does"
    assert min(limits_s(shape, arrivals).values()) > 3.0 * shape.load_s * min(sizes)


@pytest.mark.parametrize("name", SHAPES)
def test_ours_beats_never_displacing_and_making_room_for_whatever_fits(name: str) -> None:
    assert found(name, by_harm, 0).goodput > found(name, offload_always, 0).goodput
    assert usual(name, by_harm) > usual(name, evict_then_most)
