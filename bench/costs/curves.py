"""A trace over three models and room for fewer, on a given curve, in the simulator.

Each shape has a curve of its own (papers.md §1.3, facts.md): seconds of a step with all layers on
the device, and how many times as long a byte takes beside it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from repertory.core.controller import Controller
from repertory.core.costbook import CostBook, ProfileSource
from repertory.domain.actions import Load
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived
from repertory.domain.ladder import Rung
from repertory.domain.requests import Outcome, OutcomeKind, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec, WeightsForm
from repertory.engines.fake import llama_like
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import Beside, Law, Profile, StepLaw, prior_profile, straight
from repertory.policy.places.offload import Rule, by_harm, fully_or_evict, offload_always
from repertory.sim.driver import Simulation

__all__ = ["LOADS", "RULES", "SHAPES", "Played", "Shape", "goodput", "play", "play_on", "trace"]

_MIB = 1 << 20
NAMES = "abc"
REQUESTS = 150


@dataclass(frozen=True)
class Shape:
    """A model, the speed of its device, and the slower memory beside it."""

    weights_bytes: int
    layers: int
    head_bytes: int
    kv_bytes_per_token: int
    step_s: float
    """With all layers on the device, one sequence."""
    rho: float
    load_s: float
    """From the page cache, all layers."""

    def spec(self, name: str) -> ModelSpec:
        return ModelSpec(
            name=name,
            digest=f"digest-of-{name}",
            location=f"{name}.gguf",
            weights_bytes=self.weights_bytes,
            layers=self.layers,
            kv_bytes_per_token=self.kv_bytes_per_token,
            context_tokens=4096,
            buffers_bytes=self.weights_bytes // 32,
            max_sequences=8,
            head_bytes=self.head_bytes,
        )

    def profile(self, spec: ModelSpec, device: DeviceSpec) -> Profile:
        """Sequences of a batch read the weights together: each further one costs a fifth.  A model
        of another size is as much faster or slower.
        """
        size = spec.weights_bytes / self.weights_bytes
        there, here = self._steps(size), self._steps(size * self.rho)
        is_fast = device.backend != "cpu"
        per_byte = Law(0.0, self.load_s / self.weights_bytes)
        sources = {Rung.DISK: per_byte, Rung.HOST: per_byte}
        steps = there if is_fast else here
        return replace(
            prior_profile(spec, device),
            load={(form, source): per_byte for form in WeightsForm for source in sources},
            prefill=dict.fromkeys(WeightsForm, steps[0]),
            decode=dict.fromkeys(WeightsForm, steps[1]),
            activate=Law(0.02, 1e-11),
            beside=Beside(*here, sources) if is_fast else None,
        )

    def alone_s(self, prompt: int, output: int) -> float:
        """A request with everything in place, all of it on the device."""
        return self.step_s * (1 + prompt / 16 + output)

    def _steps(self, times: float) -> tuple[StepLaw, StepLaw]:
        step_s = self.step_s * times
        prefill = StepLaw(straight(step_s, step_s / 16))
        return prefill, StepLaw(straight(0.8 * step_s, 0.2 * step_s))

    @property
    def usual_s(self) -> float:
        """A request of the trace with everything in place."""
        return self.alone_s(96, 48)


SHAPES = {
    "Llama 3 8B": Shape(round(4.7e9), 32, 430_000_000, 131072, 0.012, 7.7, 1.4),
    "Qwen3-32B": Shape(round(20e9), 64, 640_000_000, 262144, 0.045, 5.2, 6.0),
    "Llama 2 70B": Shape(round(39e9), 80, 215_000_000, 327680, 0.09, 3.5, 11.8),
    "300M q8_0": Shape(258 * _MIB, 16, 38 * _MIB, 16384, 0.0103, 3.4, 0.2),
    "300M q4_0": Shape(160 * _MIB, 16, 24 * _MIB, 16384, 0.0083, 10.0, 0.2),
}
"""Loads at the paper's 3.3 GB/s; those of the pair as measured (facts.md)."""


def node(shape: Shape, room: float = 1.6) -> NodeSpec:
    """An accelerator for so many of the models, and main memory for all."""
    specs = (
        DeviceSpec("cpu0", 5 * shape.weights_bytes, cores=2),
        DeviceSpec("gpu0", round(room * shape.weights_bytes), backend="fake"),
    )
    return llama_like(specs)


def trace(shape: Shape, seed: int, load: float) -> Iterator[Arrived]:
    """Skewed popularity that turns; `load`: of what the device could do were all models there."""
    luck = random.Random(seed)
    at_s = 0.0
    for count in range(REQUESTS):
        at_s += luck.expovariate(load / shape.usual_s)
        turn = count * 3 // REQUESTS
        weights = [(8, 3, 1)[(at + turn) % 3] for at in range(3)]
        name = luck.choices(NAMES, weights)[0]
        request = Request(
            f"r{count:04d}", name, luck.choice([32, 96, 200]), luck.choice([16, 48, 96])
        )
        yield Arrived(round(at_s * 1e9), request)


@dataclass
class Played:
    """What became of a trace."""

    ended_ns: dict[str, int]
    arrived: dict[str, Arrived]
    decisions: list[Decision]

    def goodput(self, limit_s: float) -> float:
        """Tokens a second, of answers that were complete in time."""
        good = sum(
            one.request.max_tokens
            for name, one in self.arrived.items()
            if (self.ended_ns[name] - one.at_ns) / 1e9 <= limit_s
        )
        return good / (max(self.ended_ns.values()) / 1e9)

    @property
    def layers(self) -> list[int | None]:
        return [
            action.placement.layers
            for one in self.decisions
            for action in one.actions
            if isinstance(action, Load)
        ]


def play(shape: Shape, rule: Rule, events: list[Arrived], room: float = 1.6) -> Played:
    specs = [shape.spec(name) for name in NAMES]
    return play_on(node(shape, room), specs, shape.profile, rule, events)


def play_on(
    where: NodeSpec,
    specs: list[ModelSpec],
    profile: ProfileSource,
    rule: Rule,
    events: list[Arrived],
) -> Played:
    """What is predicted is what it takes: the brain has the engine's own profiles."""
    decisions: list[Decision] = []
    ended: dict[str, int] = {}

    def settled(at_ns: int, outcome: Outcome) -> None:
        assert outcome.kind is OutcomeKind.DONE, outcome
        ended[outcome.request_id] = at_ns

    settings = Settings(prewarm=False, max_queue_s=1e6)
    costs = CostBook(profile)
    controller = Controller(settings, decisions.append, costs, rule)
    simulation = Simulation(controller, [NodeModel(where, profile)], settled=settled)
    simulation.start(specs)
    simulation.run(events)
    controller.check()
    assert len(ended) == len(events)
    return Played(ended, {one.request.id: one for one in events}, decisions)


RULES: tuple[Rule, ...] = (by_harm, fully_or_evict, offload_always)
LOADS = ((1, 0.25), (2, 0.5), (3, 0.75))
"""Seeds, and how busy the device would be were all models there."""


def goodput(shape: Shape, rule: Rule) -> float:
    """Over the traces: tokens a second of answers that took no longer than three times what one
    takes that has to load its model first.
    """
    limit_s = 3.0 * (shape.usual_s + shape.load_s)
    traces = [list(trace(shape, seed, load)) for seed, load in LOADS]
    return sum(play(shape, rule, one).goodput(limit_s) for one in traces) / len(traces)
