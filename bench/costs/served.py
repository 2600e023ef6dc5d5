"""The desk of `bench.costs.desk`, served: a live server on the asymmetric pair, rule by rule.

The files at hand stand in for its models: of six, five; what never fits is left out.  Every read of
the disk goes through one cap, and every half second the page cache lets go of what nobody has
mapped, so that a load is worth as many steps as in the paper.
"""

import asyncio
import contextlib
import random
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.checks import Check, at_least, at_most
from bench.costs.moves import moves_of
from bench.costs.pair import baseline, device_of
from bench.costs.ruled import RULES
from bench.costs.slow_disk import forget_pages, slow_disk
from bench.costs.stream import Told, Wish, tell
from bench.serve.client import prompt_of, session
from bench.serve.models import folder_of
from bench.serve.run import Run
from bench.serve.systems import Ours, repertory

__all__ = ["Served", "serve_by", "served"]


@dataclass(frozen=True, slots=True)
class _Use:
    model: str
    mib: int
    """Of its file."""
    priority: str
    prompts: tuple[int, ...]
    outputs: tuple[int, ...]


_USES = (
    _Use("300m-a", 258, "interactive", (32, 96, 200), (16, 48, 96)),
    _Use("50m-a", 52, "interactive", (64, 200), (16, 32)),
    _Use("1b-a", 603, "interactive", (32, 64), (16, 32)),
    _Use("300m-b", 258, "batch", (32, 64), (64, 128)),
    _Use("300m-c", 258, "interactive", (32, 96), (16, 48)),
)
"""chat, code, nearly, writer and rare: by falling popularity, as 1/n."""
_DEVICE_MIB = 560
"""The first two and their KV memory fit, and any other two; the third nearly fits."""
_CAP_BYTES_PER_S = 150_000_000
_PROMPT_S, _STEP_S = 0.0031, 0.0114
"""A token of a prompt and of an answer on the device, of a 300M (docs/results/costs.md)."""
_PATIENCE = {"interactive": 3.0, "batch": 10.0}
"""In time, as on the desk: so many times the load and the answer."""
_SPAN_S = 180.0
_LOAD = 0.15
"""How busy the device would be with all of them on it, always loaded.  Twice that is overload:
of 63 answers in 140 s half had come by the end, whatever the rule.
"""
_TIMEOUT_S = 80.0
_SEED = 1


@dataclass(frozen=True, slots=True)
class Served:
    """What came of the trace by one rule."""

    rule: str
    goodput: float
    """Tokens a second, of answers that were complete in time."""
    late: dict[str, tuple[int, int]]
    first_token_s: float
    """Of all, in the middle."""
    failures: int
    loads: int
    steps_per_load: float
    """Of a 300M, with all layers on the device."""


def served(run: Run) -> list[Check]:
    names = ("by_harm", "fully_or_evict", "offload_always")
    found = {name: serve_by(run, name) for name in names}
    run.keep("served", [asdict(one) for one in found.values()])
    ours = found["by_harm"]
    checks = [at_most("served on the pair: failures", "", ours.failures, 0)]
    for name in names[1:]:
        title = f"served goodput on the pair, to {name.replace('_', ' ')}"
        checks.append(at_least(title, "", ours.goodput / max(1e-9, found[name].goodput), 1.0))
    return checks


def serve_by(run: Run, rule: str) -> Served:
    """Some three minutes: in a turn of its own, if others wait for the machine."""
    assert rule in RULES
    folder = folder_of([one.model for one in _USES], run.root, run.say).resolve()
    state_dir = run.state_dir()
    library = baseline(run.peers)
    with slow_disk(folder, _CAP_BYTES_PER_S), _config(folder, state_dir) as config:
        slow = ("env", f"LLAMA_CPP_LIB_PATH={library}", "taskset", "-c", "0")
        program = ("-m", "bench.costs.ruled", rule)
        with repertory(config, state_dir, before=slow, program=program) as system:
            told = asyncio.run(_play(system, folder))
    result = _result(rule, told, state_dir)
    run.say(f"{rule}: {result}")
    return result


@contextlib.contextmanager
def _config(folder: Path, state_dir: Path) -> Iterator[Path]:
    state_dir.mkdir(parents=True, exist_ok=True)
    config = state_dir / "pair.yaml"
    models = "".join(f"  {one.model}: {{path: {folder / one.model}.gguf}}\n" for one in _USES)
    with device_of(core=1) as endpoint:
        config.write_text(
            f"models:\n{models}rpc: ['{endpoint}']\ndevices:\n"
            "  - {id: cpu0, cores: [0], memory: 6GiB}\n"
            f"  - {{id: RPC0, memory: {_DEVICE_MIB}MiB}}\n"
        )
        yield config


def _trace() -> list[Wish]:
    luck = random.Random(_SEED)
    weights = [1.0 / rank for rank in range(1, len(_USES) + 1)]
    mean_s = sum(
        weight * _alone_s(use, statistics.mean(use.prompts), statistics.mean(use.outputs))
        for weight, use in zip(weights, _USES, strict=True)
    ) / sum(weights)
    wishes, at_s = [], 0.0
    while (at_s := at_s + luck.expovariate(_LOAD / mean_s)) < _SPAN_S:
        (use,) = luck.choices(_USES, weights)
        prompt = prompt_of(luck.choice(use.prompts), luck)
        output = luck.choice(use.outputs)
        seed = luck.getrandbits(40)
        wishes.append(Wish(use.model, prompt, output, seed, use.priority, at_s))
    return wishes


def _alone_s(use: _Use, prompt: float, output: float) -> float:
    return use.mib / 258 * (prompt * _PROMPT_S + output * _STEP_S)


def _limit_s(wish: Wish) -> float:
    use = next(one for one in _USES if one.model == wish.model)
    load_s = use.mib * (1 << 20) / _CAP_BYTES_PER_S
    alone_s = _alone_s(use, len(wish.prompt), wish.max_tokens)
    return _PATIENCE[use.priority] * (load_s + alone_s)


async def _play(system: Ours, folder: Path) -> list[Told]:
    files = [folder / f"{one.model}.gguf" for one in _USES]
    luck = random.Random(_SEED + 1)
    async with session() as http, asyncio.TaskGroup() as group:

        async def ask(wish: Wish, timeout_s: float = _TIMEOUT_S) -> Told:
            await asyncio.sleep(max(0.0, began_s + wish.at_s - now_s()))
            return await tell(http, system.url, wish, timeout_s)

        async def forget() -> None:
            while True:
                forget_pages(files)
                await asyncio.sleep(0.5)

        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        for use in _USES:  # each file is opened for the first time, and proved, before it counts
            first = Wish(use.model, prompt_of(8, luck), 4, luck.getrandbits(40))
            told = await ask(first)
            if told.failure is not None:
                raise RuntimeError(f"{use.model}: {told.failure}")
        forgetting = group.create_task(forget())
        began_s = now_s()
        tasks = [group.create_task(ask(wish)) for wish in _trace()]
        answers = [await task for task in tasks]
        forgetting.cancel()
    return answers


def _result(rule: str, told: list[Told], state_dir: Path) -> Served:
    late = {use.model: (0, 0) for use in _USES}
    good, end_s = 0, 0.0
    for one in told:
        is_late = one.failure is not None or one.total_s > _limit_s(one.wish)
        missed, count = late[one.wish.model]
        late[one.wish.model] = missed + is_late, count + 1
        good += 0 if is_late else one.tokens
        end_s = max(end_s, one.wish.at_s + one.total_s)
    loads = moves_of(state_dir).loads
    return Served(
        rule,
        good / end_s,
        late,
        statistics.median(one.ttft_s or _TIMEOUT_S for one in told),
        sum(one.failure is not None for one in told),
        len(loads),
        statistics.median(loads) / _STEP_S,
    )
