"""The first token of a model that has to be swapped in, its file in the page cache."""

import asyncio
import random
import statistics
from contextlib import ExitStack
from typing import Any

from bench.checks import Check, at_most
from bench.serve.client import Ask, ask, prompt_of, session
from bench.serve.models import PAIRS, folder_of
from bench.serve.run import Run
from bench.serve.systems import System, llama_server, repertory
from repertory.engines.gguf.files import describe_file

__all__ = ["router_flags", "swaps"]

BARS = {8: 0.5, 96: 0.85}
"""By prompt tokens."""
SWAPS = 7
OUTPUT_TOKENS = 4
TIMEOUT_S = 120.0
_MIB = 1 << 20
PROCESSES_BYTES = 200 * _MIB
"""Our server and worker without models, and what they may grow by."""
ROOM = 1.4
"""Of a model's weights: its KV and buffers too, but never two of them."""


def router_flags(folder: str, models: int, threads: int) -> list[str]:
    flags = ["--models-dir", folder, "--models-max", str(models)]
    return [*flags, "-c", "2048", "-np", "4", "-t", str(threads)]


def swaps(run: Run) -> list[Check]:
    checks: list[Check] = []
    raw: dict[str, Any] = {}
    for pair in PAIRS:
        for tokens, bar in BARS.items():
            seconds = _play(run, pair, tokens)
            raw[f"{pair[0]}, {tokens} tokens"] = seconds
            median = {name: statistics.median(values) for name, values in seconds.items()}
            other = min(median[name] for name in median if name != "repertory")
            name = f"TTFT swapped in, {pair[0]}, {tokens} tokens, / router"
            run.say(f"{name}: {median['repertory'] * 1e3:.0f} ms of {other * 1e3:.0f}")
            checks.append(at_most(name, "x", median["repertory"] / other, bar))
    run.keep("swaps", raw)
    return checks


def _play(run: Run, pair: tuple[str, str], tokens: int) -> dict[str, list[float]]:
    """Ask one of the pair, then the other, with room for one: each request is a swap."""
    folder = folder_of(pair, run.root, run.say)
    weights = describe_file(folder / f"{pair[0]}.gguf").weights_bytes
    memory = PROCESSES_BYTES + round(ROOM * weights)
    with ExitStack() as stack:
        ours = stack.enter_context(
            repertory(folder, run.state_dir(), "--memory", f"{memory // _MIB}MiB")
        )
        systems: dict[str, System] = {"repertory": ours}
        for threads in (1, 2):
            flags = router_flags(str(folder), 1, threads)
            router = stack.enter_context(llama_server(run.peer, run.log(), flags))
            systems[f"router -t {threads}"] = router
        return asyncio.run(_alternate(systems, pair, tokens))


async def _alternate(
    systems: dict[str, System], pair: tuple[str, str], tokens: int
) -> dict[str, list[float]]:
    luck = random.Random(tokens)
    found: dict[str, list[float]] = {name: [] for name in systems}
    async with session() as http:
        for number in range(SWAPS + 2):
            for name, system in systems.items():
                wanted = Ask(pair[number % 2], prompt_of(tokens, luck), OUTPUT_TOKENS)
                answer = await ask(http, system.url, wanted, TIMEOUT_S)
                if answer.failure or answer.ttft_s is None:
                    raise RuntimeError(f"{name}: {answer.failure}")
                if number >= 2:  # the first of each file proves it, ours in a throwaway child
                    found[name].append(answer.ttft_s)
    return found
