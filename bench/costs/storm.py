"""500 streams of three models on memory for one, and a worker that is killed twenty times.

In mode `exact` each stream must say what it says when nothing interrupts it; in either mode there
are no errors, and no connection ends early.

The machine sets the pace: a stream begins when another has ended, so that there are always as many
under way, and kills come after so many have ended.  At a rate of our choice the scene would be
overload on a slower machine, whose refusals are no faults, and no storm on a faster one.
`REPERTORY_STORM=60` plays it with 60 streams, and kills in proportion.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.checks import Check, at_least, at_most, percentile
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import Ours, repertory, wait_for
from repertory.core.journal import read_lines

__all__ = ["storm"]

_MODELS = ("50m-a", "50m-b", "50m-c")
_ROOM_FOR_ONE = 310
"""MiB, for everything together."""
_ROOM_FOR_ALL = 4096
_KEPT = 64
"""MiB beside it for saved KV, where some is kept: by default so little memory keeps none."""
_STREAMS = int(os.environ.get("REPERTORY_STORM", "500"))
_KILLS = max(1, _STREAMS // 25)
_AT_ONCE = 32
"""Streams under way: more than one replica has slots for, of three models in turn."""
_TIMEOUT_S = 600.0
_SEED = 20260519
_CALM_AT_ONCE = 8
"""Streams of the undisturbed run at a time."""


@dataclass(frozen=True, slots=True)
class _Way:
    """One run through the storm."""

    name: str
    is_exact: bool
    kept: int
    """MiB of saved KV."""


_WAYS = (
    _Way("exact", is_exact=True, kept=0),
    _Way(f"exact, {_KEPT} MiB of saved KV", is_exact=True, kept=_KEPT),
    _Way("default", is_exact=False, kept=0),
)


def storm(run: Run) -> list[Check]:
    folder = folder_of(_MODELS, run.root, run.say)
    wishes = _wishes()
    expected = _calm(run, folder, wishes)
    checks: list[Check] = []
    for way in _WAYS:
        state_dir = run.state_dir()
        source = _configured(state_dir, folder, _ROOM_FOR_ONE, way)
        with repertory(source, state_dir) as ours:
            told, kills = asyncio.run(_stormed(run, ours, wishes))
        checks += _judge(run, way.name, told, kills, expected if way.is_exact else [])
        checks += _resumes(run, way, state_dir)
    return checks


def _wishes() -> list[Wish]:
    luck = random.Random(_SEED)
    return [
        Wish(
            luck.choice(_MODELS),
            prompt_of(luck.choice((8, 40, 130, 300, 700)), luck),
            luck.choice((16, 64, 128, 256, 384)),
            luck.getrandbits(40),
            luck.choice(("interactive", "batch", "batch", 0.5)),
        )
        for _ in range(_STREAMS)
    ]


def _configured(state_dir: Path, folder: Path, memory: int, way: _Way) -> Path:
    """A file, for there is no flag for saved KV.  Sizes in MiB."""
    models = {name: {"path": str((folder / f"{name}.gguf").absolute())} for name in _MODELS}
    wanted = {"models": models, "memory": f"{memory + way.kept}MiB", "exact": way.is_exact}
    if way.kept:
        wanted["host_memory"] = f"{way.kept}MiB"
    path = state_dir / "storm.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted))  # which is YAML too
    return path


def _calm(run: Run, folder: Path, wishes: Sequence[Wish]) -> list[str]:
    """What they say when nobody interrupts them."""
    state_dir = run.state_dir()
    source = _configured(state_dir, folder, _ROOM_FOR_ALL, _WAYS[0])
    began_s = time.monotonic()
    with repertory(source, state_dir) as ours:
        told = asyncio.run(_few_at_once(ours.url, wishes, _CALM_AT_ONCE, lambda: None))
    for one in told:
        if one.failure is not None:
            raise RuntimeError(f"undisturbed, a stream failed: {one.failure}")
    took_s = time.monotonic() - began_s
    run.say(f"undisturbed: {len(told)} streams, {len(told) / took_s:.2f} a second")
    run.keep("storm, undisturbed", {"streams": len(told), "took_s": took_s})
    return [one.text for one in told]


async def _few_at_once(
    url: str, wishes: Sequence[Wish], count: int, on_end: Callable[[], None]
) -> list[Told]:
    few = asyncio.Semaphore(count)
    async with session() as http:

        async def one_of_few(wish: Wish) -> Told:
            async with few:
                told = await tell(http, url, wish, _TIMEOUT_S)
            on_end()
            return told

        return list(await asyncio.gather(*(one_of_few(one) for one in wishes)))


async def _stormed(run: Run, ours: Ours, wishes: Sequence[Wish]) -> tuple[list[Told], int]:
    began_s = time.monotonic()
    storm = _Storm(ours.pid)
    killing = asyncio.create_task(storm.rage())
    told = await _few_at_once(ours.url, wishes, _AT_ONCE, storm.one_ended)
    killing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await killing
    took_s = time.monotonic() - began_s
    pace = f"{len(told) / took_s:.2f} a second"
    run.say(f"{len(told)} streams ended after {took_s:.0f} s, {pace}, {storm.kills} kills")
    return told, storm.kills


class _Storm:
    """Kills the worker after so many streams have ended, and some time more."""

    def __init__(self, server_pid: int) -> None:
        self.kills = 0
        self._pid = server_pid
        self._ended = 0
        self._more = asyncio.Event()

    def one_ended(self) -> None:
        self._ended += 1
        self._more.set()

    async def rage(self) -> None:
        luck = random.Random(_SEED + 1)
        for due in sorted(luck.uniform(0.01, 0.95) * _STREAMS for _ in range(_KILLS)):
            while self._ended < due:
                self._more.clear()
                await self._more.wait()
            await asyncio.sleep(luck.random())
            pid = await asyncio.to_thread(wait_for, lambda: _worker_of(self._pid))
            os.kill(pid, signal.SIGKILL)
            self.kills += 1


def _worker_of(server_pid: int) -> int | None:
    """The newest: one that is being replaced may still be there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in reversed(psutil.Process(server_pid).children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "repertory.engines.llamacpp.worker" in one.cmdline():
                    return one.pid
    return None


def _judge(
    run: Run, mode: str, told: list[Told], kills: int, expected: Sequence[str]
) -> list[Check]:
    failures = [one for one in told if one.failure is not None]
    for one in failures[:10]:
        run.say(f"{mode}: {one.id} of {one.wish.model}: {one.failure}")
    title = f"storm, {mode}"
    checks = [
        at_least(f"{title}: worker kills", "", kills, _KILLS),
        at_most(f"{title}: failed of {len(told)} streams", "", len(failures), 0),
    ]
    if expected:
        pairs = zip(told, expected, strict=True)
        others = [one for one, text in pairs if one.failure is None and one.text != text]
        for one in others[:10]:
            run.say(f"{mode}: {one.id} of {one.wish.model} says something else")
        checks.append(at_most(f"{title}: streams with another text", "", len(others), 0))
    ttft = [one.ttft_s or _TIMEOUT_S for one in told]
    run.keep(
        title,
        {
            "kills": kills,
            "failures": [one.failure for one in failures],
            "ttft_s": {share: percentile(ttft, share) for share in (0.5, 0.95, 0.99)},
            "longest_gap_s": max((max(one.gaps_s, default=0.0) for one in told), default=0.0),
        },
    )
    return checks


def _resumes(run: Run, way: _Way, state_dir: Path) -> list[Check]:
    """How streams went on, from the log: their cells found, or computed again."""
    mode = way.name
    preempted = found = replayed = 0
    begun: set[str] = set()
    for path in sorted(state_dir.glob("decisions*.jsonl")):
        with path.open("rb") as lines:
            for entry in read_lines(lines):
                event = entry["event"]
                preempted += event["kind"] == "Preempted"
                if event["kind"] != "FirstToken":
                    continue
                if event["request_id"] in begun:
                    found += event.get("reused_tokens", 0) > 0
                    replayed += event.get("reused_tokens", 0) == 0
                begun.add(event["request_id"])
    run.say(f"{mode}: {preempted} preemptions; {found} resumes by KV, {replayed} by replay")
    run.keep(f"resumes, {mode}", {"preempted": preempted, "by_kv": found, "by_replay": replayed})
    checks = [at_least(f"storm, {mode}: streams that went on", "", found + replayed, 1)]
    if way.kept:
        checks.append(at_least(f"storm, {mode}: of those, by KV", "", found, 1))
    return checks
