"""The simulator and the live driver write the same decision log, byte for byte."""

from dataclasses import replace

import pytest

from parity import Loss, Play, assert_parity, drawn
from repertory.domain.events import Event, SettingsChanged, order
from repertory.domain.settings import Favour
from worlds import WORLDS, faults, workload


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(16))
def test_simulator_and_live_write_the_same_log(name: str, seed: int) -> None:
    world = WORLDS[name]()
    share = 0.1 if seed % 3 == 2 else 0.0
    assert_parity(Play(world, workload(world, seed, requests=80), faults(seed, share)))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(100, 106))
def test_parity_holds_when_the_worker_dies_and_comes_back(name: str, seed: int) -> None:
    """Twice: with work in flight, and for so long that those who wait are told."""
    world = WORLDS[name]()
    losses = (
        Loss(9_000_000_007 + (seed - 100) * 300_000_000, 12_500_000_003),
        Loss(31_000_000_001 + seed, 170_000_000_009),
    )
    events = workload(world, seed, requests=80)
    assert_parity(Play(world, events, faults(seed, 0.05), losses))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(200, 208))
def test_parity_holds_when_everything_happens_at_once(name: str, seed: int) -> None:
    """All times fall on whole seconds, and are the engines' round numbers too."""
    world = WORLDS[name]()
    rushed = [
        replace(event, at_ns=event.at_ns // 4_000_000_000 * 1_000_000_000)
        for event in workload(world, seed, requests=120)
    ]
    assert_parity(Play(world, sorted(rushed, key=order), faults(seed, 0.05)))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(300, 304))
def test_parity_holds_when_the_dial_is_turned(name: str, seed: int) -> None:
    """At the instant of an arrival, too."""
    world = WORLDS[name]()
    events = workload(world, seed, requests=80)
    turned: list[Event] = [
        SettingsChanged(events[at].at_ns, replace(world.settings, favour=favour))
        for at, favour in ((20, Favour.LATENCY), (50, Favour.THROUGHPUT), (70, Favour.BALANCED))
    ]
    assert_parity(Play(world, sorted([*events, *turned], key=order), faults(seed, 0.05)))


@pytest.mark.parametrize("seed", range(40))
def test_parity_holds_whatever_is_drawn(seed: int) -> None:
    """`python -m bench.sim --only parity` draws 500."""
    assert_parity(drawn(seed))


@pytest.mark.parametrize("name", ["llama", "accelerator"])
@pytest.mark.parametrize("seed", range(400, 408))
def test_parity_holds_with_two_models_side_by_side(name: str, seed: int) -> None:
    world = WORLDS[name]()
    events = workload(world, seed, requests=80, per_s=4.0)
    assert_parity(Play(world, events, faults(seed, 0.05), width=2))
