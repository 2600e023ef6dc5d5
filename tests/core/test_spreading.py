"""Another replica of a model that is served: when it comes, where, and who gives it up."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.play import Play
from repertory.core.controller import Controller
from repertory.domain.actions import Activate, Dispatch, Load
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived, OperatorAsked, Wish
from repertory.domain.ladder import Rung
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec
from repertory.engines.fake import llama_like
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import prior_profile
from repertory.sim.driver import Simulation
from worlds import GIB, World, llama_world, model

SETTINGS = Settings(prewarm=False, max_queue_s=1e6)


def twins(devices: int = 2, models: int = 2) -> World:
    """Equal sets of cores, each with room for one model with all of its eight slots."""
    world = llama_world(models=models, memory_gib=2.2, devices=devices)
    return replace(world, settings=SETTINGS)


@pytest.fixture
def play() -> Iterator[Play]:
    play = Play(twins())
    yield play
    play.end()


def flood(play: Play, name: str = "a", count: int = 40, output: int = 900) -> list[str]:
    names = [play.ask(name, 100, output) for _ in range(count)]
    play.load_all()
    return names


def homes(play: Play, name: str = "a") -> list[str]:
    """Devices on which it serves."""
    return sorted(
        device
        for copy in play.copies.values()
        if copy.model == name and copy.rung is Rung.SERVING and copy.placement is not None
        for device in copy.placement.devices
    )


def test_a_long_queue_brings_another_replica_up_on_another_device(play: Play) -> None:
    flood(play)
    assert homes(play) == ["dev0", "dev1"]
    assert len(set(play.where.values())) == 2
    said = [one for each in play.decisions for one in each.verdicts if one.rule == "spread"]
    assert [one.subject for one in said] == ["a"]
    assert "with another replica they and those to come wait" in said[0].why


def test_a_queue_that_drains_sooner_than_it_would_be_there_does_not(play: Play) -> None:
    play.ask("a", 100, 900)
    play.load_all()
    for _ in range(8):
        play.ask("a", 8, 1)
    play.load_all()
    assert homes(play) == ["dev0"]


def test_never_two_on_the_same_device_and_no_more_than_there_are_devices(play: Play) -> None:
    flood(play, count=400)
    assert homes(play) == ["dev0", "dev1"]
    assert sum(isinstance(one, Load) for one in play.asked) == 2


def test_one_accelerator_beside_cores_serves_alone() -> None:
    """A replica on far slower cores would take requests from it."""
    specs = (DeviceSpec("cpu0", 4 * GIB, cores=2), DeviceSpec("gpu0", 3 * GIB, backend="fake"))
    play = Play(World(llama_like(specs), (model("a"),), SETTINGS))
    flood(play, count=200)
    assert homes(play) == ["gpu0"]
    play.end()


def test_it_comes_from_the_page_cache_of_its_node(play: Play) -> None:
    flood(play)
    sources = [one.source for one in play.asked if isinstance(one, Load)]
    assert sources == [Rung.DISK, Rung.HOST]


def test_idle_models_give_way_to_it_and_busy_ones_do_not() -> None:
    play = Play(twins())
    busy = play.ask("b", 100, 1000)
    play.load_all()
    flood(play)
    assert busy in play.where, "b is let end"
    assert (homes(play, "b"), homes(play)) == (["dev0"], ["dev1"])
    play.finish(busy)
    play.pass_s(5.0)
    flood(play)
    assert homes(play) == ["dev0", "dev1"]
    play.end()


def test_a_starved_model_goes_before_another_replica() -> None:
    """Three models on two devices: `c` waits for memory, and `a`, which is short, gets none."""
    play = Play(twins(models=3))
    others = [play.ask(name, 100, 1000) for name in "ab"]
    play.load_all()
    play.ask("c")
    flood(play)
    assert len(homes(play)) == 1
    for name in others:
        play.finish(name)
    play.end()


def test_memory_on_its_way_to_a_starved_model_is_left_to_it() -> None:
    """`wide` needs two devices and has claimed both; the one that is free first waits for it."""
    world = twins(devices=3, models=3)
    wide = model("wide", 3 * GIB, devices_per_replica=2)
    play = Play(replace(world, models=(*world.models, wide)))
    for name in "abc":
        play.ask(name, 100, 1000)
        play.load_all()
    ended, *_ = play.where
    play.ask("wide", 100, 16, 3.0)
    claimed = {one.model for one in play.state.replicas.values() if one.claimed_by == "wide"}
    assert claimed == {"a", "b"}
    flood(play, "c")
    play.finish(ended)
    play.load_all()
    assert homes(play, "c") == ["dev2"], "c is short, and leaves a's place to who is served nowhere"
    play.end()


def test_the_spare_one_is_given_up_first_and_for_less(play: Play) -> None:
    for name in flood(play):
        play.finish(name)
    play.pass_s(5.0)
    first, spare = sorted(play.copies, key=lambda one: int(one.split("/")[1]))
    play.ask("b")
    play.load_all()
    assert play.copies[first].rung is Rung.SERVING
    assert play.copies[spare].rung is not Rung.SERVING
    assert homes(play, "b")


def test_a_pinned_model_keeps_one_replica_not_all() -> None:
    play = Play(twins())
    play.send(OperatorAsked(play.now_ns, "a", Wish.PIN))
    play.load_all()
    for name in flood(play):
        play.finish(name)
    assert len(homes(play)) == 2
    play.pass_s(5.0)
    play.ask("b")
    play.load_all()
    assert len(homes(play)) == len(homes(play, "b")) == 1
    play.end()


def test_a_busy_spare_one_hands_over_after_the_minimum_residency(play: Play) -> None:
    """It is served elsewhere: there is no switch that its turn would have to pay for."""
    flood(play)
    while play.waiting() != sorted(play.where):
        play.finish(min(play.where))
    play.ask("b")
    spare = play.state.replicas["a/2"]
    assert spare.running
    assert spare.claimed_by == "b"
    play.pass_s(SETTINGS.min_residency_s)
    assert not spare.is_open
    assert play.state.replicas["a/1"].is_open


def test_a_replica_that_cannot_come_up_fails_nobody_who_is_served_elsewhere(play: Play) -> None:
    for _ in range(40):
        play.ask("a", 100, 900)
    while not homes(play):
        play.complete(min(play.pending))
    for _ in range(6):
        loads = [key for key, one in play.pending.items() if isinstance(one, (Load, Activate))]
        if loads:
            play.fail(loads[0])
        play.pass_s(40.0)
        play.ask("a", 100, 900)
    assert not play.outcomes


def constant(per_s: float, seconds: float, output: int = 400) -> Iterator[Arrived]:
    for at in range(int(per_s * seconds)):
        yield Arrived(round(at / per_s * 1e9), Request(f"r{at:05d}", "a", 100, output))


def loads_of(world: World, per_s: float, seconds: float) -> tuple[Counter[str], set[str]]:
    """Loads by model, and replicas that were ever sent requests."""
    decisions: list[Decision] = []
    controller = Controller(world.settings, decisions.append)
    simulation = Simulation(controller, [NodeModel(world.node, prior_profile)])
    simulation.start(world.models)
    simulation.run(constant(per_s, seconds))
    controller.check()
    actions = [one for each in decisions for one in each.actions]
    loads = Counter(one.model for one in actions if isinstance(one, Load))
    return loads, {one.replica_id for one in actions if isinstance(one, Dispatch)}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(per_s=st.floats(0.05, 2.0), devices=st.integers(1, 4))
def test_loads_are_bounded_by_the_devices_under_any_constant_load(
    per_s: float, devices: int
) -> None:
    """Nothing oscillates: what came up for a load stays for as long as that lasts."""
    loads, used = loads_of(twins(devices=devices, models=1), per_s, 120.0)
    assert loads["a"] <= devices
    assert len(used) == loads["a"]


def test_a_load_that_one_replica_carries_brings_no_other() -> None:
    loads, _ = loads_of(twins(models=1), 0.02, 600.0)
    assert loads["a"] == 1


def test_a_first_token_is_looked_for_where_it_comes_soonest(play: Play) -> None:
    """Not behind a prompt that is computed there, however little work is left elsewhere."""
    flood(play)
    while play.where:
        play.finish(min(play.where))
    here = play.ask("a", 900, 1)
    there = play.ask("a", 100, 900)
    assert play.where[here] != play.where[there]
    play.first_token(there)
    assert play.where[play.ask("a", 50, 1)] == play.where[there]
