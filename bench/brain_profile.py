"""Where the brain's time goes under virtual time: `python -m bench.brain_profile`.

Models on a fleet of accelerators under a load that rolls from model to model, simulated to its end.
1. What each kind of event costs `Controller.handle`: count, mean, 99th percentile, share.
2. What the brain, its log and the rest of the simulator (driver and node models) take, and how many
   requests a second that makes.
3. The hash of the decision log: two versions of the brain that decide alike have the same one.

`--growth` measures how it grows with requests, models and devices.
"""

import argparse
import hashlib
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from bench.checks import percentile
from repertory.core.controller import Controller
from repertory.core.costbook import CostBook
from repertory.core.journal import encode
from repertory.domain.actions import Action
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived, Event
from repertory.domain.ladder import Rung
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec, WeightsForm
from repertory.engines.fake import llama_like, vllm_like
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import Law, Profile, StepLaw, prior_profile, straight
from repertory.sim.driver import Simulation

GIB, MIB = 1 << 30, 1 << 20
DEVICE_BYTES = 40 * GIB
DEVICES_PER_NODE = 8
PERIOD_S = 600.0
"""In which a model's rate goes up and down once."""
LOADS = {"light": 1.5, "over": 6.0}
"""Requests a second and device: what is served as it comes, and what makes queues grow."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated."""

    engine: str
    load: str
    models: int
    devices: int
    requests: int

    def text(self) -> str:
        what = f"{self.requests} requests, {self.models} models, {self.devices} devices"
        return f"{self.engine}, {self.load} load, {what}"


def profile(spec: ModelSpec, device: DeviceSpec) -> Profile:
    """About a card with 2 TB/s, behind a disk with 5 GB/s; what is on cores is a prior's."""
    prior = prior_profile(spec, device)
    if device.backend == "cpu":
        return prior
    weights = spec.weights_bytes
    prefill = StepLaw(straight(0.004, weights * 6e-15), 1e-9)
    decode = StepLaw(straight(0.002 + weights * 6e-13, weights * 2e-14), 1e-8)
    cold, warm = Law(0.5, 2e-10), Law(0.2, 4e-11)
    return replace(
        prior,
        load={
            (form, rung): cold if rung is Rung.DISK else warm
            for form in WeightsForm
            for rung in (Rung.DISK, Rung.HOST)
        },
        activate=Law(0.3, 1e-12),
        prefill=dict.fromkeys(WeightsForm, prefill),
        decode=dict.fromkeys(WeightsForm, decode),
    )


def nodes(scene: Scene) -> list[NodeSpec]:
    found = []
    for first in range(0, scene.devices, DEVICES_PER_NODE):
        name = f"node{first // DEVICES_PER_NODE}"
        places = range(first, min(first + DEVICES_PER_NODE, scene.devices))
        cards = [DeviceSpec(f"gpu{at:02d}", DEVICE_BYTES, backend="cuda") for at in places]
        if scene.engine == "vllm":
            found.append(vllm_like(cards, name, 512 * GIB, GIB // 2))
        else:
            cores = DeviceSpec(f"cpu{name}", 64 * GIB, cores=16)
            found.append(llama_like([*cards, cores], name))
    return found


def models(count: int) -> list[ModelSpec]:
    rng = random.Random(3)
    return [
        ModelSpec(
            name=f"model-{at:03d}",
            digest=f"digest-{at}",
            location=f"model-{at:03d}.gguf",
            weights_bytes=round(rng.uniform(10.0, 34.0) * GIB),
            layers=32,
            kv_bytes_per_token=131072,
            context_tokens=8192,
            buffers_bytes=512 * MIB,
            head_bytes=256 * MIB,
            kept_bytes=256 * MIB,
        )
        for at in range(count)
    ]


def arrivals(scene: Scene) -> Iterator[Event]:
    """Poisson as a whole; who is asked for rolls: each model's share follows a sine of its own."""
    rng = random.Random(11)
    names = [spec.name for spec in models(scene.models)]
    per_s = LOADS[scene.load] * scene.devices
    at_s = 0.0
    for count in range(scene.requests):
        at_s += rng.expovariate(per_s)
        turn = 2.0 * math.pi * at_s / PERIOD_S
        weights = [
            (1.05 + math.sin(turn + 2.0 * math.pi * at / scene.models)) / (1 + at % 5)
            for at in range(scene.models)
        ]
        request = Request(
            f"r{count:07d}",
            rng.choices(names, weights)[0],
            rng.choice([64, 200, 500, 500, 1500]),
            rng.choice([32, 64, 128, 256]),
            rng.choice([1.0, 1.0, 1.0, 0.1]),
        )
        yield Arrived(round(at_s * 1e9), request)


class Log:
    """The hash of all lines, and the time that making them takes."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.took_ns = 0
        self.bytes = 0

    def __call__(self, decision: Decision) -> None:
        begin = time.perf_counter_ns()
        line = encode(decision)
        self.hash.update(line)
        self.bytes += len(line)
        self.took_ns += time.perf_counter_ns() - begin


class Timed(Controller):
    """Each `handle` by the kind of its event, the log taken off."""

    def __init__(self, log: Log) -> None:
        super().__init__(Settings(), log, CostBook(profile))
        self._log = log
        self.took_ns: dict[str, list[int]] = {}

    def handle(self, event: Event) -> list[Action]:
        logged_ns, begin = self._log.took_ns, time.perf_counter_ns()
        actions = super().handle(event)
        took_ns = time.perf_counter_ns() - begin - (self._log.took_ns - logged_ns)
        self.took_ns.setdefault(type(event).__name__, []).append(took_ns)
        return actions


@dataclass(frozen=True, slots=True)
class Run:
    """What one simulation took."""

    scene: Scene
    total_s: float
    kinds: dict[str, list[int]]
    log_s: float
    log_bytes: int
    log_hash: str
    outcomes: Counter[str]
    simulated_s: float

    @property
    def events(self) -> int:
        return sum(map(len, self.kinds.values()))

    @property
    def brain_s(self) -> float:
        return sum(map(sum, self.kinds.values())) / 1e9


def simulate(scene: Scene) -> Run:
    log = Log()
    controller = Timed(log)
    outcomes: Counter[str] = Counter()
    simulation = Simulation(
        controller,
        [NodeModel(node, profile) for node in nodes(scene)],
        output_tokens=lambda request: max(1, request.max_tokens - len(request.id) % 3),
        settled=lambda _, outcome: outcomes.update([outcome.kind.value]),
    )
    begin = time.perf_counter()
    simulation.start(models(scene.models))
    simulation.run(arrivals(scene))
    total_s = time.perf_counter() - begin
    controller.check()
    return Run(
        scene,
        total_s,
        controller.took_ns,
        log.took_ns / 1e9,
        log.bytes,
        log.hash.hexdigest(),
        outcomes,
        simulation.now_ns / 1e9,
    )


def report(run: Run) -> None:
    print(f"{run.scene.text()}; {run.simulated_s:.0f} s simulated; {dict(run.outcomes)}")
    for name, took in sorted(run.kinds.items(), key=lambda one: -sum(one[1])):
        mean_us, share = sum(took) / len(took) / 1e3, sum(took) / 1e9 / run.brain_s
        p99_us = percentile(took, 0.99) / 1e3
        print(f"  {name:18} {len(took):8}  mean {mean_us:8.1f} us  p99 {p99_us:8.1f}  {share:6.1%}")
    rest_s = run.total_s - run.brain_s - run.log_s
    print(
        f"  {run.events} events in {run.total_s:.2f} s: brain {run.brain_s:.2f}, log "
        f"{run.log_s:.2f} ({run.log_bytes >> 20} MiB), driver and nodes {rest_s:.2f}; "
        f"{run.scene.requests / run.total_s:.0f} requests/s, brain "
        f"{run.events / run.brain_s:.0f} events/s"
    )
    print(f"  log {run.log_hash[:16]}")


def growth(scene: Scene, most: int) -> None:
    """One line per size, the others as in the scene."""
    sizes = [replace(scene, requests=10**at) for at in (3, 4, 5) if 10**at <= most]
    sizes += [replace(scene, models=count) for count in (20, 100)]
    sizes += [replace(scene, devices=count) for count in (4, 16, 64)]
    for one in dict.fromkeys(sizes):
        run = simulate(one)
        each_us = run.brain_s / run.events * 1e6
        print(
            f"{one.text():62} {run.events:8} events, brain {each_us:7.1f} us each, all "
            f"{run.total_s:7.2f} s, {one.requests / run.total_s:7.0f} requests/s, "
            f"log {run.log_hash[:12]}",
            flush=True,
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--engine", choices=["vllm", "llama"], default="vllm")
    options.add_argument("--load", choices=list(LOADS), default="light")
    options.add_argument("--models", type=int, default=20)
    options.add_argument("--devices", type=int, default=16)
    options.add_argument("--requests", type=int, default=20_000)
    options.add_argument("--growth", action="store_true")
    chosen = options.parse_args()
    scene = Scene(chosen.engine, chosen.load, chosen.models, chosen.devices, chosen.requests)
    if chosen.growth:
        growth(scene, chosen.requests)
    else:
        report(simulate(scene))
    return 0


if __name__ == "__main__":
    sys.exit(main())
