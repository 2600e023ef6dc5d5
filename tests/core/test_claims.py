"""A claim on memory that still moves."""

from core.play import Play
from repertory.domain.actions import Resize
from repertory.domain.ladder import Phase
from repertory.domain.settings import Settings
from worlds import MIB, World, llama_world, model

SETTINGS = Settings(prewarm=False)


def test_a_replica_that_ends_its_work_in_the_middle_of_a_resize_is_waited_for() -> None:
    """It is idle but for the resize: its claim is neither over, nor to be made anew for ever.

    1. `a` runs and grows.  2. `c` takes the KV memory of `b`, whose weights stay.
    3. `b` is asked for again, and claims what `a` holds.
    """
    small = model("c", 8 * MIB, buffers_bytes=4 * MIB)
    models = (model("a", 512 * MIB), model("b", 512 * MIB), small)
    play = Play(World(llama_world(memory_gib=1104 / 1024).node, models, SETTINGS))
    play.finish(_served(play, "b"))
    play.pass_s(20.0)
    running = _served(play, "a")
    for _ in range(6):
        play.ask("a")
    grows = next(one for one in play.pending.values() if isinstance(one, Resize))
    play.pass_s(5.0)
    play.ask("c")
    while len(play.pending) > 1:
        play.complete(next(one for one in play.pending if one != grows.action_id))
    play.ask("b")
    play.pass_s(SETTINGS.max_wait_s)
    replica = play.state.replicas[play.where[running]]
    assert (replica.phase, replica.claimed_by) == (Phase.DRAINING, "b")
    while play.where:
        play.finish(next(iter(play.where)))
    assert replica.transition is grows
    assert replica.claimed_by == "b"
    play.settle(timers=True)
    play.end()


def _served(play: Play, name: str) -> str:
    request = play.ask(name)
    play.load_all()
    return request
