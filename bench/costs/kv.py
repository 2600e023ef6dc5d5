"""What moving KV takes: out of a slot and back, beside what the machine copies at all; and how soon
a preemption takes effect.

The cells are those of real prompts, in a context of the worker's own kind, in this process.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.checks import Check, at_least, at_most
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import System, repertory
from repertory.core.journal import read_lines
from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import library
from repertory.engines.llamacpp.context import Context, ContextOptions
from repertory.engines.llamacpp.library import Model
from repertory.perf.running import RunningLaw

__all__ = ["kv"]

_MODELS = ("50m-a", "300m-a")
_FITTED, _HELD_OUT = (256, 1024, 4096), (512, 2048, 8000)
"""Tokens in a slot."""
_CELLS = 8192
_REPEATS = 9
_LEAST_SHARE = 0.5
_MOST_ERROR = 0.15
_LARGE_BYTES = 256 << 20
_PAIR = ("50m-a", "50m-b")
_ROOM = {"decoding": "310MiB", "prefilling": "340MiB"}
"""For one of them."""
_ROUNDS = 6
_MOST_STEPS = 2.0
_MOST_CHUNK_S = 0.25
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class _Reading:
    """Medians of one size."""

    tokens: int
    size_bytes: int
    out_s: float
    in_s: float
    memcpy_s: float
    """Of as many bytes, between arrays."""


def kv(run: Run) -> list[Check]:
    library.start()
    large_s = _memcpy_s(_LARGE_BYTES)
    run.say(f"memcpy of {_LARGE_BYTES >> 20} MiB: {_LARGE_BYTES / large_s / 1e9:.1f} GB/s")
    checks: list[Check] = []
    folder = folder_of(_MODELS, run.root, run.say)
    for name in _MODELS:
        for is_exact in (False, True):
            title = f"{name}, {'exact' if is_exact else 'default'}"
            found = _readings(folder / f"{name}.gguf", is_exact)
            run.keep(f"kv, {title}", [_row(one) for one in found])
            checks += _judge(run, title, found, _LARGE_BYTES / large_s)
    return checks + _effect(run)


def _readings(path: Path, is_exact: bool) -> list[_Reading]:
    """One slot grows, and is copied out and in at each size."""
    model = Model(path)
    context = Context(model, KvShape(1, _CELLS), ContextOptions(is_exact, threads=2))
    found, at = [], 0
    for tokens in sorted((*_FITTED, *_HELD_OUT)):
        while at < tokens:
            count = min(context.chunk_tokens, tokens - at)
            chunk = [300 + 7 * n % 500 for n in range(at, at + count)]
            context.prefill(0, chunk, at, wants_logits=False)
            at += count
        found.append(_reading(context, tokens))
    context.free()
    model.free()
    return found


def _reading(context: Context, tokens: int) -> _Reading:
    out, back = [], []
    others = np.ones(_LARGE_BYTES // 2, np.uint8)
    for _ in range(_REPEATS):
        others += 1  # what was computed or saved a while ago is in no cache
        began_s = time.perf_counter()
        sequence = context.save(0)
        out.append(time.perf_counter() - began_s)
        context.forget(0)
        others += 1
        began_s = time.perf_counter()
        context.restore(0, sequence)
        back.append(time.perf_counter() - began_s)
        if context.tokens_in(0) != tokens:
            raise RuntimeError(f"{context.tokens_in(0)} of {tokens} tokens came back")
    median, size = statistics.median, sequence.bytes
    return _Reading(tokens, size, median(out), median(back), _memcpy_s(size))


def _memcpy_s(size_bytes: int) -> float:
    origin, target = np.ones(size_bytes, np.uint8), np.ones(size_bytes, np.uint8)
    taken = []
    for _ in range(_REPEATS):
        began_s = time.perf_counter()
        target[:] = origin
        taken.append(time.perf_counter() - began_s)
    return statistics.median(taken)


def _row(one: _Reading) -> dict[str, float]:
    """GB/s, as it is read."""
    return {
        "tokens": one.tokens,
        "mib": one.size_bytes / 2**20,
        "out_gb_per_s": one.size_bytes / one.out_s / 1e9,
        "in_gb_per_s": one.size_bytes / one.in_s / 1e9,
        "memcpy_gb_per_s": one.size_bytes / one.memcpy_s / 1e9,
    }


def _judge(run: Run, title: str, found: list[_Reading], memcpy_bytes_per_s: float) -> list[Check]:
    """The largest size is beyond the caches; its bandwidth is held against that of a large copy."""
    for one in found:
        row = _row(one)
        run.say(
            f"{title}: {one.tokens} tokens, {row['mib']:.1f} MiB: out {row['out_gb_per_s']:.1f}, "
            f"in {row['in_gb_per_s']:.1f} GB/s; memcpy of that {row['memcpy_gb_per_s']:.1f}"
        )
    largest = found[-1]
    share = largest.size_bytes / largest.in_s / memcpy_bytes_per_s
    checks = [at_least(f"KV, {title}: restore / memcpy", "x", share, _LEAST_SHARE)]
    ways: tuple[tuple[str, Callable[[_Reading], float]], ...] = (
        ("save", lambda one: one.out_s),
        ("restore", lambda one: one.in_s),
    )
    for way, seconds in ways:
        running = RunningLaw(begins_at_zero=True)
        for one in found:
            if one.tokens in _FITTED:
                running.note(one.size_bytes, seconds(one))
        law = running.law
        assert law is not None
        errors = [
            abs(law.seconds(one.size_bytes) / seconds(one) - 1.0)
            for one in found
            if one.tokens in _HELD_OUT
        ]
        error = statistics.median(errors)
        checks.append(at_most(f"KV, {title}: prediction error, {way}", "", error, _MOST_ERROR))
    return checks


def _effect(run: Run) -> list[Check]:
    """From the decision to preempt until its victim has stopped, by the log."""
    folder = folder_of(_PAIR, run.root, run.say)
    checks = []
    for what, prompt in (("decoding", 32), ("prefilling", 3500)):
        state_dir = run.state_dir()
        with repertory(folder, state_dir, "--memory", _ROOM[what]) as ours:
            steps_s = asyncio.run(_interrupted(ours, prompt, is_early=what == "prefilling"))
        seconds = _seconds_to_stop(state_dir)
        if not seconds:
            raise RuntimeError(f"nobody was preempted while {what}")
        run.keep(f"preemption while {what}", {"stop_s": seconds, "step_s": steps_s})
        stop_s, step_s = statistics.median(seconds), statistics.median(steps_s)
        run.say(f"stopped while {what} after {1e3 * stop_s:.1f} ms; a step {1e3 * step_s:.1f}")
        title = f"preemption takes effect, {what}"
        if what == "decoding":
            checks.append(at_most(title, "steps", stop_s / step_s, _MOST_STEPS))
        else:
            checks.append(at_most(title, "s", stop_s, _MOST_CHUNK_S))
    return checks


async def _interrupted(system: System, prompt: int, *, is_early: bool) -> list[float]:
    """A batch is interrupted by a request for the other model; what its decode steps take."""
    long, short = _PAIR
    luck = random.Random(11)
    steps: list[float] = []
    async with session() as http:

        async def ask(model: str, tokens: int, priority: str, words: int) -> Told:
            wish = Wish(model, prompt_of(words, luck), tokens, luck.getrandbits(40), priority)
            told = await tell(http, system.url, wish, _TIMEOUT_S)
            if told.failure is not None:
                raise RuntimeError(f"{model}: {told.failure}")
            return told

        for _ in range(_ROUNDS):
            await ask(short, 4, "interactive", 32)
            alone = await ask(long, 400, "batch", prompt)
            first_s = alone.ttft_s or _TIMEOUT_S
            steps.append((alone.total_s - first_s) / 399)
            running = asyncio.create_task(ask(long, 400, "batch", prompt))
            await asyncio.sleep(first_s / 2 if is_early else first_s + alone.total_s / 4)
            await ask(short, 4, "interactive", 32)
            await running
    return steps


def _seconds_to_stop(state_dir: Path) -> list[float]:
    decided: dict[str, int] = {}
    found = []
    for path in sorted(state_dir.glob("decisions*.jsonl")):
        with path.open("rb") as lines:
            for entry in read_lines(lines):
                event = entry["event"]
                for action in entry["actions"]:
                    if action["kind"] == "Preempt":
                        decided[action["request_id"]] = event["at_ns"]
                if event["kind"] == "Preempted" and event["request_id"] in decided:
                    found.append((event["at_ns"] - decided.pop(event["request_id"])) / 1e9)
    return found
