import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from repertory.policy.forecast import FORECASTERS

_DAY = 4


def said(name: str, *counts: float, ahead: int = 1) -> float:
    return FORECASTERS[name](np.array(counts, dtype=np.float64), ahead, _DAY)


def test_persistence_says_as_now() -> None:
    assert said("persistence", 5, 1, 2, ahead=3) == 2


def test_ewma_halves_with_every_window() -> None:
    assert said("EWMA", 0, 0, 7) == pytest.approx(4.0)  # 7 of 1 + 1/2 + 1/4


def test_the_same_time_a_day_before() -> None:
    counts = 1, 2, 3, 4, 10, 20
    assert said("seasonal naive", *counts) == 3
    assert said("seasonal naive", *counts, ahead=2) == 4
    assert said("seasonal naive", 9, 8) == 8  # no day is known


def test_the_mean_of_that_time_of_day() -> None:
    counts = 1, 2, 3, 4, 10, 20, 5, 6, 7
    assert said("seasonal mean", *counts) == pytest.approx(11)  # 2 and 20
    assert said("seasonal mean", *counts, ahead=4) == pytest.approx(6)  # 1, 10 and 7


def test_warmserves_is_the_mean_of_that_time_corrected_by_what_the_last_were_off() -> None:
    counts = 10, 20, 30, 40, 12, 26
    # 30, and it was off by +6 just now and +2 before that: (6 + 2 / 2) / (1 + 1 / 2).
    assert said("WarmServe's", *counts) == pytest.approx(30 + 7 / 1.5)


def test_level_and_season_goes_by_how_that_time_stands_to_the_last_ones() -> None:
    counts = 10, 20, 30, 40, 20, 40, 60
    # The level is 40 where it was 20 a day before: 40 becomes 80.
    assert said("level x season", *counts) == pytest.approx(80)


@pytest.mark.parametrize("name", FORECASTERS)
@given(
    counts=some.lists(some.floats(0, 1e6), min_size=1, max_size=30), ahead=some.integers(1, _DAY)
)
def test_a_forecast_is_a_number_and_never_negative(
    name: str, counts: list[float], ahead: int
) -> None:
    found = said(name, *counts, ahead=ahead)
    assert np.isfinite(found)
    assert found >= 0


@pytest.mark.parametrize("name", FORECASTERS)
def test_what_is_always_the_same_stays_so(name: str) -> None:
    assert said(name, *[5.0] * 12, ahead=3) == pytest.approx(5.0)
