"""Mixed priorities at one and a half times what the machine can do, with real API keys.

A batch load of one model, from three keys of which one floods, beside interactive requests: first
of the same model, then of another that does not fit beside it.  The interactive ones are to feel no
more of it than a quantum, and a measured switch for the other model; equal keys are to have had
equal work; and the batch work is to complete.
"""

import asyncio
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.checks import Check, at_least, at_most, percentile
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import PAIRS, folder_of
from bench.serve.run import Run
from bench.serve.systems import Ours, repertory
from repertory.core.journal import read_lines
from repertory.policy.requests.fairness import jain
from repertory.policy.requests.share import QUANTUM_NS

__all__ = ["mixed"]

_HERE, _AWAY = PAIRS[0]
_ROOM = "340MiB"
"""For one of the two."""
_PROMPT, _TOKENS = 32, 8
_BATCH_PROMPT, _BATCH_TOKENS = 64, 96
_ALONE = 40
"""Interactive requests before there is any other load."""
_FULL, _RAMP = 64, 16
"""Batch requests at once, to see what the machine can do; the first and the last of them do not
count, for they run in small batches."""
_SECONDS = {_HERE: 40.0, _AWAY: 45.0}
"""In which a wave's requests are sent."""
_OVERLOAD = 1.5
_GAP_S = {_HERE: 0.7, _AWAY: 2.2}
"""Between interactive requests, on average.  Each for the other model is a switch there and back.
"""
_SENDERS = {"flood": 0.56, "ann": 0.22, "bob": 0.22}
"""Parts of the overload.  Each of the two modest ones asks for a third of what the machine can do,
which is what is theirs; first come first served the index would be 0.81."""
_DESK = "desk"
_TIMEOUT_S = 240.0
_SLACK = 1.2
_SEED = 20260519


@dataclass
class _Log:
    """What the decision log says."""

    key_of: dict[str, str]
    began_s: dict[str, float]
    work: list[tuple[float, str, float]]
    """When, of which request, how many seconds of the device."""
    switch_s: float
    stops: int


def mixed(run: Run) -> list[Check]:
    folder, state_dir = folder_of(PAIRS[0], run.root, run.say), run.state_dir()
    keys = {name: _key(state_dir, name) for name in (*_SENDERS, _DESK)}
    with repertory(folder, state_dir, "--memory", _ROOM) as ours:
        alone, per_s = asyncio.run(_prepared(run, ours, keys))
        waves = {}
        for model in (_HERE, _AWAY):
            waves[model] = asyncio.run(_wave(ours, keys, model, per_s * _OVERLOAD))
            run.say(f"{len(waves[model])} requests ended, interactive ones of {model}")
    return _judge(run, alone, per_s, waves, _read(state_dir))


def _key(state_dir: Path, name: str) -> str:
    command = [sys.executable, "-m", "repertory", "keys", "add", name]
    command += ["--state-dir", str(state_dir)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _interactive(model: str, luck: random.Random, key: str, at_s: float = 0.0) -> Wish:
    prompt = prompt_of(_PROMPT, luck)
    return Wish(model, prompt, _TOKENS, luck.getrandbits(40), "interactive", at_s, key)


def _batch(luck: random.Random, key: str, at_s: float = 0.0) -> Wish:
    prompt = prompt_of(_BATCH_PROMPT, luck)
    return Wish(_HERE, prompt, _BATCH_TOKENS, luck.getrandbits(40), "batch", at_s, key)


async def _prepared(run: Run, ours: Ours, keys: dict[str, str]) -> tuple[list[float], float]:
    """First tokens where there is no other load, and batch requests per second."""
    luck = random.Random(_SEED)
    async with session() as http:
        for model in (_AWAY, _HERE):  # each file is opened for the first time
            await tell(http, ours.url, _interactive(model, luck, keys[_DESK]), _TIMEOUT_S)
        alone = [
            await tell(http, ours.url, _interactive(_HERE, luck, keys[_DESK]), _TIMEOUT_S)
            for _ in range(_ALONE)
        ]
        loop = asyncio.get_running_loop()
        ends_s: list[float] = []

        async def one() -> None:
            told = await tell(http, ours.url, _batch(luck, keys[_DESK]), _TIMEOUT_S)
            if told.failure is not None:
                raise RuntimeError(f"a batch request alone: {told.failure}")
            ends_s.append(loop.time())

        await asyncio.gather(*(one() for _ in range(_FULL)))
    steady = sorted(ends_s)[_RAMP : _FULL - _RAMP]
    per_s = (len(steady) - 1) / (steady[-1] - steady[0])
    ttft = [told.ttft_s or _TIMEOUT_S for told in alone]
    run.say(
        f"alone: TTFT p50 {1e3 * percentile(ttft, 0.5):.0f} p95 {1e3 * percentile(ttft, 0.95):.0f} "
        f"ms; {per_s:.1f} batch requests/s"
    )
    return ttft, per_s


async def _wave(ours: Ours, keys: dict[str, str], model: str, per_s: float) -> list[Told]:
    """Open loop: all senders at once, until everything has ended."""
    luck = random.Random(f"{_SEED} {model}")
    wishes = [
        _batch(luck, keys[name], at_s)
        for name, part in _SENDERS.items()
        for at_s in _times(per_s * part, _SECONDS[model], luck)
    ]
    wishes += [
        _interactive(model, luck, keys[_DESK], at_s)
        for at_s in _times(1 / _GAP_S[model], _SECONDS[model], luck)
    ]
    loop = asyncio.get_running_loop()
    async with session() as http:
        began_s = loop.time()

        async def send(wish: Wish) -> Told:
            await asyncio.sleep(max(0.0, began_s + wish.at_s - loop.time()))
            return await tell(http, ours.url, wish, _TIMEOUT_S)

        return list(await asyncio.gather(*(send(one) for one in wishes)))


def _times(per_s: float, seconds: float, luck: random.Random) -> list[float]:
    """Poisson."""
    times: list[float] = []
    at_s = luck.expovariate(per_s)
    while at_s < seconds:
        times.append(at_s)
        at_s += luck.expovariate(per_s)
    return times


def _read(state_dir: Path) -> _Log:
    moves: dict[str, list[float]] = {"Load": [], "Activate": []}
    kinds: dict[int, str] = {}
    log = _Log({}, {}, [], 0.0, 0)
    for path in sorted(state_dir.glob("decisions*.jsonl")):
        with path.open("rb") as lines:
            for entry in read_lines(lines):
                event = entry["event"]
                at_s = event["at_ns"] / 1e9
                for action in entry["actions"]:
                    if action["kind"] in moves:
                        kinds[action["action_id"]] = action["kind"]
                if event["kind"] == "Arrived":
                    request = event["request"]
                    log.key_of[request["id"]] = request["key"]
                    log.began_s[request["id"]] = at_s
                elif event["kind"] in ("Finished", "Preempted"):
                    log.work.append((at_s, event["request_id"], event["share_ns"] / 1e9))
                    log.stops += event["kind"] == "Preempted"
                elif event["kind"] == "TransitionDone" and event["action_id"] in kinds:
                    took_s = event["measured"]["took_ns"] / 1e9
                    moves[kinds[event["action_id"]]].append(took_s)
    log.switch_s = sum(statistics.median(each) for each in moves.values())
    return log


def _shares(log: _Log, told: Sequence[Told], seconds: float) -> dict[str, float]:
    """What each batch sender had of the device while the wave was sent."""
    ids = {one.id.removeprefix("cmpl-") for one in told}
    began_s = min(log.began_s[name] for name in ids if name in log.began_s)
    shares: dict[str, float] = defaultdict(float)
    for at_s, name, worked_s in log.work:
        if name in ids and at_s < began_s + seconds and log.key_of[name] in _SENDERS:
            shares[log.key_of[name]] += worked_s
    return shares


def _judge(
    run: Run, alone: list[float], per_s: float, waves: dict[str, list[Told]], log: _Log
) -> list[Check]:
    alone_s = percentile(alone, 0.95)
    bar_s = _SLACK * alone_s + QUANTUM_NS / 1e9
    checks: list[Check] = []
    raw: dict[str, object] = {
        "alone_ttft_s": alone,
        "batch_per_s": per_s,
        "switch_s": log.switch_s,
        "stops": log.stops,
    }
    for model, more_s in ((_HERE, 0.0), (_AWAY, log.switch_s)):
        told = waves[model]
        failures = [one.failure for one in told if one.failure is not None]
        for failure in failures[:10]:
            run.say(f"{model}: {failure}")
        ttft = [
            one.ttft_s or _TIMEOUT_S
            for one in told
            if one.wish.priority == "interactive" and one.failure is None
        ]
        shares = _shares(log, told, _SECONDS[model])
        title = f"mixed, {'the same model' if model == _HERE else 'another model'}"
        run.say(
            f"{title}: {len(ttft)} interactive TTFT p50 {1e3 * percentile(ttft, 0.5):.0f} p95 "
            f"{1e3 * percentile(ttft, 0.95):.0f} ms, bar {1e3 * (bar_s + more_s):.0f}; shares "
            + ", ".join(f"{key} {seconds:.1f} s" for key, seconds in sorted(shares.items()))
        )
        checks += [
            at_most(f"{title}: interactive TTFT p95", "s", percentile(ttft, 0.95), bar_s + more_s),
            at_least(f"{title}: Jain's index of equal keys", "", jain(shares), 0.9),
            at_most(f"{title}: failed of {len(told)} requests", "", len(failures), 0),
        ]
        raw[title] = {"ttft_s": ttft, "shares_s": shares, "failures": failures}
    run.keep("mixed", raw)
    return checks
