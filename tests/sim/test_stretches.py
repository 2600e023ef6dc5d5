"""Where a workload is busiest, against every stretch of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.errors import ConfigError
from repertory.domain.workloads import Arrival
from repertory.sim.planning.stretches import busiest


@dataclass(frozen=True, eq=False)
class Listed:
    """A workload that is a list."""

    rows: Sequence[Arrival]
    name: str = "listed"

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        return iter(self.rows)


def asks(*times_s: float, tokens: int = 8) -> Listed:
    return Listed([Arrival(at_s, "ab"[at % 2], tokens, 1) for at, at_s in enumerate(times_s)])


def test_the_stretch_with_the_most_work_per_second_is_found() -> None:
    asked = busiest(asks(0, 10, 20, 21, 22, 40), 0, 3)
    assert (asked.stretch.begin_s, asked.stretch.span_s, asked.stretch.requests) == (20.0, 2.0, 3)
    assert (asked.whole_requests, asked.whole_s) == (6, 40.0)
    assert [one.at_s for one in asked.stretch.arrivals(0)] == [0.0, 1.0, 2.0]


def test_work_is_tokens_an_answers_weigh_eight_times_a_prompts() -> None:
    """Of two pairs a second apart: 80 of a prompt are 10 of an answer."""
    pairs = [(0, 8, 10), (1, 8, 10), (50, 96, 1), (51, 96, 1)]
    rows = [Arrival(float(at_s), "a", prompt, output) for at_s, prompt, output in pairs]
    assert busiest(Listed(rows), 0, 2).stretch.begin_s == 50.0
    rows = [
        Arrival(one.at_s, "a", one.prompt_tokens, one.output_tokens + (one.at_s < 9) * 3)
        for one in rows
    ]
    assert busiest(Listed(rows), 0, 2).stretch.begin_s == 0.0


def test_of_equals_the_first_is_taken() -> None:
    assert busiest(asks(5, 6, 20, 21, 40, 41), 0, 2).stretch.begin_s == 0.0
    assert busiest(asks(0, 5, 20, 21, 40, 41), 0, 2).stretch.begin_s == 20.0


def test_a_short_workload_is_one_stretch_from_its_beginning() -> None:
    asked = busiest(asks(5, 6, 15), 0, 100)
    assert (asked.stretch.begin_s, asked.stretch.span_s, asked.stretch.requests) == (0.0, 15.0, 3)
    found = {name: (one.prompt.tolist(), one.output.tolist()) for name, one in asked.models.items()}
    assert found == {"a": ([8, 8], [1, 1]), "b": ([8], [1])}


def test_models_outside_of_the_stretch_are_not_asked_for() -> None:
    rows = [Arrival(0.0, "night", 8, 1), *asks(100, 100.1, 100.2).rows]
    assert set(busiest(Listed(rows), 0, 3).models) == {"a", "b"}


def test_the_first_tenth_warms_up_and_load_makes_all_of_it_shorter() -> None:
    asked = busiest(asks(*range(21)), 0, 21)
    assert asked.stretch.warm_s == 2.0
    assert asked.counted == 19, "from 2 s on"
    faster = type(asked.stretch)(asked.stretch.workload, 0.0, 20.0, 21, load=4.0)
    assert faster.warm_s == 0.5
    assert [one.at_s for one in faster.arrivals(0)][-2:] == [4.75, 5.0]


def test_a_workload_of_nothing_is_an_error_by_its_name() -> None:
    with pytest.raises(ConfigError, match="listed: there are no requests in it"):
        busiest(Listed([]), 0, 5)


def test_what_is_played_is_what_was_measured_where_many_come_at_once() -> None:
    """The stretch begins in the middle of an instant; all of that instant come."""
    asked = busiest(asks(1, 5, 5, 5, 5.5, 90), 0, 3)
    played = list(asked.stretch.arrivals(0))
    assert sum(one.prompt.sum() for one in asked.models.values()) == sum(
        one.prompt_tokens for one in played
    )
    assert asked.stretch.span_s == played[-1].at_s


@given(
    gaps_s=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    requests=st.integers(1, 50),
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=5),
)
def test_what_is_counted_of_a_stretch_is_what_is_played_of_it(
    gaps_s: list[int], requests: int, sizes: list[int]
) -> None:
    at_s, rows = 0.0, []
    for number, gap_s in enumerate(gaps_s):
        at_s += gap_s
        rows.append(Arrival(at_s, f"m{number % 3}", sizes[number % len(sizes)], 1 + number % 7))
    asked = busiest(Listed(rows), 0, requests)
    count = min(requests, len(rows))
    played = list(asked.stretch.arrivals(0))
    assert len(played) == count == asked.stretch.requests
    found = {name: (one.prompt.sum(), one.output.sum()) for name, one in asked.models.items()}
    wanted: dict[str, tuple[int, int]] = {}
    for one in played:
        prompt, output = wanted.get(one.model, (0, 0))
        wanted[one.model] = (prompt + one.prompt_tokens, output + one.output_tokens)
    assert found == wanted
    assert asked.stretch.span_s == pytest.approx(played[-1].at_s)
    assert asked.counted == sum(one.at_s >= asked.stretch.warm_s for one in played)


def test_a_stretch_is_made_once_for_each_seed_and_played_again_from_memory() -> None:
    """At any load."""
    opened = []

    class Counted(Listed):
        def arrivals(self, seed: int) -> Iterator[Arrival]:
            opened.append(seed)
            return super().arrivals(seed)

    stretch = busiest(Counted(asks(0, 1, 2, 3).rows), 7, 3).stretch
    opened.clear()
    faster = replace(stretch, load=2.0)
    for seed in (7, 8):
        assert [one.at_s for one in stretch.arrivals(seed)] == [0.0, 1.0, 2.0]
        assert [one.at_s for one in faster.arrivals(seed)] == [0.0, 0.5, 1.0]
    assert opened == [7, 8]
