"""A served model lacks slots: what idle models give for them, and when they do not."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.play import Play
from repertory.domain.actions import Deactivate, Resize, Unload
from repertory.domain.decisions import Cause
from repertory.domain.events import ModelRemoved, OperatorAsked, Wish
from repertory.domain.ladder import Phase, Rung
from repertory.domain.settings import Settings
from repertory.domain.specs import KvShape
from worlds import World, llama_world, model

SETTINGS = Settings(prewarm=False)


def room_for_two(memory_mib: int = 2150) -> Play:
    """`a` and `b` with two slots of 256 cells each, and then no larger class fits."""
    world = llama_world(memory_gib=memory_mib / 1024)
    return Play(World(world.node, (model("a"), model("b")), SETTINGS))


@pytest.fixture
def play() -> Iterator[Play]:
    play = room_for_two()
    yield play
    play.end()


def use(play: Play, name: str, times: int = 1, every_s: float = 10.0) -> None:
    """It comes up if need be, and is idle afterwards."""
    for _ in range(times):
        request = play.ask(name)
        play.load_all()
        play.finish(request)
        play.pass_s(every_s)


def fill(play: Play, output: int = 100) -> list[str]:
    """Both slots of `a` are taken."""
    running = [play.ask("a", 100, output) for _ in range(2)]
    play.load_all()
    assert sorted(play.where) == running
    return running


def rung(play: Play, name: str) -> Rung:
    (copy,) = [one for one in play.copies.values() if one.model == name]
    return copy.rung


def test_an_idle_model_gives_its_kv_memory_for_slots_of_a_served_one(play: Play) -> None:
    use(play, "b")
    running = fill(play)
    waiting = play.ask("a", 100, 100)
    (down,) = play.pending.values()
    assert isinstance(down, Deactivate)
    assert down.model == "b"
    (verdict,) = play.decisions[-1].verdicts
    assert (verdict.cause, verdict.subject) == (Cause.SLOTS, "b")
    assert "slots of a" in verdict.why
    play.complete(down.action_id)
    (wider,) = play.pending.values()
    assert isinstance(wider, Resize)
    assert waiting not in play.where
    play.complete(wider.action_id)
    assert sorted(play.where) == [*running, waiting]
    assert rung(play, "b") is Rung.DEVICE, "its weights stay"
    assert not play.state.short


def test_its_weights_go_too_where_its_kv_memory_is_not_enough() -> None:
    play = room_for_two(2314)
    use(play, "b")
    running = fill(play, 1000)
    waiting = play.ask("a", 100, 1000)
    play.load_all()
    assert sorted(play.where) == [*running, waiting]
    assert rung(play, "b") is Rung.HOST
    downs = [one for one in play.asked if isinstance(one, (Deactivate, Unload))]
    assert [one.model for one in downs] == ["b", "b"]
    play.end()


def test_one_that_would_be_missed_more_than_a_slot_stays_until_the_queue_has_grown(
    play: Play,
) -> None:
    use(play, "b")
    fill(play, 1)
    first = play.ask("a", 100, 1)
    assert not play.pending, "a slot is free sooner than b would be back"
    assert list(play.state.short) == ["a"]
    second, *_ = [play.ask("a", 100, 1) for _ in range(3)]
    (down,) = play.pending.values()
    assert isinstance(down, Deactivate)
    play.load_all()
    assert {first, second} <= play.where.keys(), "its KV memory is two slots"


def test_a_pinned_one_stays(play: Play) -> None:
    use(play, "b")
    play.send(OperatorAsked(play.now_ns, "b", Wish.PIN))
    running = fill(play)
    waiting = play.ask("a", 100, 100)
    play.pass_s(60.0)
    assert not play.pending
    play.finish(running[0])
    assert waiting in play.where, "the next slot that is free is its"


def test_a_young_one_stays_until_it_is_old_enough(play: Play) -> None:
    fill(play)
    use(play, "b", times=4, every_s=0.01)
    waiting = play.ask("a", 100, 100)
    assert not play.pending, "its next request is near"
    play.pass_s(SETTINGS.min_residency_s)
    play.load_all()
    assert waiting in play.where
    assert rung(play, "b") is Rung.DEVICE


def test_one_whose_own_requests_wait_stays(play: Play) -> None:
    """Its slots are as short as the other's."""
    use(play, "b")
    fill(play)
    for _ in range(3):
        play.ask("b", 100, 100)
    waiting = play.ask("a", 100, 100)
    play.pass_s(1.0)
    assert not play.pending
    assert sorted(play.state.short) == ["a", "b"]
    assert waiting not in play.where


def test_where_kv_memory_has_one_size_nobody_gives_any_for_slots() -> None:
    node = llama_world(memory_gib=2150 / 1024).node
    fixed = replace(node, capabilities=replace(node.capabilities, kv_resizable=False))
    sizes = {"a": 4, "b": 2}
    models = [model(name, context_tokens=256, max_sequences=most) for name, most in sizes.items()]
    play = Play(World(fixed, tuple(models), SETTINGS))
    use(play, "b")
    fill(play)
    play.ask("a", 100, 100)
    assert list(play.state.short) == ["a"]
    assert not play.pending
    play.end()


def test_a_head_longer_than_the_slots_gets_longer_ones_and_nobody_drains(play: Play) -> None:
    use(play, "b")
    running = fill(play)
    long = play.ask("a", 800, 100)
    (replica,) = play.state.models["a"].replicas.values()
    assert (replica.claimed_by, replica.phase) == ("a", Phase.OPEN)
    play.load_all()
    assert sorted(play.where) == [*running, long]
    assert (replica.claimed_by, replica.phase) == (None, Phase.OPEN)
    assert replica.kv is not None
    assert replica.kv.cells >= 900
    play.pass_s(60.0)
    assert replica.phase is Phase.OPEN, "its turn does not end any more"
    assert not any(isinstance(one, Deactivate) and one.model == "a" for one in play.asked)


def test_a_head_longer_than_the_slots_may_have_fewer_of_them() -> None:
    """Four slots of 512 cells would not fit beside those of 256; two do, and are enough."""
    world = llama_world(memory_gib=1132 / 1024)
    play = Play(World(world.node, (model("a"),), SETTINGS))
    running = [play.ask("a", 100, 100) for _ in range(4)]
    play.load_all()
    assert sorted(play.where) == running
    (replica,) = play.state.models["a"].replicas.values()
    assert replica.kv == KvShape(4, 256)
    for one in running[1:]:
        play.finish(one)
    long = play.ask("a", 300, 100)
    play.load_all()
    assert sorted(play.where) == [running[0], long], "it waits for nobody's end"
    assert replica.kv == KvShape(2, 512)
    play.end()


@pytest.mark.parametrize(
    ("memory_mib", "busy", "slots"),
    [(1150, 2, 3), (1150, 3, 3), (1132, 2, 2)],
    ids=["one more than run", "three that run", "two that run"],
)
def test_a_long_head_has_as_many_slots_as_it_takes_or_as_run(memory_mib, busy, slots):  # type: ignore[no-untyped-def]
    """Four of 512 cells would not fit beside four of 256.  Where no slot is left for it, it takes
    the first that is free.
    """
    world = llama_world(memory_gib=memory_mib / 1024)
    play = Play(World(world.node, (model("a"),), SETTINGS))
    running = [play.ask("a", 100, 100) for _ in range(4)]
    play.load_all()
    (replica,) = play.state.models["a"].replicas.values()
    assert replica.kv == KvShape(4, 256)
    for one in running[busy:]:
        play.finish(one)
    long = play.ask("a", 300, 100)
    play.ask("a", 700, 100)  # one of 1,024 cells may wait
    play.load_all()
    assert replica.kv == KvShape(slots, 512)
    if slots == busy:
        play.finish(running[0])
        play.load_all()
    assert long in play.where
    play.end()


def test_nobody_lacks_slots_when_nobody_waits(play: Play) -> None:
    use(play, "b")
    play.send(OperatorAsked(play.now_ns, "b", Wish.PIN))
    running = fill(play)
    waiting = [play.ask("a", 100, 100) for _ in range(2)]
    assert list(play.state.short) == ["a"]
    play.send_cancel(waiting[0])
    assert list(play.state.short) == ["a"]
    play.finish(running[0])
    assert not play.state.short, "the last was dispatched"
    late = play.ask("a", 100, 100)
    assert list(play.state.short) == ["a"]
    play.send_cancel(late)
    assert not play.state.short, "the last was cancelled"
    play.ask("a", 100, 100)
    play.send(ModelRemoved(play.now_ns, "a"))
    assert not play.state.short, "the model is gone"


def test_a_worker_that_dies_leaves_nobody_short(play: Play) -> None:
    use(play, "b")
    play.send(OperatorAsked(play.now_ns, "b", Wish.PIN))
    fill(play)
    play.ask("a", 100, 100)
    assert list(play.state.short) == ["a"]
    play.die()
    assert not play.state.short, "it lacks everything"


def test_while_longer_slots_come_no_more_run_than_both_shapes_hold() -> None:
    """A long head may have fewer slots of more cells; what came meanwhile was sent to slots that
    the new shape does not have.
    """
    world = llama_world(memory_gib=1500 / 1024)
    play = Play(World(world.node, (model("a"),), SETTINGS))
    running = [play.ask("a", 100, 100) for _ in range(8)]
    play.load_all()
    assert sorted(play.where) == running
    for name in running[:4]:
        play.finish(name)
    play.ask("a", 1500, 100)
    (move,) = play.pending.values()
    assert isinstance(move, Resize)
    assert move.kv == KvShape(5, 2048)
    later = [play.ask("a", 100, 100) for _ in range(3)]
    assert sorted(play.where) == [*running[4:], later[0]]
    play.load_all()
    assert len(play.where) == 5
    play.end()
