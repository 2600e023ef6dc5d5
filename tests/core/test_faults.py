"""What fails is an event: loads, activations, workers, measurements above the prediction."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.play import Play
from repertory.domain.actions import Activate, Load
from repertory.domain.events import OperatorAsked, Wish
from repertory.domain.ladder import Rung
from repertory.domain.settings import Settings
from worlds import llama_world, vllm_world

SETTINGS = Settings(prewarm=False)


@pytest.fixture
def play() -> Iterator[Play]:
    play = Play(replace(llama_world(), settings=SETTINGS))
    yield play
    play.end()


def fail_next(play: Play, **how: bool) -> None:
    play.fail(next(iter(play.pending)), **how)


def test_a_load_that_fails_is_tried_again_later(play: Play) -> None:
    name = play.ask("a")
    fail_next(play)
    assert not play.pending
    assert name not in play.outcomes
    play.pass_s(1.0)
    assert [type(one) for one in play.pending.values()] == [Load]


def test_after_three_failures_those_who_wait_are_told(play: Play) -> None:
    name = play.ask("a")
    for _ in range(3):
        while not play.pending:
            play.fire()
        fail_next(play)
    assert play.settled_by(name) == ["failed"]
    again = play.ask("a")
    assert again not in play.outcomes, "a new request tries anew"


def test_a_permanent_fault_answers_every_request_until_the_operator_loads_it_again(
    play: Play,
) -> None:
    first = play.ask("a")
    fail_next(play, permanent=True)
    second = play.ask("a")
    assert play.settled_by(first, second) == ["failed", "refused"]
    play.send(OperatorAsked(play.now_ns, "a", Wish.LOAD))
    assert play.pending
    third = play.ask("a")
    assert third not in play.outcomes


def test_a_failed_activation_is_tried_with_less_kv_memory(play: Play) -> None:
    for _ in range(4):
        play.ask("a", 1500, 100)
    play.complete(next(iter(play.pending)))
    (first,) = play.pending.values()
    assert isinstance(first, Activate)
    fail_next(play, memory=True)
    while not play.pending:
        play.fire()
    (second,) = play.pending.values()
    assert isinstance(second, Activate)
    assert second.kv.tokens < first.kv.tokens


def test_an_allocation_that_failed_makes_the_next_try_ask_for_more_room(play: Play) -> None:
    play.ask("a")
    fail_next(play, memory=True)
    assert play.state.models["a"].extra_bytes > 0
    play.pass_s(1.0)
    play.load_all()
    assert play.state.models["a"].extra_bytes == 0, "it fitted: forgotten"


def test_what_runs_on_a_lost_worker_waits_again_with_what_waited(play: Play) -> None:
    running = play.ask("a")
    play.load_all()
    waiting = play.ask("b")
    play.die()
    assert not play.outcomes
    play.up()
    play.load_all()
    assert running in play.where
    assert waiting in play.where


def test_a_late_end_of_a_dead_workers_transition_is_harmless(play: Play) -> None:
    play.ask("a")
    play.die()
    play.up()
    before = {name: one.charged for name, one in play.state.devices.items()}
    play.late()
    assert {name: one.charged for name, one in play.state.devices.items()} == before


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_a_worker_requests_are_told_after_max_queue(play: Play, when: str) -> None:
    if when == "before":
        name = play.ask("a")
        play.die()
    else:
        play.die()
        play.pass_s(500.0)
        name = play.ask("a")
    play.pass_s(SETTINGS.max_queue_s + SETTINGS.max_wait_s)
    assert play.settled_by(name) == ["failed"]
    assert "no worker" in play.outcomes[name].message


def test_pinned_models_come_back_with_the_worker(play: Play) -> None:
    play.send(OperatorAsked(play.now_ns, "a", Wish.PIN))
    play.load_all()
    play.die()
    play.up()
    play.load_all()
    assert [one.model for one in play.copies.values()] == ["a"]


def test_weights_larger_than_predicted_take_no_kv_memory_that_is_not_there() -> None:
    """1.0 GiB turn out as 1.6; the other model's memory is not enough for KV: it goes first."""
    world = replace(llama_world(models=2), settings=SETTINGS)
    play = Play(world, {"digest-of-b": 1.6})
    first = play.ask("a")
    play.load_all()
    play.finish(first)
    play.pass_s(2.0)
    second = play.ask("b")
    play.load_all()
    assert second in play.where
    assert all(not one.is_overrun for one in play.state.devices.values())
    assert [one.rung for one in play.copies.values() if one.model == "a"] != [Rung.SERVING]
    play.end()


def test_busy_work_is_not_evicted_by_an_overrun_it_ends_first() -> None:
    play = Play(replace(llama_world(models=2), settings=SETTINGS), {"digest-of-b": 1.8})
    running = play.ask("a", 100, 1000)
    play.load_all()
    play.ask("b")
    play.load_all()
    assert running in play.where
    play.finish(running)
    play.load_all()
    assert all(not one.is_overrun for one in play.state.devices.values())
    play.end()


def test_a_sleepers_residue_does_not_block_who_needs_the_device() -> None:
    play = Play(replace(vllm_world(), settings=SETTINGS))
    for name in ("b", "c", "d", "a", "c", "a"):
        request = play.ask(name)
        play.load_all()
        play.settle(timers=True)
        assert play.settled_by(request) == ["done"], name
    play.end()
