"""The search alone: fleets whose outcome a function says."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.sim.planning.evidence import Evidence, Limit
from repertory.sim.planning.judging import Standing, Trial, can_still_meet, judge
from repertory.sim.planning.outlook import most_trials, outlook
from repertory.sim.planning.search import (
    Choice,
    Offer,
    Plan,
    Planner,
    Search,
    least,
)

Share = Callable[[Choice, float, int], float]
"""Of a fleet, a load and a seed: answers in time."""


def trial(met: float) -> Trial:
    return Trial((met,), (1.0,), Evidence({Limit.COMPUTE: 1}), 1000, is_cut=met < 0.97)


def planner(offers: Sequence[Offer], seeds: int = 3, *, mixes: bool = False) -> Planner:
    return Planner(tuple(offers), (0.99,), range(seeds), lambda choice: True, 64, mixes)


def searched(given: Planner, share: Share) -> Plan:
    def ask(choice: Choice, load: float, seeds: Sequence[int]) -> list[Trial]:
        return [trial(share(choice, load, seed)) for seed in seeds]

    return Search(given, ask).run()


def offer(name: str, usd_per_h: float, most: int = 40) -> Offer:
    return Offer(name, usd_per_h, tuple(range(1, most + 1)))


def enough(powers: dict[str, float]) -> Share:
    """All is well from a power of 1 per load on."""

    def share(choice: Choice, load: float, seed: int) -> float:
        power = sum(count * powers[name] for name, count in choice.parts)
        return 1.0 if power >= load else 0.5

    return share


def test_the_cheapest_type_is_found_with_its_least_number_and_margin() -> None:
    plan = searched(planner([offer("a", 1.0), offer("b", 3.0)]), enough({"a": 0.09, "b": 0.4}))
    assert plan.best is not None
    assert plan.best.choice.words == "3x b", "9 USD; of a, twelve are needed"
    assert plan.holds_load == pytest.approx(1.05**3), "1.2 of power bear no 1.2155"
    assert plan.breaks is not None
    assert plan.breaks.evidence.limit is Limit.COMPUTE
    assert plan.is_whole


def test_what_costs_no_less_than_the_best_is_not_tried() -> None:
    plan = searched(planner([offer("a", 1.0), offer("b", 9.0)]), enough({"a": 0.5, "b": 5.0}))
    assert plan.best is not None
    assert plan.best.choice.words == "2x a"
    assert plan.too_dear == ("b",)
    assert all("b" not in one.choice.words for one in plan.tried)


def test_a_mix_may_be_cheaper_than_either() -> None:
    powers = {"a": 0.3, "b": 0.7}
    offers = [offer("a", 1.0), offer("b", 2.2)]
    alone = searched(planner(offers), enough(powers))
    mixed = searched(planner(offers, mixes=True), enough(powers))
    assert alone.best is not None
    assert mixed.best is not None
    assert alone.best.choice.words == "4x a"
    assert mixed.best.choice.words == "1x a + 1x b"


def test_where_nothing_meets_there_is_no_best() -> None:
    plan = searched(planner([offer("a", 1.0)]), lambda choice, load, seed: 0.5)
    assert plan.best is None
    assert plan.tried[-1].choice.words == "40x a", "the largest was tried"


@given(least_true=st.integers(0, 70), last=st.integers(0, 60))
def test_least_finds_the_edge(least_true: int, last: int) -> None:
    found = least(lambda at: at >= least_true, 0, last)
    assert found == (least_true if least_true <= last else None)


@given(truths=st.lists(st.booleans(), min_size=1, max_size=40))
def test_least_of_anything_is_true_and_the_two_below_it_are_not(truths: list[bool]) -> None:
    found = least(lambda at: truths[at], 0, len(truths) - 1)
    if found is None:
        assert not truths[-1]
    else:
        assert truths[found]
        assert not any(truths[max(0, found - 2) : found])


PRICES = st.lists(st.floats(0.1, 9.0), min_size=1, max_size=3)


@given(prices=PRICES, noise=st.floats(0.0, 0.02), luck=st.integers(0, 99), mixes=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_fleet_that_does_not_meet_is_never_returned(
    prices: list[float], noise: float, luck: int, mixes: bool
) -> None:
    """And nothing that was tried and meets is cheaper.  Also where outcomes are noise."""

    def share(choice: Choice, load: float, seed: int) -> float:
        drawn = Random(f"{luck}/{choice}/{load}/{seed}").uniform(-noise, noise)
        return min(1.0, 0.97 + 0.004 * choice.devices / load + drawn)

    offers = [offer(f"t{at}", price, 12) for at, price in enumerate(prices)]
    given_ = planner(offers, mixes=mixes)
    plan = searched(given_, share)
    assert plan == searched(given_, share), "the same seed, the same plan"
    meets = [one for one in plan.tried if one.standing is Standing.MEETS]
    if plan.best is None:
        assert not meets
        return
    assert plan.best.standing is Standing.MEETS
    assert judge(plan.best.trials, (0.99,)) is Standing.MEETS
    assert plan.best.usd_per_h == min(one.usd_per_h for one in meets)
    assert len(plan.best.trials) >= 3


def test_a_plan_takes_no_more_runs_than_were_announced() -> None:
    given_ = planner([offer("a", 1.0, 64), offer("b", 1.1, 64)])
    plan = searched(given_, enough({"a": 0.027, "b": 0.1}))
    assert plan.trials <= sum(most_trials(given_).values())


@pytest.mark.parametrize("mixes", [False, True])
def test_the_outlook_is_between_one_run_and_the_most_there_can_be(*, mixes: bool) -> None:
    given_ = planner([offer("a", 1.0, 64), offer("b", 1.1, 64)], mixes=mixes)
    one, two = outlook(given_, 1), outlook(given_, 2)
    assert 10 < one.trials == two.trials < sum(most_trials(given_).values())
    assert all(1.0 < two.turns[name] < one.turns[name] for name in "ab")
    assert 1.0 < two.more_turns < one.more_turns
    assert sum(one.turns.values()) + one.more_turns <= one.trials


def test_once_there_is_a_best_a_type_that_cannot_beat_it_takes_one_run() -> None:
    """The largest that costs less is asked about first: where it does not meet, none does."""
    plan = searched(planner([offer("a", 1.0), offer("b", 1.1)]), enough({"a": 0.1, "b": 0.05}))
    assert plan.best is not None
    assert plan.best.choice.words == "10x a"
    assert [one.choice.words for one in plan.tried if "b" in one.choice.words] == ["9x b"]


def test_where_more_devices_changed_nothing_still_more_do_not_either() -> None:
    asked = []

    def ask(choice: Choice, load: float, seeds: Sequence[int]) -> list[Trial]:
        asked.append(choice.devices)
        met = min(0.98 + choice.devices / 1000, 0.985)
        return [Trial((met,), (5.0 - met,), Evidence({Limit.COMPUTE: 1}), 9) for _ in seeds]

    plan = Search(planner([offer("a", 1.0)]), ask).run()
    assert plan.best is None
    assert max(asked) == 16, "as 8: 32 and 40 were not asked about"


def test_runs_that_were_cut_are_not_alike() -> None:
    """Nobody in time of 8 and of 16 devices says nothing of 32."""
    plan = searched(planner([offer("a", 1.0)]), enough({"a": 1 / 32}))
    assert plan.best is not None
    assert plan.best.choice.words == "32x a"


def test_an_interrupted_search_knows_its_best() -> None:
    def ask(choice: Choice, load: float, seeds: Sequence[int]) -> list[Trial]:
        if load > 1.0:
            raise KeyboardInterrupt
        return [trial(1.0 if choice.devices >= 5 else 0.5) for _ in seeds]

    search = Search(planner([offer("a", 1.0)]), ask)
    with pytest.raises(KeyboardInterrupt):
        search.run()
    assert search.plan.best is not None
    assert search.plan.best.choice.words == "5x a"
    assert search.plan.holds_load is None
    assert not search.plan.is_whole


@pytest.mark.parametrize(
    ("shares", "standing"),
    [
        ([0.995], Standing.MEETS),
        ([0.985], Standing.FAILS),
        ([0.995, 0.996, 0.994], Standing.MEETS),
        ([0.985, 0.984, 0.986], Standing.FAILS),
        ([0.999, 0.999, 0.985], Standing.UNSURE),
    ],
)
def test_seeds_decide_by_their_interval(shares: list[float], standing: Standing) -> None:
    assert judge([trial(share) for share in shares], (0.99,)) is standing


@given(
    shares=st.lists(st.floats(0.95, 1.0), min_size=2, max_size=4),
    further=st.lists(st.floats(0.95, 1.0), min_size=2, max_size=4),
)
def test_what_can_no_longer_meet_does_not_whatever_further_seeds_say(
    shares: list[float], further: list[float]
) -> None:
    seen = [trial(share) for share in shares]
    if not can_still_meet(seen, (0.99,), len(further)):
        more = [trial(share) for share in further]
        assert judge([*seen, *more], (0.99,)) is not Standing.MEETS


def test_further_seeds_are_not_asked_where_they_could_not_make_it_good() -> None:
    seen = {0: 0.9955, 1: 0.9788, 2: 0.9811}
    plan = searched(planner([offer("a", 1.0, 1)]), lambda choice, load, seed: seen[seed])
    assert [one.standing for one in plan.tried] == [Standing.UNSURE]
    assert plan.trials == 3
