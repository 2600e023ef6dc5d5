"""What a step keeps to be asked again is what it would be if it were reckoned anew."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from repertory.core.controller import Controller
from repertory.core.costbook import CostBook
from repertory.core.demand import ArrivalRate, OutputLength
from repertory.core.places.expected import Expected
from repertory.core.places.sites import sites
from repertory.core.requests.queueing import (
    charge_measured,
    charge_predicted,
    dequeue,
    enqueue,
    first_of,
)
from repertory.core.state import ModelState, RequestRecord, State, Step
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived, Event
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import prior_profile
from repertory.sim.driver import Simulation
from worlds import WORLDS, faults, model, workload

SECOND = 1_000_000_000


def mixed(events: list[Event], luck: random.Random) -> list[Event]:
    """Of several keys, weights and deadlines, and twice as close together."""
    found: list[Event] = []
    for event in events:
        moved = replace(event, at_ns=event.at_ns // 2)
        if isinstance(moved, Arrived):
            request = replace(
                moved.request,
                weight=luck.choice([8.0, 1.0, 1.0, 0.1]),
                key=luck.choice(["", "a", "b"]),
                deadline_ns=luck.choice([None] * 8 + [moved.at_ns + luck.randrange(20 * SECOND)]),
            )
            moved = replace(moved, request=request)
        found.append(moved)
    return found


class Watch:
    """At the end of each step, before anything of it is forgotten."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.state: State | None = None

    def __call__(self, decision: Decision) -> None:
        assert self.state is not None
        self._heads(self.state, decision.event.at_ns)
        if decision.step % 16 == 0:
            self._expected(self.state, Step(decision.event.at_ns))

    def _heads(self, state: State, at_ns: int) -> None:
        """Who is next is kept until anything that it depends on changes."""
        for name, head in list(state.heads.items()):
            state.heads.clear()
            assert head is first_of(state, state.models[name], at_ns), name
            self.seen["heads"] += 1

    def _expected(self, state: State, step: Step) -> None:
        """What is expected of a model depends on the place, not on what was asked before."""
        everybody = frozenset(state.on_devices)
        for owner in state.models.values():
            kept = Expected(state, step, owner)
            places = [*sites(state, owner), *sites(state, owner)]
            for gone in (frozenset[str](), everybody):
                for site in places:
                    anew = Expected(state, step, owner)
                    assert kept.seconds(site, gone) == anew.seconds(site, gone)
                    assert kept.alone_s(site) == Expected(state, step, owner).alone_s(site)
                    self.seen["places"] += 1


@pytest.mark.parametrize("name", WORLDS)
def test_what_a_step_keeps_is_what_it_would_be_anew(name: str) -> None:
    world, watch = WORLDS[name](), Watch()
    for seed in range(3):
        controller = Controller(world.settings, watch)
        watch.state = controller.state
        worker = NodeModel(world.node, prior_profile, faults(seed, 0.05))
        simulation = Simulation(controller, [worker])
        simulation.start(world.models)
        simulation.run(mixed(workload(world, seed, 120), random.Random(seed)))
        controller.check()
    assert watch.seen["heads"] > 20
    assert watch.seen["places"] > 100


def test_whoever_comes_begins_leaves_or_ends_may_change_who_is_next() -> None:
    state = State(Settings(), CostBook())
    owner = ModelState(model("a"), ArrivalRate(600.0, 0), OutputLength(64))
    record = RequestRecord(Request("r", "a", 8, 8), 0, 100)

    def is_known_still() -> bool:
        return state.heads.pop("a", None) is not None

    state.heads["a"] = record
    enqueue(state, owner, record)
    assert not is_known_still()
    state.heads["a"] = record
    charge_predicted(state, record)
    assert not is_known_still()
    state.heads["a"] = record
    dequeue(state, owner, record)
    assert not is_known_still()
    state.heads["a"] = record
    charge_measured(state, record, 50)
    assert not is_known_still()
