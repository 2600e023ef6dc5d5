"""The rules of `policy.requests.preempt` and `policy.requests.keep`, in their own words."""

from hypothesis import given
from hypothesis import strategies as st

from repertory.policy.objective import MISS_PENALTY_S, Due
from repertory.policy.requests.keep import Keep
from repertory.policy.requests.preempt import (
    Stake,
    expected_left,
    grown_weight,
    has_paid,
    one_for_all,
    worth_stopping,
)


def stake(left_s: float, weight: float = 1.0, resume_s: float = 0.5) -> Stake:
    return Stake("g", weight, left_s, resume_s)


class TestPreempt:
    def test_saved_is_the_weight_of_those_who_wait_for_as_long_as_the_longest_goes_on(self) -> None:
        found = worth_stopping(2.0, [stake(3.0), stake(10.0)], 1.0, 1.0, 1.0)
        assert found is not None
        assert found.saved == 20.0
        assert found.drain_s == 10.0

    def test_lost_is_both_switches_the_work_and_the_own_resume_of_each(self) -> None:
        found = worth_stopping(1.0, [stake(9.0, 1.0, 0.5), stake(9.0, 0.1, 2.0)], 1.0, 4.0, 2.0)
        assert found is not None
        assert found.lost == 1.0 * (7.0 + 0.5) + 0.1 * (7.0 + 2.0)
        assert found.penalty_s == 5.0

    def test_what_goes_on_for_less_than_the_penalty_is_let_end(self) -> None:
        found = worth_stopping(1000.0, [stake(2.4)], 1.0, 0.1, 1.0)
        assert found is not None
        assert found.saved > found.lost
        assert not found.is_worth_it
        longer = worth_stopping(1000.0, [stake(2.6)], 1.0, 0.1, 1.0)
        assert longer is not None
        assert longer.is_worth_it

    def test_each_time_doubles_what_it_weighs_so_nobody_is_stopped_for_ever(self) -> None:
        assert [grown_weight(0.1, times) for times in range(4)] == [0.1, 0.2, 0.4, 0.8]
        for times in range(20):
            found = worth_stopping(1.0, [stake(100.0, grown_weight(0.1, times))], 0.1, 0.1, 0.1)
            assert found is not None
            if not found.is_worth_it:
                break
        assert times == 11, "100 s saved for 0.8 lost of a tenth of the weight"

    def test_what_is_known_badly_stops_less(self) -> None:
        """It must go on for longer than the penalty, also if that is as large as it may be."""
        stop = worth_stopping(10.0, [Stake("a", 0.1, 1.5, 0.0)], 0.5, 0.0, 0.5)
        assert stop is not None
        assert stop.is_worth_it
        assert stop._replace(error=0.4).is_worth_it
        assert not stop._replace(error=0.6).is_worth_it, "1.6 s at the worst, for 1.5"

    def test_of_a_lighter_class_one_stands_for_all_however_many_run_side_by_side(self) -> None:
        """The heaviest weight, until the last ends, or is resumed."""
        many = [stake(2.0, 0.1, 0.05 * at)._replace(name=f"g{at}") for at in range(1, 17)]
        many[3] = many[3]._replace(weight=0.2, left_s=2.5, due_s=7.0)
        one = one_for_all(many)
        assert one == Stake("g1", 0.2, 2.5, 0.8, 7.0)
        alone, together = (worth_stopping(0.4, some, 0.1, 0.1, 0.1) for some in ([one], many))
        assert alone is not None
        assert together is not None
        assert alone.is_worth_it
        assert not together.is_worth_it
        assert (alone.drain_s, alone.penalty_s) == (together.drain_s, together.penalty_s)

    @given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=50))
    def test_stops_after_runs_that_paid_cost_no_more_than_what_was_made_and_others_are_bounded(
        self, runs: list[tuple[float, float]]
    ) -> None:
        paid = [run for run in runs if has_paid(*run)]
        assert sum(begun_s for begun_s, _ in paid) <= sum(went_on_s for _, went_on_s in paid)
        unpaid = len(runs) - len(paid)
        assert grown_weight(0.1, unpaid) == 0.1 * 2**unpaid
        assert not has_paid(1.0, 1.0), "it must have gone on for longer than it took to begin"

    def test_where_nothing_runs_there_is_nothing_to_stop(self) -> None:
        assert worth_stopping(1.0, [], 0.1, 0.1, 0.1) is None

    @given(usual=st.floats(0, 100) | st.none(), most=st.floats(0, 100), made=st.floats(0, 300))
    def test_one_that_has_outlived_all_others_is_in_the_middle_of_what_is_left(
        self, usual: float | None, most: float, made: float
    ) -> None:
        left = expected_left(usual, most, made)
        assert 0.0 <= left <= max(most - made, 0.0)
        if usual is None:
            assert left == max((most - made) / 2, 0.0)
        else:
            assert left == max(min(usual, most) - made, 0.0)


class TestKeep:
    def test_the_least_worth_per_byte_goes_first_equal_ones_by_name(self) -> None:
        keep = Keep(100)
        assert keep.put("b", 40, 4.0) == ()
        assert keep.put("a", 40, 4.0) == ()
        assert keep.put("dear", 20, 10.0) == ()
        assert keep.put("cheap", 40, 0.1) == ("cheap",), "that may be the new one"
        assert keep.put("new", 40, 8.0) == ("a",)

    def test_what_nobody_asks_for_ages_at_the_pace_of_the_pressure(self) -> None:
        keep = Keep(100)
        keep.put("old", 50, 5.0)
        keep.put("used", 50, 5.0)
        for turn in range(3):
            keep.use("used")
            assert keep.put(f"n{turn}", 50, 5.0) != ("used",)

    def test_what_is_larger_than_the_budget_is_not_kept(self) -> None:
        keep = Keep(100)
        keep.put("a", 60, 1.0)
        assert keep.put("huge", 101, 99.0) == ("huge",)
        assert keep.total_bytes == 60

    def test_one_that_is_kept_already_has_its_new_size(self) -> None:
        keep = Keep(100)
        keep.put("a", 60, 1.0)
        assert keep.put("a", 80, 1.0) == ()
        assert keep.total_bytes == 80
        keep.drop("a")
        keep.drop("a")
        assert keep.total_bytes == 0

    @given(
        st.lists(
            st.tuples(st.sampled_from("abcdef"), st.integers(1, 60), st.floats(0, 10)), max_size=40
        )
    )
    def test_it_is_never_over_budget_and_forgets_nobody(
        self, puts: list[tuple[str, int, float]]
    ) -> None:
        keep, held = Keep(100), dict[str, int]()
        for name, size, cost_s in puts:
            held[name] = size
            for gone in keep.put(name, size, cost_s):
                del held[gone]
            assert keep.total_bytes == sum(held.values()) <= 100


class TestDeadlines:
    def test_a_deadline_met_by_stopping_and_missed_by_waiting_adds_its_penalty_to_what_is_saved(
        self,
    ) -> None:
        def saved(left_s: float) -> float:
            due = Due(0.5, round(left_s * 1e9))
            found = worth_stopping(1.0, [stake(4.0)], 1.0, 1.0, 1.0, [due])
            assert found is not None
            return found.saved

        assert saved(3.0) == 4.0 + 0.5 * MISS_PENALTY_S
        assert saved(0.9) == 4.0, "missed anyway"
        assert saved(5.1) == 4.0, "met anyway"

    def test_who_misses_its_own_by_being_stopped_adds_it_to_what_is_lost(self) -> None:
        def lost(due_s: float | None) -> float:
            one = stake(9.0)._replace(due_s=due_s)
            found = worth_stopping(1.0, [one], 1.0, 1.0, 1.0)
            assert found is not None
            return found.lost

        assert lost(None) == lost(3.5) == 3.5
        assert lost(3.4) == 3.5 + MISS_PENALTY_S
