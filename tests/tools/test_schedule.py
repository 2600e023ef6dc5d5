"""Measuring goes on where it stopped, and nothing is tried for ever."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gpucheck.costs.wanted import estimate_s, wanted
from gpucheck.result import Item, read, write
from gpucheck.schedule import Ended, Outcome, item_path, measure_items, missing

FULL_S = 500.0
WANTED = wanted(["tiny"])
ITEMS = [item for _, item in WANTED]


@dataclass
class Spent:
    """A budget whose time passes only when an item takes some."""

    left: float
    full_s: float = FULL_S

    def left_s(self) -> float:
        return self.left


@dataclass
class Bench:
    """Measures in no time: every item takes `item_s` of the budget and ends as it is told."""

    results: Path
    budget: Spent
    item_s: float = 0.0
    ends: dict[str, Ended] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)

    def run(self, model: str, item: str, limit_s: float) -> Ended:
        assert limit_s == self.budget.left
        self.begun.append(item)
        ended = self.ends.get(item, Ended(Outcome.DONE))
        if ended.outcome is Outcome.DONE and self.item_s > limit_s:
            ended = Ended(Outcome.OUT_OF_TIME)
        self.budget.left = max(0.0, limit_s - self.item_s)
        if ended.outcome is Outcome.DONE:
            write(item_path(self.results, model, item), Item(model, item))
        return ended

    def measure(self) -> bool:
        return measure_items(self.results, WANTED, self.budget, self.run)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Spent(FULL_S))


def test_every_item_is_measured_once(bench: Bench) -> None:
    assert bench.measure()
    assert bench.measure()
    assert bench.begun == ITEMS


def test_the_next_call_begins_with_the_item_that_the_last_one_left(bench: Bench) -> None:
    bench.item_s = FULL_S * 0.4
    assert not bench.measure()  # two are done, the third was cut off
    assert bench.begun == ITEMS[:3]
    assert [item for _, item in missing(bench.results, WANTED)] == ITEMS[2:]
    bench.budget.left = FULL_S
    bench.item_s = 0.0
    assert bench.measure()
    assert bench.begun == [*ITEMS[:3], *ITEMS[2:]]


def test_an_item_is_not_begun_with_too_little_left(bench: Bench) -> None:
    bench.budget.left = 14.0
    assert not bench.measure()
    assert bench.begun == []


def test_an_item_that_would_be_cut_off_waits_for_the_next_call(bench: Bench) -> None:
    """By its estimate: what is cut off has to be begun anew.  With a whole budget it is begun."""
    model, item = "32b-q4_0", "preempt-for-8b-q4_0"
    bench.budget.left = 60.0
    assert estimate_s(model, item) > 60.0
    assert not measure_items(bench.results, [(model, item)], bench.budget, bench.run)
    assert bench.begun == []
    bench.budget = Spent(60.0, full_s=60.0)
    assert measure_items(bench.results, [(model, item)], bench.budget, bench.run)
    assert bench.begun == [item]


def test_an_item_that_a_whole_budget_is_too_short_for_has_failed(bench: Bench) -> None:
    bench.ends["ladder"] = Ended(Outcome.OUT_OF_TIME)
    assert bench.measure()
    failed = read(item_path(bench.results, "tiny", "ladder"))
    assert failed is not None
    assert failed.failure == "not done after 500 s: raise --budget-s"


def test_a_failed_item_stops_no_other_and_is_not_tried_again(bench: Bench) -> None:
    bench.ends["layers-0"] = Ended(Outcome.FAILED, "no such device")
    assert bench.measure()
    assert bench.measure()
    assert bench.begun == ITEMS
    failed = read(item_path(bench.results, "tiny", "layers-0"))
    assert failed is not None
    assert failed.failure == "no such device"
