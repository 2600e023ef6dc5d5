"""A storm of preemptions: 100 models, room for two, random priorities, 1,000 requests.

`python tests/sim/test_storm.py`: the figures behind the bounds.
"""

import math
import random
from dataclasses import replace
from functools import cache

import pytest
from shares import Played, percentile, play

from repertory.domain.events import Arrived
from repertory.domain.requests import OutcomeKind, Request
from repertory.domain.settings import Settings
from worlds import GIB, MIB, World, llama_world, model

MODELS, REQUESTS = 100, 1000
SEEDS = (1, 2)
WEIGHTS = (1.0, 1.0, 0.1, 0.1, 0.01, 0.5, 3.0, 10.0)
KEYS = ("", "ann", "bob")
RATES = {"calm": 0.7, "storm": 10.0}
"""Requests per second: what the machine can do, and ten times as much."""


def world() -> World:
    settings = Settings(prewarm=False, max_queue_s=1e6)
    chosen = llama_world()
    names = [f"m{at:03d}" for at in range(MODELS)]
    specs = tuple(model(name, 380 * MIB, buffers_bytes=16 * MIB) for name in names)
    device = replace(chosen.node.devices[0], memory_bytes=GIB)
    node = replace(chosen.node, devices=(device,))
    return replace(chosen, models=specs, settings=settings, node=node)


def requests(seed: int, rate: str, *, has_deadlines: bool) -> list[Arrived]:
    """Models by Pareto's law; three in ten want their first token by some time."""
    luck = random.Random(seed)
    events: list[Arrived] = []
    at_s = 0.0
    for count in range(REQUESTS):
        at_s += luck.expovariate(RATES[rate])
        at_ns = round(at_s * 1e9)
        name = f"m{min(MODELS - 1, int(luck.paretovariate(0.6)) - 1):03d}"
        is_due, due_s = luck.random() < 0.3, luck.choice((0.2, 1.0, 3.0, 10.0))
        made = Request(
            f"r{count:04d}",
            name,
            luck.choice((8, 100, 400)),
            luck.choice((1, 16, 60, 200)),
            luck.choice(WEIGHTS),
            luck.choice(KEYS),
            at_ns + round(due_s * 1e9) if is_due and has_deadlines else None,
        )
        events.append(Arrived(at_ns, made))
    return events


@cache
def stormed(seed: int, rate: str, has_deadlines: bool) -> Played:
    return play(world(), requests(seed, rate, has_deadlines=has_deadlines))


@cache
def changes(seed: int, rate: str) -> int:
    """Loads of who serves one after the other as they come, and keeps the last two models."""
    kept: list[str] = []
    loads = 0
    for event in requests(seed, rate, has_deadlines=False):
        name = event.request.model
        loads += name not in kept
        kept = [*(one for one in kept if one != name), name][-2:]
    return loads


def met(seed: int, rate: str, played: Played) -> float:
    """Σ w of those that had their first token when they wanted it."""
    total = 0.0
    for event in requests(seed, rate, has_deadlines=True):
        request = event.request
        if request.deadline_ns is not None and request.id in played.ttft_s:
            left_s = (request.deadline_ns - event.at_ns) / 1e9
            total += request.weight * (played.ttft_s[request.id] <= left_s)
    return total


CASES = pytest.mark.parametrize(
    ("seed", "rate", "has_deadlines"),
    [(seed, rate, has) for seed in SEEDS for rate in RATES for has in (False, True)],
)


@CASES
def test_everybody_has_one_outcome_and_nothing_is_lost(
    seed: int, rate: str, has_deadlines: bool
) -> None:
    """Done; but for those whose deadline nobody could have kept, who are told at once."""
    played = stormed(seed, rate, has_deadlines)
    assert played.outcomes.keys() == played.requests.keys()
    assert len(played.outcomes) == REQUESTS
    for name, outcomes in played.outcomes.items():
        (outcome,) = outcomes
        if outcome.kind is not OutcomeKind.DONE:
            assert (outcome.kind, outcome.status) == (OutcomeKind.REFUSED, 504)
            assert played.requests[name].deadline_ns is not None
            assert has_deadlines


@CASES
def test_swaps_are_bounded(seed: int, rate: str, has_deadlines: bool) -> None:
    """No more loads than first come first served makes, which stops nobody, and a tenth less where
    everything waits; and moves take an eighth of the time at most.
    """
    played = stormed(seed, rate, has_deadlines)
    assert played.loads <= changes(seed, rate) * (1.0 if rate == "calm" else 0.9)
    assert played.moves_s <= max(played.ended_s.values()) / 8


@CASES
def test_nobody_is_stopped_for_ever(seed: int, rate: str, has_deadlines: bool) -> None:
    """Each stop before its run has paid doubles what it weighs: as often as it takes to weigh what
    the heaviest does, and three times more, for those who wait together weigh more than one.
    """
    played = stormed(seed, rate, has_deadlines)
    assert sum(played.unpaid.values()) > 0
    for name, stops in played.unpaid.items():
        weight = played.requests[name].weight
        assert stops <= math.ceil(math.log2(max(WEIGHTS) / weight)) + 3, name


@CASES
def test_nobody_starves(seed: int, rate: str, has_deadlines: bool) -> None:
    """Where the machine can do it, nobody waits for longer than four `max_wait`.  Else everybody is
    served before the device has done all the work there is and made all moves, and a tenth more.
    """
    played = stormed(seed, rate, has_deadlines)
    longest_s = max(played.ttft_s.values())
    if rate == "calm":
        assert longest_s <= 4 * world().settings.max_wait_s
    work_s = sum(seconds for _, _, seconds in played.work)
    assert longest_s <= 1.1 * (work_s + played.moves_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_weighs_more_waits_less(seed: int) -> None:
    played = stormed(seed, "storm", False)
    by_weight = {
        weight: percentile(
            [one for name, one in played.ttft_s.items() if played.requests[name].weight == weight],
            0.5,
        )
        for weight in (0.01, 0.1, 1.0, 10.0)
    }
    assert list(by_weight.values()) == sorted(by_weight.values(), reverse=True), by_weight


def test_more_deadlines_are_kept_than_if_nobody_knew_of_them() -> None:
    """Over all runs: in one of them a single request of weight 10 may turn the sum."""
    knows, ignores = (
        sum(met(seed, rate, stormed(seed, rate, has)) for seed in SEEDS for rate in RATES)
        for has in (True, False)
    )
    assert knows > ignores


def table() -> None:
    for seed in SEEDS:
        for rate in RATES:
            for has in (False, True):
                got = stormed(seed, rate, has)
                waits, work_s = list(got.ttft_s.values()), sum(one[2] for one in got.work)
                refused = sum(one[0].kind is OutcomeKind.REFUSED for one in got.outcomes.values())
                excess = [
                    stops - math.ceil(math.log2(max(WEIGHTS) / got.requests[name].weight))
                    for name, stops in got.stops.items()
                ]
                print(  # noqa: T201  # a table for a person
                    f"seed {seed} {rate:5} deadlines {has!s:5}: {got.loads} loads, first come "
                    f"first served {changes(seed, rate)}; {got.stops.total()} stops, {max(excess)} "
                    f"beyond the weights; first tokens p50 {percentile(waits, 0.5):.1f} p99 "
                    f"{percentile(waits, 0.99):.1f} most {max(waits):.1f} s; work {work_s:.0f} s, "
                    f"moves {got.moves_s:.0f} s; deadlines met {met(seed, rate, got):.1f}, "
                    f"{refused} refused"
                )


if __name__ == "__main__":
    table()
