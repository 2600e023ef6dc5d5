"""Weights, keys and deadlines in a model's queue: who has the next slot, and who makes way."""

from dataclasses import replace

import pytest

from core.play import Play
from repertory.domain.actions import Dispatch, Preempt
from repertory.domain.events import ModelAdded
from repertory.domain.requests import PRIORITIES, Request
from repertory.domain.settings import Settings
from worlds import World, llama_world

BATCH = PRIORITIES["batch"]
LONG = 2000
SLOTS = 2


@pytest.fixture
def play() -> Play:
    """One model with two slots, and no room for more."""
    world = llama_world(models=2, memory_gib=1.4)
    specs = tuple(replace(spec, max_sequences=SLOTS) for spec in world.models)
    return Play(World(world.node, specs, Settings(prewarm=False)))


def fill(play: Play, weight: float = 1.0, output: int = LONG, key: str = "") -> list[str]:
    """All slots taken, and all of them past their first tokens."""
    names = []
    for _ in range(SLOTS):
        play.pass_s(0.001)
        names.append(play.ask("a", 50, output, weight, key))
        play.load_all()
        play.first_token(names[-1])
    play.asked.clear()
    return names


def stopped(play: Play) -> list[str]:
    return [one.request_id for one in play.asked if isinstance(one, Preempt)]


def dispatched(play: Play) -> list[str]:
    return [one.request_id for one in play.asked if isinstance(one, Dispatch)]


def test_a_free_slot_goes_to_who_weighs_more_and_not_to_who_came_first(play: Play) -> None:
    running = fill(play)
    batch, urgent = play.ask("a", 50, 4, BATCH), play.ask("a", 50, 4)
    play.finish(running[0])
    play.finish(running[1])
    assert dispatched(play) == [urgent, batch]
    play.end()


def test_equal_requests_are_first_come_first_served(play: Play) -> None:
    running = fill(play)
    waiting = [play.ask("a", 50, 4) for _ in range(4)]
    for name in running:
        play.finish(name)
    assert dispatched(play) == waiting[:2]
    play.end()


def test_what_runs_makes_way_for_what_weighs_a_class_more_where_slots_lack(play: Play) -> None:
    """The one that began last: it has the least to make again.  It goes on afterwards."""
    first, second = fill(play, BATCH)
    urgent = play.ask("a", 50, 4)
    assert stopped(play) == [second]
    play.preempted(second)
    assert urgent in play.where
    assert first in play.where
    play.finish(urgent)
    assert second in play.where, "it has the slot back before others of its class begin"
    play.end()
    assert play.settled_by(first, second, urgent) == ["done"] * 3


def test_for_each_who_waits_one_makes_way(play: Play) -> None:
    running = fill(play, BATCH)
    urgent = [play.ask("a", 50, 4) for _ in range(3)]
    assert stopped(play) == running[::-1], "and no more than there are"
    for name in running:
        play.preempted(name)
    assert dispatched(play) == urgent[:2]
    play.end()


def test_nobody_makes_way_for_equals_nor_while_a_slot_is_free(play: Play) -> None:
    fill(play, BATCH)
    play.ask("a", 50, 4, BATCH)
    play.ask("a", 50, 4, 0.12)
    assert stopped(play) == []
    play.end()


def test_each_stop_doubles_what_it_weighs_so_three_are_the_most_for_a_batch(play: Play) -> None:
    fill(play, BATCH)
    times = 0
    while True:
        play.asked.clear()
        urgent = play.ask("a", 50, 4)
        if not stopped(play):
            break
        times += 1
        (name,) = stopped(play)
        play.preempted(name)
        play.finish(urgent)
        play.first_token(name)
        assert times < 20
    assert times == 2 * 3, "0.1 x 2^4 is more than 1; there are two of them"
    play.end()


def test_what_soon_ends_is_let_end(play: Play) -> None:
    fill(play, BATCH, output=1)
    play.ask("a", 1500, 4)
    assert stopped(play) == []
    play.end()


def test_the_record_says_who_makes_way_for_whom(play: Play) -> None:
    _, second = fill(play, BATCH)
    urgent = play.ask("a", 50, 4)
    (verdict,) = [one for one in play.decisions[-1].verdicts if one.rule == "preempt"]
    assert verdict.choice == f"{second} makes way for {urgent}"
    assert verdict.options[0].harm_s < verdict.options[1].harm_s
    assert verdict.cause is None, "residency does not change"
    play.end()


def test_the_key_that_has_had_least_is_next(play: Play) -> None:
    running = fill(play, key="flood")
    flood = [play.ask("a", 50, 100, 1.0, "flood") for _ in range(3)]
    modest = play.ask("a", 50, 100, 1.0, "ann")
    play.finish(running[0])
    assert dispatched(play) == [modest], "a longer answer than was predicted counts as what it was"
    play.finish(running[1])
    assert dispatched(play) == [modest, flood[0]]
    play.end()


def test_a_floods_queue_is_not_before_others_at_the_door() -> None:
    """Admission predicts the wait of a key's own requests, and a fair part of others'."""
    settings = Settings(prewarm=False, max_queue_s=5.0)
    world = llama_world(models=1, memory_gib=1.4)
    specs = tuple(replace(spec, max_sequences=SLOTS) for spec in world.models)
    play = Play(World(world.node, specs, settings))
    fill(play, key="flood")
    names = [play.ask("a", 50, LONG, 1.0, "flood") for _ in range(50)]
    assert "refused" in play.settled_by(*names)
    assert play.settled_by(play.ask("a", 50, LONG, 1.0, "ann")) == []
    assert play.settled_by(play.ask("a", 50, LONG, BATCH, "bob")) == ["refused"], "it is lighter"
    assert play.settled_by(play.ask("a", 50, LONG, 10.0, "flood")) == []
    play.end()


def test_a_deadline_that_cannot_be_met_is_refused_and_leads_to_nothing(play: Play) -> None:
    for due_s in (-1.0, 0.0, 0.001):
        name = play.want(Request("", "a", 50, 4), due_s)
        outcome = play.outcomes[name]
        assert (outcome.kind.value, outcome.status) == ("refused", 504)
        assert "at best" in outcome.message
    assert play.pending == {}
    play.end()


def _refusals(play: Play) -> list[str]:
    said = [one for decision in play.decisions for one in decision.verdicts if one.rule == "admit"]
    return [one.basis for one in said]


def test_a_refusal_says_what_its_prediction_rests_on(play: Play) -> None:
    """A prior, until all that its seconds are made of was seen of this very model."""
    play.want(Request("", "a", 50, 4), 0.0)
    assert _refusals(play) == ["prior"]
    name = play.ask("a", 50, 4)
    play.load_all()
    play.first_token(name)
    play.finish(name)
    play.want(Request("", "a", 50, 4), 0.0)
    assert _refusals(play) == ["prior", "measured"]
    play.end()


def _short_of_queue() -> Play:
    """Whoever comes when two wait is refused."""
    world = llama_world(models=2, memory_gib=1.4)
    specs = tuple(replace(spec, max_sequences=SLOTS) for spec in world.models)
    return Play(World(world.node, specs, Settings(prewarm=False, max_waiting=2)))


def test_a_refusal_rests_on_the_least_certain_of_all_that_waits() -> None:
    """Where decode steps were measured, that stays so."""
    play = _short_of_queue()
    running = fill(play)
    waiting = [play.ask("a", 50, LONG) for _ in range(2)]
    refused = [play.ask("a", 50, LONG)]
    play.finish(running[0])
    waiting.append(play.ask("a", 50, LONG))
    refused += [play.ask("a", 50, LONG) for _ in range(2)]
    play.finish(running[1])
    waiting.append(play.ask("b", 50, LONG))
    refused.append(play.ask("a", 50, LONG))
    assert play.settled_by(*refused) == ["refused"] * 4
    assert play.settled_by(*waiting) == []
    assert _refusals(play) == ["prior", "measured", "measured", "prior"]
    assert play.state.models["a"].measured_at is not None
    play.end()


def test_what_was_measured_of_another_file_is_no_ground_of_a_refusal() -> None:
    play = _short_of_queue()
    running = fill(play)
    for _ in range(2):
        play.ask("a", 50, LONG)
    play.finish(running[0])
    play.ask("a", 50, LONG)
    play.ask("a", 50, LONG)
    play.send(ModelAdded(play.now_ns, replace(play.specs["a"], digest="another")))
    play.ask("a", 50, LONG)
    assert _refusals(play) == ["measured", "prior"]


def test_a_deadline_ends_a_turn_early_where_waiting_for_its_end_would_miss_it(play: Play) -> None:
    """An equal weight alone waits for the end of a turn."""
    other = fill(play, output=LONG)
    play.ask("b", 50, 4)
    assert stopped(play) == []
    play.want(Request("", "b", 50, 4), 3.0)
    assert stopped(play) == other
    play.end()


def test_what_comes_later_and_weighs_more_ends_the_turn_of_what_was_claimed_before(
    play: Play,
) -> None:
    running = fill(play, BATCH)
    play.ask("b", 50, 4, BATCH)
    assert stopped(play) == []
    play.ask("b", 50, 4)
    assert stopped(play) == running
    play.end()


def test_one_that_is_far_away_ends_nothing(play: Play) -> None:
    fill(play, output=LONG)
    play.want(Request("", "b", 50, 4), 3600.0)
    assert stopped(play) == []
    play.end()
