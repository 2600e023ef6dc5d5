"""500 streams of three models on memory for one, and a worker that is killed twenty times.

In mode `exact` each stream must say what it says when nothing interrupts it; in either mode there
are no errors, and no connection ends early.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.checks import Check, at_least, at_most, percentile
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import Ours, repertory
from repertory.core.journal import read_lines

__all__ = ["storm"]

_MODELS = ("50m-a", "50m-b", "50m-c")
_ROOM_FOR_ONE = "340MiB"
_ROOM_FOR_ALL = "4GiB"
_STREAMS = 500
_KILLS = 20
_SECONDS = 300.0
"""In which the streams begin."""
_TIMEOUT_S = 600.0
_SEED = 20260519
_CALM_AT_ONCE = 8
"""Streams of the undisturbed run at a time."""


def storm(run: Run) -> list[Check]:
    wishes = _wishes()
    folder = folder_of(_MODELS, run.root, run.say)
    checks: list[Check] = []
    for mode, flags in (("exact", ("--exact",)), ("default", ())):
        expected = _calm(run, folder, wishes) if mode == "exact" else []
        state_dir = run.state_dir()
        with repertory(folder, state_dir, "--memory", _ROOM_FOR_ONE, *flags) as ours:
            told, kills = asyncio.run(_stormed(run, ours, wishes))
        checks += _judge(run, mode, told, kills, expected)
        checks += _resumes(run, mode, state_dir)
    return checks


def _wishes() -> list[Wish]:
    luck = random.Random(_SEED)
    wishes = [
        Wish(
            luck.choice(_MODELS),
            prompt_of(luck.choice((8, 40, 130, 300, 700)), luck),
            luck.choice((16, 64, 128, 256, 384)),
            luck.getrandbits(40),
            luck.choice(("interactive", "batch", "batch", 0.5)),
            luck.uniform(0.0, _SECONDS),
        )
        for _ in range(_STREAMS)
    ]
    return sorted(wishes, key=lambda one: one.at_s)


def _calm(run: Run, folder: Path, wishes: Sequence[Wish]) -> list[str]:
    """What they say when nobody interrupts them."""
    flags = ("--exact", "--memory", _ROOM_FOR_ALL)
    with repertory(folder, run.state_dir(), *flags) as ours:
        told = asyncio.run(_in_turn(ours.url, wishes))
    for one in told:
        if one.failure is not None:
            raise RuntimeError(f"undisturbed, a stream failed: {one.failure}")
    run.say(f"undisturbed: {len(told)} streams")
    return [one.text for one in told]


async def _in_turn(url: str, wishes: Sequence[Wish]) -> list[Told]:
    few = asyncio.Semaphore(_CALM_AT_ONCE)
    async with session() as http:

        async def one_of_few(wish: Wish) -> Told:
            async with few:
                return await tell(http, url, wish, _TIMEOUT_S)

        return list(await asyncio.gather(*(one_of_few(one) for one in wishes)))


async def _stormed(run: Run, ours: Ours, wishes: Sequence[Wish]) -> tuple[list[Told], int]:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    killed = [0]

    async def kill() -> None:
        luck = random.Random(_SEED + 1)
        while killed[0] < _KILLS:
            await asyncio.sleep(luck.uniform(0.5, 1.5) * _SECONDS / _KILLS)
            pid = _worker_of(ours.pid)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed[0] += 1

    async with session() as http:

        async def send(wish: Wish) -> Told:
            await asyncio.sleep(max(0.0, began_s + wish.at_s - loop.time()))
            return await tell(http, ours.url, wish, _TIMEOUT_S)

        killing = asyncio.create_task(kill())
        told = list(await asyncio.gather(*(send(one) for one in wishes)))
        killing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await killing
    run.say(f"{len(told)} streams ended after {loop.time() - began_s:.0f} s, {killed[0]} kills")
    return told, killed[0]


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


def _resumes(run: Run, mode: str, state_dir: Path) -> list[Check]:
    """How streams went on, from the log: their cells found, or computed again."""
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
    return [at_least(f"storm, {mode}: streams that went on", "", found + replayed, 1)]
