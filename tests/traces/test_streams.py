import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.domain.workloads import Arrival
from repertory.traces.streams import (
    DAY_S,
    Bursts,
    LogNormal,
    RateCurve,
    Stream,
    luck,
    merged,
    power_law,
)

_PROMPT, _OUTPUT = LogNormal(100, 0.5), LogNormal(20, 0.5)


def _flat(rate_per_s: float) -> RateCurve:
    return RateCurve(DAY_S, np.array([rate_per_s]))


def _stream(
    rate_per_s: float, cv: float = 1.0, bursts: Bursts | None = None, name: str = "a"
) -> Stream:
    return Stream(name, name, _flat(rate_per_s), _PROMPT, _OUTPUT, cv=cv, bursts=bursts)


def _times(stream: Stream, seed: int = 0, days: tuple[int, int] = (0, 0)) -> list[float]:
    return [one.at_s for one in stream.arrivals(seed, days)]


def _cv(times_s: list[float]) -> float:
    gaps = np.diff(times_s)
    return float(gaps.std() / gaps.mean())


@settings(deadline=None)
@given(
    rates=st.lists(st.floats(0.0, 0.2), min_size=1, max_size=30),
    is_linear=st.booleans(),
    cv=st.floats(0.3, 4),
    has_bursts=st.booleans(),
    seed=st.integers(0, 2**64),
)
def test_a_stream_is_in_order_and_within_its_days(
    rates: list[float], is_linear: bool, cv: float, has_bursts: bool, seed: int
) -> None:
    curve = RateCurve(7_200.0, np.array(rates), is_linear)
    bursts = Bursts(3_600.0, 600.0, 0.2) if has_bursts else None
    stream = Stream("a", "m", curve, _PROMPT, _OUTPUT, cv=cv, bursts=bursts)
    found = list(stream.arrivals(seed, (3, 4)))
    assert all(before.at_s <= after.at_s for before, after in pairwise(found))
    assert all(0 <= one.at_s <= 2 * DAY_S for one in found)
    assert all(one.prompt_tokens >= 1 and one.output_tokens >= 1 for one in found)
    expected = stream.mean_per_s((3, 4)) * 2 * DAY_S
    if not has_bursts:
        # Six standard deviations of a renewal process, and two days' beginnings.
        assert abs(len(found) - expected) <= 6 * (cv * math.sqrt(expected) + 2 * cv**2) + 12


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
def test_the_gaps_have_the_cv_that_was_asked_for(cv: float) -> None:
    times_s = _times(_stream(0.5, cv))
    assert _cv(times_s) == pytest.approx(cv, rel=0.08)
    assert len(times_s) == pytest.approx(0.5 * DAY_S, rel=0.06)


def test_a_curve_is_followed() -> None:
    rates = np.array([0.1, 0.9, 0.4, 0.0])
    for is_linear in (False, True):
        curve = RateCurve(DAY_S / 4, rates, is_linear)
        stream = Stream("a", "m", curve, _PROMPT, _OUTPUT)
        counts, _ = np.histogram(_times(stream), bins=8, range=(0, DAY_S))
        knots, left, right = curve.pieces(0, DAY_S)
        middles = (knots[:-1] + knots[1:]) / 2
        halves = np.sort(
            np.concatenate((knots[:-1] / 2 + middles / 2, middles / 2 + knots[1:] / 2))
        )
        expected = curve.at(halves) * DAY_S / 8
        assert counts == pytest.approx(expected, rel=0.06, abs=100)
        assert curve.mean_per_s == pytest.approx(float(((left + right) / 2).mean()))


def test_a_curve_that_is_moved_is_later() -> None:
    curve = RateCurve(DAY_S, np.arange(7.0))
    moved = curve.later(2 * DAY_S)
    assert moved.at(np.array([2.5 * DAY_S])) == curve.at(np.array([0.5 * DAY_S]))
    assert curve.times(3).mean_per_s == pytest.approx(9.0)


def test_bursts_keep_the_mean_and_raise_the_cv() -> None:
    bursts = Bursts(calm_s=900.0, burst_s=100.0, calm_factor=0.0)
    assert bursts.burst_factor == pytest.approx(10.0)
    times_s = _times(_stream(0.5, bursts=bursts), days=(0, 6))
    assert len(times_s) == pytest.approx(0.5 * 7 * DAY_S, rel=0.2)
    assert _cv(times_s) > 2.5


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    stream = _stream(0.01)
    assert list(stream.arrivals(1, (0, 1))) == list(stream.arrivals(1, (0, 1)))
    assert _times(stream, 1) != _times(stream, 2)


def test_some_days_are_the_same_alone_as_among_others() -> None:
    stream = _stream(0.01, cv=2.0)
    whole = _times(stream, days=(0, 4))
    alone = _times(stream, days=(2, 3))
    among = [at_s - 2 * DAY_S for at_s in whole if 2 * DAY_S <= at_s < 4 * DAY_S]
    assert alone == pytest.approx(among, abs=2e-6)


def test_adding_a_stream_changes_no_other() -> None:
    one, other = _stream(0.01), _stream(0.02, name="b")
    both = merged([one.arrivals(5, (0, 0)), other.arrivals(5, (0, 0))])
    assert [each for each in both if each.model == "a"] == list(one.arrivals(5, (0, 0)))


def test_streams_of_one_seed_are_not_alike() -> None:
    counts = [np.histogram(_times(_stream(0.05, name=name)), 96, (0, DAY_S))[0] for name in "ab"]
    assert abs(np.corrcoef(counts)[0, 1]) < 0.4
    assert luck(0, "a", "bc").random() != luck(0, "ab", "c").random()


def test_thinning_keeps_the_share_and_the_shape() -> None:
    stream = _stream(1.0, cv=3.0)
    whole = _times(stream)
    thin = [one.at_s for one in stream.arrivals(0, (0, 0), 0.1)]
    assert set(thin) <= set(whole)
    assert len(thin) == pytest.approx(len(whole) / 10, rel=0.05)
    counts = [np.histogram(some, 24, (0, DAY_S))[0] for some in (whole, thin)]
    assert counts[1] == pytest.approx(counts[0] / 10, rel=0.25)


@given(st.lists(st.lists(st.floats(0, 100)).map(sorted), max_size=6))
def test_merged_streams_are_in_order_and_ties_are_the_earlier_streams(
    streams: list[list[float]],
) -> None:
    made = [
        [Arrival(at_s, str(place), 1, 1) for at_s in times] for place, times in enumerate(streams)
    ]
    found = [(one.at_s, one.model) for one in merged(made)]
    assert found == sorted((one.at_s, one.model) for some in made for one in some)


def test_merging_takes_no_more_than_it_needs() -> None:
    def endless(model: str) -> object:
        at = 0
        while True:
            at += 1
            yield Arrival(float(at), model, 1, 1)

    both = merged([endless("a"), endless("b")])  # type: ignore[list-item]
    assert [next(both).model for _ in range(4)] == ["a", "b", "a", "b"]


def test_popularity_is_a_power_law() -> None:
    shares = power_law(16, 2.0)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[0] / shares[3] == pytest.approx(16.0)
    assert power_law(4, 0.0) == pytest.approx(0.25)
