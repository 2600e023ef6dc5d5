"""Three models with room for two, asked as an orchestrator and its helpers do (peers.md, P2).

"A B A A C A B C": each step waits for the one before, so every swap is felt.
"""

import asyncio
import random
import statistics
from contextlib import ExitStack
from typing import Any

from bench.checks import Check, at_most, percentile
from bench.serve.client import Answer, Ask, ask, prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.swaps import PROCESSES_BYTES, router_flags
from bench.serve.systems import System, llama_server, repertory
from repertory.engines.gguf.files import describe_file

__all__ = ["agents"]

MODELS = ("300m-a", "300m-b", "300m-c")
PATTERN = "ABAACABC"
CYCLES = 2
AGENTS = 2
"""Two people work at a time; their patterns are shifted against each other."""
PROMPT_TOKENS, OUTPUT_TOKENS = 96, 16
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
    totals: dict[str, list[float]] = {}
    answers: dict[str, list[Answer]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(
            repertory(folder, run.state_dir(), "--memory", f"{memory // _MIB}MiB")
        )
        systems: dict[str, System] = {"repertory": ours}
        for threads in (1, 2):
            flags = router_flags(str(folder), 2, threads)
            router = stack.enter_context(llama_server(run.peer, run.log(), flags))
            systems[f"router -t {threads}"] = router
        for number in range(ROUNDS):
            for name, system in systems.items():
                took_s, told = asyncio.run(_work(system.url, number))
                totals.setdefault(name, []).append(took_s)
                answers.setdefault(name, []).extend(told)
                run.say(f"agents, round {number}, {name}: {took_s:.1f} s")
    return _judge(run, totals, answers)


async def _work(url: str, seed: int) -> tuple[float, list[Answer]]:
    now_s = asyncio.get_running_loop().time
    async with session() as http:

        async def agent(number: int) -> list[Answer]:
            luck = random.Random(seed * AGENTS + number)
            shift = number * len(PATTERN) // AGENTS
            steps = (PATTERN[shift:] + PATTERN[:shift]) * CYCLES
            told = []
            for letter in steps:
                model = MODELS["ABC".index(letter)]
                wanted = Ask(model, prompt_of(PROMPT_TOKENS, luck), OUTPUT_TOKENS)
                told.append(await ask(http, url, wanted, TIMEOUT_S))
            return told

        began_s = now_s()
        told = await asyncio.gather(*(agent(number) for number in range(AGENTS)))
        return now_s() - began_s, [one for each in told for one in each]


def _judge(
    run: Run, totals: dict[str, list[float]], answers: dict[str, list[Answer]]
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
    run.keep("agents", raw)
    for name in totals:
        run.say(f"agents, {name}: {total[name]:.1f} s, TTFT p99 {p99[name]:.2f} s")
    others = [name for name in totals if name != "repertory"]
    best = min(others, key=lambda name: (total[name], name))
    quickest = min(p99[name] for name in others)
    return [
        at_most(f"agents: total time / {best}", "x", total["repertory"] / total[best], BAR),
        at_most("agents: p99 TTFT / the better router", "x", p99["repertory"] / quickest, BAR),
        at_most("agents: failures", "", failures["repertory"], 0),
    ]
