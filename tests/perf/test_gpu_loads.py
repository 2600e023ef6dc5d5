"""Loads and wakes of GPU engines: a fixed part and bytes over a bandwidth."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sim.loads import published_readings
from repertory.perf.gpu_loads import (
    LAWS,
    SLEEPS,
    LoadReading,
    SleepLaw,
    Way,
    fit_load,
    fit_sleeps,
    left_out,
)

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


def _sleep(operation: str, gb: float, law: SleepLaw, gpus: int = 1) -> LoadReading:
    name, way = f"{gb:g}", Way("a", "b", operation)
    return LoadReading(way, name, gb * 1e9 / gpus, law.seconds(gb * 1e9), gpus)


@given(st.floats(0.01, 10.0), st.floats(0.01, 10.0), st.floats(0.3, 1.2))
def test_sleeping_and_waking_have_one_power_of_the_whole_models_bytes(
    down_s: float, up_s: float, power: float
) -> None:
    down, up = SleepLaw(down_s, power), SleepLaw(up_s, power)
    readings = [_sleep("wake_L1", gb, up) for gb in (1.5, 8.0)]
    readings += [_sleep("wake_L1", 236, up, gpus=4), _sleep("sleep_L1", 61, down)]
    laws = fit_sleeps(readings)
    assert laws[readings[0].way].seconds(30e9) == pytest.approx(up.seconds(30e9))
    alone = laws[readings[-1].way]
    assert alone.seconds(5e9) == pytest.approx(down.seconds(5e9)), "its one reading is enough"


def test_of_one_size_nothing_is_said_of_sleeps() -> None:
    assert fit_sleeps([_sleep("wake_L1", 8, SleepLaw(1.0, 0.5))]) == {}


def test_who_is_left_out_is_left_out_of_all_ways() -> None:
    """What it took to sleep says nothing then of what it takes to wake."""
    law = SleepLaw(0.2, 0.6)
    readings = [_sleep(way, gb, law) for way in ("sleep_L1", "wake_L1") for gb in (1.5, 8, 61)]
    strange = LoadReading(readings[0].way, "61", 61e9, 1e6)
    swayed = left_out([strange if one == readings[2] else one for one in readings])
    assert swayed[readings[-1].way]["61"] == pytest.approx(0.0, abs=1e-9)
    assert swayed[readings[-1].way]["8"] > 0.1, "but it sways who is predicted by it"


def test_the_laws_of_sleeps_are_those_of_the_published_times() -> None:
    if not _FOLDER.is_dir():
        pytest.skip(f"{_FOLDER} is not here")
    some = {way.operation for way in SLEEPS}
    fitted = fit_sleeps(one for one in published_readings(_FOLDER) if one.way.operation in some)
    assert set(fitted) == set(SLEEPS)
    for way, law in SLEEPS.items():
        for size in (1.5e9, 60e9, 236e9):
            assert law.seconds(size) == pytest.approx(fitted[way].seconds(size), rel=0.01)
