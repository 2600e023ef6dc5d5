"""The short request behind a long batch, where a load is worth a hundred decode steps and more.

As `bench.costs.behind`, but both systems read the disk through one and the same cap, and every file
that nobody has mapped leaves the page cache before it is needed.
"""

import asyncio
import random
import statistics
from pathlib import Path

from bench.checks import Check, at_least, at_most
from bench.costs.slow_disk import forget_pages, slow_disk
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import PAIRS, folder_of
from bench.serve.run import Run
from bench.serve.swaps import router_flags
from bench.serve.systems import System, llama_server, repertory
from repertory.core.journal import read_lines

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
_SLACK, _LOSS_SLACK = 1.3, 1.1


def dear(run: Run) -> list[Check]:
    pair = PAIRS[0]
    folder = folder_of(pair, run.root, run.say)
    state_dir = run.state_dir()
    with slow_disk(folder, _CAP_BYTES_PER_S):
        with repertory(folder, state_dir, "--memory", _ROOM) as ours:
            mine = asyncio.run(_rounds(ours, folder, pair))
        with llama_server(run.peer, run.log(), _router_flags(folder)) as peer:
            theirs = asyncio.run(_rounds(peer, folder, pair))
    return _judge(run, mine, theirs, state_dir)


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


def _moves(state_dir: Path) -> tuple[list[float], list[float], list[float]]:
    """Seconds of cold loads, of activations, and what preemptions were predicted to cost."""
    loads, opens, penalties = [], [], []
    edges: dict[int, str] = {}
    for path in sorted(state_dir.glob("decisions*.jsonl")):
        with path.open("rb") as lines:
            for entry in read_lines(lines):
                for action in entry["actions"]:
                    edges[action.get("action_id", 0)] = action["kind"]
                penalties += [
                    one["predicted_s"] for one in entry["verdicts"] if one["rule"] == "preempt"
                ]
                event = entry["event"]
                if event["kind"] != "TransitionDone":
                    continue
                measured, kind = event["measured"], edges.get(event["action_id"])
                if kind == "Load" and measured["source"] == "disk":
                    loads.append(measured["took_ns"] / 1e9)
                elif kind == "Activate":
                    opens.append(measured["took_ns"] / 1e9)
    return loads, opens, penalties


def _judge(
    run: Run, mine: dict[str, list[float]], theirs: dict[str, list[float]], state_dir: Path
) -> list[Check]:
    median = statistics.median
    loads, opens, penalties = _moves(state_dir)
    if not loads or not penalties:
        raise RuntimeError(f"{len(loads)} cold loads and {len(penalties)} preemptions: no scene")
    load_s, switch_s = median(loads), median(loads) + median(opens)
    step_s = median(mine["alone_s"]) / _LONG
    ttft_s, other_s = median(mine["ttft_s"]), median(theirs["ttft_s"])
    growth_s = median(mine["long_s"]) - median(mine["alone_s"])
    penalty_s = median(penalties)
    run.keep(
        "dear",
        {
            "ours": mine,
            "router": theirs,
            "loads_s": loads,
            "activations_s": opens,
            "penalties_s": penalties,
            "cap_bytes_per_s": _CAP_BYTES_PER_S,
        },
    )
    run.say(
        f"loads of {load_s / step_s:.0f} steps: TTFT behind a batch {ttft_s:.2f} s, router "
        f"{other_s:.2f}; switch {switch_s:.2f} s; the batch takes {growth_s:.2f} s more, predicted "
        f"{penalty_s:.2f} s"
    )
    title = "behind a batch, dear loads"
    return [
        at_least(f"{title}: steps per load", "", load_s / step_s, _LEAST_STEPS),
        at_most(f"{title}: TTFT / router's", "x", ttft_s / other_s, 1.0),
        at_most(f"{title}: TTFT", "s", ttft_s, _SLACK * (switch_s + median(mine["resident_s"]))),
        at_most(f"{title}: the batch takes more by", "s", growth_s, _LOSS_SLACK * penalty_s),
    ]
