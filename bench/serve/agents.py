"""Three models with room for two, asked as an orchestrator and its helpers do (peers.md, P2).

"A B A A C A B C" in step: each request after the last answer, so that every swap is felt.  Those
bars are the issue's.  Beside it, without a bar, the queue that such workflows make when helpers are
started in parallel (llama-swap, issue 612 and pull request 611): the eight requests of a wave are
sent in that order, whatever became of those before.  There requests share swaps, and what both
systems compute alike weighs more.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

from bench.checks import Check, at_most, percentile
from bench.serve.client import Answer, Ask, ask, play, prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.swaps import PROCESSES_BYTES, router_flags
from bench.serve.systems import System, llama_server, repertory
from repertory.engines.gguf.files import describe_file

__all__ = ["agents"]

MODELS = ("300m-a", "300m-b", "300m-c")
PATTERN = "ABAACABC"
WAVES = 3
BETWEEN_S = 0.02
"""From one request of a wave to the next: an orchestrator starts them one by one."""
PROMPT_TOKENS, OUTPUT_TOKENS = 16, 8
"""Short steps: those who report the pattern say that most of the time is spent swapping.  So it is
here for the router: in step it takes 7.6 s a round, and we, who swap in a third of the time and
compute the same, 4.1.  With 96 and 16 tokens both compute for most of it: 14.3 and 12.2 s."""
ROUNDS = 5
BAR = 0.6
TIMEOUT_S = 120.0
_MIB = 1 << 20
_ROOM = 2.4
"""Of one model's weights: two of them with KV and buffers, never three."""


def agents(run: Run) -> list[Check]:
    folder = folder_of(MODELS, run.root, run.say)
    weights = describe_file(folder / f"{MODELS[0]}.gguf").weights_bytes
    memory = PROCESSES_BYTES + round(_ROOM * weights)
    checks: list[Check] = []
    with ExitStack() as stack:
        ours = stack.enter_context(
            repertory(folder, run.state_dir(), "--memory", f"{memory // _MIB}MiB")
        )
        systems: dict[str, System] = {"repertory": ours}
        for threads in (1, 2):
            flags = router_flags(str(folder), 2, threads)
            router = stack.enter_context(llama_server(run.peer, run.log(), flags))
            systems[f"router -t {threads}"] = router
        for name, system in systems.items():
            run.say(f"agents: {name} opens each file for the first time")
            asyncio.run(_steps(system.url, random.Random(ROUNDS)))
        for form, work in (("in step", _steps), ("at once", _waves)):
            checks += _compare(run, systems, form, work)
    return checks


_Work = Callable[[str, random.Random], Coroutine[Any, Any, list[Answer]]]


def _compare(run: Run, systems: dict[str, System], form: str, work: _Work) -> list[Check]:
    totals: dict[str, list[float]] = {}
    answers: dict[str, list[Answer]] = {}
    for number in range(ROUNDS):
        for name, system in systems.items():
            began_s = time.monotonic()
            told = asyncio.run(work(system.url, random.Random(number)))
            totals.setdefault(name, []).append(time.monotonic() - began_s)
            answers.setdefault(name, []).extend(told)
            run.say(f"agents {form}, round {number}, {name}: {totals[name][-1]:.1f} s")
    return _judge(run, form, totals, answers)


async def _waves(url: str, luck: random.Random) -> list[Answer]:
    told: list[Answer] = []
    for _ in range(WAVES):
        asks = [_ask(letter, luck, at * BETWEEN_S) for at, letter in enumerate(PATTERN)]
        told += await play(url, asks, TIMEOUT_S)
    return told


async def _steps(url: str, luck: random.Random) -> list[Answer]:
    async with session() as http:
        return [
            await ask(http, url, _ask(letter, luck), TIMEOUT_S)
            for _ in range(WAVES)
            for letter in PATTERN
        ]


def _ask(letter: str, luck: random.Random, at_s: float = 0.0) -> Ask:
    model = MODELS["ABC".index(letter)]
    return Ask(model, prompt_of(PROMPT_TOKENS, luck), OUTPUT_TOKENS, at_s)


def _judge(
    run: Run, form: str, totals: dict[str, list[float]], answers: dict[str, list[Answer]]
) -> list[Check]:
    total = {name: statistics.median(values) for name, values in totals.items()}
    p99 = {
        name: percentile([one.ttft_or(TIMEOUT_S) for one in told], 0.99)
        for name, told in answers.items()
    }
    failures = {name: sum(bool(one.failure) for one in told) for name, told in answers.items()}
    raw: dict[str, Any] = {
        name: {
            "total_s": totals[name],
            "ttft_s": [one.ttft_or(TIMEOUT_S) for one in told],
            "failures": failures[name],
        }
        for name, told in answers.items()
    }
    run.keep(f"agents {form}", raw)
    for name in totals:
        run.say(f"agents {form}, {name}: {total[name]:.1f} s, TTFT p99 {p99[name]:.2f} s")
    failed = at_most(f"agents {form}: failures", "", failures["repertory"], 0)
    if form == "at once":
        return [failed]
    others = [name for name in totals if name != "repertory"]
    best = min(others, key=lambda name: (total[name], name))
    quickest = min(p99[name] for name in others)
    mine = p99["repertory"]
    return [
        at_most(f"agents {form}: total time / {best}", "x", total["repertory"] / total[best], BAR),
        at_most(f"agents {form}: p99 TTFT / the better router", "x", mine / quickest, BAR),
        failed,
    ]
