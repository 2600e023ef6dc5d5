"""`lru-count` simulated beside the real llama-server router (`--models-max 1 -t 2`), one workload.

The simulator is told single readings only, taken before: what a swap to each model takes, prompts
of four lengths on a loaded model, and steps of one, two and four requests at once.
"""

import asyncio
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from bench.checks import Check, at_most, percentile
from bench.serve.client import Answer, Ask, ask, play, prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.swaps import router_flags
from bench.serve.systems import System, llama_server
from repertory.core.rivals.rival import Rival
from repertory.domain.actions import Load
from repertory.domain.decisions import Decision
from repertory.domain.events import Arrived
from repertory.domain.ladder import Rung
from repertory.domain.requests import Outcome, OutcomeKind, Request
from repertory.domain.specs import DeviceSpec, ModelSpec, WeightsForm
from repertory.engines.fake import llama_like
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import Curve, Law, Profile, StepLaw, prior_profile
from repertory.policy.baselines.lru_count import LruCount
from repertory.sim.driver import Simulation

__all__ = ["lru"]

MODELS = {"50m-a": 0.5, "300m-a": 0.3, "300m-b": 0.2}
"""With their shares of the requests."""
REQUESTS, RATE_PER_S, SEED = 220, 1.1, 5
PROMPTS, ANSWERS = (16, 192), (8, 40)
"""Tokens, from and to."""
SLOTS, CONTEXT = 4, 512
"""As `router_flags` says: 2,048 tokens in four slots."""
TIMEOUT_S = 120.0
LENGTHS = (8, 48, 96, 192)
BATCHES = (1, 2, 4)
REPEATS = 3
BAR = 0.20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one model of the router; medians, seconds."""

    swap_s: float
    """Until the first token of the shortest prompt, less what that takes on a loaded model."""
    prompts: tuple[tuple[float, float], ...]
    """(tokens, until the first token)."""
    steps: tuple[tuple[float, float], ...]
    """(requests at once, between two tokens of one)."""


def lru(run: Run) -> list[Check]:
    if not list(run.peers.glob("llama-server-*")):
        run.say(f"lru is skipped: no llama-server in {run.peers}; `bash bench/peers.sh` builds it")
        return []
    folder = str(folder_of(tuple(MODELS), run.root, run.say))
    flags = router_flags(folder, 1, 2)
    with llama_server(run.peer, run.log(), flags) as router:
        readings = asyncio.run(_calibrated(router))
        for name, one in readings.items():
            run.say(f"{name}: swap {one.swap_s:.3f} s, prompts {one.prompts}, steps {one.steps}")
        asks = workload()
        answers = asyncio.run(play(router.url, asks, TIMEOUT_S))
    real = [one.ttft_or(TIMEOUT_S) for one in answers]
    simulated, loads = simulate(asks, readings)
    run.keep(
        "lru",
        {
            "readings": {name: asdict(one) for name, one in readings.items()},
            "measured_ttft_s": real,
            "simulated_ttft_s": simulated,
            "simulated_loads": loads,
            "failures": [one.failure for one in answers if one.failure],
        },
    )
    return _judged(run, answers, real, simulated)


def _judged(
    run: Run, answers: Sequence[Answer], real: Sequence[float], simulated: Sequence[float]
) -> list[Check]:
    off = {}
    for share in (0.5, 0.9, 0.95, 0.99):
        here, there = percentile(simulated, share), percentile(real, share)
        off[share] = abs(here / there - 1.0)
        run.say(f"TTFT p{100 * share:.0f}: simulated {here:.3f} s, measured {there:.3f} s")
    failed = sum(bool(one.failure) for one in answers)
    return [
        at_most("lru-count against the router: p95 TTFT is off by", "", off[0.95], BAR),
        at_most("  requests of the router that failed", "", failed, 0),
    ]


def workload() -> list[Ask]:
    luck = random.Random(SEED)
    at_s, asks = 0.0, []
    for _ in range(REQUESTS):
        at_s += luck.expovariate(RATE_PER_S)
        model = luck.choices(list(MODELS), list(MODELS.values()))[0]
        prompt = prompt_of(luck.randint(*PROMPTS), luck)
        asks.append(Ask(model, prompt, luck.randint(*ANSWERS), at_s))
    return asks


async def _calibrated(router: System) -> dict[str, Readings]:
    luck = random.Random(1)
    names = list(MODELS)
    firsts: dict[str, list[float]] = {name: [] for name in names}
    async with session() as http:

        async def told(name: str, tokens: int, answer: int) -> Answer:
            wanted = Ask(name, prompt_of(tokens, luck), answer)
            found = await ask(http, router.url, wanted, TIMEOUT_S)
            if found.failure or found.ttft_s is None:
                raise RuntimeError(f"{name}: {found.failure}")
            return found

        for name in names:
            await told(name, LENGTHS[0], 1)  # files into the page cache
        for order in (names, names[::-1]) * REPEATS:  # each after each
            for name in order:
                found = await told(name, LENGTHS[0], 1)
                firsts[name].append(found.ttft_s or 0.0)
        known = {}
        for name in names:
            await told(name, LENGTHS[0], 1)
            prompts = []
            for tokens in LENGTHS:
                each = [await told(name, tokens, 1) for _ in range(REPEATS)]
                prompts.append((float(tokens), statistics.median(one.ttft_s or 0 for one in each)))
            steps = []
            for batch in BATCHES:
                each = await asyncio.gather(*(told(name, LENGTHS[0], 48) for _ in range(batch)))
                gaps = [gap for one in each for gap in one.gaps_s[8:-8]]
                steps.append((float(batch), statistics.median(gaps)))
            swaps = [one for one in firsts[name] if one > 2 * prompts[0][1]]  # the rest: loaded
            swap_s = statistics.median(swaps) - prompts[0][1]
            known[name] = Readings(swap_s, tuple(prompts), tuple(steps))
    return known


def simulate(asks: Sequence[Ask], readings: Mapping[str, Readings]) -> tuple[list[float], int]:
    """Times to the first token, in order; and how often weights were loaded."""
    events = [
        Arrived(
            round(one.at_s * 1e9),
            Request(f"r{at:04d}", one.model, len(one.prompt), one.max_tokens),
        )
        for at, one in enumerate(asks)
    ]
    loads: list[Load] = []

    def record(decision: Decision) -> None:
        loads.extend(one for one in decision.actions if isinstance(one, Load))

    first_s: dict[str, float] = {}

    def settled(at_ns: int, outcome: Outcome) -> None:
        name = outcome.request_id
        assert outcome.kind is OutcomeKind.DONE, outcome
        fate = playing.fates[name]
        assert fate.first_ns is not None
        first_s[name] = fate.first_ns / 1e9 - asks[int(name[1:])].at_s

    def profile(spec: ModelSpec, device: DeviceSpec) -> Profile:
        return _profile(prior_profile(spec, device), readings[spec.name])

    node = llama_like([DeviceSpec("cores", 1 << 40, cores=2)])
    playing = Simulation(
        Rival(LruCount(1, SLOTS), record), [NodeModel(node, profile)], settled=settled
    )
    playing.start(_spec(name) for name in MODELS)
    playing.run(events)
    return [first_s[event.request.id] for event in events], len(loads)


def _spec(name: str) -> ModelSpec:
    """Sizes mean nothing here: all times are what was read."""
    return ModelSpec(name, name, name, _MIB, 1, 1, CONTEXT, _MIB, max_sequences=SLOTS)


def _profile(prior: Profile, read: Readings) -> Profile:
    """All that a swap takes is its load; what goes down goes at once."""
    plain = WeightsForm.PLAIN
    nothing = Law(0.0, 0.0)
    swap = Law(read.swap_s, 0.0)
    return replace(
        prior,
        load={(plain, Rung.DISK): swap, (plain, Rung.HOST): swap},
        activate=nothing,
        deactivate_s=0.0,
        unload_s=0.0,
        drop_s=0.0,
        prefill={plain: StepLaw(Curve(read.prompts))},
        decode={plain: StepLaw(Curve(read.steps))},
    )
