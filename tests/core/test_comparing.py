"""Predictions are told beside what came of them, in the record of what ends the matter."""

from dataclasses import replace

import pytest

from core.play import Play
from repertory.domain.actions import Preempt
from repertory.domain.decisions import Verdict
from repertory.domain.settings import Settings
from repertory.perf.profiles import PRIOR_ERROR
from worlds import World, llama_world

SECOND = 10**9
BATCH = 0.1
LONG = 4000


@pytest.fixture
def play() -> Play:
    """Room for one of two models."""
    world = llama_world(models=2, memory_gib=1.4)
    return Play(World(world.node, world.models, Settings(prewarm=False)))


def said(play: Play, rule: str) -> list[Verdict]:
    return [one for each in play.decisions for one in each.verdicts if one.rule == rule]


def running(play: Play, model: str = "a", output: int = LONG) -> str:
    name = play.ask(model, 50, output, BATCH)
    play.load_all()
    play.first_token(name)
    return name


def stop(play: Play, *names: str) -> str:
    """An urgent request of the other model stops them."""
    urgent = play.ask("b", 50, 4)
    stopped = [one.request_id for one in play.asked if isinstance(one, Preempt)]
    assert sorted(stopped[-len(names) :]) == sorted(names)
    for name in names:
        play.preempted(name, made_tokens=40)
    return urgent


def come_back(play: Play, urgent: str) -> None:
    """The urgent one is done; the others' model comes back up."""
    play.finish(urgent)
    play.pass_s(30.0)
    play.load_all()


def stop_again_and_again(play: Play, times: int) -> None:
    """One generation, each time for an urgent request of the other model."""
    name = running(play)
    for _ in range(times):
        urgent = stop(play, name)
        play.load_all()
        play.first_token(urgent)
        come_back(play, urgent)
        play.first_token(name)


def test_the_last_of_those_taken_up_together_waits_for_the_others(play: Play) -> None:
    names = [running(play, output=400) for _ in range(3)]
    urgent = stop(play, *names)
    play.load_all()
    come_back(play, urgent)
    state, costs = play.state, play.state.costs
    replica = state.replicas[play.where[names[0]]]
    one_by_one = state.node_of(replica).capabilities.exact_resume
    own_s, prompt_s = (
        costs.resume_s(replica.spec, replica.placement, 50, made, one_by_one=one_by_one)
        for made in (40, 0)
    )
    expected_s = [own_s + prompt_s * ahead for ahead in range(3)]
    began_ns = play.now_ns
    for name, after_s in zip(names, expected_s, strict=True):
        play.pass_s(after_s - (play.now_ns - began_ns) / 1e9)
        play.first_token(name)
    resumes = said(play, "resume")
    assert [one.measured_s for one in resumes] == pytest.approx(expected_s, rel=1e-6)
    assert [one.predicted_s for one in resumes] == pytest.approx(expected_s, rel=1e-6)
    play.end()


def test_a_generation_compares_its_prompt_and_its_steps(play: Play) -> None:
    name = running(play, output=17)
    play.finish(name, prefill_ns=2 * SECOND)
    (prompt,), (steps,) = said(play, "prefill"), said(play, "decode")
    assert (prompt.subject, prompt.choice, prompt.measured_s) == (name, "50 tokens", 2.0)
    assert (steps.subject, steps.choice, steps.measured_s) == (name, "16 steps among 1", 0.085)
    play.end()


def test_the_prediction_is_the_one_from_before_the_measurement(play: Play) -> None:
    for _ in range(2):
        play.finish(running(play, output=17))
    first, second = said(play, "decode")
    assert first.predicted_s != pytest.approx(0.085)
    assert second.predicted_s == pytest.approx(0.085), "learned from the first"
    play.end()


def test_only_what_was_computed_is_compared(play: Play) -> None:
    """Tokens that a prefix cache spared took no time."""
    play.finish(running(play, output=17), reused_tokens=30)
    play.finish(running(play, output=17), prefill_ns=0, reused_tokens=50)
    assert [one.choice for one in said(play, "prefill")] == ["20 tokens"]
    play.end()


def test_what_was_interrupted_compares_no_computing(play: Play) -> None:
    name = running(play)
    play.die()
    play.up()
    play.load_all()
    play.finish(name)
    assert said(play, "decode") == []
    play.end()


def test_a_penalty_is_both_switches_and_the_longest_resume(play: Play) -> None:
    first, second = running(play), running(play)
    began_ns = play.now_ns
    urgent = stop(play, first, second)
    play.now_ns += 2 * SECOND
    play.load_all()  # the switch there
    assert urgent in play.where
    play.now_ns += SECOND
    play.first_token(urgent)
    play.now_ns += 5 * SECOND  # its work, which is no cost of the stop
    come_back(play, urgent)
    back_ns = play.now_ns
    for name, seconds in ((first, 1), (second, 3)):
        assert name in play.where
        play.now_ns = back_ns + seconds * SECOND
        play.first_token(name, reused_tokens=64)
    (penalty,) = said(play, "penalty")
    (preempt,) = said(play, "preempt")
    assert penalty.subject == "a"
    assert penalty.predicted_s == preempt.predicted_s
    assert (penalty.basis, penalty.error) == (preempt.basis, preempt.error)
    assert penalty.measured_s == pytest.approx(2.0 + 0.0 + 3.0)
    assert penalty.choice == (
        f"{first}, {second} went on after {(play.now_ns - began_ns) / 1e9:.3g} s"
    )
    assert "b had its first token 3 s after the stop" in penalty.why
    resumes = said(play, "resume")
    assert [one.measured_s for one in resumes] == [1.0, 3.0]
    assert resumes[0].choice == "64 tokens before it were found"
    assert not play.state.pauses
    play.end()


def test_the_switch_back_begins_with_the_first_move_back(play: Play) -> None:
    name = running(play)
    urgent = stop(play, name)
    play.load_all()
    play.first_token(urgent)
    play.finish(urgent)
    play.pass_s(30.0)
    while name not in play.where:
        play.now_ns += SECOND
        play.complete(next(iter(play.pending)))
    play.first_token(name)
    (penalty,) = said(play, "penalty")
    assert penalty.measured_s is not None
    assert penalty.measured_s >= 2.0, "a load and an activation, a second each"
    play.end()


def test_a_death_ends_the_comparison_and_not_the_generation(play: Play) -> None:
    name = running(play)
    stop(play, name)
    play.die()
    play.up()
    play.end()
    assert said(play, "penalty") == []
    assert play.settled_by(name) == ["done"]


@pytest.mark.parametrize("who", ["victim", "claimant"])
def test_whoever_leaves_ends_the_comparison(play: Play, who: str) -> None:
    name = running(play)
    urgent = stop(play, name)
    play.send_cancel(name if who == "victim" else urgent)
    play.end()
    assert said(play, "penalty") == []
    assert not play.state.pauses


def test_one_that_is_stopped_again_is_compared_once_more_and_not_twice(play: Play) -> None:
    stop_again_and_again(play, 2)
    assert len(said(play, "penalty")) == 2
    play.end()


def test_a_verdict_on_a_switch_that_was_measured_says_so(play: Play) -> None:
    """`prior` while no load of the claimant from where it stands was seen: once from disk, then
    from main memory.
    """
    stop_again_and_again(play, 3)
    assert [one.basis for one in said(play, "preempt")] == ["prior", "prior", "measured"]
    assert [one.basis for one in said(play, "penalty")] == ["prior", "prior", "measured"]
    assert {one.basis for one in said(play, "drain")} == {"prior", "measured"}


def test_every_prediction_says_how_far_it_may_be_off(play: Play) -> None:
    stop_again_and_again(play, 2)
    verdicts = [one for decision in play.decisions for one in decision.verdicts]
    predicted = [one for one in verdicts if one.predicted_s is not None and one.basis]
    assert {"load", "preempt", "penalty", "drain", "resume"} <= {one.rule for one in predicted}
    assert all(one.error is not None and one.error > 0.0 for one in predicted)
    assert {one.error for one in predicted if one.basis == "prior"} == {PRIOR_ERROR}
    play.end()


def test_a_turn_that_is_bounded_shows_what_stopping_its_work_would_cost(play: Play) -> None:
    running(play)
    play.ask("b", 50, LONG, 0.001)
    play.pass_s(play.state.settings.max_wait_s)
    (drain,) = said(play, "drain")
    assert [one.name for one in drain.options] == ["wait for their end", "preempt"]
    wait, preempt = drain.options
    assert wait.harm_s < preempt.harm_s, "and so it waits"
    play.end()


def test_an_eviction_names_what_was_spared_with_its_harm() -> None:
    world = llama_world(models=4, memory_gib=3.0)
    play = Play(replace(world, settings=Settings(prewarm=False)))
    for name in ("a", "b", "c"):
        request = play.ask(name)
        play.load_all()
        play.finish(request)
    play.ask("d", 4000, 90)
    evictions = [one for one in said(play, "evict") if "makes room for d" in one.why]
    assert evictions
    for one in evictions:
        done, *spared = one.options
        assert done.name.split()[0] in one.choice
        assert spared, "others could have gone"
        assert all(other.harm_s >= 0.0 for other in spared)
        assert all(other.bytes > 0 for other in one.options)
    play.end()
