"""Which part of a model goes to an accelerator, and when rather none of it does."""

from dataclasses import replace

import pytest

from core.play import Play
from repertory.core.places.tiers import fixed_needs
from repertory.domain.actions import Load
from repertory.domain.events import OperatorAsked, Wish
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, ModelSpec, Placement
from repertory.engines.fake import llama_like
from repertory.perf.bytes import kv_needs, share_there
from repertory.perf.profiles import prior_profile
from worlds import GIB, MIB, World, model

PARTS = {"head_bytes": 64 * MIB, "kept_bytes": 48 * MIB}


def play(gpu_bytes: int, *models: ModelSpec, cpu_bytes: int = 8 * GIB) -> Play:
    specs = (
        DeviceSpec("cpu0", cpu_bytes, cores=2),
        DeviceSpec("gpu0", gpu_bytes, backend="fake"),
    )
    return Play(World(llama_like(specs), models))


def loads(one: Play) -> list[Placement]:
    return [action.placement for action in one.asked if isinstance(action, Load)]


def up(one: Play) -> None:
    while one.pending:
        one.now_ns += 1_000_000
        one.complete(min(one.pending))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("layers", [16, 32, 80])
def test_the_chosen_k_is_within_a_tenth_of_the_best_of_all(share: float, layers: int) -> None:
    """Of all numbers of layers that both budgets have room for, none is faster by more."""
    spec = model("a", 2 * GIB, layers=layers, **PARTS)
    one = play(round(share * 2 * GIB), spec)
    one.ask("a")
    (chosen,) = loads(one)
    kv = one.state.replicas["a/1"].kv
    assert chosen.rest == "cpu0"
    assert chosen.layers is not None
    assert kv is not None
    profile = prior_profile(spec, one.world.node.devices[1])
    known = one.state.models["a"]

    def seconds(count: int) -> float:
        return profile.decode_s(chosen.form, 1, 100, share_there(spec, count))

    def fits(count: int) -> bool:
        place = replace(chosen, layers=count)
        needs, cells = fixed_needs(known, place, loads=True), kv_needs(spec, place, kv)
        budgets = {name: ledger.budget_bytes for name, ledger in one.state.devices.items()}
        return all(size + cells[pool] <= budgets[pool] for pool, size in needs.items())

    best = min(seconds(count) for count in range(1, layers) if fits(count))
    assert fits(chosen.layers)
    assert seconds(chosen.layers) <= 1.1 * best


def test_whole_on_one_accelerator_when_it_fits() -> None:
    one = play(2 * GIB, model("a", GIB, **PARTS))
    one.ask("a")
    assert loads(one) == [Placement(("gpu0",), rest="cpu0")]


def test_a_model_too_large_for_either_memory_lies_in_both() -> None:
    """The accelerator has 1 GiB, main memory 1.5, the model takes 2."""
    one = play(GIB, model("a", 2 * GIB, layers=32, **PARTS), cpu_bytes=GIB + GIB // 2)
    name = one.ask("a")
    up(one)
    (place,) = loads(one)
    assert place.devices == ("gpu0",)
    assert place.layers is not None
    one.finish(name)
    assert one.settled_by(name) == ["done"]


def test_an_idle_one_is_evicted_rather_than_run_at_half_speed() -> None:
    """Loading all of it costs less than its work would lose, as for most models."""
    one = play(GIB + GIB // 2, model("a", GIB, **PARTS), model("b", GIB, **PARTS))
    name = one.ask("a")
    up(one)
    one.finish(name)
    one.pass_s(30.0)
    one.ask("b")
    up(one)
    assert loads(one)[-1] == Placement(("gpu0",), rest="cpu0")
    assert one.state.models["a"].replicas["a/1"].rung is Rung.HOST


def test_a_busy_one_that_ends_soon_is_waited_for_and_the_options_are_told() -> None:
    one = play(GIB + GIB // 2, model("a", GIB, **PARTS), model("b", GIB, **PARTS))
    one.ask("a")
    up(one)
    one.ask("b", output=1000)
    assert len(loads(one)) == 1
    told = [verdict for verdict in one.decisions[-1].verdicts if verdict.rule == "offload"]
    assert len(told) == 1
    names = [option.name for option in told[0].options]
    assert names[0] == "wait for a/1 on gpu0, plain"
    assert any("layers" in name for name in names[1:])
    assert told[0].options[0].harm_s < min(option.harm_s for option in told[0].options[1:])


def test_a_model_on_cores_is_loaded_where_it_is_faster_when_that_comes_free() -> None:
    """Load there, then unload here: its first replica serves until the second one does."""
    one = play(GIB + 200 * MIB, model("a", GIB, is_pinned=True, **PARTS), model("b", GIB, **PARTS))
    up(one)
    first = one.ask("b", output=200)
    up(one)
    assert loads(one)[-1].devices == ("cpu0",)
    one.send(OperatorAsked(one.now_ns, "a", Wish.UNPIN))
    one.send(OperatorAsked(one.now_ns, "a", Wish.UNLOAD))
    up(one)
    replicas = one.state.models["b"].replicas
    serving = [one.placement.devices for one in replicas.values() if one.is_open]
    assert serving == [("gpu0",)]
    assert one.where[first] == "b/2", "it ends where it began"
    one.finish(first)
    up(one)
    assert len(replicas) == 1
    one.end()


@pytest.mark.parametrize(("asked", "device"), [(0, "gpu0"), (40, "cpu0")])
def test_what_never_fits_keeps_off_the_device_of_those_who_come_back(
    asked: int, device: str
) -> None:
    """A part of it would take the device's steps from a model that is asked for all the time."""
    one = play(GIB, model("busy", GIB // 2, **PARTS), model("big", 2 * GIB, **PARTS))
    for _ in range(asked):
        name = one.ask("busy", output=600)
        up(one)
        one.finish(name)
        one.pass_s(2.0)
    one.ask("big")
    up(one)
    assert loads(one)[-1].devices == (device,)
