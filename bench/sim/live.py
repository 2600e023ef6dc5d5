"""Our own server on this machine, and the simulator's account of the same workload.

Each run is a server of its own: two or three models, room for fewer, an open-loop client beside it.
Measured and simulated get the same requests; the simulator gets the server's log up to its first
request (`sim.served`): devices, models, settings, and what `repertory profile` measured before.

Runs are kept, and one that stands is not played again, so that the scene may be run in pieces:
profiles one to three minutes, each of the fifteen runs 85 to 115 s, half an hour in all.
`REPERTORY_LIVE=1` plays each workload once: then there is no spread to be held against.
"""

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.checks import Check, at_most, percentile
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import repertory
from repertory.bench.asking import Endpoint
from repertory.bench.playing import Play, play
from repertory.bench.prompts import Prompts
from repertory.core.controller import Controller
from repertory.core.journal import read_lines
from repertory.core.replaying import Replayed, header_of, replay
from repertory.domain.actions import Activate, Load
from repertory.domain.decisions import Decision
from repertory.domain.readings import typical_s
from repertory.domain.workloads import Arrival, Ending, Origin, RequestRecord, RunHeader
from repertory.live.profile_files import ProfileFile, read_file
from repertory.sim.play import Scenario
from repertory.sim.play import play as simulate
from repertory.sim.served import served
from repertory.traces.files import read_workload, write_workload
from repertory.traces.runs import RunWriter, read_run

__all__ = ["live"]

TIMES_BAR, SWITCHES_BAR = 0.15, 0.10
_REPEATS = int(os.environ.get("REPERTORY_LIVE", "5"))
"""Of each workload, for the spread."""
WARM_UP_S = 6.0
"""First each model once, alone: a file is opened once in a throwaway child, a worker's first
context measures itself, and neither is what is compared."""
MODELS = ("50m-a", "50m-b", "300m-a")
_APART_S = 0.1
_TWINS = ("50m-a", "50m-b")
_ALIKE, _PROFILES = 0.4, 3
"""Where two of one shape are read farther apart, something else had the cores for a while, and they
are read again.  Seen: prompts of one in twice the time, for some ten readings in a row."""


_Move = tuple[float, str, str]
"""(seconds, kind, model)"""


@dataclass(frozen=True)
class _Load:
    """A workload and the room for it."""

    shares: dict[str, float]
    per_s: float
    memory_mib: int
    """Some 194 MiB of it are the server's and the worker's own."""
    burst: float = 1.0
    """In bursts of 3 s every 12 s, so many times the mean rate."""
    requests: int = 520

    def arrivals(self, seed: int) -> list[Arrival]:
        luck = random.Random(seed)
        made = [Arrival(2.0 * at, name, 16, 2) for at, name in enumerate(self.shares)]
        at_s = begin_s = WARM_UP_S
        for _ in range(self.requests):
            calm = (4.0 - self.burst) / 3.0
            is_burst = (at_s - begin_s) % 12.0 < 3.0
            at_s += luck.expovariate(self.per_s * (self.burst if is_burst else calm))
            (name,) = luck.choices(list(self.shares), list(self.shares.values()))
            prompt = min(400, max(8, round(luck.lognormvariate(4.4, 0.6))))
            output = min(96, max(2, round(luck.lognormvariate(3.0, 0.6))))
            made.append(Arrival(round(at_s, 6), name, prompt, output))
        return made


_PAIR = {"50m-a": 0.6, "50m-b": 0.4}
LOADS = {
    "two models, room for one": _Load(_PAIR, 7.0, 340),
    "three models, room for two": _Load({"50m-a": 0.5, "50m-b": 0.35, "300m-a": 0.15}, 5.0, 650),
    "two models, in bursts": _Load(_PAIR, 6.0, 340, burst=2.5),
}


@dataclass(frozen=True)
class _Seen:
    """A run, as its client and its decision log have it."""

    p50_s: float
    p95_s: float
    switches: int
    """Models that began to serve."""
    loads: int
    """Of those, how many had to be loaded before."""
    moves: tuple[_Move, ...]


def live(run: Run) -> list[Check]:
    root = run.root / "live"
    profiles = _profiled(run, root)
    _play_all(run, root, profiles)
    checks: list[Check] = []
    raw: dict[str, object] = {}
    for number, name in enumerate(LOADS):
        folders = [_folder(root, number, repeat) for repeat in range(_REPEATS)]
        for folder in folders:
            again = _replayed(folder)
            assert again.is_whole, f"{name}, {folder}: {again.words}"
        seen = [_measured(folder) for folder in folders]
        told = [_simulated(folder) for folder in folders]
        checks += _compared(name, seen, told)
        raw[name] = _table(run, name, seen, told)
    run.keep("live", raw)
    return checks


def _play_all(run: Run, root: Path, profiles: Path) -> None:
    """Each workload once before any is played again: what the machine does meanwhile meets all."""
    asked = [
        (repeat, number, name)
        for repeat in range(_REPEATS)
        for number, name in enumerate(LOADS)
        if not (_folder(root, number, repeat) / "run.jsonl").exists()
    ]
    for at, (repeat, number, name) in enumerate(asked):
        folder = _folder(root, number, repeat)
        run.say(f"{at + 1} of {len(asked)} runs: {name}, run {repeat + 1} of {_REPEATS}")
        began_s = time.monotonic()
        _play(run, LOADS[name], number, folder, profiles)
        one = _measured(folder)
        times = f"TTFT p50 {1e3 * one.p50_s:.0f} ms, p95 {1e3 * one.p95_s:.0f} ms"
        run.say(f"  {times}, {one.switches} switches; took {time.monotonic() - began_s:.0f} s")


def _folder(root: Path, number: int, repeat: int) -> Path:
    return root / f"{number}-{repeat}"


def _compared(name: str, seen: Sequence[_Seen], told: Sequence[_Seen]) -> list[Check]:
    """Medians of the repeats, each simulated by its own server's memory."""
    checks = []
    for word, of in (("p50", _p50_s), ("p95", _p95_s)):
        values, simulated = [of(one) for one in seen], [of(one) for one in told]
        off = abs(median(simulated) / median(values) - 1.0)
        bar = max(TIMES_BAR, _spread(values))
        checks.append(at_most(f"{name}: TTFT {word}, off by", "x", off, bar))
    switches = median(one.switches for one in told) / median(one.switches for one in seen)
    off = abs(switches - 1.0)
    return [*checks, at_most(f"{name}: switches, off by", "x", off, SWITCHES_BAR)]


def _spread(values: Sequence[float]) -> float:
    """The farthest two apart, to their median."""
    return (max(values) - min(values)) / median(values)


def _p50_s(one: _Seen) -> float:
    return one.p50_s


def _p95_s(one: _Seen) -> float:
    return one.p95_s


def _switches(one: _Seen) -> float:
    return one.switches


def _table(run: Run, name: str, seen: Sequence[_Seen], told: Sequence[_Seen]) -> object:
    for origin, some in (("measured", seen), ("simulated", told)):
        for at, one in enumerate(some):
            times = f"TTFT p50 {1e3 * one.p50_s:.1f} ms, p95 {1e3 * one.p95_s:.0f} ms"
            moves = f"{one.switches} switches, {one.loads} loads"
            run.say(f"{name}, {origin} {at + 1}: {times}, {moves}")
        p50, p95, switches = (
            100.0 * _spread([of(one) for one in some]) for of in (_p50_s, _p95_s, _switches)
        )
        run.say(
            f"{name}, {origin}, spread of {len(some)}: "
            f"TTFT p50 {p50:.0f} %, p95 {p95:.0f} %, switches {switches:.0f} %"
        )
    apart = next(
        (pair for pair in zip(seen[0].moves, told[0].moves, strict=False) if _differ(*pair)), None
    )
    if apart is not None:
        (at_s, *what), (then_s, *other) = apart
        run.say(f"  apart: {what} at {at_s:.2f} s measured, {other} at {then_s:.2f} s simulated")
    return {
        origin: [(one.p50_s, one.p95_s, one.switches, one.loads) for one in some]
        for origin, some in (("measured", seen), ("simulated", told))
    } | {"first apart": apart}


def _differ(one: _Move, other: _Move) -> bool:
    """Another move, or more than a tenth of a second apart."""
    return one[1:] != other[1:] or abs(one[0] - other[0]) > _APART_S


def _profiled(run: Run, root: Path) -> Path:
    """What `repertory profile --quick` measures of the models, once."""
    state, folder = root / "profiled", folder_of(MODELS, run.root, run.say)
    if (root / "profiled.done").exists():
        return state / "profiles"
    command = [sys.executable, "-m", "repertory", "profile", *MODELS, "--quick"]
    command += ["--source", str(folder), "--state-dir", str(state), "--memory", "3GiB"]
    for _ in range(_PROFILES):
        run.say("profiling three models")
        shutil.rmtree(state, ignore_errors=True)
        subprocess.run(command, check=True, capture_output=True)
        apart = _apart(state / "profiles")
        run.say(f"two of one shape are read {100.0 * apart:.0f} % apart at most")
        if apart <= _ALIKE:
            break
    (root / "profiled.done").touch()
    return state / "profiles"


def _apart(profiles: Path) -> float:
    """The most that steps of two models of one shape differ by."""
    read = [read_file(path) for name in _TWINS for path in profiles.glob(f"{name}-*.json")]
    steps = [
        {(one.decode, one.tokens, one.context_tokens // 1000): typical_s(one.seconds) for one in of}
        for of in (file.readings.devices[0].steps for file in read if isinstance(file, ProfileFile))
    ]
    first, second = steps
    return max(abs(first[key] / second[key] - 1.0) for key in first.keys() & second.keys())


def _play(run: Run, load: _Load, seed: int, folder: Path, profiles: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(profiles, folder / "profiles")
    write_workload(folder / "asked.jsonl", load.arrivals(seed))
    arrivals = list(read_workload(folder / "asked.jsonl"))
    records: list[RequestRecord] = []
    models = folder_of(tuple(load.shares), run.root, run.say)
    with repertory(models, folder, "--memory", f"{load.memory_mib}MiB") as ours:
        how = Play(warmup_s=WARM_UP_S)
        to = Endpoint(ours.url, has_priority=True)
        asyncio.run(play(to, arrivals, how, Prompts(seed, as_text=False), records.append))
    failed = [one for one in records if one.ending is not Ending.DONE]
    assert not failed, failed[0]
    with (folder / "run.part").open("wb") as file:
        writer = RunWriter(file, RunHeader("repertory", Origin.MEASURED, "asked.jsonl", seed))
        for record in records:
            writer.add(record)
    (folder / "run.part").rename(folder / "run.jsonl")


def _replayed(folder: Path) -> Replayed:
    with (folder / "decisions.jsonl").open("rb") as lines:
        header = header_of(next(lines))
        return replay(lines, lambda record: Controller(header.settings, record))


def _measured(folder: Path) -> _Seen:
    run = read_run(folder / "run.jsonl")
    with (folder / "decisions.jsonl").open("rb") as lines:
        entries = list(read_lines(lines))
    arrived = [one["event"]["at_ns"] for one in entries if one["event"]["kind"] == "Arrived"]
    moves = [
        ((one["event"]["at_ns"] - arrived[0]) / 1e9, action["kind"], action["model"])
        for one in entries
        for action in one["actions"]
        if action["kind"] in ("Activate", "Load")
    ]
    return _seen(run.records, moves)


def _simulated(folder: Path) -> _Seen:
    with (folder / "decisions.jsonl").open("rb") as lines:
        server = served(lines, folder.name)
    scenario = Scenario(server.fleet, "repertory", read=server.read, served=server)
    records: list[RequestRecord] = []
    moves: list[_Move] = []

    def note(decision: Decision) -> None:
        moves.extend(
            (decision.event.at_ns / 1e9, type(action).__name__, action.model)
            for action in decision.actions
            if isinstance(action, (Activate, Load))
        )

    simulate(scenario, read_workload(folder / "asked.jsonl"), records.append, note)
    return _seen(records, moves)


def _seen(records: Iterable[RequestRecord], moves: Iterable[_Move]) -> _Seen:
    counted = [one for one in records if one.at_s >= WARM_UP_S]
    ttfts = [one.ttft_s for one in counted if one.ttft_s is not None]
    assert len(ttfts) == len(counted), "every request has a first token"
    after = tuple(one for one in moves if one[0] >= WARM_UP_S)
    loads = sum(kind == "Load" for _, kind, _ in after)
    return _Seen(percentile(ttfts, 0.5), percentile(ttfts, 0.95), len(after) - loads, loads, after)
