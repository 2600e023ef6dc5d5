"""The simulator and the live driver write the same decision log, byte for byte."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from repertory.core.controller import Controller
from repertory.core.journal import encode
from repertory.domain.actions import Transition
from repertory.domain.events import (
    Arrived,
    Event,
    ModelAdded,
    SettingsChanged,
    WorkerLost,
    WorkerUp,
    order,
)
from repertory.domain.plans import Plan, Problem
from repertory.domain.requests import Outcome
from repertory.domain.settings import Favour
from repertory.domain.specs import ModelSpec
from repertory.engines.contract import GenerationSpec, Sampling, TokenStep
from repertory.engines.fake import FakeEngine
from repertory.engines.node_model import Failure, NodeModel
from repertory.live.driver import Driver
from repertory.perf.profiles import prior_profile
from repertory.policy.prewarm import solve
from repertory.sim.driver import SOLVE_NS, Simulation
from repertory.testing.clock import VirtualLoop, run_virtual
from worlds import WORLDS, World, faults, workload


class Owner:
    """Requests of a test, run to their full length."""

    def __init__(self, world: World) -> None:
        self.specs = {spec.name: spec for spec in world.models}
        self.requests: dict[str, GenerationSpec] = {}
        self.emitted: dict[str, int] = {}
        self.outcomes: list[Outcome] = []

    def generation(self, request_id: str) -> GenerationSpec:
        emitted = tuple([1] * self.emitted[request_id])
        return replace(self.requests[request_id], emitted=emitted)

    def model(self, name: str) -> ModelSpec:
        return self.specs[name]

    def tokens(self, step: TokenStep) -> None:
        self.emitted[step.generation_id] += len(step.tokens)

    def emitted_tokens(self, request_id: str) -> int:
        return self.emitted[request_id]

    def settled(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def admit(self, event: Arrived) -> None:
        request = event.request
        self.emitted[request.id] = 0
        self.requests[request.id] = GenerationSpec(
            request.id,
            tuple([1] * request.prompt_tokens),
            request.max_tokens,
            Sampling(),
            weight=request.weight,
        )


@dataclass(frozen=True)
class Loss:
    """The worker dies, and another takes its place."""

    lost_ns: int
    up_ns: int
    reason: str = "killed by the test"


Fail = Callable[[Transition], Failure | None]


async def die(engine: FakeEngine, driver: Driver, node_id: str, reason: str) -> None:
    """What it has made by now is heard; else it would be made again."""
    await engine.cancel("nobody")
    await asyncio.sleep(0)
    driver.detach(node_id, reason)
    await engine.close()


def simulated(
    world: World, events: list[Event], fail: Fail, losses: tuple[Loss, ...] = ()
) -> tuple[list[bytes], list[Outcome]]:
    log: list[bytes] = []
    outcomes: list[Outcome] = []
    controller = Controller(world.settings, lambda one: log.append(encode(one)))
    simulation = Simulation(
        controller,
        [NodeModel(world.node, prior_profile, fail)],
        settled=lambda _, outcome: outcomes.append(outcome),
        worker=lambda node: NodeModel(node, prior_profile, fail),
    )
    simulation.start(world.models)
    deaths: list[Event] = [WorkerLost(one.lost_ns, world.node.id, one.reason) for one in losses]
    births: list[Event] = [WorkerUp(one.up_ns, world.node) for one in losses]
    simulation.run(sorted([*events, *deaths, *births], key=order))
    controller.check()
    return log, outcomes


def lived(
    world: World, events: list[Event], fail: Fail, losses: tuple[Loss, ...] = ()
) -> tuple[list[bytes], list[Outcome]]:
    log: list[bytes] = []
    owner = Owner(world)

    async def main(loop: VirtualLoop) -> None:
        controller = Controller(world.settings, lambda one: log.append(encode(one)))

        async def solver(problem: Problem) -> Plan:
            await asyncio.sleep(SOLVE_NS / 1e9)
            return solve(problem)

        driver = Driver(controller, owner, solver=solver, when_quiet=loop.when_quiet)
        engines: list[FakeEngine] = []

        def attach() -> None:
            engines.append(FakeEngine(world.node, prior_profile, fail))
            driver.attach(engines[-1], world.node)

        dying: list[asyncio.Task[None]] = []

        def lose(reason: str) -> None:
            dying.append(loop.create_task(die(engines[-1], driver, world.node.id, reason)))

        attach()
        for spec in world.models:
            driver.post(ModelAdded(0, spec))

        def deliver(event: Event) -> None:
            if isinstance(event, Arrived):
                owner.admit(event)
            driver.post(event)

        for event in events:
            loop.call_at(event.at_ns / 1e9, deliver, event)
        for one in losses:
            loop.call_at(one.lost_ns / 1e9, lose, one.reason)
            loop.call_at(one.up_ns / 1e9, attach)
        await loop.exhausted()
        await driver.close()
        await engines[-1].close()
        controller.check()

    run_virtual(main)
    return log, owner.outcomes


def assert_parity(
    world: World, events: list[Event], fail: Fail, losses: tuple[Loss, ...] = ()
) -> None:
    expected, outcomes = simulated(world, events, fail, losses)
    got, live_outcomes = lived(world, events, fail, losses)
    for at, (theirs, ours) in enumerate(zip(expected, got, strict=False)):
        assert ours == theirs, f"decision {at}"
    assert len(got) == len(expected)
    assert live_outcomes == outcomes
    arrived = {event.request.id for event in events if isinstance(event, Arrived)}
    settled = [outcome.request_id for outcome in outcomes]
    assert sorted(settled) == sorted(arrived), "every request has exactly one outcome"


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(16))
def test_simulator_and_live_write_the_same_log(name: str, seed: int) -> None:
    world = WORLDS[name]()
    share = 0.1 if seed % 3 == 2 else 0.0
    assert_parity(world, workload(world, seed, requests=80), faults(seed, share))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(100, 106))
def test_parity_holds_when_the_worker_dies_and_comes_back(name: str, seed: int) -> None:
    """Twice: with work in flight, and for so long that those who wait are told."""
    world = WORLDS[name]()
    losses = (
        Loss(9_000_000_007 + (seed - 100) * 300_000_000, 12_500_000_003),
        Loss(31_000_000_001 + seed, 170_000_000_009),
    )
    assert_parity(world, workload(world, seed, requests=80), faults(seed, 0.05), losses)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("seed", range(200, 208))
def test_parity_holds_when_everything_happens_at_once(name: str, seed: int) -> None:
    """All times fall on whole seconds, and are the engines' round numbers too."""
    world = WORLDS[name]()
    rushed = [
        replace(event, at_ns=event.at_ns // 4_000_000_000 * 1_000_000_000)
        for event in workload(world, seed, requests=120)
    ]
    assert_parity(world, sorted(rushed, key=order), faults(seed, 0.05))


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
    assert_parity(world, sorted([*events, *turned], key=order), faults(seed, 0.05))
