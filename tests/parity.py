"""One workload under both drivers: live with the fake engine on a virtual clock, and simulated."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from repertory.core.controller import Controller
from repertory.core.journal import encode
from repertory.core.replaying import replay
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
from repertory.policy.places.prewarm import solve
from repertory.sim.driver import SOLVE_NS, Simulation
from repertory.testing.clock import VirtualLoop, run_virtual
from worlds import WORLDS, World, faults, workload

__all__ = ["Loss", "Play", "assert_parity", "drawn", "lived", "simulated"]


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


@dataclass(frozen=True)
class Play:
    """A workload, and what goes wrong in it."""

    world: World
    events: list[Event]
    fail: Fail
    losses: tuple[Loss, ...] = ()
    width: int = 1
    """How many models step at once on two cores."""


def drawn(seed: int, requests: int = 70) -> Play:
    """Of all worlds in turn: ties or none, loads that fail, a worker that dies, a dial turned."""
    luck = random.Random(f"play {seed}")
    world = WORLDS[list(WORLDS)[seed % len(WORLDS)]]()
    events = workload(world, seed, requests, per_s=luck.choice([1.0, 2.0, 4.0]))
    if luck.random() < 0.3:  # all at once, and on the engines' round numbers
        events = [
            replace(event, at_ns=event.at_ns // 4_000_000_000 * 1_000_000_000) for event in events
        ]
    if luck.random() < 0.3:
        times = luck.sample(sorted({event.at_ns for event in events}), 2)
        events += [
            SettingsChanged(at_ns, replace(world.settings, favour=favour))
            for at_ns, favour in zip(times, luck.sample(list(Favour), 2), strict=True)
        ]
    losses: tuple[Loss, ...] = ()
    if luck.random() < 0.4:
        lost_ns = luck.randrange(2_000_000_000, 30_000_000_000)
        losses = (Loss(lost_ns, lost_ns + luck.randrange(100_000_000, 20_000_000_000)),)
    fail = faults(seed, luck.choice([0.0, 0.05, 0.1]))
    return Play(world, sorted(events, key=order), fail, losses, luck.choice([1, 2]))


async def die(engine: FakeEngine, driver: Driver, node_id: str, reason: str) -> None:
    """What it has made by now is heard; else it would be made again."""
    await engine.cancel("nobody")
    await asyncio.sleep(0)
    driver.detach(node_id, reason)
    await engine.close()


def simulated(play: Play) -> tuple[list[bytes], list[Outcome]]:
    world, fail, losses = play.world, play.fail, play.losses
    log: list[bytes] = []
    outcomes: list[Outcome] = []
    controller = Controller(world.settings, lambda one: log.append(encode(one)))
    simulation = Simulation(
        controller,
        [NodeModel(world.node, prior_profile, fail, width=play.width)],
        settled=lambda _, outcome: outcomes.append(outcome),
        worker=lambda node: NodeModel(node, prior_profile, fail, width=play.width),
    )
    simulation.start(world.models)
    deaths: list[Event] = [WorkerLost(one.lost_ns, world.node.id, one.reason) for one in losses]
    births: list[Event] = [WorkerUp(one.up_ns, world.node) for one in losses]
    simulation.run(sorted([*play.events, *deaths, *births], key=order))
    controller.check()
    return log, outcomes


def lived(play: Play) -> tuple[list[bytes], list[Outcome]]:
    world, losses = play.world, play.losses
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
            engines.append(FakeEngine(world.node, prior_profile, play.fail, play.width))
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

        for event in play.events:
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


def assert_parity(play: Play) -> int:
    """Both write the same log, and it gives itself again; how many decisions it has."""
    expected, outcomes = simulated(play)
    got, live_outcomes = lived(play)
    for at, (theirs, ours) in enumerate(zip(expected, got, strict=False)):
        assert ours == theirs, f"decision {at}"
    assert len(got) == len(expected)
    assert live_outcomes == outcomes
    arrived = {event.request.id for event in play.events if isinstance(event, Arrived)}
    settled = [outcome.request_id for outcome in outcomes]
    assert sorted(settled) == sorted(arrived), "every request has exactly one outcome"
    again = replay(got, lambda record: Controller(play.world.settings, record))
    assert again.is_whole, again.words
    assert again.decisions == len(got)
    return len(got)
