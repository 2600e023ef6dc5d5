"""The mixed desk: one trace for every rule, and what ours is held to on it."""

from functools import cache

import pytest

from bench.costs.curves import SHAPES
from bench.costs.desk import MODELS, ROOM, Result, dear, limits_s, result, specs, trace
from repertory.policy.offload import Rule, by_harm, evict_then_most, offload_always

QUIET, SEED = 0.15, 0
"""As a workstation has it: the device would be busy for a seventh of the time."""


@cache
def found(name: str, rule: Rule) -> Result:
    return result(SHAPES[name], rule, SEED, QUIET)


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
    ours = found(name, by_harm)
    assert ours.goodput > found(name, offload_always).goodput
    assert ours.goodput > found(name, evict_then_most).goodput
