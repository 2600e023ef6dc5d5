"""The additive law on published and measured sweeps, and its own properties."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repertory.perf.divided import share_of
from repertory.perf.offload import OffloadLaw, Point, fit
from repertory.perf.profiles import Law

LAYERS = 16
HEAD = 2.8
"""Layers of bytes in the output head of a 300M (facts.md)."""
SWEEPS = {
    "q8_0": {0: 28.9, 4: 35.5, 8: 46.2, 12: 60.5, 16: 87.3, 17: 97.5},
    "q4_0": {0: 12.1, 4: 16.4, 8: 22.3, 12: 34.5, 16: 80.7, 17: 120.0},
}
"""Decode tok/s of a 300M on the asymmetric pair, by layers on the device (facts.md)."""


def points_of(sweep: dict[int, float]) -> list[Point]:
    head, layers = round(1000 * HEAD), 1000 * LAYERS
    return [
        Point(share_of(max(0, k - 1), LAYERS, head, layers), 64, 1.0 / speed)
        for k, speed in sweep.items()
    ]


@pytest.mark.parametrize("weights", SWEEPS)
def test_two_measured_points_give_the_curve_within_six_percent(weights: str) -> None:
    points = points_of(SWEEPS[weights])
    law = fit([points[0], points[-1]]).law
    for one in points:
        assert law.seconds(one.share, 64) == pytest.approx(one.seconds, rel=0.06)


@pytest.mark.parametrize("weights", SWEEPS)
def test_more_points_report_a_residual_as_stated(weights: str) -> None:
    """1.0 % (q4_0) to 4.2 % (q8_0) in facts.md."""
    fitted = fit(points_of(SWEEPS[weights]))
    assert fitted.points == 6
    assert fitted.residual < 0.043


@pytest.mark.parametrize(
    ("rho", "at_90_percent"), [(7.7, 0.60), (3.5, 0.80)], ids=["Llama 3 8B", "Llama 2 70B"]
)
def test_the_papers_readings_follow_from_one_ratio(rho: float, at_90_percent: float) -> None:
    """papers.md §1.3: 60 and 80 % of the full speed at 90 % of the layers."""
    law = OffloadLaw(Law(1.0, 0.0), Law(rho, 0.0))
    assert law.normalised(0.9, 0) == pytest.approx(at_90_percent, abs=0.01)
    assert law.gap(0) == rho


def test_the_head_is_the_first_to_go() -> None:
    assert share_of(0, 16, 28, 160) == 0.0
    assert share_of(1, 16, 28, 160) == (28 + 10) / 188
    assert share_of(16, 16, 28, 160) == 1.0
    with pytest.raises(AssertionError):
        share_of(17, 16, 28, 160)


COEFFICIENT = st.floats(1e-4, 1e-1)
LAWS = st.builds(
    OffloadLaw,
    st.builds(Law, COEFFICIENT, st.floats(0, 1e-5)),
    st.builds(Law, COEFFICIENT, st.floats(0, 1e-4)),
    st.floats(0, 1e-3),
)


@given(law=LAWS)
@example(law=OffloadLaw(Law(0.0625, 0.0), Law(0.078125, 5.5e-11)))  # it took this for no growth
def test_a_law_is_found_again_in_its_own_points(law: OffloadLaw) -> None:
    points = [
        Point(share, tokens, law.seconds(share, tokens))
        for share in (0.0, 0.25, 0.5, 0.9, 1.0)
        for tokens in (50, 500, 5000)
    ]
    fitted = fit(points)
    assert fitted.residual < 1e-6
    for share, tokens in ((0.1, 100), (0.7, 2000), (0.97, 4000)):
        assert fitted.law.seconds(share, tokens) == pytest.approx(law.seconds(share, tokens))


@given(law=LAWS, tokens=st.integers(0, 8192), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_where_the_host_is_slower_more_on_the_device_is_never_slower_but_for_the_crossing(
    law: OffloadLaw, tokens: int, shares: tuple[float, float]
) -> None:
    less, more = sorted(shares)
    if law.gap(tokens) >= 1.0:
        assert law.seconds(more, tokens) <= law.seconds(less, tokens) + law.crossing_s + 1e-12
