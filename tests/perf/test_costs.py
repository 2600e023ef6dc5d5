"""Laws, ratios, and where a prediction comes from."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.core.costbook import CostBook
from repertory.core.demand import ArrivalRate, OutputLength
from repertory.domain.ladder import Edge, Rung
from repertory.domain.specs import DeviceSpec, KvShape, Placement, WeightsForm
from repertory.perf.bytes import MIN_CELLS, kv_bytes, power_of_two, shape_for, weights_footprint
from repertory.perf.costs import (
    GUESSED,
    Estimated,
    Grounds,
    Observed,
    Ratio,
    grounds_of,
    learn,
    predict,
    telling,
    weakest,
)
from repertory.perf.profiles import Law, prior_profile
from worlds import GIB, MIB, model

PLAIN, REPACKED = WeightsForm.PLAIN, WeightsForm.REPACKED
CPU = DeviceSpec("cpu0", 8 * GIB, cores=2)
HERE = Placement((CPU.id,))


def test_a_law_is_fixed_plus_per_unit() -> None:
    assert Law(2.0, 0.5).seconds(4) == 4.0


def test_the_first_observation_is_taken_as_it_is_later_ones_are_blended_and_clipped() -> None:
    first = learn(None, 2.0, 1.0)
    assert first == Ratio(2.0, 1)
    second = learn(first, 1.0, 1.0)
    assert second.value == pytest.approx(1.7)
    outlier = learn(second, 1000.0, 1.0)
    assert outlier.value == pytest.approx(1.7 + 0.3 * (8 - 1) * 1.7)


def test_a_ratio_of_others_improves_an_estimate_but_is_no_observation() -> None:
    assert predict(1.0, None, None) == Estimated(1.0)
    assert predict(1.0, None, Ratio(3.0, 9)) == Estimated(3.0)
    assert predict(1.0, Ratio(2.0, 4), Ratio(3.0, 9)) == Observed(2.0, 4)
    assert (Estimated(1.0).basis, Observed(1.0, 1).basis) == ("prior", "measured")


@pytest.mark.parametrize("own", [None, Ratio(2.0, 4, 0.2)])
@pytest.mark.parametrize("profiled", [None, 0.1])
def test_grounds_are_those_of_the_prediction(own: Ratio | None, profiled: float | None) -> None:
    found = predict(1.0, own, Ratio(3.0, 9), profiled)
    assert grounds_of(own, profiled) == (found.basis, found.error)


def test_a_sum_rests_on_the_least_certain_of_its_parts() -> None:
    read, fitted = Grounds("measured", 0.5), Grounds("profile", 0.1)
    assert weakest(read, fitted) == fitted
    assert weakest(fitted, GUESSED, read) == GUESSED
    assert weakest(read, Grounds("measured", 0.1)) == read, "of equals, whose error is larger"


def test_a_cost_book_predicts_by_prior_and_then_by_what_was_measured() -> None:
    a, b = model("a"), model("b", 2 * GIB)
    costs = CostBook()
    costs.add(a)
    costs.add(b)
    law_s = prior_profile(a, CPU).load[PLAIN, Rung.DISK].seconds(a.weights_bytes)
    assert costs.load(a, HERE, Rung.DISK).basis == "prior"
    costs.observe_load(a, HERE, Rung.DISK, 2 * law_s)
    assert costs.load(a, HERE, Rung.DISK) == Observed(pytest.approx(2 * law_s), 1)
    prior_s = prior_profile(b, CPU).load[PLAIN, Rung.DISK].seconds(b.weights_bytes)
    assert costs.load(b, HERE, Rung.DISK) == Estimated(pytest.approx(2 * prior_s))
    assert costs.load_s(b, HERE, Rung.DISK) == pytest.approx(2 * prior_s)
    costs.forget("a")
    costs.add(a)
    assert costs.load(a, HERE, Rung.DISK).basis == "prior"


def test_every_kind_of_work_is_learned() -> None:
    spec = model("a")
    costs = CostBook()
    costs.add(spec)
    kv = KvShape(4, 1024)
    for edge in (Edge.ACTIVATE, Edge.DEACTIVATE, Edge.UNLOAD, Edge.DROP):
        costs.observe(spec, HERE, edge, kv, 1.0)
    assert costs.activate(spec, HERE, kv) == Observed(pytest.approx(1.0), 1)
    assert costs.activate_s(spec, HERE, kv) == pytest.approx(1.0)
    assert costs.free(spec, HERE, Edge.UNLOAD) == Observed(pytest.approx(1.0), 1)
    before_s = costs.work_s(spec, HERE, 100, 10)
    costs.observe_generation(spec, HERE, (100, 100.0), (10, 100.0), 4)
    assert costs.work_s(spec, HERE, 100, 10) > before_s
    assert costs.batch_factor(spec, HERE, 1) > costs.batch_factor(spec, HERE, 8)


@pytest.mark.parametrize("batch", [1, 4, 5.5, 16])
def test_steps_as_long_as_the_law_says_teach_nothing_whatever_their_batch(batch: float) -> None:
    spec, costs = model("a"), CostBook()
    costs.add(spec)
    before_s = costs.work_s(spec, HERE, 100, 10)
    taken_s = 10 * prior_profile(spec, CPU).decode_s(PLAIN, batch, batch * 5)
    costs.observe_generation(spec, HERE, (0, 0.0), (10, taken_s), batch)
    assert costs.work_s(spec, HERE, 100, 10) == pytest.approx(before_s)


def test_bytes_are_split_over_the_devices_and_rounded_up() -> None:
    spec = model("a", GIB + 1, devices_per_replica=2)
    assert weights_footprint(spec, PLAIN).weights_bytes == GIB // 2 + 1
    assert kv_bytes(spec, KvShape(2, 256)) == 512 * spec.kv_bytes_per_token // 2


def test_a_repacked_load_rests_higher_and_peaks_a_little_higher() -> None:
    spec = model("a", 600 * MIB, repacked_bytes=590 * MIB)
    plain, repacked = weights_footprint(spec, PLAIN), weights_footprint(spec, REPACKED)
    assert plain.peak_bytes == 0
    assert repacked.peak_bytes == 590 * MIB // 16
    assert repacked.weights_bytes > plain.weights_bytes
    assert repacked.resting_bytes == repacked.weights_bytes + spec.buffers_bytes


def test_context_classes_are_powers_of_two_within_what_is_offered() -> None:
    spec = model("a", context_tokens=3000, max_sequences=6)
    assert [power_of_two(one) for one in (0, 1, 3, 4)] == [1, 1, 4, 4]
    assert shape_for(spec, 3, 300) == KvShape(4, 512)
    assert shape_for(spec, 1, 1) == KvShape(1, MIN_CELLS)
    assert shape_for(spec, 100, 2900) == KvShape(6, 3000)
    assert KvShape(4, 512).holds(KvShape(4, 256))
    assert not KvShape(4, 512).holds(KvShape(8, 256))


def test_a_rate_halves_in_its_half_life() -> None:
    rate = ArrivalRate(600.0, 0)
    watched_s = 20_000
    for at_s in range(watched_s):
        rate.count(at_s * 1_000_000_000)
    now = rate.per_s(watched_s * 1_000_000_000)
    assert now == pytest.approx(1.0, rel=1e-3)
    assert rate.per_s((watched_s + 600) * 1_000_000_000) == pytest.approx(now / 2)


def test_a_rate_is_over_the_time_that_was_watched() -> None:
    rate = ArrivalRate(600.0, 0)
    rate.count(0)
    assert rate.per_s(0) == pytest.approx(1 / 60, rel=0.05), "after a minute of silence"
    for at_s in range(10, 130, 10):
        rate.count(at_s * 1_000_000_000)
    assert rate.per_s(120_000_000_000) == pytest.approx(13 / 180, rel=0.05)


def test_a_model_that_comes_later_is_watched_from_then_on() -> None:
    """Else a server that has run for a day would take each new model for a quiet one."""
    day_ns = 86_400_000_000_000
    first, later = ArrivalRate(600.0, 0), ArrivalRate(600.0, day_ns)
    assert later.per_s(day_ns) == 0.0
    for at_s in (0, 3, 20, 21):
        first.count(at_s * 1_000_000_000)
        later.count(day_ns + at_s * 1_000_000_000)
    for at_s in (21, 100, 5000):
        now = first.per_s(at_s * 1_000_000_000)
        assert later.per_s(day_ns + at_s * 1_000_000_000) == pytest.approx(now)


def test_a_gap_tells_of_a_burst_at_once_and_grows_while_nothing_comes() -> None:
    rate = ArrivalRate(600.0, 0)
    for at_s in (0, 1, 2):
        rate.count(at_s * 1_000_000_000)
        assert rate.gap_s(at_s * 1_000_000_000) == math.inf, "too few to say"
    rate.count(3_000_000_000)
    assert rate.gap_s(4_000_000_000) == 1.0
    assert rate.gap_s(43_000_000_000) == 10.75


def test_output_length_is_a_running_median_with_a_prior() -> None:
    length = OutputLength(256)
    assert length.median_tokens == 256
    for tokens in (1, 2, 300):
        length.count(tokens)
    assert length.median_tokens == 2
    for _ in range(31):
        length.count(7)
    assert length.median_tokens == 7


def test_what_law_and_fixed_costs_tell_of_a_reading() -> None:
    """1. Beside larger fixed costs: nothing.  2. Beside those that are lost in its error: all.
    3. Between them by variances.
    """
    assert telling(1.0, 1.0, 0.6) == 0.0  # 1
    assert telling(20.0, 1.0, 0.3) == 1.0  # 2
    assert telling(2.0, 1.0, 0.5) == pytest.approx(0.5)  # 3
    assert telling(100.0, 5.0, 0.0) == telling(100.0, 5.0, 0.1) < 1.0, "readings scatter"


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.floats(0.0, 2.0), st.floats(1.0, 10.0))
def test_longer_readings_tell_more(
    law_s: float, fixed_s: float, error: float, longer: float
) -> None:
    assert 0.0 <= telling(law_s, fixed_s, error) <= telling(longer * law_s, fixed_s, error) <= 1.0


def test_of_what_tells_little_little_is_learned_and_no_drift_is_seen() -> None:
    first = learn(None, 3.0, 1.0, weight=0.25, believed=2.0)
    assert first.value == pytest.approx(2.25)
    assert learn(first, 4.25, 1.0, weight=0.5).value == pytest.approx(2.25 + 0.3 * 0.5 * 2.0)
    ratio: Ratio | None = Ratio(1.0, 9, 0.05)
    for _ in range(4):
        ratio = learn(ratio, 1.5, 1.0, weight=0.1)
        assert (ratio.run, ratio.has_drifted) == (0, False)


def test_three_in_a_row_beyond_chance_are_a_drift_and_the_newest_is_taken_as_if_it_were_first() -> (
    None
):
    ratio: Ratio | None = None
    for measured_s in (1.0, 1.05, 0.95, 1.0, 1.02, 0.98, 1.0, 1.0):
        ratio = learn(ratio, measured_s, 1.0)
    assert ratio is not None
    assert ratio.error < 0.1
    first = learn(ratio, 2.0, 1.0)
    second = learn(first, 2.0, 1.0)
    assert (first.run, second.run, second.has_drifted) == (1, 2, False)
    third = learn(second, 2.1, 1.0)
    assert third == Ratio(2.1, 1, has_drifted=True)
    assert learn(third, 2.1, 1.0).has_drifted is False, "it is said once"


def test_a_machine_that_became_slower_than_its_profile_is_a_drift_from_the_profile() -> None:
    """The first one corrects the prediction at once; that it was no outlier, the third one says."""
    first = learn(None, 4.0, 1.0, 0.05)
    assert (first.value, first.run, first.has_drifted) == (4.0, 1, False)
    second = learn(first, 4.2, 1.0, 0.05)
    assert not second.has_drifted
    third = learn(second, 4.1, 1.0, 0.05)
    assert third == Ratio(4.1, 1, has_drifted=True)
    assert not learn(third, 4.0, 1.0, 0.05).has_drifted, "it is said once"


def test_a_drift_is_taken_whole_also_where_one_reading_was_far_off() -> None:
    """A first load in a worker reads the vocabulary, too: what comes after it is a tenth of it."""
    ratio: Ratio | None = None
    for measured_s in (100.0, 4.0, 4.1):
        ratio = learn(ratio, measured_s, 1.0, 0.05)
    assert ratio == Ratio(4.1, 1, has_drifted=True)


def test_what_a_profile_explains_is_no_drift_and_a_prior_explains_everything() -> None:
    ratio: Ratio | None = None
    for measured_s in (1.2, 1.2, 1.2, 1.2):
        ratio = learn(ratio, measured_s, 1.0, 0.05)
        assert not ratio.has_drifted
    lone = learn(learn(None, 7.0, 1.0, 0.05), 1.0, 1.0, 0.05)
    assert (lone.run, lone.has_drifted) == (0, False)
    ratio = None
    for measured_s in (4.0, 4.2, 4.1, 4.0):
        ratio = learn(ratio, measured_s, 1.0)
        assert not ratio.has_drifted


def test_outliers_of_both_sides_or_with_others_between_them_are_no_drift() -> None:
    ratio = Ratio(1.0, 9, 0.05)
    for measured_s in (3.0, 3.0, 1.0, 3.0, 0.3, 3.0, 3.0, 1.0):
        ratio = learn(ratio, measured_s, 1.0)
        assert not ratio.has_drifted


def test_what_came_back_from_memory_makes_the_next_resume_shorter() -> None:
    spec, costs = model("a"), CostBook()
    costs.add_device(CPU)
    replay_s = costs.resume_s(spec, HERE, 1000, 100, one_by_one=False)
    assert costs.resume_s(spec, HERE, 1000, 100, one_by_one=True) > replay_s
    costs.observe_resume(spec, HERE, (1000, 100), replay_s / 20, one_by_one=False)
    assert costs.resume_s(spec, HERE, 1000, 100, one_by_one=False) == pytest.approx(replay_s / 20)
    assert costs.resume_s(spec, HERE, 2000, 100, one_by_one=False) < replay_s / 5


def test_the_last_that_is_taken_up_waits_for_those_before_it_and_that_makes_no_resume_longer() -> (
    None
):
    spec, costs = model("a"), CostBook()
    costs.add_device(CPU)
    law_s = costs.replay_s(spec, HERE, 60, 40, one_by_one=False)
    for ahead in range(16):
        took_s, ahead_s = 2.0 * (ahead + 1) * law_s, ahead * law_s
        costs.observe_resume(spec, HERE, (60, 40), took_s, one_by_one=False, ahead_s=ahead_s)
        alone_s = costs.resume_s(spec, HERE, 60, 40, one_by_one=False)
        assert alone_s == pytest.approx(2.0 * law_s)
        behind_s = costs.resume_s(spec, HERE, 60, 40, one_by_one=False, ahead_s=ahead_s)
        assert behind_s == pytest.approx(took_s)


def test_the_usual_length_of_an_answer_is_that_of_those_that_got_as_far() -> None:
    length = OutputLength(256)
    assert length.beyond(10) == 256
    assert length.beyond(300) is None
    for tokens in (10, 20, 30, 400):
        length.count(tokens)
    assert length.beyond(0) == 30
    assert length.beyond(10) == 30
    assert length.beyond(30) == 400
    assert length.beyond(400) is None


def test_what_is_believed_to_be_in_the_page_cache_costs_by_how_often_it_was_there() -> None:
    spec, costs = model("a"), CostBook()
    costs.add_device(CPU)
    warm_s, cold_s = (costs.load_s(spec, HERE, source) for source in (Rung.HOST, Rung.DISK))
    costs.observe_source(spec, Rung.HOST)
    assert costs.load_s(spec, HERE, Rung.HOST) == warm_s
    for _ in range(2):
        costs.observe_source(spec, Rung.DISK)
    assert costs.load_s(spec, HERE, Rung.HOST) == pytest.approx(0.25 * warm_s + 0.75 * cold_s)
    assert costs.load(spec, HERE, Rung.HOST).seconds == costs.load_s(spec, HERE, Rung.HOST)
    assert costs.load_s(spec, HERE, Rung.DISK) == cold_s
    for _ in range(20):
        costs.observe_source(spec, Rung.HOST)
    assert costs.load_s(spec, HERE, Rung.HOST) == pytest.approx(warm_s, rel=1e-3)
