"""What is going on, four times a second: a picture on a terminal, a line now and then elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.log import LogReader
from demo.server import Memory
from demo.workload import Answered
from repertory.domain.ladder import Rung
from repertory.live.facade import ModelStatus, ServiceStatus
from repertory.reports.figures import bytes_text

__all__ = ["Scene", "follow", "shown"]

_PLAIN_EVERY_S = 5.0
_STYLES = {"disk": "dim", "host": "cyan", "device": "yellow", "serving": "bold green"}


@dataclass(slots=True)
class Scene:
    """All that is shown."""

    total: int
    budget_bytes: int
    memory: Memory
    log: LogReader
    answered: list[Answered] = field(default_factory=list)
    status: ServiceStatus | None = None
    at_s: float = 0.0
    pairs: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes predicted and read back of each model, when it last served."""
    began: str = ""
    """By the wall clock, in ISO 8601."""
    took_s: float = 0.0
    """The workload, from the first request to the last answer."""

    @property
    def failures(self) -> list[Answered]:
        return [one for one in self.answered if one.failure is not None]

    def take(self, status: ServiceStatus, at_s: float) -> None:
        self.status, self.at_s = status, at_s
        for model in status.models:
            if model.status == "loaded" and model.measured_bytes is not None:
                self.pairs[model.name] = (model.predicted_bytes, model.measured_bytes)
        self.log.catch_up()

    def counts(self) -> str:
        running = self.status.running if self.status else 0
        waiting = self.status.waiting if self.status else 0
        rate = self.status.tokens_per_s if self.status else 0.0
        return (
            f"{len(self.answered)} of {self.total} answered, {len(self.failures)} failed, "
            f"{running} running, {waiting} waiting, {rate:.0f} tokens/s"
        )


Show = Callable[[Scene], None]


async def follow(statuses: AsyncIterator[ServiceStatus], scene: Scene, show: Show) -> None:
    """Until it is cancelled."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async for status in statuses:
        scene.take(status, loop.time() - began_s)
        show(scene)


@contextmanager
def shown(console: Console) -> Iterator[Show]:
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda scene: live.update(_picture(scene), refresh=True)


def _plain_lines(console: Console) -> Show:
    last_s = 0.0

    def show(scene: Scene) -> None:
        nonlocal last_s
        if scene.at_s - last_s < _PLAIN_EVERY_S or scene.status is None:
            return
        last_s = scene.at_s
        up = [one.name for one in scene.status.models if one.rung == Rung.SERVING.value]
        console.print(
            f"{scene.at_s:5.0f} s  {scene.counts()}; serving {', '.join(up) or 'none'}; "
            f"{_memory_words(scene)}"
        )

    return show


def _picture(scene: Scene) -> RenderableType:
    memory = Table.grid(padding=(0, 2))
    share = min(scene.memory.now_bytes, scene.budget_bytes)
    memory.add_row("memory", ProgressBar(scene.budget_bytes, share, width=24), _memory_words(scene))
    seconds = f"{scene.at_s:.0f} s"
    lines = [Text(f"{seconds:>6}  {scene.counts()}"), Text("")]
    return Group(_ladder(scene.status.models if scene.status else ()), memory, *lines, *_log(scene))


def _log(scene: Scene) -> Iterator[Text]:
    """The last line is empty: the terminal's echo of a Ctrl-C goes there and begins no new one."""
    for at_s, text in scene.log.recent:
        yield Text(f"{at_s:5.1f} s  {text}", style="dim", no_wrap=True, overflow="ellipsis")
    yield Text("")


def _ladder(models: Sequence[ModelStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("MODEL", min_width=8)
    table.add_column("DISK TO SERVING", min_width=21)
    for name in ("RUNNING", "WAITING", "TOKENS/S", "MEMORY"):
        table.add_column(name, justify="right", min_width=7)
    for model in models:
        held = model.measured_bytes or 0
        table.add_row(
            model.name,
            _rungs(model),
            _or_dot(model.running),
            _or_dot(model.waiting),
            f"{model.tokens_per_s:.0f}" if model.tokens_per_s >= 0.5 else "·",
            bytes_text(held) if held else "·",
        )
    return table


def _rungs(model: ModelStatus) -> Text:
    """Filled up to the rung where the model stands, and that rung's name."""
    text = Text(style=_STYLES[model.rung])
    is_below = True
    for rung in Rung:
        if rung is not Rung.DISK:
            text.append("━━" if is_below else "──", style=None if is_below else "bright_black")
        text.append("●" if is_below else "○", style=None if is_below else "bright_black")
        is_below = is_below and rung.value != model.rung
    text.append(f"  {model.rung}" + (" ↑" if model.status == "loading" else ""))
    return text


def _or_dot(count: int) -> str:
    return str(count) if count else "·"


def _memory_words(scene: Scene) -> str:
    """All in one unit: a budget that is nearly used up must not look like one that is."""
    now, peak, budget = (
        f"{size / 2**20:.0f}"
        for size in (scene.memory.now_bytes, scene.memory.peak_bytes, scene.budget_bytes)
    )
    return f"{now} of {budget} MiB (peak {peak})"
