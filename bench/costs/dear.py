"""The short request behind a long batch, where a load is worth a hundred decode steps and more.

As `bench.costs.behind`, but both systems read the disk through one and the same cap, and every file
that nobody has mapped leaves the page cache before it is needed.
"""

import asyncio
import random
import statistics
from dataclasses import asdict
from pathlib import Path

from bench.checks import Check, at_least
from bench.costs.behind import bars
from bench.costs.moves import Moves, moves_of
from bench.costs.slow_disk import forget_pages, slow_disk
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import PAIRS, folder_of
from bench.serve.run import Run
from bench.serve.swaps import router_flags
from bench.serve.systems import System, llama_server, repertory

__all__ = ["dear"]

_CAP_BYTES_PER_S = 150_000_000
"""A 50M (52 MiB) then loads in 0.37 s: some 120 of its decode steps."""
_ROUNDS = 5
_ROOM = "310MiB"
_LONG, _SHORT, _PROMPT = 2000, 4, 32
_ROUTER_CELLS = 4 * 2048
"""Its four slots share them."""
_TIMEOUT_S = 120.0
_LEAST_STEPS = 100


def dear(run: Run) -> list[Check]:
    pair = PAIRS[0]
    folder = folder_of(pair, run.root, run.say)
    state_dir = run.state_dir()
    with slow_disk(folder, _CAP_BYTES_PER_S):
        with repertory(folder, state_dir, "--memory", _ROOM) as ours:
            mine = asyncio.run(_rounds(ours, folder, pair))
        with llama_server(run.peer, run.log(), _router_flags(folder)) as peer:
            theirs = asyncio.run(_rounds(peer, folder, pair))
    return _judge(run, mine, theirs, moves_of(state_dir, "disk"))


def _router_flags(folder: Path) -> list[str]:
    """As in the other scenes, but with slots that hold the long batch."""
    flags = list(router_flags(str(folder), 1, 2))
    flags[flags.index("-c") + 1] = str(_ROUTER_CELLS)
    return flags


async def _rounds(system: System, folder: Path, pair: tuple[str, str]) -> dict[str, list[float]]:
    long, short = pair
    files = {name: folder / f"{name}.gguf" for name in pair}
    luck = random.Random(11)
    names = ("alone_s", "resident_s", "long_s", "ttft_s")
    found: dict[str, list[float]] = {name: [] for name in names}
    async with session() as http:

        async def ask(model: str, tokens: int, priority: str, drop: str | None = None) -> Told:
            """`drop`: whose pages go when the first token is there."""
            wish = Wish(model, prompt_of(_PROMPT, luck), tokens, luck.getrandbits(40), priority)
            told = await tell(
                http,
                system.url,
                wish,
                _TIMEOUT_S,
                is_ours=system.name == "repertory",
                on_first=lambda: forget_pages([files[drop]] if drop else []),
            )
            if told.failure is not None:
                raise RuntimeError(f"{system.name}, {model}: {told.failure}")
            return told

        for _ in range(_ROUNDS + 1):  # in the first one each file is opened for the first time
            forget_pages([files[short]])
            await ask(short, _SHORT, "interactive")
            resident = await ask(short, _SHORT, "interactive")
            forget_pages([files[long]])
            await ask(long, _SHORT, "batch")
            alone = await ask(long, _LONG, "batch")
            forget_pages([files[short]])
            running = asyncio.create_task(ask(long, _LONG, "batch"))
            await asyncio.sleep(alone.total_s / 4)
            told = await ask(short, _SHORT, "interactive", drop=long)
            both = await running
            found["alone_s"].append(alone.total_s)
            found["resident_s"].append(resident.ttft_s or _TIMEOUT_S)
            found["ttft_s"].append(told.ttft_s or _TIMEOUT_S)
            found["long_s"].append(both.total_s)
    return {name: values[1:] for name, values in found.items()}


def _judge(
    run: Run, mine: dict[str, list[float]], theirs: dict[str, list[float]], moves: Moves
) -> list[Check]:
    if not moves.loads or not moves.penalties:
        raise RuntimeError(
            f"{len(moves.loads)} cold loads and {len(moves.penalties)} preemptions: no scene"
        )
    run.keep(
        "dear",
        {
            "ours": mine,
            "router": theirs,
            "moves": asdict(moves),
            "cap_bytes_per_s": _CAP_BYTES_PER_S,
        },
    )
    steps = statistics.median(moves.loads) / (statistics.median(mine["alone_s"]) / _LONG)
    title = "behind a batch, dear loads"
    words, checks = bars(title, mine, theirs, moves)
    run.say(f"a load is worth {steps:.0f} steps; {words}")
    return [at_least(f"{title}: steps per load", "", steps, _LEAST_STEPS), *checks]
