"""The fluid queue by which another replica is weighed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.policy.places.spread import Flow, saved_s, share_asked

PACE = st.floats(0.01, 50.0)


def stepped_s(flow: Flow, more_per_s: float, from_s: float, until_s: float) -> float:
    """The same area, walked in small steps."""
    waits, waiting, steps = 0.0, flow.waiting, 20_000
    for at in range(steps):
        waits += waiting * until_s / steps
        served = flow.served_per_s + (more_per_s if at * until_s / steps >= from_s else 0.0)
        waiting = max(0.0, waiting + (flow.arrivals_per_s - served) * until_s / steps)
    return waits


@pytest.mark.parametrize("waiting", [1.0, 8.0, 100.0])
@pytest.mark.parametrize("arrivals", [0.0, 1.0, 3.0])
def test_it_is_the_area_under_the_queue(waiting: float, arrivals: float) -> None:
    flow = Flow(waiting, arrivals, 2.0)
    walked = stepped_s(flow, 0.0, 0.0, 60.0) - stepped_s(flow, 1.5, 2.0, 60.0)
    assert saved_s(flow, 1.5, 2.0, 60.0) == pytest.approx(walked, rel=0.01, abs=0.05)


def test_what_drains_before_that_saves_nothing() -> None:
    assert saved_s(Flow(3.0, 0.0, 2.0), 10.0, 1.5, 60.0) == 0.0
    assert saved_s(Flow(3.0, 0.0, 2.0), 10.0, 1.4, 60.0) > 0.0


def test_of_a_queue_that_only_grows_no_more_is_counted_than_until_then() -> None:
    assert saved_s(Flow(1.0, 9.0, 1.0), 1.0, 0.0, 10.0) == pytest.approx(50.0)
    assert saved_s(Flow(1.0, 9.0, 1.0), 1.0, 60.0, 60.0) == 0.0


@given(st.floats(0.0, 100.0), PACE, PACE, PACE, st.floats(0.0, 30.0), st.floats(0.1, 30.0))
def test_more_and_sooner_never_saves_less(
    waiting: float, arrivals: float, served: float, more: float, from_s: float, later_s: float
) -> None:
    flow = Flow(waiting, arrivals, served)
    saved = saved_s(flow, more, from_s, 60.0)
    slack = 1e-6 * (1.0 + abs(saved))
    assert saved >= -slack
    assert saved_s(flow, 2 * more, from_s, 60.0) >= saved - slack
    assert saved_s(flow, more, from_s + later_s, 60.0) <= saved + slack
    assert saved_s(flow, math.inf, from_s, 60.0) >= saved - slack


def test_who_cannot_keep_up_is_asked_for_all_of_the_time() -> None:
    assert share_asked(1.0, 4.0) == 0.25
    assert share_asked(5.0, 4.0) == share_asked(1.0, 0.0) == 1.0
