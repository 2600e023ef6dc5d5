"""A worker's death takes no generation with it, and one that kills workers is found."""

from dataclasses import replace

import pytest

from core.play import Play
from repertory.domain.actions import Dispatch
from repertory.domain.events import ModelAdded, ModelRemoved, OperatorAsked, Wish
from repertory.domain.requests import Fault
from repertory.domain.settings import Settings
from worlds import llama_world


@pytest.fixture
def play() -> Play:
    return Play(replace(llama_world(models=2), settings=Settings(prewarm=False)))


def serving(play: Play, *models: str) -> list[str]:
    """One request of each that runs."""
    names = [play.ask(model) for model in models]
    play.load_all()
    assert all(name in play.where for name in names)
    return names


def back(play: Play) -> None:
    """Another worker takes the place of one that dies now."""
    play.die()
    play.up()
    play.load_all()


def dispatched(play: Play) -> list[str]:
    return [one.request_id for one in play.asked if isinstance(one, Dispatch)]


def test_those_that_ran_go_first_in_the_order_in_which_they_were_dispatched(play: Play) -> None:
    running = serving(play, "a", "a", "a")
    for name in running:
        play.first_token(name)
    play.die()
    late = play.ask("a")
    play.asked.clear()
    play.up()
    play.load_all()
    play.settle()
    assert dispatched(play) == [*running, late]
    play.end()


def test_suspects_are_tried_one_by_one(play: Play) -> None:
    """A node has one of them on trial at a time, until it made a token."""
    suspects = {*serving(play, "a", "a"), *serving(play, "b")}
    back(play)
    new = play.ask("a")
    for count in range(1, 4):
        assert len(play.where) == count
        assert play.where.keys() <= suspects, "nobody takes the slot of one that waits for a trial"
        play.first_token(list(play.where)[-1])
    play.load_all()
    assert new in play.where
    play.end()


def test_other_models_requests_run_beside_a_trial(play: Play) -> None:
    first, second = serving(play, "a", "a")
    back(play)
    new = play.ask("b")
    play.load_all()
    assert sorted(play.where) == sorted([first, new])
    assert second not in play.where
    play.end()


@pytest.mark.parametrize("way", ["cancelled", "failed"])
def test_a_trial_that_ends_otherwise_lets_the_next_begin(play: Play, way: str) -> None:
    first, second = serving(play, "a", "a")
    back(play)
    assert second not in play.where
    if way == "cancelled":
        play.send_cancel(first)
    else:
        play.die()
        play.up()
        play.load_all()
        play.send_cancel(first)
    assert second in play.where
    play.end()


def test_a_request_that_kills_workers_is_found_and_fails_alone(play: Play) -> None:
    poison, *others = serving(play, "a", "a", "b")
    deaths = 0
    while poison not in play.outcomes:
        back(play)
        deaths += 1
    assert deaths == 3, "once in company, twice on trial"
    outcome = play.outcomes[poison]
    assert outcome.fault is Fault.WORKER_GONE
    assert outcome.message.count("killed by the test") == 2
    play.end()
    assert play.settled_by(*others) == ["done", "done"]


def test_who_made_a_token_since_is_no_suspect_any_more(play: Play) -> None:
    """Ten workers that the kernel kills are not its doing."""
    (name,) = serving(play, "a")
    for _ in range(10):
        play.first_token(name)
        back(play)
    play.end()
    assert play.settled_by(name) == ["done"]


def test_a_death_in_company_of_the_one_on_trial_is_no_strike_for_the_company(play: Play) -> None:
    suspect = serving(play, "a")[0]
    back(play)
    company = serving(play, "b")[0]
    back(play)
    assert play.state.requests[suspect].strikes
    assert not play.state.requests[company].strikes
    play.end()


def test_a_stream_that_stands_still_has_waited_since_its_worker_died(play: Play) -> None:
    """However long it has run: else it would be told at once that nobody comes."""
    streaming, silent = serving(play, "a", "a")
    play.first_token(streaming)
    play.pass_s(1000.0)
    died_ns = play.now_ns
    play.die()
    records = play.state.requests
    assert records[streaming].since_ns == died_ns
    assert records[silent].since_ns < died_ns
    play.pass_s(play.state.settings.max_queue_s / 2)
    assert play.settled_by(streaming, silent) == []
    play.end()


def test_tokens_of_a_file_that_was_replaced_have_no_other_to_go_on_with(play: Play) -> None:
    begun, fresh = serving(play, "a", "a")
    play.first_token(begun)
    play.die()
    play.add(replace(play.specs["a"], digest="another"))
    assert play.settled_by(begun, fresh) == ["failed"]
    assert "file of a changed" in play.outcomes[begun].message
    play.end()
    assert play.settled_by(fresh) == ["done"]


def test_of_a_file_that_was_replaced_before_its_worker_died_too(play: Play) -> None:
    (begun,) = serving(play, "a")
    play.first_token(begun)
    play.send(ModelAdded(play.now_ns, replace(play.specs["a"], digest="another")))
    play.die()
    assert "file of a changed" in play.outcomes[begun].message
    play.end()


def test_a_model_that_was_removed_meanwhile_leaves_nothing_to_wait_for(play: Play) -> None:
    (name,) = serving(play, "a")
    play.send(ModelRemoved(play.now_ns, "a"))
    play.die()
    assert play.settled_by(name) == ["failed"]
    play.end()


def test_a_model_that_kills_whoever_brings_it_up_is_given_up(play: Play) -> None:
    """At the second death in a row; those who wait are told, and others go on."""
    waiting = play.ask("a")
    play.die()
    play.up()
    assert play.settled_by(waiting) == []
    play.die()
    assert play.outcomes[waiting].fault is Fault.QUARANTINED
    assert play.outcomes[waiting].message.count("killed by the test") == 2
    faults = [one for each in play.decisions for one in each.verdicts if one.rule == "fault"]
    said = [one.choice for one in faults if one.subject == "a"]
    assert said[-1] == "a is given up", "the record of the model says so"
    assert len(said) == 3, "and each death that led to it"
    play.up()
    late, other = play.ask("a"), play.ask("b")
    assert play.settled_by(late) == ["refused"]
    play.end()
    assert play.settled_by(other) == ["done"]


def test_of_an_outage_nobody_is_suspect(play: Play) -> None:
    """Neither what ran, which goes on together, nor what was brought up, however often."""
    first, second = serving(play, "a", "a")
    waiting = play.ask("b")
    for _ in range(3):
        play.die(is_outage=True)
        assert not any(one.strikes or one.is_suspect for one in play.state.requests.values())
        play.up()
    assert not play.state.models["b"].deaths
    play.load_all()
    assert {first, second} <= play.where.keys(), "neither waits for the other's trial"
    play.end()
    assert play.settled_by(first, second, waiting) == ["done"] * 3


def test_who_was_suspect_before_an_outage_still_is(play: Play) -> None:
    suspect = serving(play, "a")[0]
    back(play)
    play.die(is_outage=True)
    assert play.state.requests[suspect].is_suspect
    play.up()
    play.end()
    assert play.settled_by(suspect) == ["done"]


def test_two_deaths_with_a_success_between_them_are_no_models_fault(play: Play) -> None:
    for _ in range(3):
        name = play.ask("a")
        play.die()
        play.up()
        play.load_all()
        play.finish(name)
        play.send(OperatorAsked(play.now_ns, "a", Wish.UNLOAD))
        play.load_all()
    assert play.state.models["a"].fault is None
    play.end()


def test_what_was_computed_twice_teaches_nothing_about_costs(play: Play) -> None:
    (name,) = serving(play, "a")
    play.first_token(name)
    back(play)
    costs = play.state.costs
    spec, where = play.specs["a"], play.state.replicas[play.where[name]].placement
    before = costs.work_s(spec, where, 1000, 1000)
    play.finish(name)
    assert costs.work_s(spec, where, 1000, 1000) == before
    (other,) = serving(play, "a")
    play.finish(other)
    assert costs.work_s(spec, where, 1000, 1000) != before
