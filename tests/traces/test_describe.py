import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.workloads import Arrival
from repertory.traces.describe import Histogram, describe


def _every(step_s: float, count: int, model: str = "a") -> list[Arrival]:
    return [Arrival(at * step_s, model, 100, 20) for at in range(count)]


def test_a_clockwork_is_described() -> None:
    found = describe(_every(2.0, 10_001))
    assert found.total.requests == 10_001
    assert found.total.mean_per_s == pytest.approx(0.5, rel=1e-3)
    assert found.total.peak_per_s == pytest.approx(0.5)
    assert found.total.gap_cv == pytest.approx(0.0, abs=1e-6)
    assert found.total.longest_gap_s == pytest.approx(2.0)
    assert found.total.prompt_mean_tokens == 100
    assert found.total.prompt_p50_tokens == pytest.approx(100, rel=0.03)
    assert found.repeated == 0
    assert int(found.timeline.counts["a"].sum()) == 10_001


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.sampled_from("abc")), min_size=1, max_size=400).map(
        sorted
    )
)
def test_models_add_up_and_minutes_are_counted(rows: list[tuple[float, str]]) -> None:
    found = describe(Arrival(at_s, model, 10, 5) for at_s, model in rows)
    assert sum(one.requests for one in found.models) == len(rows)
    minutes = np.unique([at_s // 60 for at_s, _ in rows], return_counts=True)[1]
    assert found.total.peak_per_s == pytest.approx(minutes.max() / 60)
    gaps = np.diff([at_s for at_s, _ in rows])
    if len(gaps):
        assert found.total.longest_gap_s == pytest.approx(gaps.max())
    assert sum(int(one.sum()) for one in found.timeline.counts.values()) == len(rows)


@given(st.lists(st.integers(1, 10_000_000), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_within_its_bin(values: list[int], share: float) -> None:
    histogram = Histogram()
    histogram.add(np.array(values, dtype=np.float64))
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.03)


def test_a_trace_that_was_joined_twice_is_told() -> None:
    rows = [one for one in _every(1.0, 50) for _ in range(2)]
    assert describe(rows).repeated == 50


def test_no_requests_and_a_model_for_each_request_are_refused() -> None:
    with pytest.raises(ValueError, match="no requests"):
        describe([])
    with pytest.raises(ValueError, match="over 20,000 models"):
        describe(Arrival(float(at), f"r-{at}", 1, 1) for at in range(20_001))
    assert Histogram().quantile(0.5) is None
