"""Running work makes way for work that waits: when, for whom, and how often."""

from dataclasses import replace

import pytest

from core.play import Play
from repertory.core.requests.preempting import _held_against, _stakes, _weigh
from repertory.core.state import Step
from repertory.domain.actions import Preempt
from repertory.domain.events import ModelRemoved
from repertory.domain.ladder import Phase, Rung
from repertory.domain.settings import Settings
from worlds import World, llama_world

BATCH = 0.1
LONG = 4000
"""Tokens: half a minute and more of the prior's costs."""


@pytest.fixture
def play() -> Play:
    """Room for one of two models."""
    world = llama_world(models=2, memory_gib=1.4)
    return Play(World(world.node, world.models, Settings(prewarm=False)))


def stopped(play: Play) -> list[str]:
    return [one.request_id for one in play.asked if isinstance(one, Preempt)]


def running(play: Play, model: str = "a", output: int = LONG, weight: float = BATCH) -> str:
    """Past its first token."""
    name = play.ask(model, 50, output, weight)
    play.load_all()
    play.first_token(name)
    return name


def test_what_weighs_more_need_not_wait_for_the_end_of_a_turn(play: Play) -> None:
    batch = running(play)
    urgent = play.ask("b", 50, 4)
    assert stopped(play) == [batch]
    play.preempted(batch)
    play.load_all()
    assert urgent in play.where
    assert batch not in play.where
    play.finish(urgent)
    play.settle(timers=True)
    assert play.settled_by(batch, urgent) == ["done", "done"]
    assert stopped(play) == [batch], "once"
    play.end()


def test_equal_weights_wait_for_the_end_of_the_turn(play: Play) -> None:
    other = running(play, weight=1.0)
    play.ask("b", 50, 4)
    assert stopped(play) == []
    handover_ns = min(due for name, due in play.timers.items() if name.startswith("handover"))
    play.pass_s((handover_ns - play.now_ns) / 1e9)
    assert stopped(play) == [other], "it would go on for longer than a switch there and back"
    play.end()


def test_what_soon_ends_is_let_end(play: Play) -> None:
    running(play, output=2)
    play.ask("b", 50, 4)
    assert stopped(play) == []
    play.end()


@pytest.mark.parametrize(("weight", "many"), [(BATCH, 1), (1.0, 3)])
def test_of_those_that_run_side_by_side_one_is_held_against_who_is_a_class_above(
    play: Play, weight: float, many: int
) -> None:
    """As in a queue; of its own class they are weighed together."""
    names = [running(play, output=400, weight=weight) for _ in range(3)]
    play.ask("b", 50, 4, 1.5)
    replica = play.state.replicas[play.where[names[0]]]
    claimant, step = play.state.models["b"], Step(play.now_ns)
    assert len(_held_against(play.state, step, claimant, replica)) == many
    play.end()


def test_what_soon_ends_is_not_spared_while_its_replica_takes_in_others(play: Play) -> None:
    """For the minimum residency at the most, if it has work for so long."""
    name = running(play, output=200)
    for _ in range(40):
        play.ask("a", 50, 200, BATCH)
        play.load_all()
    state, replica = play.state, play.state.replicas[play.where[name]]
    play.ask("b", 50, 4)
    min_s = state.settings.min_residency_s
    step = Step(play.now_ns)
    longest_s = max(one.left_s for one in _stakes(state, step, replica))

    def takes_in_s() -> float:
        (one,) = _held_against(state, step, state.models["b"], replica)
        return one.left_s - longest_s

    assert takes_in_s() == 0.0, "it makes way already"
    replica.phase, replica.claimed_by = Phase.OPEN, None
    assert takes_in_s() == pytest.approx(min_s), "the whole turn is longer"
    replica.claimed_by, replica.handover_at_ns = "b", play.now_ns + round(0.3e9 * min_s)
    assert takes_in_s() == pytest.approx(0.3 * min_s), "so much is left of it"
    replica.phase, replica.handover_at_ns = Phase.DRAINING, play.now_ns
    play.end()


def test_what_weighs_less_stops_nobody(play: Play) -> None:
    running(play, weight=1.0)
    play.ask("b", 50, LONG, 0.001)
    play.pass_s(9.0)
    assert stopped(play) == []
    play.end()


def test_nobody_is_stopped_for_ever(play: Play) -> None:
    """Each time doubles what it weighs: in the end a turn protects it from what is interactive."""
    batch = running(play)
    times = 0
    while True:
        urgent = play.ask("b", 50, 4)
        if len(stopped(play)) == times:
            break
        times += 1
        play.preempted(batch)
        play.load_all()
        play.finish(urgent)
        play.pass_s(30.0)
        play.load_all()
        assert batch in play.where
        play.first_token(batch)
    assert times == 4, "0.1 x 2^4 is more than 1"
    play.end()


def test_stops_after_runs_that_paid_do_not_count(play: Play) -> None:
    """It had gone on for longer than it took to begin: each of them leaves it nearer to its end."""
    batch = running(play)
    for times in range(1, 9):
        play.pass_s(0.1)
        urgent = play.ask("b", 50, 4)
        assert stopped(play) == [batch] * times
        play.preempted(batch, made_tokens=10 * times)
        play.load_all()
        play.finish(urgent)
        play.pass_s(30.0)
        play.load_all()
        play.first_token(batch)
    assert play.state.requests[batch].preemptions == 8
    assert play.state.requests[batch].unpaid_stops == 0
    play.end()
    assert play.settled_by(batch) == ["done"]


def test_company_is_stopped_together_and_comes_back_in_order(play: Play) -> None:
    batch = [running(play) for _ in range(2)]
    urgent = play.ask("b", 50, 4)
    assert stopped(play) == batch
    late = play.ask("a", 50, 4, BATCH)
    assert late not in play.where, "its replica admits nothing more"
    for name in batch:
        play.preempted(name)
    play.load_all()
    play.finish(urgent)
    play.asked.clear()
    play.pass_s(30.0)
    play.settle(timers=True)
    assert play.settled_by(*batch, late) == ["done"] * 3
    play.end()


def test_one_that_ends_before_it_stops_is_done(play: Play) -> None:
    batch = running(play)
    play.ask("b", 50, 4)
    play.finish(batch)
    assert play.settled_by(batch) == ["done"]
    play.end()


def test_when_nobody_waits_any_more_it_goes_on_where_it_stood(play: Play) -> None:
    batch = running(play)
    urgent = play.ask("b", 50, 4)
    replica = play.where[batch]
    play.send_cancel(urgent)
    play.preempted(batch)
    assert play.where[batch] == replica
    play.end()


def test_a_worker_that_dies_meanwhile_returns_it_all_the_same(play: Play) -> None:
    batch = running(play)
    urgent = play.ask("b", 50, 4)
    play.die()
    play.up()
    play.end()
    assert play.settled_by(batch, urgent) == ["done", "done"]


def test_a_model_that_was_removed_meanwhile_has_nothing_to_go_on_with(play: Play) -> None:
    batch = running(play)
    play.ask("b", 50, 4)
    play.send(ModelRemoved(play.now_ns, "a"))
    play.preempted(batch)
    assert play.settled_by(batch) == ["failed"]
    assert "removed" in play.outcomes[batch].message
    play.end()


def test_a_suspect_on_trial_is_not_stopped(play: Play) -> None:
    batch = running(play)
    play.die()
    play.up()
    play.load_all()
    assert batch in play.where
    play.ask("b", 50, 4)
    assert stopped(play) == []
    play.first_token(batch)
    play.end()


def test_the_record_says_what_was_compared(play: Play) -> None:
    running(play)
    play.ask("b", 50, 4)
    (verdict,) = [one for one in play.decisions[-1].verdicts if one.rule == "preempt"]
    assert verdict.subject == "a"
    assert [one.name for one in verdict.options] == ["preempt", "wait for their end"]
    assert verdict.options[0].harm_s < verdict.options[1].harm_s
    assert replace(verdict, options=()).why


def test_weights_stay_where_the_kv_memory_alone_makes_room() -> None:
    """Then the way back is a context and no load (Yildiz 2026, feature 6)."""
    penalties = {}
    for memory_gib in (1.4, 2.15):
        world = llama_world(models=2, memory_gib=memory_gib)
        play = Play(World(world.node, world.models, Settings(prewarm=False)))
        batch = running(play)
        play.ask("b", 50, 4)
        assert stopped(play) == [batch]
        (verdict,) = [one for one in play.decisions[-1].verdicts if one.rule == "preempt"]
        penalties[memory_gib] = verdict.predicted_s or 0.0
        replica = play.state.replicas[play.where[batch]]
        away_s = play.state.costs.load_s(replica.spec, replica.placement, Rung.HOST)
        play.end()
    assert penalties[1.4] - penalties[2.15] > 0.9 * away_s


@pytest.mark.parametrize(("weight", "times"), [(1.0, 4.0), (2.0, 1.0)])
def test_what_had_waited_before_it_ran_has_aged_like_those_who_wait_now(
    play: Play, weight: float, times: float
) -> None:
    """Else an overload, where everybody is old, would stop everybody in turn; but who weighs more
    is not held up by it.
    """
    name = running(play, weight=1.0)
    play.ask("b", 50, 4, weight)
    state, record = play.state, play.state.requests[name]
    claimant, replica = state.models["b"], state.replicas[play.where[name]]
    young = _weigh(state, Step(play.now_ns), claimant, replica)
    record.since_ns = record.dispatched_ns - round(3 * state.settings.max_wait_s * 1e9)
    old = _weigh(state, Step(play.now_ns), claimant, replica)
    assert young is not None
    assert old is not None
    assert old.lost == pytest.approx(times * young.lost)
