"""The end: what it cost, model by model, and whether what was promised was kept."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from demo.screen import Scene
from demo.workload import Answered
from repertory.reports.figures import bytes_text, change_text

__all__ = ["broken_promises", "show_summary"]


def show_summary(console: Console, scene: Scene, names: Sequence[str]) -> None:
    for table in (_requests_table(scene, names), _memory_table(scene, names)):
        console.print()
        console.print(table)
    console.print()
    for line in _totals(scene):
        console.print(line)


def _requests_table(scene: Scene, names: Sequence[str]) -> Table:
    """Two p99 of a dozen requests are two worst cases, and are shown for what they are."""
    columns = ("WARM", "p50", "p99", "COLD", "p50", "p99")
    table = _table("Time to the first token", "REQUESTS", "FAILED", *columns)
    for name in names:
        mine = [one for one in scene.answered if one.ask.model == name]
        failed = sum(one.failure is not None for one in mine)
        warm, cold = _ttft(scene, mine, is_cold=False), _ttft(scene, mine, is_cold=True)
        table.add_row(name, str(len(mine)), str(failed), *warm, *cold)
    return table


def _memory_table(scene: Scene, names: Sequence[str]) -> Table:
    columns = ("LOADS", "EVICTIONS", "LOAD p50", "PREDICTED", "READ BACK", "")
    table = _table("Moves, and bytes while serving", *columns)
    for name in names:
        predicted_bytes, read_bytes = scene.pairs.get(name, (None, None))
        seconds = sorted(scene.log.load_seconds[name])
        table.add_row(
            name,
            str(len(seconds)),
            str(scene.log.evictions[name]),
            f"{_rank(seconds, 0.5):.2f} s" if seconds else "-",
            bytes_text(predicted_bytes),
            bytes_text(read_bytes),
            change_text(predicted_bytes, read_bytes),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("MODEL")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _ttft(scene: Scene, answered: Sequence[Answered], is_cold: bool) -> tuple[str, str, str]:
    """How many, their median, the 99th percentile."""
    seconds = sorted(
        one.ttft_s for one in answered if one.ttft_s is not None and _is_cold(scene, one) is is_cold
    )
    if not seconds:
        return "0", "-", "-"
    return str(len(seconds)), f"{_rank(seconds, 0.50):.2f} s", f"{_rank(seconds, 0.99):.2f} s"


def _is_cold(scene: Scene, answered: Answered) -> bool:
    wait = scene.log.waits.get(answered.request_id.removeprefix("chatcmpl-"))
    return wait is not None and wait.is_cold


def _rank(ascending: Sequence[float], share: float) -> float:
    """The nearest rank: of a dozen values, the 99th percentile is the largest."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def _totals(scene: Scene) -> list[str]:
    tokens = sum(one.tokens for one in scene.answered)
    overhead = scene.status.overhead_bytes if scene.status else 0
    return [
        "warm: nothing was loaded for it; cold: it waited for its model's load",
        f"{len(scene.answered)} requests, {len(scene.failures)} failures, "
        f"{tokens} tokens in {scene.took_s:.0f} s; {scene.log.loads} loads, "
        f"{scene.log.evictions.total()} evictions",
        f"memory of all processes: at most {scene.memory.peak_bytes / 2**20:.0f} of "
        f"{scene.budget_bytes / 2**20:.0f} MiB (PSS, {scene.memory.samples} samples); "
        f"{bytes_text(overhead)} of it set aside for the server",
    ]


def broken_promises(scene: Scene) -> list[str]:
    """What makes the demonstration fail."""
    broken = [
        f"{one.ask.model}, asked at {one.ask.at_s:.1f} s: {one.failure}" for one in scene.failures
    ]
    if len(scene.answered) < scene.total:
        broken.append(f"only {len(scene.answered)} of {scene.total} requests were answered")
    if scene.memory.peak_bytes > scene.budget_bytes:
        over = scene.memory.peak_bytes - scene.budget_bytes
        broken.append(f"the memory budget was exceeded by {bytes_text(over)}")
    if not scene.log.evictions:
        broken.append("nothing was evicted: there was room for all")
    return broken
