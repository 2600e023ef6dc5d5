"""Policies are functions: of a picture of the state, to a verdict."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.domain.plans import Candidate, Problem
from repertory.domain.specs import Placement
from repertory.perf.bytes import MIN_CELLS
from repertory.perf.needs import need_of
from repertory.policy.objective import (
    Due,
    Starving,
    absence_s,
    aged_weight,
    in_order,
    probability_of_use,
    response_factor,
)
from repertory.policy.places.batching import (
    HandoverLimits,
    handover_at_ns,
    is_worth_claiming,
    kept_until_ns,
)
from repertory.policy.places.evict import Eviction, Release, Victim, choose_victims
from repertory.policy.places.fit import misfit
from repertory.policy.places.prewarm import solve
from repertory.policy.requests.admit import Backlog, admit, in_time
from repertory.policy.requests.dispatch import Slot, choose_replica
from repertory.policy.requests.share import (
    QUANTUM_NS,
    Contender,
    Run,
    StepKind,
    next_run,
    next_step,
    step_weight,
    worth_ns,
)
from worlds import GIB, MIB, model

SECOND = 1_000_000_000
DEVICES = ("dev0", "dev1")
SIZES = st.integers(0, 100)


@st.composite
def victims(draw: st.DrawFn) -> list[Victim]:
    found = []
    for at in range(draw(st.integers(0, 6))):
        devices = draw(st.sampled_from([("dev0",), ("dev1",), DEVICES]))
        kv = {device: draw(SIZES) for device in devices}
        more = {device: size + draw(SIZES) for device, size in kv.items()}
        gone = {device: size + draw(st.sampled_from([0, 5])) for device, size in more.items()}
        loss = [draw(st.floats(0, 10)) for _ in range(3)]
        name = f"r{at}"
        ways = (
            Eviction(name, Release.KV, loss[0], kv),
            Eviction(name, Release.ALL, loss[0] + loss[1], more),
            Eviction(name, Release.GONE, loss[0] + loss[1] + loss[2], gone),
        )
        found.append(Victim(name, ways))
    return found


MISSING = st.dictionaries(st.sampled_from(DEVICES), st.integers(1, 200), min_size=1)


def covers(chosen: tuple[Eviction, ...], missing: dict[str, int]) -> bool:
    return all(
        sum(one.freed.get(name, 0) for one in chosen) >= need for name, need in missing.items()
    )


class TestEviction:
    @given(victims(), MISSING)
    def test_it_covers_or_says_that_nothing_does(
        self, found: list[Victim], missing: dict[str, int]
    ) -> None:
        chosen = choose_victims(found, missing)
        if chosen is None:
            deepest = tuple(one.ways[-1] for one in found)
            assert not covers(deepest, missing)
        else:
            assert covers(chosen, missing)
            assert len({one.replica_id for one in chosen}) == len(chosen)

    @given(victims(), MISSING)
    def test_victims_that_turn_out_unneeded_are_spared(
        self, found: list[Victim], missing: dict[str, int]
    ) -> None:
        chosen = choose_victims(found, missing) or ()
        for one in chosen:
            assert not covers(tuple(other for other in chosen if other is not one), missing)

    @given(victims(), MISSING, st.randoms())
    def test_the_order_of_the_input_does_not_matter(
        self, found: list[Victim], missing: dict[str, int], luck: object
    ) -> None:
        shuffled = list(found)
        luck.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random
        assert choose_victims(found, missing) == choose_victims(shuffled, missing)

    def test_kv_goes_before_weights_and_less_loss_before_more(self) -> None:
        def victim(name: str, loss_s: float) -> Victim:
            kv = Eviction(name, Release.KV, loss_s, {"dev0": 10})
            return Victim(name, (kv, Eviction(name, Release.ALL, loss_s * 20, {"dev0": 100})))

        (one,) = choose_victims([victim("a", 2.0), victim("b", 1.0)], {"dev0": 10}) or ()
        assert (one.replica_id, one.release) == ("b", Release.KV)

    def test_a_tie_goes_to_the_name(self) -> None:
        found = [Victim(name, (Eviction(name, Release.ALL, 1.0, {"dev0": 9}),)) for name in "ba"]
        (one,) = choose_victims(found, {"dev0": 9}) or ()
        assert one.replica_id == "a"


class TestBatching:
    LIMITS = HandoverLimits(min_residency_s=1.0, switches=5.0, max_wait_s=10.0)

    @pytest.mark.parametrize(
        ("since_s", "opened_s", "switch_s", "expected_s"),
        [
            (100, 50, 0.1, 101),  # min_residency
            (100, 50, 1.0, 105),  # a switches
            (100, 50, 9.0, 110),  # never longer than max_wait
            (20, 50, 1.0, 55),  # overdue or not, a service batch for the replica
        ],
    )
    def test_a_turn_is_bounded(
        self, since_s: int, opened_s: int, switch_s: float, expected_s: int
    ) -> None:
        got = handover_at_ns(since_s * SECOND, opened_s * SECOND, switch_s, self.LIMITS)
        assert got == expected_s * SECOND

    @pytest.mark.parametrize(
        ("own_gap_s", "switch_s", "kept_s"),
        [
            (0.5, 0.1, 1),  # expected within five switches
            (0.6, 0.1, 0),  # far
            (math.inf, 9.0, 0),  # too few arrivals to say
        ],
    )
    def test_an_idle_replica_is_kept_only_for_requests_that_come_soon(
        self, own_gap_s: float, switch_s: float, kept_s: int
    ) -> None:
        got = kept_until_ns(50 * SECOND, own_gap_s, switch_s, self.LIMITS)
        assert got == (50 + kept_s) * SECOND

    def test_the_dial_towards_throughput_keeps_for_longer_gaps(self) -> None:
        limits = self.LIMITS._replace(switches=20.0)
        assert kept_until_ns(0, 1.9, 0.1, limits) == SECOND


def starving(
    name: str, since_s: float | None, weight: float = 1.0, work_s: float = 1.0
) -> Starving:
    since_ns = None if since_s is None else round(since_s * SECOND)
    return Starving(
        name, since_ns, weight, weight * (since_s or 0), round(work_s * SECOND), 0, 1, 1
    )


class TestOrder:
    def test_overdue_models_come_first_the_longest_waiting_before_the_others(self) -> None:
        models = [starving("new", 99.9, 50.0), starving("old", 50), starving("older", 40)]
        got = [one.name for one in in_order(models, 100 * SECOND, 10.0)]
        assert got == ["older", "old", "new"]

    def test_then_the_most_harm_saved_per_second_of_device_time(self) -> None:
        models = [starving("slow", 99, 2.0, 8.0), starving("quick", 99, 2.0, 1.0)]
        assert [one.name for one in in_order(models, 100 * SECOND, 10.0)] == ["quick", "slow"]

    def test_ties_go_to_the_name_and_wishes_come_last(self) -> None:
        models = [starving("w", None, 0.0), starving("b", 99), starving("a", 99)]
        assert [one.name for one in in_order(models, 100 * SECOND, 10.0)] == ["a", "b", "w"]

    def test_a_deadline_that_one_more_max_wait_would_miss_counts_as_having_waited_for_its_penalty(
        self,
    ) -> None:
        def with_due(name: str, begin_s: float) -> Starving:
            return starving(name, 99)._replace(dues=(Due(1.0, round(begin_s * SECOND)),))

        plain = starving("a", 99)
        for begin_s, first in ((100, "d"), (109.9, "d"), (99.9, "a"), (110, "a")):
            found = [
                one.name for one in in_order([plain, with_due("d", begin_s)], 100 * SECOND, 10)
            ]
            assert found[0] == first, begin_s

    def test_waiting_makes_heavier_and_doubles_after_max_wait(self) -> None:
        assert aged_weight(2.0, 0.0, 10.0) == 2.0
        assert aged_weight(2.0, 2.0 * 10.0, 10.0) == 4.0

    @pytest.mark.parametrize(
        ("rate", "reload_s", "seconds"), [(0.01, 1.0, 60.0), (0.01, 30.0, 300.0)]
    )
    def test_p_use_soon_looks_ten_reloads_ahead_but_at_least_the_floor(
        self, rate: float, reload_s: float, seconds: float
    ) -> None:
        expected = 1 - 2.718281828459045 ** (-rate * seconds)
        assert probability_of_use(rate, reload_s, 60.0) == pytest.approx(expected)


class TestAdmission:
    def test_within_the_limits_everybody_comes_in(self) -> None:
        assert admit("r", Backlog(4095, 119.0), 4096, 120.0) is None

    def test_beyond_max_queue_the_retry_is_the_predicted_excess(self) -> None:
        verdict = admit("r", Backlog(10, 150.0), 4096, 120.0)
        assert verdict is not None
        assert verdict.predicted_s == 30.0

    def test_a_full_queue_asks_to_come_when_ones_share_has_drained(self) -> None:
        verdict = admit("r", Backlog(100, 200.0), 100, 1e9)
        assert verdict is not None
        assert verdict.predicted_s == 2.0

    def test_nobody_is_asked_to_come_back_within_a_second(self) -> None:
        verdict = admit("r", Backlog(100, 0.1), 100, 1e9)
        assert verdict is not None
        assert verdict.predicted_s == 1.0

    def test_a_deadline_that_has_passed_is_refused_with_the_prediction(self) -> None:
        for left_s in (0.0, -1.0):
            verdict = in_time("r", left_s, 0.3)
            assert verdict is not None
            assert "its deadline passed" in verdict.why
            assert verdict.predicted_s == 0.3

    def test_so_is_one_for_which_even_half_of_the_prediction_is_longer(self) -> None:
        assert in_time("r", 0.15, 0.3) is None
        verdict = in_time("r", 0.14, 0.3)
        assert verdict is not None
        assert "within 0.14 s and is predicted after 0.3 s at best" in verdict.why


class TestOthers:
    def test_dispatch_takes_the_least_remaining_work_and_then_the_name(self) -> None:
        slots = [Slot("b", 1.0, 0.1), Slot("a", 1.0, 0.1), Slot("c", 2.0, 0.1)]
        assert choose_replica(slots) == "a"
        assert choose_replica([]) is None

    def test_dispatch_takes_the_soonest_first_token_before_the_least_work(self) -> None:
        slots = [Slot("a", 1.0, 0.2), Slot("b", 3.0, 0.1), Slot("c", 2.0, 0.1)]
        assert choose_replica(slots) == "c"

    def test_prewarming_fills_free_memory_by_saved_seconds_per_byte(self) -> None:
        def candidate(name: str, rate: float, size: int, device: str = "dev0") -> Candidate:
            return Candidate(name, rate, 1.0, Placement((device,)), size)

        found = (
            candidate("rare", 1e-5, 1),
            candidate("big", 0.1, 90),
            candidate("small", 0.1, 20),
            candidate("small", 0.1, 20, "dev1"),
            candidate("medium", 0.1, 60),
        )
        plan = solve(Problem(7, 0, 60.0, (("dev0", 100), ("dev1", 0)), found))
        assert plan.id == 7
        assert [one.model for one in plan.prewarms] == ["small", "medium"]

    def test_the_least_used_runs_for_a_quantum_and_alone_for_ever(self) -> None:
        two = [Contender("b", 10, 1_000_000), Contender("a", 10, 2_000_000)]
        assert next_run(two) == Run("a", QUANTUM_NS // 2_000_000)
        assert next_run(two[:1]) == Run("b", None)
        assert next_run([]) is None

    def test_the_step_of_a_prompt_counts_half(self) -> None:
        assert worth_ns(StepKind.PREFILL, 10) == 5
        assert worth_ns(StepKind.DECODE, 10) == 10

    def test_with_twice_the_weight_a_step_takes_half_of_the_share(self) -> None:
        assert worth_ns(StepKind.DECODE, 10, 2.0) == 5
        assert worth_ns(StepKind.PREFILL, 10, 0.1) == 50
        assert worth_ns(StepKind.DECODE, 7, 1.0) == 7

    def test_a_generation_weighs_twice_while_its_deadline_is_ahead_and_it_has_no_token(
        self,
    ) -> None:
        assert step_weight(0.1, 100, 100) == 0.2
        assert step_weight(0.1, 100, 101) == 0.1, "missed: there is nothing to save"
        assert step_weight(0.1, None, 0) == 0.1

    def test_a_prompt_that_weighs_more_than_all_that_decodes_has_so_many_chunks(self) -> None:
        assert next_step(128, True, 128, 128, 10.0) is StepKind.PREFILL
        assert next_step(128, True, 9 * 128, 128, 10.0) is StepKind.PREFILL
        assert next_step(128, True, 10 * 128, 128, 10.0) is StepKind.DECODE
        assert next_step(128, True, 0, 128, 0.1) is StepKind.PREFILL, "lighter ones have theirs"

    @given(
        st.lists(st.sampled_from([0.1, 1.0, 2.0, 10.0]), min_size=2, max_size=4),
        st.integers(1_000, 40_000_000),
    )
    def test_each_has_device_time_by_its_weight(self, weights: list[float], step_ns: int) -> None:
        """Within one quantum of each."""
        used = [0] * len(weights)
        had = [0] * len(weights)
        for _ in range(400):
            run = next_run([Contender(str(at), one, step_ns) for at, one in enumerate(used)])
            assert run is not None
            assert run.steps is not None
            at = int(run.name)
            had[at] += run.steps * step_ns
            used[at] += run.steps * worth_ns(StepKind.DECODE, step_ns, weights[at])
        fair = [one / weight for one, weight in zip(had, weights, strict=True)]
        assert max(fair) - min(fair) <= 2 * QUANTUM_NS / min(weights)

    def test_prefill_and_decode_alternate(self) -> None:
        assert next_step(128, True, 0, 128) is StepKind.PREFILL
        assert next_step(128, True, 128, 128) is StepKind.DECODE
        assert next_step(128, False, 128, 128) is StepKind.PREFILL
        assert next_step(0, True, 0, 128) is StepKind.DECODE
        assert next_step(0, False, 0, 128) is None

    def test_short_prompts_follow_one_another_up_to_one_chunks_tokens(self) -> None:
        assert next_step(32, True, 96, 128) is StepKind.PREFILL
        assert next_step(33, True, 96, 128) is StepKind.DECODE

    def test_what_is_larger_than_a_chunk_waits_for_one_decode_step_only(self) -> None:
        assert next_step(500, True, 0, 128) is StepKind.PREFILL
        assert next_step(500, True, 500, 128) is StepKind.DECODE


class TestFit:
    NEED = need_of(model("huge", 4 * GIB, handle_bytes=10 * MIB), MIN_CELLS).total_bytes

    @pytest.mark.parametrize("rooms", [(0,), (-1, 5), (1,), (-1, -1), (7, 0)])
    def test_it_fits_where_one_device_has_all_it_needs(self, rooms: tuple[int, ...]) -> None:
        named = {f"dev{at}": self.NEED + more for at, more in enumerate(rooms)}
        found = misfit(model("huge", 4 * GIB, handle_bytes=10 * MIB), named)
        assert (found is None) is (max(rooms) >= 0)

    def test_what_is_missing_is_reckoned_before_the_eyes_of_the_reader(self) -> None:
        rooms = {"b": 3 * GIB - 1, "a": 3 * GIB - 1, "c": GIB}
        assert misfit(model("huge", 4 * GIB, handle_bytes=10 * MIB), rooms) == (
            "cannot be served: it needs 4,146 MiB = 4,096 MiB weights + 10 MiB tokenizer + 32 MiB "
            "buffers + 8 MiB for a KV memory of 256 tokens, and the largest device, a, has "
            "3,072 MiB; give 1,075 MiB more memory, or choose a smaller file"
        )

    def test_without_a_device_nothing_fits(self) -> None:
        assert misfit(model("tiny", 1), {}) is not None


@given(share=st.floats(0.0, 5.0), more=st.floats(0.001, 5.0))
def test_whatever_a_busy_device_is_given_besides_costs_the_others_something(
    share: float, more: float
) -> None:
    assert response_factor(share + more) > response_factor(share) >= 1.0
    assert response_factor(share + more) - response_factor(share) >= more


@pytest.mark.parametrize(
    ("weight", "risked_s", "left_s", "loss_s", "is_worth_it"),
    [
        pytest.param(1.0, 0.0, 0.0, 1e9, True, id="who is overdue is next, whatever that costs"),
        pytest.param(1.0, 0.0, 10.0, 9.0, True, id="waiting until then would lose them more"),
        pytest.param(0.1, 0.0, 10.0, 9.0, False, id="it costs the others more"),
        pytest.param(0.1, 10.0, 10.0, 9.0, True, id="a deadline that they miss by waiting"),
        pytest.param(0.1, 0.0, 10.0, 0.0, True, id="it costs nobody anything"),
    ],
)
def test_busy_replicas_are_claimed_when_waiting_loses_more(
    weight: float, risked_s: float, left_s: float, loss_s: float, is_worth_it: bool
) -> None:
    assert is_worth_claiming(weight, risked_s, left_s, loss_s) == is_worth_it


def test_who_comes_while_a_model_is_away_waits_for_half_of_that_time_each() -> None:
    assert absence_s(2.0, 5.0) == pytest.approx(10 * 2.5)
    assert absence_s(0.0, 1e6) == absence_s(1e6, 0.0) == 0.0
