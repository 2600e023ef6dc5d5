"""`bench`: a workload played to any OpenAI-compatible server, and what became of it."""

import asyncio
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup

from repertory.cli.choosing import Data, DaysText, Rate, Requests, Seed, Wishes, chosen_workload
from repertory.cli.shared import FAILURE, UNREACHABLE, USAGE, CtrlC, Json, app, fail, table
from repertory.config import read_names
from repertory.domain.errors import RepertoryError
from repertory.domain.workloads import Arrival, Ending, Origin, RequestRecord, RunHeader
from repertory.reports.figures import seconds_text

if TYPE_CHECKING:
    from repertory.bench.asking import Endpoint
    from repertory.bench.comparing import Row
    from repertory.bench.playing import Play
    from repertory.traces.summary import Figures, Slo, Summary

__all__ = ["bench", "compare"]


class _UrlFirst(TyperGroup):
    """`bench URL` is `bench run URL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Nothing but a command's name or `--help` stands first in a group.  `Any`: typer keeps its
        context's class to itself.
        """
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


_bench = typer.Typer(
    cls=_UrlFirst,
    help="Play a workload to a server: bench URL; or to several: bench compare.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(_bench, name="bench")

Workload = Annotated[
    str | None,
    typer.Option("--workload", "-w", help="A file or a recipe; default: as for trace make."),
]
Models = Annotated[
    Path | None,
    typer.Option(help="A YAML of the workload's model names to the server's; default: the same."),
]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="Sent with every request.")]
Speed = Annotated[float, typer.Option(help="Times of the workload are divided by it.")]
WarmUp = Annotated[float, typer.Option("--warm-up", help="Seconds that do not count.")]
Timeout = Annotated[float, typer.Option(help="Seconds after which a request is lost.")]
SloText = Annotated[
    str, typer.Option("--slo", help="What counts as goodput, such as ttft_p99<2s,tpot_p99<100ms.")
]
Words = Annotated[
    bool, typer.Option("--words", help="Prompts of words, for servers that take no token ids.")
]
_SLO = "ttft_p99<2s,tpot_p99<200ms"
_MESSAGES = 3
"""Of failures, on the screen; the report has all."""


@_bench.command("run")
def bench(  # noqa: PLR0913  one for each flag
    url: Annotated[str, typer.Argument(help="Of the server, such as http://127.0.0.1:8000.")],
    workload: Workload = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Records; default: NAME-run.jsonl.")
    ] = None,
    models: Models = None,
    api_key: ApiKey = None,
    seed: Seed = 0,
    requests: Requests = None,
    days: DaysText = None,
    rate: Rate = None,
    data: Data = None,
    speed: Speed = 1.0,
    warm_up: WarmUp = 0.0,
    timeout: Timeout = 600.0,
    slo: SloText = _SLO,
    words: Words = False,
    json: Json = False,
) -> None:
    """Play a workload to one server, open loop, and keep a record of every request.

    Each request is sent at its time, whatever became of those before; waiting counts from then.
    Interrupted, the file says that it is a part.
    """
    wishes = Wishes(seed, requests, days, rate, data)
    from repertory.traces.summary import parse_slo

    wanted = parse_slo(slo)
    chosen = chosen_workload(workload, wishes)
    path = out or Path(f"{Path(chosen.name).name.partition('.')[0]}-run.jsonl")
    to = asyncio.run(_greeted(_endpoint(url, models, api_key)))
    how = _play(speed, warm_up, timeout, seed)
    header = _header(urlsplit(to.url).netloc.rpartition("@")[2], to, chosen.name, how)
    found = _played(to, chosen.arrivals, how, _Into(path, header, words))
    summary = _summary(found, wanted)
    if json:
        typer.echo(msgspec.json.encode(msgspec.to_builtins(summary)).decode())
    else:
        _tell(summary)
        _tell_failures(found.records)
        typer.echo(f"records: {path}")
    if found.is_part:
        fail(FAILURE, f"interrupted; {path} says that it is a part")


@_bench.command("compare")
def compare(  # noqa: PLR0913  one for each flag
    servers: Annotated[
        list[str], typer.Argument(metavar="NAME=URL...", help="The first is what others stand to.")
    ],
    workload: Workload = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the records.")] = Path(
        "compare"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Of each server.")] = 2,
    models: Models = None,
    api_key: ApiKey = None,
    seed: Seed = 0,
    requests: Requests = None,
    days: DaysText = None,
    rate: Rate = None,
    data: Data = None,
    speed: Speed = 1.0,
    warm_up: WarmUp = 0.0,
    timeout: Timeout = 600.0,
    slo: SloText = _SLO,
    words: Words = False,
    json: Json = False,
) -> None:
    """Play one workload to several servers in turns, A B, B A, and print ratios.

    They run all the while: give them machines of their own, or know that the idle ones take memory.
    """
    from repertory.bench.comparing import rows_of, turns
    from repertory.traces.summary import parse_slo

    wishes, wanted = Wishes(seed, requests, days, rate, data), parse_slo(slo)
    names = _named(servers)
    ends = {
        name: asyncio.run(_greeted(_endpoint(url, models, api_key))) for name, url in names.items()
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(FAILURE, f"{out}: no folder can be made: {error.strerror}")
    summaries: dict[str, list[Summary]] = {name: [] for name in names}
    how = _play(speed, warm_up, timeout, seed)
    part = None
    for repeat, name in turns(list(names), repeats):
        chosen = chosen_workload(workload, wishes)
        header = _header(name, ends[name], chosen.name, how)
        into = _Into(out / f"{name}-{repeat}.jsonl", header, words)
        found = _played(ends[name], chosen.arrivals, how, into)
        if found.is_part:
            part = into.path
            break
        summaries[name].append(_summary(found, wanted))
    rows = rows_of(summaries)
    if json:
        typer.echo(msgspec.json.encode(rows).decode())
    else:
        _tell_rows(rows, list(names))
    if part is not None:
        whole = sum(len(each) for each in summaries.values())
        fail(
            FAILURE,
            f"interrupted: of {len(names) * repeats} runs {whole} are whole and counted; {part} "
            "says that it is a part",
        )


@dataclass(frozen=True, slots=True)
class _Into:
    """Where the records of a run go."""

    path: Path
    header: RunHeader
    is_words: bool


@dataclass(slots=True)
class _Found:
    records: list[RequestRecord]
    span_s: float = 0.0
    is_part: bool = False


def _header(system: str, to: "Endpoint", workload: str, how: "Play") -> RunHeader:
    return RunHeader(
        system, Origin.MEASURED, workload, how.seed, how.speed, began=_now(), models=to.models
    )


def _endpoint(url: str, models: Path | None, api_key: str | None) -> "Endpoint":
    from repertory.bench.asking import Endpoint

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        fail(USAGE, f"{url!r} is no address of a server; write it like http://127.0.0.1:8000")
    names = read_names(models) if models is not None else {}
    keys = {"": api_key} if api_key else {}
    return Endpoint(url.rstrip("/").removesuffix("/v1"), names, keys)


def _named(servers: Sequence[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for word in servers:
        name, equals, url = word.partition("=")
        if not equals or not name or "/" in name:
            fail(USAGE, f"{word!r}: write a server as NAME=URL, like ours=http://127.0.0.1:8000")
        if name in named:
            fail(USAGE, f"two servers are called {name}")
        named[name] = url
    return named


async def _greeted(to: "Endpoint") -> "Endpoint":
    """Somebody answers there; and whether it is one of ours."""
    from repertory.bench.asking import greet

    try:
        return replace(to, has_priority=await greet(to))
    except OSError as error:
        fail(UNREACHABLE, f"no server answers at {to.url}: {error}")


def _play(speed: float, warm_up: float, timeout: float, seed: int) -> "Play":
    from repertory.bench.playing import Play

    if not (0 < speed < math.inf and 0 <= warm_up < math.inf and 0 < timeout < math.inf):
        fail(
            USAGE,
            "--speed and --timeout are over 0, --warm-up is not under 0, and none without end",
        )
    return Play(speed, warm_up, timeout, seed)


def _played(to: "Endpoint", arrivals: Iterator[Arrival], how: "Play", into: _Into) -> _Found:
    """Whatever ends it early, its file says so."""
    from repertory.bench.playing import play
    from repertory.bench.prompts import Prompts
    from repertory.traces.runs import RunWriter

    found = _Found([])
    prompts = Prompts(how.seed, as_text=into.is_words)
    arrivals = _begun(arrivals)
    with CtrlC() as ctrl_c, _opened(into.path) as file, _shown(into.header.system, found) as show:
        writer = RunWriter(file, into.header)

        def told(record: RequestRecord) -> None:
            writer.add(record)
            found.records.append(record)
            ends = (record.finished_s, record.first_token_s, record.at_s)
            found.span_s = max(found.span_s, *(one for one in ends if one is not None))
            show()

        async def run() -> None:
            task = asyncio.ensure_future(play(to, arrivals, how, prompts, told))
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGINT, task.cancel)
            if ctrl_c.is_pressed:
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                found.is_part = True
                writer.remark("interrupted: a part of the workload")
            finally:
                loop.remove_signal_handler(signal.SIGINT)

        try:
            asyncio.run(run())
        except RepertoryError as error:
            writer.remark(f"a part of the workload: {error}")
            raise
    return found


def _begun(arrivals: Iterator[Arrival]) -> Iterator[Arrival]:
    """What is wrong with a workload from the start is said before a file is opened for its run."""
    return chain(list(islice(arrivals, 1)), arrivals)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        fail(FAILURE, f"{path}: cannot be written: {error.strerror}")


@contextmanager
def _shown(system: str, found: _Found) -> Iterator[Callable[[], None]]:
    words = TextColumn(
        "{task.description}  {task.fields[ended]} ended, {task.fields[bad]} not well"
    )
    with Progress(
        words, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(system, ended=0, bad=0)
        bad = 0

        def show() -> None:
            nonlocal bad
            bad += found.records[-1].ending is not Ending.DONE
            progress.update(task, ended=len(found.records), bad=bad)

        yield show


def _summary(found: _Found, slo: "Slo") -> "Summary":
    from repertory.traces.summary import summarise

    return summarise(found.records, slo, max(found.span_s, 1e-9))


def _tell(summary: "Summary") -> None:
    heads = ["measured", "REQUESTS", "DONE", "REFUSED", "FAILED", "LOST"]
    heads += ["TTFT P50", "P95", "P99", "TPOT P50", "P99", f"WITHIN {summary.slo}", "GOODPUT/S"]
    rows = {"all": summary.total} | dict(sorted(summary.models.items()))
    table(heads, [_row(name, one) for name, one in rows.items()])
    if summary.warmups:
        typer.echo(f"{summary.warmups} requests of the warm-up are not counted")


def _tell_failures(records: Sequence[RequestRecord]) -> None:
    """The most frequent messages: numbers alone do not say what to do."""
    said = Counter(
        (one.ending.value, one.message) for one in records if one.ending is not Ending.DONE
    )
    for (ending, message), count in said.most_common(_MESSAGES):
        typer.echo(f"{count:,} {ending}: {message}")
    if len(said) > _MESSAGES:
        typer.echo(f"and {len(said) - _MESSAGES:,} other messages, in the records")


def _tell_rows(rows: "Sequence[Row]", names: Sequence[str]) -> None:
    first, others = names[0], names[1:]
    table(
        ["measured", *(name.upper() for name in names), *(f"{one}/{first}" for one in others)],
        [
            [
                row.name,
                *(_figure(row.values[name]) for name in names),
                *(_figure(row.ratios[name]) for name in others),
            ]
            for row in rows
        ],
    )


def _row(name: str, one: "Figures") -> list[str]:
    return [
        name,
        *(f"{count:,}" for count in (one.requests, one.done, one.refused, one.failed, one.lost)),
        *(seconds_text(value) for value in (one.ttft.p50_s, one.ttft.p95_s, one.ttft.p99_s)),
        *(seconds_text(value) for value in (one.tpot.p50_s, one.tpot.p99_s)),
        "-" if one.met_share is None else f"{one.met_share:.1%}",
        f"{one.goodput_per_s:.3g}",
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
