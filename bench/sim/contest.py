"""One workload under one policy on H100s: what came of it, for tables of policies.

Every machine has up to eight of them.  Models have 16 slots of 8,192 tokens at most, under every
policy; requests that are longer are left out of the workload (their share is told).
"""

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from bench.sim.data import DATA
from repertory.config.fleet import models_of, parse_fleet
from repertory.domain.actions import Drop, Load, Unload
from repertory.domain.decisions import Decision
from repertory.domain.events import TransitionDone
from repertory.domain.fleets import Fleet
from repertory.domain.workloads import Arrival, RequestRecord
from repertory.sim.play import Scenario, play
from repertory.traces.recipes import find_recipe
from repertory.traces.summary import parse_slo, summarise

__all__ = ["CONTEXT", "POLICIES", "SLO", "SLOTS", "STANDS", "Case", "Figures", "Stand", "played"]

POLICIES = (
    "repertory",
    "lru-count",
    "ollama",
    "static",
    "reactive",
    "sharing",
    "token-level",
    "oracle",
)
SLO = "ttft_p99<2s,tpot_p99<100ms"
CONTEXT, SLOTS = 8192, 16
WARM_S = 60.0
"""What comes in the first minute is played and not counted: all begin with empty devices."""
_MORNING_S = 10 * 3600.0
"""Where a workload has days, its first test day is entered at ten."""
_NODE = """
  - id: {id}
    count: {count}
    devices: [{{gpu: h100_sxm, count: {gpus}}}]
    disk: 25GB/s
    host_memory: 1TiB
"""


@dataclass(frozen=True, slots=True)
class Stand:
    """A recipe at its usual load."""

    recipe: str
    rate_per_s: float
    devices: int
    day: int | None = None


STANDS = {
    one.recipe: one
    for one in (
        Stand("sg-20", 12.0, 8, 7),
        Stand("az-w-1", 8.0, 8, 0),
        Stand("az23", 3.5, 8),
        Stand("mux-16", 4.0, 8, 0),
        Stand("tail-100", 10.0, 8, 0),
        Stand("week", 3.0, 8, 1),
    )
}
"""Rates at which 8 GPUs are busy and not drowned: the load curves tell of more and of less."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run."""

    stand: Stand
    policy: str
    seed: int
    requests: int
    factor: float = 1.0
    """Of the stand's rate; the time that is played is the same."""
    devices: int | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Simulated.  Shares are of requests that count; None: the quantile had no first token."""

    recipe: str
    policy: str
    seed: int
    factor: float
    devices: int
    requests: int
    left_out: int
    span_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    at_once_share: float
    met_share: float
    refused_share: float
    goodput_per_s: float
    loads_per_1000: float
    device_s_per_1000: float
    """Seconds of devices that held weights, per 1,000 requests."""
    cpu_us_per_request: float


def fleet_of(recipe: str, devices: int) -> Fleet:
    """So many H100s, eight to a machine, what is left in one of its own, with a recipe's models."""
    full, rest = divmod(devices, 8)
    nodes = _NODE.format(id="box", count=full, gpus=8) if full else ""
    nodes += _NODE.format(id="part", count=1, gpus=rest) if rest else ""
    fleet = parse_fleet(f"name: h100s\nnodes:{nodes}", "fleet.yaml")
    sizes = [(one.name, one.parameters) for one in find_recipe(recipe, DATA).models]
    models = models_of(sizes, fleet)
    short = [replace(one, context_tokens=CONTEXT, max_sequences=SLOTS) for one in models]
    return replace(fleet, models=tuple(short))


@lru_cache(maxsize=2)
def _arrivals(stand: Stand, seed: int, requests: int, factor: float) -> tuple[list[Arrival], int]:
    """Those that fit into a context, and how many do not."""
    recipe = find_recipe(stand.recipe, DATA)
    days = None if stand.day is None else (stand.day, stand.day)
    begin_s = 0.0 if stand.day is None else _MORNING_S
    coming = recipe.arrivals(seed, days=days, rate_per_s=stand.rate_per_s * factor)
    later = (one for one in coming if one.at_s >= begin_s)
    wanted = islice(later, round(requests * factor))
    moved = [replace(one, at_s=one.at_s - begin_s) for one in wanted]
    fitting = [one for one in moved if one.prompt_tokens + one.output_tokens <= CONTEXT]
    return fitting, len(moved) - len(fitting)


def played(case: Case) -> Figures:
    arrivals, left_out = _arrivals(case.stand, case.seed, case.requests, case.factor)
    devices = case.devices or case.stand.devices
    scenario = Scenario(fleet_of(case.stand.recipe, devices), case.policy, case.seed)
    watch, records = _Watch(), []

    def tell(record: RequestRecord) -> None:
        records.append(replace(record, is_warmup=record.at_s < WARM_S))

    began_s = time.process_time()
    result = play(scenario, arrivals, tell, watch, again=lambda: iter(arrivals))
    cpu_s = time.process_time() - began_s
    summary = summarise(records, parse_slo(SLO), max(result.last_s - WARM_S, 1e-9))
    total = summary.total
    return Figures(
        recipe=case.stand.recipe,
        policy=case.policy,
        seed=case.seed,
        factor=case.factor,
        devices=devices,
        requests=len(arrivals),
        left_out=left_out,
        span_s=result.last_s,
        ttft_p50_s=total.ttft.p50_s,
        ttft_p95_s=total.ttft.p95_s,
        ttft_p99_s=total.ttft.p99_s,
        at_once_share=total.at_once_share or 0.0,
        met_share=total.met_share or 0.0,
        refused_share=total.refused / total.requests if total.requests else 0.0,
        goodput_per_s=total.goodput_per_s,
        loads_per_1000=1000 * watch.loads / len(arrivals),
        device_s_per_1000=1000 * watch.held_s(result.last_s) / len(arrivals),
        cpu_us_per_request=1e6 * cpu_s / len(arrivals),
    )


class _Watch:
    """Of a decision log: loads, and how long devices hold weights of anybody."""

    def __init__(self) -> None:
        self.loads = 0
        self._up: dict[str, tuple[str, ...]] = {}
        """Devices of the replicas that are on any."""
        self._going: dict[int, str] = {}
        """Replicas on their way down, by the action."""
        self._count: Counter[str] = Counter()
        self._since_ns: dict[str, int] = {}
        self._held_ns = 0

    def __call__(self, decision: Decision) -> None:
        event = decision.event
        if isinstance(event, TransitionDone):
            devices = self._up.pop(self._going.pop(event.action_id, ""), ())
            for device in devices:
                self._count[device] -= 1
                if not self._count[device]:
                    self._held_ns += event.at_ns - self._since_ns.pop(device)
        for action in decision.actions:
            if isinstance(action, Load):
                self.loads += 1
                self._up[action.replica_id] = action.placement.devices
                for device in action.placement.devices:
                    self._count[device] += 1
                    self._since_ns.setdefault(device, event.at_ns)
            elif isinstance(action, (Unload, Drop)):
                self._going[action.action_id] = action.replica_id

    def held_s(self, end_s: float) -> float:
        """Until the last request came."""
        ends = (max(0.0, end_s - since_ns / 1e9) for since_ns in self._since_ns.values())
        return self._held_ns / 1e9 + sum(ends)
