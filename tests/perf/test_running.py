"""A law that follows its readings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.perf.profiles import Law
from repertory.perf.running import RunningLaw

SIZES = st.lists(st.floats(1.0, 1e9), min_size=2, max_size=40)


def learned(*readings: tuple[float, float], begins_at_zero: bool = True) -> Law:
    running = RunningLaw(begins_at_zero=begins_at_zero)
    for units, seconds in readings:
        running.note(units, seconds)
    assert running.law is not None
    return running.law


def test_nothing_is_known_before_the_first_reading() -> None:
    assert RunningLaw(begins_at_zero=True).law is None


def test_readings_of_one_size_tell_a_total_not_its_parts() -> None:
    assert learned((100.0, 2.0), (100.0, 2.0)) == Law(0.0, 0.02)
    assert learned((100.0, 2.0), (100.0, 2.0), begins_at_zero=False) == Law(2.0, 0.0)
    assert learned((0.0, 3.0)) == Law(3.0, 0.0)


@given(sizes=SIZES, fixed=st.floats(0.0, 1.0), per_unit=st.floats(1e-9, 1e-3))
def test_a_line_is_found_again(sizes: list[float], fixed: float, per_unit: float) -> None:
    law = learned(*((one, fixed + one * per_unit) for one in sizes))
    if max(sizes) > 2 * min(sizes):
        for one in sizes:
            assert law.seconds(one) == pytest.approx(fixed + one * per_unit, rel=0.05)


@given(
    readings=st.lists(
        st.tuples(st.floats(0.0, 1e9), st.floats(1e-6, 1e3)), min_size=1, max_size=40
    ),
    begins_at_zero=st.booleans(),
)
def test_what_would_be_negative_is_zero(
    readings: list[tuple[float, float]], begins_at_zero: bool
) -> None:
    law = learned(*readings, begins_at_zero=begins_at_zero)
    assert law.fixed_s >= 0.0
    assert law.per_unit_s >= 0.0


def test_the_newest_readings_count_most() -> None:
    slow = [(size, size / 1e9) for size in (1e6, 2e6, 4e6)] * 20
    quick = [(size, size / 1e10) for size in (1e6, 2e6, 4e6)] * 20
    assert learned(*slow, *quick).seconds(3e6) == pytest.approx(3e-4, rel=0.1)
    assert learned(*quick, *slow).seconds(3e6) == pytest.approx(3e-3, rel=0.9)


def test_one_outlier_is_outvoted() -> None:
    usual = [(size, 1e-4 + size / 1e9) for size in (1e6, 2e6, 4e6)] * 5
    outlier = (2e6, 7 * (1e-4 + 2e6 / 1e9))
    assert learned(*usual, outlier).seconds(3e6) == pytest.approx(3.1e-3, rel=0.1)
