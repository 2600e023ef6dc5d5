"""`make demo`.  Exit codes: 0 all went well, 1 something failed, 130 Ctrl-C."""

import argparse
import asyncio
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.progress import Progress

from demo.log import LogReader
from demo.models import RECIPES, budget_for_two, make_missing
from demo.screen import Scene, follow, shown
from demo.server import Memory, ServerFailed, running_server, sample_memory, watch_status
from demo.summary import broken_promises, show_summary
from demo.workload import Ask, plan, play
from repertory.domain.workloads import Origin, RunHeader
from repertory.traces.runs import RunWriter

_PLACE = Path("build/demo")
_STATE = _PLACE / "state"
_MODELS = _PLACE / "models"
_SLO = "ttft_p99<10s,tpot_p99<500ms"
"""Of two cores that load a model every few seconds; a GPU's would be lines beyond the picture."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=7, help="of the workload")
    parser.add_argument("--length-s", type=float, default=45.0, help="of the workload")
    wishes = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False)
    console.soft_wrap = not console.is_terminal  # a pipe gets whole lines
    try:
        return _demo(console, wishes.seed, wishes.length_s)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nstopped; nothing is left running")
        return 130


def _demo(console: Console, seed: int, length_s: float) -> int:
    _prepare(console)
    paths = sorted(_MODELS.glob("*.gguf"))
    budget = budget_for_two(paths)
    names = [path.stem for path in paths]
    asks = plan(names, random.Random(seed), length_s)
    scene = Scene(len(asks), budget.bytes, Memory(), LogReader(_STATE / "decisions.jsonl"))
    command = ["serve", str(_MODELS), "--port", "0", "--memory", f"{budget.bytes >> 20}MiB"]
    command += ["--state-dir", str(_STATE)]
    console.print(f"memory:   {budget.story}")
    console.print(f"workload: {len(asks)} requests in bursts over {length_s:.0f} s, seed {seed}")
    console.print(f"$ repertory {' '.join(command)}\n", style="bold", soft_wrap=True)
    reasons: list[str] = []
    try:
        asyncio.run(_run(console, command, asks, scene))
    except* (ServerFailed, TimeoutError, aiohttp.ClientError) as failed:
        reasons = [str(each) or type(each).__name__ for each in _leaves(failed)]
    if reasons:
        for reason in reasons:
            console.print(f"demo: {reason}", style="red")
        return 1
    show_summary(console, scene, names)
    broken = broken_promises(scene) + _explain(console, scene)
    broken += _report(console, scene, seed, budget.bytes)
    for line in broken:
        console.print(f"failed: {line}", style="red")
    return 1 if broken else 0


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def _prepare(console: Console) -> None:
    """Models are kept from run to run; the state is not."""
    with Progress(console=console, transient=True) as progress:
        tasks = {
            one["name"]: progress.add_task(f"making {one['name']}", visible=False)
            for one in RECIPES
        }

        def said(name: str, written_bytes: int, total_bytes: int) -> None:
            progress.update(tasks[name], completed=written_bytes, total=total_bytes, visible=True)

        make_missing(_MODELS, said)
    shutil.rmtree(_STATE, ignore_errors=True)


async def _run(console: Console, command: Sequence[str], asks: Sequence[Ask], scene: Scene) -> None:
    """Everything that was started has ended on return."""
    loop = asyncio.get_running_loop()
    mine = asyncio.current_task()
    assert mine is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, mine.cancel)
    async with running_server(command, _PLACE / "serve.log") as server:
        with shown(console) as show:
            async with asyncio.TaskGroup() as group:
                watchers = [
                    group.create_task(server.ended()),
                    group.create_task(sample_memory(server.process.pid, scene.memory)),
                    group.create_task(follow(watch_status(server.url, 0.25), scene, show)),
                ]
                scene.began = datetime.now(UTC).isoformat(timespec="seconds")
                began_s = loop.time()
                await play(server.url, asks, scene.answered.append)
                scene.took_s = loop.time() - began_s
                for watcher in watchers:
                    watcher.cancel()
    scene.log.catch_up()
    if server.process.returncode != 0:
        raise ServerFailed(f"the server ended with {server.process.returncode}")


def _explain(console: Console, scene: Scene) -> list[str]:
    """`repertory why` for a request that needed a load, and for one that needed an eviction."""
    broken = []
    for rule in ("load", "evict"):
        request_id = scene.log.example(rule)
        if request_id is None:
            broken.append(f"no request shows the rule {rule!r} at work")
            continue
        command = ["why", request_id, "--state-dir", str(_STATE)]
        console.print(f"\n$ repertory {' '.join(command)}", style="bold", soft_wrap=True)
        told = subprocess.run(
            [sys.executable, "-m", "repertory", *command], check=False, capture_output=True
        )
        console.print(told.stdout.decode().rstrip(), soft_wrap=True)
        if told.returncode:
            broken.append(f"repertory why: {told.stderr.decode().strip()}")
    return broken


def _report(console: Console, scene: Scene, seed: int, budget_bytes: int) -> list[str]:
    """The run as a file, and `repertory report` of it and the decision log."""
    run, page = _PLACE / "run.jsonl", _PLACE / "report.html"
    header = RunHeader(
        system="repertory",
        origin=Origin.MEASURED,
        workload="demo",
        seed=seed,
        fleet=f"this machine, {budget_bytes >> 20} MiB",
        devices=1,
        began=scene.began,
    )
    with run.open("wb") as file:
        writer = RunWriter(file, header)
        for one in scene.answered:
            writer.add(one.record)
    command = ["report", str(run), "--log", str(_STATE), "-o", str(page), "--slo", _SLO]
    console.print(f"\n$ repertory {' '.join(command)}", style="bold", soft_wrap=True)
    told = subprocess.run(
        [sys.executable, "-m", "repertory", *command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    console.print(told.stdout.decode().rstrip(), soft_wrap=True)
    return ["repertory report: see above"] if told.returncode else []


if __name__ == "__main__":
    sys.exit(main())
