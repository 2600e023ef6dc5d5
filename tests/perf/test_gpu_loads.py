"""Loads and wakes of GPU engines: a fixed part and bytes over a bandwidth."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.loads import published_readings
from repertory.perf.gpu_loads import LAWS, LoadReading, Way, fit_load, left_out

_FOLDER = Path("../shared/data/loadtimes")
_WAY = Way("a", "b", "c")


@given(st.floats(0, 100), st.floats(1e-12, 1e-8))
def test_a_line_is_found_again(fixed_s: float, s_per_byte: float) -> None:
    sizes = (1e9, 8e9, 61e9)
    law = fit_load([LoadReading(_WAY, str(x), x, fixed_s + x * s_per_byte) for x in sizes])
    for size in sizes:
        assert law.seconds(size) == pytest.approx(fixed_s + size * s_per_byte, rel=1e-3)


def test_of_one_size_all_is_bandwidth() -> None:
    law = fit_load([LoadReading(_WAY, "x", 10e9, 2.0), LoadReading(_WAY, "y", 10e9, 2.0)])
    assert law.fixed_s == 0.0
    assert law.seconds(20e9) == pytest.approx(4.0)


def test_no_part_is_negative() -> None:
    down = fit_load([LoadReading(_WAY, "x", 1e9, 4.0), LoadReading(_WAY, "y", 9e9, 2.0)])
    assert down.s_per_byte == 0.0
    steep = fit_load([LoadReading(_WAY, "x", 1e9, 0.1), LoadReading(_WAY, "y", 2e9, 9.0)])
    assert steep.fixed_s == 0.0


def test_a_way_of_one_model_predicts_nothing() -> None:
    assert left_out([LoadReading(_WAY, "x", 1e9, 4.0)]) == {}


def test_the_laws_are_those_of_the_published_times() -> None:
    if not _FOLDER.is_dir():
        pytest.skip(f"{_FOLDER} is not here")
    readings = published_readings(_FOLDER)
    for way, law in LAWS.items():
        fitted = fit_load([one for one in readings if one.way == way])
        for size in (10e9, 60e9):
            assert law.seconds(size) == pytest.approx(fitted.seconds(size), rel=0.01)
