"""What the brain itself costs: `make bench-core`, or `python -m bench.core`.

1. A simulation of an overloaded box (100 models, room for a dozen, 1,000 requests waiting) is
   recorded.
2. Its events are played to fresh controllers; each `Controller.handle` is timed, decision log on:
   the sink encodes in the step and writes to a buffered file.  Timers that lead to nothing are
   played but not counted.  Every round plays the same events, so an event's time is the median of
   its rounds: what other processes steal from one round is not the brain's.
3. The simulation goes on to a million events; memory is sampled.

Garbage collection is on; `gc.freeze()` after set-up, as the server does.
"""

import argparse
import gc
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from bench.checks import at_least, at_most, finish, percentile
from repertory.core.controller import Controller
from repertory.core.costbook import CostBook
from repertory.core.journal import encode
from repertory.domain.actions import Load
from repertory.domain.decisions import Decision
from repertory.domain.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    GenerationFailed,
    Timer,
)
from repertory.domain.requests import OutcomeKind, Request
from repertory.domain.settings import Favour, Settings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.fake import llama_like
from repertory.engines.node_model import NodeModel
from repertory.perf.profiles import Curve, Profile, StepLaw, prior_profile
from repertory.sim.driver import Simulation

GIB, MIB = 1 << 30, 1 << 20
MODELS, WAITING = 100, 1000
FASTER = 100
ROUNDS = 5
ROTATE_BYTES = 32 << 20
"""As the server's log does."""
SETTINGS = Settings(favour=Favour.BALANCED, max_waiting=WAITING, max_queue_s=1e6, max_wait_s=10.0)

P50_BAR_US, P99_BAR_US, GROWTH_BAR_MIB = 30.0, 200.0, 32.0


def node() -> NodeSpec:
    return llama_like([DeviceSpec(f"dev{at}", 8 * GIB, cores=2) for at in range(2)])


def models() -> list[ModelSpec]:
    rng = random.Random(1)
    return [
        ModelSpec(
            name=f"model-{at:03d}",
            digest=f"digest-{at}",
            location=f"model-{at:03d}.gguf",
            weights_bytes=round(rng.uniform(0.6, 1.6) * GIB),
            layers=24,
            kv_bytes_per_token=32768,
            context_tokens=8192,
            buffers_bytes=64 * MIB,
        )
        for at in range(MODELS)
    ]


def profile(spec: ModelSpec, device: DeviceSpec) -> Profile:
    """The prior's compute made many times faster: an accelerator behind the same disk."""
    slow = prior_profile(spec, device)
    return replace(
        slow,
        prefill={form: _faster(law) for form, law in slow.prefill.items()},
        decode={form: _faster(law) for form, law in slow.decode.items()},
    )


def _faster(law: StepLaw) -> StepLaw:
    points = tuple((units, seconds / FASTER) for units, seconds in law.base.points)
    return StepLaw(Curve(points), law.per_pair_s / FASTER)


class FileSink:
    """Encodes in the step, writes buffered, starts anew at the size at which the server rotates."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=1 << 16)
        self._room = ROTATE_BYTES
        self.written_bytes = 0

    def __call__(self, decision: Decision) -> None:
        line = encode(decision)
        self._file.write(line)
        self.written_bytes += len(line)
        self._room -= len(line)
        if self._room < 0:
            self._file.close()
            self._file = self._path.open("wb", buffering=1 << 16)
            self._room = ROTATE_BYTES


class Overload:
    """A simulation in which arrivals keep about 1,000 requests waiting."""

    def __init__(self, record: Callable[[Decision], None]) -> None:
        self.rng = random.Random(7)
        self.steps = 0
        self._record = record
        self.controller = Controller(SETTINGS, self._count, CostBook(profile))
        self.simulation = Simulation(
            self.controller,
            [NodeModel(node(), profile)],
            output_tokens=lambda request: max(1, request.max_tokens - len(request.id) % 3),
        )

    def run(self, steps: int) -> None:
        """Until so many events happened."""
        self.simulation.start(models())
        try:
            self.simulation.run(self._arrivals(steps))
        except StopIteration:
            return

    def _count(self, decision: Decision) -> None:
        self.steps += 1
        self._record(decision)

    def _arrivals(self, steps: int) -> Iterator[Event]:
        names = [spec.name for spec in models()]
        weights = [1.0 / (at + 25) for at in range(MODELS)]
        at_ns, count = 0, 0
        while self.steps < steps:
            missing = WAITING - self.controller.state.waiting
            per_s = 4000.0 if missing > 100 else max(16.0, 40.0 * missing)
            at_ns = max(at_ns, self.simulation.now_ns) + round(self.rng.expovariate(per_s) * 1e9)
            request = Request(
                f"r{count:07d}",
                self.rng.choices(names, weights)[0],
                self.rng.choice([32, 200, 200, 900, 2500]),
                self.rng.choice([8, 16, 64, 128]),
                self.rng.choice([1.0, 1.0, 0.25]),
            )
            count += 1
            yield Arrived(at_ns, request)
            if self.rng.random() < 0.05:
                yield Cancelled(at_ns + 1, request.id)


def record(steps: int) -> list[Decision]:
    decisions: list[Decision] = []
    Overload(decisions.append).run(steps)
    return decisions


def is_no_op(decision: Decision) -> bool:
    """A timer that led to nothing; every other kind of event changes the state here."""
    return (
        isinstance(decision.event, Timer) and not decision.actions and not decision.verdicts
    ) or (isinstance(decision.event, Cancelled) and not decision.actions)


def measured_from(decisions: list[Decision]) -> int:
    """Where the queue first is full: what came before is set-up."""
    waiting = 0
    for at, one in enumerate(decisions):
        names = [type(action).__name__ for action in one.actions]
        if isinstance(one.event, Arrived):
            waiting += 1
        waiting -= names.count("Dispatch")
        if isinstance(one.event, (Arrived, Cancelled)):
            waiting -= names.count("Settle") - names.count("Cancel")
        if waiting >= WAITING * 0.99:
            return at
    raise SystemExit("the simulation never had 1,000 requests waiting")


def play(decisions: list[Decision], first: int, path: Path) -> list[float]:
    """Microseconds of each counted step of one fresh controller."""
    controller = Controller(SETTINGS, FileSink(path), CostBook(profile))
    counted = [at >= first and not is_no_op(one) for at, one in enumerate(decisions)]
    events = [one.event for one in decisions]
    for event in events[:first]:
        controller.handle(event)
    gc.collect()
    gc.freeze()
    took: list[int] = []
    clock, handle = time.perf_counter_ns, controller.handle
    for at in range(first, len(events)):
        event = events[at]
        begin = clock()
        handle(event)
        end = clock()
        if counted[at]:
            took.append(end - begin)
    gc.unfreeze()
    return [one / 1e3 for one in took]


def mix_of(decisions: list[Decision], first: int) -> dict[str, Any]:
    counted = [one for one in decisions[first:] if not is_no_op(one)]
    kinds = Counter(type(one.event).__name__ for one in counted)
    total = len(counted)
    ends = (Arrived, Finished, Cancelled, GenerationFailed)
    loads = sum(isinstance(action, Load) for one in counted for action in one.actions)
    refused = sum(
        isinstance(one.event, Arrived)
        and any(
            getattr(getattr(a, "outcome", None), "kind", None) is OutcomeKind.REFUSED
            for a in one.actions
        )
        for one in counted
    )
    return {
        "events": total,
        "left out as no-ops": len(decisions) - first - total,
        "arrivals and finishes": sum(isinstance(one.event, ends) for one in counted) / total,
        "arrivals refused": refused / total,
        "loads begun": loads / total,
        "kinds": {name: count / total for name, count in kinds.most_common()},
    }


def million(steps: int, path: Path) -> dict[str, Any]:
    """Resident bytes after every 50,000 events of one long simulation."""
    process = psutil.Process()
    samples: list[tuple[int, int]] = []
    sink = FileSink(path)

    def keep(decision: Decision) -> None:
        sink(decision)
        if decision.step % 50_000 == 0:
            gc.collect()
            samples.append((decision.step, process.memory_info().rss))

    begin = time.perf_counter()
    Overload(keep).run(steps)
    took_s = time.perf_counter() - begin
    early = [rss for step, rss in samples if step >= steps // 5]
    return {
        "events": steps,
        "seconds": round(took_s, 1),
        "log_bytes": sink.written_bytes,
        "samples": samples,
        "growth_bytes": max(early) - early[0],
    }


def by_kind(decisions: list[Decision], first: int, took: list[float]) -> list[dict[str, Any]]:
    counted = [one for one in decisions[first:] if not is_no_op(one)]
    groups: dict[str, list[float]] = {}
    for one, value in zip(counted, took, strict=True):
        groups.setdefault(type(one.event).__name__, []).append(value)
    return [
        {
            "kind": name,
            "count": len(values),
            "p50_us": round(percentile(values, 0.5), 1),
            "p99_us": round(percentile(values, 0.99), 1),
            "max_us": round(max(values), 1),
        }
        for name, values in sorted(groups.items())
    ]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--recorded", type=int, default=60_000, help="events to record and play")
    options.add_argument("--events", type=int, default=1_000_000, help="events of the long run")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--out", type=Path, default=Path("build/bench/core.json"))
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decisions.jsonl"
        decisions = record(chosen.recorded)
        first = measured_from(decisions)
        mix = mix_of(decisions, first)
        rounds = [play(decisions, first, path) for _ in range(chosen.rounds)]
        usual = [statistics.median(one) for one in zip(*rounds, strict=True)]
        kinds = by_kind(decisions, first, usual)
        del decisions
        long = million(chosen.events, path) if chosen.events else None
    p50s = [percentile(one, 0.5) for one in rounds]
    p99s = [percentile(one, 0.99) for one in rounds]
    checks = [
        at_least("arrivals and finishes", "share", mix["arrivals and finishes"], 0.6),
        at_least("loads begun", "share", mix["loads begun"], 0.02),
        at_most("Controller.handle p50", "us", percentile(usual, 0.5), P50_BAR_US),
        at_most("Controller.handle p99", "us", percentile(usual, 0.99), P99_BAR_US),
    ]
    if long is not None:
        growth_mib = long["growth_bytes"] / MIB
        checks.append(at_most("memory from event 200k to 1M", "MiB", growth_mib, GROWTH_BAR_MIB))
    raw = {"mix": mix, "p50_us": p50s, "p99_us": p99s, "kinds": kinds, "long": long}
    report(raw)
    return finish(chosen.out, checks, raw)


def report(raw: dict[str, Any]) -> None:
    spread = [f"{name} {min(raw[name]):.1f}-{max(raw[name]):.1f}" for name in ("p50_us", "p99_us")]
    print(f"rounds: {len(raw['p50_us'])}; spread {', '.join(spread)}")
    mix = raw["mix"]
    print(
        f"mix: {mix['events']} events, {mix['left out as no-ops']} no-ops left out, "
        f"{mix['arrivals refused']:.1%} refused"
    )
    for one in raw["kinds"]:
        print(
            f"  {one['kind']:18} {one['count']:7} p50 {one['p50_us']:7.1f} us "
            f"p99 {one['p99_us']:7.1f} us  max {one['max_us']:8.1f} us"
        )
    if raw["long"]:
        long = raw["long"]
        print(
            f"{long['events']} events in {long['seconds']} s, {long['log_bytes'] >> 20} MiB of log"
        )


if __name__ == "__main__":
    sys.exit(main())
