"""Tokens per second through HTTP streaming, and the time to the first token of a loaded model."""

import asyncio
import random
import statistics
from typing import Any

from bench.checks import Check, at_least, at_most
from bench.serve.client import Answer, Ask, ask, prompt_of, session
from bench.serve.models import LOADED, folder_of
from bench.serve.run import Run
from bench.serve.systems import Ours, System, llama_server, repertory

__all__ = ["throughput"]

CLIENTS = (1, 4, 8, 16)
ROUNDS = 5
PROMPT_TOKENS = 32
OUTPUT_TOKENS = {"50m-a": 128, "300m-a": 128, "1b-a": 64}
SLOT_TOKENS = 1024
"""Context of each slot of llama-server: room for the longest request, as ours has."""
REQUESTS = {"50m-a": 16, "300m-a": 4, "1b-a": 1}
"""By all clients together, or one by each: so that a round takes some seconds."""
FIRST_PROMPTS = (8, 96)
FIRSTS = 15
REST_S = 0.1
"""Threads of a server that has just answered spin for some milliseconds, on both cores.  Measured,
a 50M of ours and 8 tokens: 16 to 20 ms right after the other's answer, 11 to 15 otherwise."""
TIMEOUT_S = 300.0


def throughput(run: Run) -> list[Check]:
    checks: list[Check] = []
    raw: dict[str, Any] = {}
    with repertory(folder_of(LOADED, run.root, run.say), run.state_dir()) as ours:
        for model in LOADED:
            ours.wish(model, "load", "loaded")
            for clients in CLIENTS:
                checks += _compare(run, ours, model, clients, raw)
            ours.wish(model, "unload", "unloaded")
    run.keep("throughput", raw)
    return checks


def _compare(run: Run, ours: Ours, model: str, clients: int, raw: dict[str, Any]) -> list[Check]:
    threads = min((1, 2), key=lambda count: -_tried(run, model, clients, count))
    with llama_server(run.peer, run.log(), _flags(run, model, clients, threads)) as theirs:
        systems: tuple[System, ...] = (ours, theirs)
        rates: dict[str, list[float]] = {one.name: [] for one in systems}
        for system in systems:
            _rate(system, model, clients)  # KV memory of that many slots, page faults
        for number in range(ROUNDS):
            for system in systems if number % 2 == 0 else systems[::-1]:
                rates[system.name].append(_rate(system, model, clients))
        firsts = _firsts(systems, model) if clients == 1 else {}
    raw[f"{model} x {clients}"] = {"tokens_per_s": rates, "ttft_s": firsts, "threads": threads}
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratio = median["repertory"] / median["llama-server"]
    run.say(
        f"{model} x {clients:2}: {median['repertory']:7.1f} tok/s, llama-server -t {threads} "
        f"{median['llama-server']:7.1f}: {ratio:.2f} x"
    )
    checks = [at_least(f"tokens/s, {model}, {clients} clients, / llama-server", "x", ratio, 1.0)]
    for tokens, seconds in firsts.items():
        mine, other = (statistics.median(seconds[one.name]) * 1e3 for one in systems)
        name = f"TTFT loaded, {model}, {tokens} tokens (llama-server {other:.1f} ms)"
        run.say(f"{name}: {mine:.1f} ms")
        checks.append(at_most(name, "ms", mine, round(1.1 * other + 1.0, 3)))
    return checks


def _tried(run: Run, model: str, clients: int, threads: int) -> float:
    """One round with so many threads: theirs has to be told, ours decides by itself."""
    with llama_server(run.peer, run.log(), _flags(run, model, clients, threads)) as theirs:
        _rate(theirs, model, clients)
        return _rate(theirs, model, clients)


def _flags(run: Run, model: str, clients: int, threads: int) -> list[str]:
    path = folder_of((model,), run.root, run.say) / f"{model}.gguf"
    context = str(clients * SLOT_TOKENS)
    flags = ["-m", str(path), "-np", str(clients), "-c", context, "-t", str(threads)]
    return [*flags, "--alias", model]


def _rate(system: System, model: str, clients: int) -> float:
    """Output tokens per second, from the first request sent to the last answer's end."""
    return asyncio.run(_rate_async(system.url, model, clients))


async def _rate_async(url: str, model: str, clients: int) -> float:
    now_s = asyncio.get_running_loop().time
    luck = random.Random(clients)
    async with session() as http:

        async def client(prompts: list[tuple[int, ...]]) -> list[Answer]:
            wanted = [Ask(model, prompt, OUTPUT_TOKENS[model]) for prompt in prompts]
            return [await ask(http, url, one, TIMEOUT_S) for one in wanted]

        prompts = [
            [prompt_of(PROMPT_TOKENS, luck) for _ in range(max(1, REQUESTS[model] // clients))]
            for _ in range(clients)
        ]
        began_s = now_s()
        told = await asyncio.gather(*(client(one) for one in prompts))
        took_s = now_s() - began_s
    answers = [one for each in told for one in each]
    failed = [one.failure for one in answers if one.failure]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed: {failed[0]}")
    return sum(one.tokens for one in answers) / took_s


def _firsts(systems: tuple[System, ...], model: str) -> dict[int, dict[str, list[float]]]:
    return {tokens: asyncio.run(_firsts_async(systems, model, tokens)) for tokens in FIRST_PROMPTS}


async def _firsts_async(
    systems: tuple[System, ...], model: str, tokens: int
) -> dict[str, list[float]]:
    """Alternately, each with a prompt never seen before."""
    luck = random.Random(tokens)
    found: dict[str, list[float]] = {one.name: [] for one in systems}
    async with session() as http:
        for _ in range(FIRSTS):
            for system in systems:
                await asyncio.sleep(REST_S)
                wanted = Ask(model, prompt_of(tokens, luck), 4)
                answer = await ask(http, system.url, wanted, TIMEOUT_S)
                if answer.failure or answer.ttft_s is None:
                    raise RuntimeError(f"{system.name}: {answer.failure}")
                found[system.name].append(answer.ttft_s)
    return found
