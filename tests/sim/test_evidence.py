"""What late answers waited for, told from events and actions written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleets import every, fleet, machine
from repertory.domain.actions import (
    Action,
    Activate,
    Deactivate,
    Dispatch,
    Drop,
    Load,
    Settle,
    Stage,
    Unload,
)
from repertory.domain.decisions import Decision
from repertory.domain.events import (
    Arrived,
    Event,
    Finished,
    FirstToken,
    Measured,
    Preempted,
    Timer,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
)
from repertory.domain.ladder import Rung
from repertory.domain.requests import Fault, FinishReason, Outcome, OutcomeKind, Request
from repertory.domain.specs import KvShape, Placement
from repertory.sim.planning.evidence import Evidence, Limit, Watch
from repertory.sim.play import Scenario, play
from repertory.traces.summary import Slo
from worlds import model

S = 1_000_000_000
SLO = Slo(ttft_s=1.0, tpot_s=0.1)
PLACE, KV = Placement(("dev0",)), KvShape(4, 512)


class Seen:
    """A watch, and decisions for it in seconds."""

    def __init__(self, warm_s: float = 0.0, width: int = 1) -> None:
        spec = model("m", devices_per_replica=width)
        self.watch = Watch([spec, model("other")], SLO, warm_s)
        self._steps = 0

    def tell(self, event: Event, *actions: Action) -> None:
        self._steps += 1
        self.watch(Decision(self._steps, event, actions, ()))

    def arrive(self, at_s: float, name: str, *actions: Action) -> None:
        self.tell(Arrived(round(at_s * S), Request(name, "m", 10, 10)), *actions)

    def at(self, at_s: float, *actions: Action) -> None:
        self.tell(Timer(round(at_s * S), "t"), *actions)

    def done(self, at_s: float, action_id: int, *actions: Action, replica: str = "r") -> None:
        measured = Measured(S)
        self.tell(TransitionDone(round(at_s * S), action_id, replica, measured), *actions)

    def first(self, at_s: float, name: str) -> None:
        self.tell(FirstToken(round(at_s * S), name))

    def finish(self, at_s: float, name: str, share_s: float = 0.0, prompt_s: float = 0.0) -> None:
        share_ns, prompt_ns = round(share_s * S), round(prompt_s * S)
        event = Finished(
            round(at_s * S), name, FinishReason.LENGTH, 11, prompt_ns, 0, share_ns=share_ns
        )
        self.tell(event, Settle(Outcome(name, OutcomeKind.DONE)))

    def serve(self, at_s: float, action_id: int = 1, source: Rung = Rung.HOST) -> None:
        """Loads in a second, and opens in another."""
        self.at(at_s, load(action_id, source))
        self.done(at_s + 1, action_id, activate(action_id + 1))
        self.done(at_s + 2, action_id + 1)

    @property
    def late(self) -> dict[Limit, int]:
        return self.watch.evidence(1).late


def load(action_id: int, source: Rung = Rung.HOST, replica: str = "r") -> Load:
    return Load(action_id, replica, "m", "box", PLACE, source)


def activate(action_id: int, replica: str = "r") -> Activate:
    return Activate(action_id, replica, "m", "box", KV)


def dispatch(name: str) -> Dispatch:
    return Dispatch(name, "r", "box")


def test_who_waited_for_room_is_late_for_memory() -> None:
    """Five seconds without a move, two until it serves."""
    seen = Seen()
    seen.arrive(0, "q")
    seen.serve(5)
    seen.at(7, dispatch("q"))
    seen.first(7.1, "q")
    assert seen.late == {Limit.MEMORY: 1}


def test_a_first_read_is_the_disks_and_another_one_main_memorys() -> None:
    seen = Seen()
    for round_s in (0, 20):
        name = f"q{round_s}"
        seen.arrive(round_s, name, load(round_s + 1, Rung.DISK))
        seen.done(round_s + 9, round_s + 1, activate(round_s + 2))
        seen.done(round_s + 10, round_s + 2, dispatch(name))
        seen.first(round_s + 10.1, name)
        seen.finish(round_s + 11, name)
        down = (Deactivate(round_s + 3, "r", "m", "box"), Drop(round_s + 4, "r", "m", "box"))
        seen.at(round_s + 12, *down)
    assert seen.late == {Limit.DISK: 1, Limit.HOST_MEMORY: 1}


def test_opening_after_a_load_counts_as_the_load_did() -> None:
    """The load takes one second of ten, the opening the other nine: it is the disk's all the same.
    By itself an opening is a load from main memory."""
    seen = Seen()
    seen.arrive(0, "q", load(1, Rung.DISK))
    seen.done(1, 1, activate(2))
    seen.done(10, 2, dispatch("q"))
    seen.first(10.1, "q")
    seen.finish(11, "q")
    assert seen.late == {Limit.DISK: 1}
    seen.at(12, Deactivate(3, "r", "m", "box"))
    seen.done(13, 3)
    seen.arrive(20, "p", activate(4))
    seen.done(25, 4, dispatch("p"))
    seen.first(25.1, "p")
    assert seen.late == {Limit.DISK: 1, Limit.LOADS: 1}


def test_a_stage_is_a_read_of_the_file() -> None:
    seen = Seen()
    seen.arrive(0, "q", Stage(1, "r", "m", "box"))
    seen.done(8, 1, load(2, Rung.HOST))
    seen.done(9, 2, activate(3))
    seen.done(10, 3, dispatch("q"))
    seen.first(10.1, "q")
    assert seen.late == {Limit.DISK: 1}


def test_who_waited_beside_a_serving_model_had_no_slot() -> None:
    seen = Seen()
    seen.serve(0)
    seen.arrive(5, "q")
    seen.at(9, dispatch("q"))
    seen.first(9.5, "q")
    assert seen.late == {Limit.SLOTS: 1}


def test_who_had_a_slot_at_once_waited_for_its_prompt() -> None:
    seen = Seen()
    seen.serve(0)
    seen.arrive(5, "q", dispatch("q"))
    seen.first(9, "q")
    seen.finish(9.5, "q")
    assert seen.late == {Limit.COMPUTE: 1}


def test_slots_of_devices_that_compute_all_the_time_are_compute() -> None:
    late = {Limit.SLOTS: 5, Limit.COMPUTE: 1, Limit.MEMORY: 5}
    busy = Evidence(late, device_s=10.0, busy_s=7.0)
    assert busy.late_by_limit == {Limit.COMPUTE: 6, Limit.MEMORY: 5}
    assert busy.limit is Limit.COMPUTE
    idle = Evidence(late, device_s=10.0, busy_s=6.9)
    assert idle.late_by_limit == late
    assert idle.limit is Limit.SLOTS, "of equals, the last by name"
    assert Evidence({}).limit is None


def test_slow_answers_are_the_steps_unless_they_were_stopped() -> None:
    """11 tokens in 2 s: 0.2 s each after the first."""
    seen = Seen()
    seen.serve(0)
    for at_s, name in ((5, "slow"), (10, "stopped")):
        seen.arrive(at_s, name, dispatch(name))
        seen.first(at_s + 0.5, name)
        if name == "stopped":
            seen.tell(Preempted((at_s + 1) * S, name, 2, 0))
            seen.at(at_s + 2, dispatch(name))
            seen.first(at_s + 2.1, name)
        seen.finish(at_s + 2.5, name)
    assert seen.late == {Limit.COMPUTE: 1, Limit.MEMORY: 1}


def test_an_answer_is_late_once() -> None:
    """Both limits missed: the first token's cause counts."""
    seen = Seen()
    seen.arrive(0, "q")
    seen.serve(5)
    seen.at(7, dispatch("q"))
    seen.first(7.1, "q")
    seen.finish(20, "q")
    assert seen.late == {Limit.MEMORY: 1}


@pytest.mark.parametrize("kind", [OutcomeKind.REFUSED, OutcomeKind.FAILED])
def test_who_never_got_an_answer_is_late_for_what_it_waited_for(kind: OutcomeKind) -> None:
    seen = Seen()
    seen.arrive(0, "q")
    seen.at(60, Settle(Outcome("q", kind)))
    seen.arrive(70, "at once", Settle(Outcome("at once", kind)))
    assert seen.late == {Limit.MEMORY: 2}, "who was turned away at once: as its model stands"


def test_a_failed_load_and_a_lost_worker_leave_no_model_on_its_way() -> None:
    seen = Seen()
    seen.arrive(0, "q", load(1))
    seen.tell(TransitionFailed(S, 1, "r", "no", Fault.LOAD_FAILED))
    seen.at(4, Settle(Outcome("q", OutcomeKind.FAILED)))
    assert seen.late == {Limit.MEMORY: 1}
    seen.serve(5, 2)
    seen.tell(WorkerLost(8 * S, "box", "killed"))
    seen.arrive(9, "p")
    seen.at(20, Settle(Outcome("p", OutcomeKind.FAILED)))
    assert seen.late == {Limit.MEMORY: 2}
    seen.arrive(30, "again", load(9, Rung.DISK))
    seen.done(39, 9, activate(10))
    seen.done(40, 10, dispatch("again"))
    seen.first(40.1, "again")
    assert seen.late[Limit.DISK] == 1, "its page cache is gone too: a first read again"


def test_requests_of_the_warm_up_are_not_late() -> None:
    seen = Seen(warm_s=6)
    seen.arrive(0, "q")
    seen.serve(5)
    seen.at(7, dispatch("q"))
    seen.first(7.1, "q")
    seen.finish(7.5, "q")
    assert seen.late == {}


def test_what_was_computed_before_the_warm_up_was_over_does_not_count() -> None:
    """A prompt from 6 to 10 s and an answer from 10 to 14, of a warm-up until 8 (or 12): half of
    the one and all of the other, or half of the other."""
    for warm_s, busy_s in ((0, 4.0), (6, 4.0), (8, 3.0), (12, 1.0), (14, 0.0)):
        seen = Seen(warm_s)
        seen.serve(0)
        seen.arrive(5, "q")
        seen.at(6, dispatch("q"))
        seen.first(10, "q")
        seen.finish(14, "q", share_s=4, prompt_s=2)
        found = seen.watch.evidence(1)
        assert found.busy_s == busy_s
        assert found.device_s == 14 - warm_s


def test_a_turn_counts_from_its_own_dispatch() -> None:
    """Stopped at 7 s, on from 9: of the second turn half is before 10."""
    seen = Seen(warm_s=10)
    seen.serve(0)
    seen.arrive(5, "q", dispatch("q"))
    seen.tell(Preempted(7 * S, "q", 1, 2 * S))
    seen.at(9, dispatch("q"))
    seen.finish(11, "q", share_s=2, prompt_s=2)
    assert seen.watch.evidence(1).busy_s == 1.0


def test_a_split_replica_computes_on_all_of_its_devices() -> None:
    seen = Seen(width=2)
    seen.serve(0)
    seen.arrive(5, "q", dispatch("q"))
    seen.first(6, "q")
    seen.finish(10, "q", share_s=5, prompt_s=1)
    found = seen.watch.evidence(2)
    assert (found.busy_s, found.device_s) == (10.0, 20.0)


def test_crowded_is_the_time_in_which_somebody_waited_for_room() -> None:
    """From 2 to 5 s; the warm-up ends at 3; work ends at 8."""
    seen = Seen(warm_s=3)
    seen.arrive(2, "q")
    seen.serve(5)
    seen.at(7, dispatch("q"))
    seen.first(7.5, "q")
    seen.finish(8, "q")
    found = seen.watch.evidence(1)
    assert found.crowded_s == 2.0
    assert found.crowded_share == pytest.approx(2 / 5)


def test_loads_are_counted_after_the_warm_up_with_their_time() -> None:
    seen = Seen(warm_s=5)
    seen.serve(0, 1)
    seen.at(3, Deactivate(3, "r", "m", "box"), Unload(4, "r", "m", "box"))
    seen.at(4, load(5))
    seen.done(7, 5, activate(6))
    seen.done(8, 6)
    seen.at(9, load(7, replica="s"))
    seen.done(12, 7, replica="s")
    found = seen.watch.evidence(1)
    assert found.loads == 1, "the one that began before it does not count"
    assert found.loading_s == 2.0 + 1.0 + 3.0, "but its time after it does"


def test_evidence_of_several_runs_is_their_sum() -> None:
    one = Evidence({Limit.DISK: 2}, 10.0, 20.0, 5.0, 1.0, 3, 4.0)
    two = Evidence({Limit.DISK: 1, Limit.LOADS: 4}, 5.0, 10.0, 10.0, 2.0, 1, 1.0)
    whole = Evidence.of([one, two])
    assert whole == Evidence({Limit.DISK: 3, Limit.LOADS: 4}, 15.0, 30.0, 15.0, 3.0, 4, 5.0)
    assert whole.busy_share == 0.5
    assert Evidence.of([]) == Evidence({})
    assert Evidence({}).busy_share == Evidence({}).crowded_share == 0.0


@given(
    gap_s=st.floats(0.05, 0.6),
    count=st.integers(20, 80),
    warm_s=st.floats(0.0, 20.0),
    policy=st.sampled_from(["repertory", "lru-count", "reactive"]),
)
def test_no_device_computes_for_longer_than_the_time_there_was(
    gap_s: float, count: int, warm_s: float, policy: str
) -> None:
    boxes = fleet(machine(devices=1), models=2)
    watch = Watch(boxes.models, SLO, warm_s)
    arrivals = every(gap_s, count, models=2)
    play(Scenario(boxes, policy), arrivals, lambda record: None, watch)
    found = watch.evidence(1)
    assert 0.0 <= found.busy_s <= found.device_s + 1e-6
    assert found.crowded_s <= found.window_s
