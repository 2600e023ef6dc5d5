"""Switching pays for itself: many models on room for one, against first come first served."""

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby

import pytest

from repertory.core.controller import Controller
from repertory.domain.actions import Dispatch, Load
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived
from repertory.domain.requests import Request
from repertory.domain.settings import Favour, Settings
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import prior_profile
from repertory.sim.driver import Simulation
from worlds import World, llama_world

PATTERN = "ABAACABC" * 100


@dataclass(frozen=True)
class Played:
    """What became of the pattern."""

    switches: int
    waits_s: dict[str, float]
    """Until the dispatch, by request."""
    loads: Counter[str]

    @property
    def longest_s(self) -> float:
        return max(self.waits_s.values())

    @property
    def mean_s(self) -> float:
        return sum(self.waits_s.values()) / len(self.waits_s)


def world(**changes: object) -> World:
    settings = Settings(prewarm=False)
    settings = replace(settings, max_queue_s=1e6, **changes)  # type: ignore[arg-type]  # test data
    return replace(llama_world(models=3, memory_gib=1.6), settings=settings)


def play(chosen: World, gap_s: float) -> Played:
    """One request every `gap_s`: 8 prompt tokens, 2 tokens out."""
    decisions: list[Decision] = []
    controller = Controller(chosen.settings, decisions.append)
    simulation = Simulation(controller, [NodeModel(chosen.node, prior_profile)])
    simulation.start(chosen.models)
    simulation.run(
        Arrived(round(at * gap_s * 1e9), Request(f"r{at:04d}", name.lower(), 8, 2))
        for at, name in enumerate(PATTERN)
    )
    controller.check()
    since = {f"r{at:04d}": round(at * gap_s * 1e9) for at in range(len(PATTERN))}
    waits, loads = {}, Counter[str]()
    for one in decisions:
        for action in one.actions:
            if isinstance(action, Dispatch):
                waits[action.request_id] = (one.event.at_ns - since[action.request_id]) / 1e9
            elif isinstance(action, Load):
                loads[action.model] += 1
    assert len(waits) == len(PATTERN)
    return Played(loads.total() - 1, waits, loads)


FIFO_SWITCHES = sum(1 for _ in groupby(PATTERN)) - 1


@pytest.mark.parametrize("favour", Favour)
@pytest.mark.parametrize("gap_s", [0.01, 0.05, 0.1, 0.2, 0.3])
def test_at_most_a_third_of_the_switches_of_first_come_first_served(
    favour: Favour, gap_s: float
) -> None:
    assert play(world(favour=favour), gap_s).switches <= FIFO_SWITCHES / 3


@pytest.mark.parametrize("favour", Favour)
@pytest.mark.parametrize("gap_s", [0.1, 0.2, 0.3])
def test_nobody_waits_beyond_the_bound(favour: Favour, gap_s: float) -> None:
    """max_wait + drain + switch and service batch of both other models + one's own switch."""
    settings = world().settings
    batch_s = max(settings.min_residency_s, 20.0 * 0.4)
    bound_s = settings.max_wait_s + 1.0 + 2 * (1.0 + batch_s) + 1.0
    assert play(world(favour=favour), gap_s).longest_s <= bound_s


def test_the_dial_turns_fewer_switches_into_throughput() -> None:
    latency, balanced, throughput = (play(world(favour=one), 0.05) for one in Favour)
    assert latency.switches > balanced.switches > throughput.switches


def table() -> None:
    """`python tests/sim/test_thrash.py`: the figures behind the tests."""
    lines = [f"first come first served: {FIFO_SWITCHES} switches"]
    for gap_s in (0.01, 0.05, 0.1, 0.2, 0.3):
        for favour in Favour:
            got = play(world(favour=favour), gap_s)
            lines.append(
                f"gap {gap_s:4.2f} s  {favour.value:10}  {got.switches:4} switches  "
                f"mean wait {got.mean_s:6.2f} s  longest {got.longest_s:6.2f} s"
            )
    print("\n".join(lines))  # noqa: T201  # a table for a person


if __name__ == "__main__":
    table()
