"""A short interactive request behind a long batch of another model, on memory for one.

llama-server's router never evicts a busy model, so the short one waits for the long one's end.
Ours may stop the long one: the first token is to come within the measured switch and the prefill,
and the long one is to lose no more than was predicted.
"""

import asyncio
import random
import statistics
from dataclasses import asdict

from bench.checks import Check, at_most
from bench.costs.moves import Moves, moves_of
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import PAIRS, folder_of
from bench.serve.run import Run
from bench.serve.swaps import router_flags
from bench.serve.systems import System, llama_server, repertory

__all__ = ["bars", "behind"]

_ROUNDS = 5
_ROOM_MIB = {"50m": 310, "300m": 660}
"""For one of two."""
_LONG, _SHORT = 400, 4
_PROMPT = 32
_TIMEOUT_S = 120.0
_SLACK = 1.3
_LOSS_SLACK = 1.1


def behind(run: Run) -> list[Check]:
    checks: list[Check] = []
    for pair in PAIRS[:2]:
        size = pair[0].partition("-")[0]
        folder = folder_of(pair, run.root, run.say)
        state_dir = run.state_dir()
        flags = ("--memory", f"{_ROOM_MIB[size]}MiB")
        with repertory(folder, state_dir, *flags) as ours:
            mine = asyncio.run(_rounds(ours, pair))
        with llama_server(run.peer, run.log(), router_flags(str(folder), 1, 2)) as peer:
            theirs = asyncio.run(_rounds(peer, pair))
        moves = moves_of(state_dir)
        run.keep(f"behind, {size}", {"ours": mine, "router": theirs, "moves": asdict(moves)})
        words, found = bars(f"behind a batch, {size}", mine, theirs, moves)
        run.say(words)
        checks += found
    return checks


async def _rounds(system: System, pair: tuple[str, str]) -> dict[str, list[float]]:
    """In turn: the short one where its model is loaded, the long one alone, and both."""
    long, short = pair
    luck = random.Random(7)
    names = ("alone_s", "resident_s", "long_s", "ttft_s", "gap_s")
    found: dict[str, list[float]] = {name: [] for name in names}
    is_ours = system.name == "repertory"
    async with session() as http:

        async def ask(model: str, tokens: int, priority: str) -> Told:
            wish = Wish(model, prompt_of(_PROMPT, luck), tokens, luck.getrandbits(40), priority)
            told = await tell(http, system.url, wish, _TIMEOUT_S, is_ours=is_ours)
            if told.failure is not None:
                raise RuntimeError(f"{system.name}, {model}: {told.failure}")
            return told

        for _ in range(_ROUNDS + 1):  # in the first one each file is opened for the first time
            await ask(short, _SHORT, "interactive")
            resident = await ask(short, _SHORT, "interactive")
            found["resident_s"].append(resident.ttft_s or _TIMEOUT_S)
            alone = await ask(long, _LONG, "batch")
            found["alone_s"].append(alone.total_s)
            running = asyncio.create_task(ask(long, _LONG, "batch"))
            await asyncio.sleep(alone.total_s / 4)
            told = await ask(short, _SHORT, "interactive")
            both = await running
            found["ttft_s"].append(told.ttft_s or _TIMEOUT_S)
            found["long_s"].append(both.total_s)
            found["gap_s"].append(max(both.gaps_s))
    return {name: values[1:] for name, values in found.items()}


def bars(
    title: str, mine: dict[str, list[float]], theirs: dict[str, list[float]], moves: Moves
) -> tuple[str, list[Check]]:
    """In words, and as checks; medians of the rounds."""
    median = statistics.median
    switch_s = median(moves.loads) + median(moves.activations)
    penalty_s = median(moves.penalties)
    ttft_s, other_s = median(mine["ttft_s"]), median(theirs["ttft_s"])
    growth_s = median(mine["long_s"]) - median(mine["alone_s"])
    words = (
        f"{title}: TTFT {1e3 * ttft_s:.0f} ms, router {1e3 * other_s:.0f}; switch "
        f"{1e3 * switch_s:.0f} ms; the batch takes {growth_s:.2f} s more, predicted "
        f"{penalty_s:.2f} s"
    )
    return words, [
        at_most(f"{title}: TTFT / router's", "x", ttft_s / other_s, 1.0),
        at_most(f"{title}: TTFT", "s", ttft_s, _SLACK * (switch_s + median(mine["resident_s"]))),
        at_most(f"{title}: the batch takes more by", "s", growth_s, _LOSS_SLACK * penalty_s),
    ]
