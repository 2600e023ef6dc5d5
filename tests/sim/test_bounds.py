"""What is known of fleets without a run must never leave out one that could do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from repertory.config.catalog import parse_catalog
from repertory.config.fleet import parse_models
from repertory.domain.fleets import Fleet
from repertory.domain.workloads import Arrival
from repertory.sim.planning.bounds import Bounds
from repertory.sim.planning.search import Choice
from repertory.sim.planning.stretches import busiest
from repertory.traces.summary import Slo

(L4,) = parse_catalog("gpus: [{gpu: l4, price: 1}]", "c.yaml")
MODELS = parse_models("models: {a: {like: qwen3-4b, context: 4096}}", "m.yaml")
BOTH = Slo(ttft_s=2.0, tpot_s=0.1)


@dataclass(frozen=True, eq=False)
class Listed:
    rows: Sequence[Arrival]
    name: str = "listed"

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        return iter(self.rows)


def fleet(choice: Choice) -> Fleet:
    ((_, count),) = choice.parts
    return Fleet(choice.words, L4.machines(count), MODELS)


def least(rows: Sequence[Arrival], slo: Slo = BOTH) -> float:
    return Bounds(fleet, busiest(Listed(rows), 0, len(rows)), slo).least_devices("l4")


def rows(count: int, per_s: float, prompt: int = 2000, output: int = 100) -> list[Arrival]:
    return [Arrival(at / per_s, "a", prompt, output) for at in range(count)]


def test_the_work_that_must_be_in_time_takes_so_many_devices() -> None:
    """Two operations per parameter and token, 0.85 of 121 T per second, 1,000 s and 12 s more; of
    the requests nine tenths are counted, and 98 % have to meet both limits.
    """
    whole_s = 10_000 * 2100 * 2 * 4.02e9 / (121e12 * 0.85)
    assert least(rows(10_000, 10.0)) == pytest.approx(whole_s * 0.9 * 0.98 / 1012, rel=0.01)


def test_what_came_at_one_instant_has_as_long_as_the_objective_allows() -> None:
    """2 s, and 0.1 s for each token: not no time."""
    assert least(rows(1, 1.0, 10, 5)) < 0.01


def test_the_dearest_that_may_be_late_need_nothing() -> None:
    cheap = rows(1000, 10.0, 100)
    dear = [*cheap[:-5], *(Arrival(100.0, "a", 4000, 90) for _ in range(5))]
    assert least(dear) == pytest.approx(least(cheap), rel=0.05)
    half = Slo(ttft_s=2.0, tpot_s=0.1, ttft_share=0.5, tpot_share=0.5)
    assert least(cheap, half) == 0.0, "one half may miss the one limit, the other half the other"


@pytest.mark.parametrize("slo", [Slo(ttft_s=2.0), Slo(tpot_s=0.1)])
def test_without_a_limit_on_either_part_nothing_is_known(slo: Slo) -> None:
    assert least(rows(1000, 100.0), slo) == 0.0
    bounds = Bounds(fleet, busiest(Listed(rows(9, 1.0)), 0, 9), slo)
    assert bounds.is_enough(Choice((("l4", 1),)))


def test_requests_longer_than_their_context_are_counted() -> None:
    asked = busiest(Listed([*rows(9, 1.0), Arrival(9.0, "a", 4000, 97)]), 0, 10)
    assert Bounds(fleet, asked, BOTH).refused(Choice((("l4", 1),))) == 1
