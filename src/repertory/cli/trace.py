"""`trace`: workloads made, described and drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from repertory.cli.choosing import (
    Chosen,
    Data,
    DaysText,
    Rate,
    Requests,
    Seed,
    Wishes,
    chosen_workload,
)
from repertory.cli.shared import FAILURE, USAGE, CtrlC, Json, fail, group, table
from repertory.domain.workloads import Arrival
from repertory.reports.figures import bytes_text, seconds_text

if TYPE_CHECKING:
    from repertory.traces.describe import Description, ModelDescription

__all__ = ["describe_trace", "make_trace", "plot_trace"]

_traces = group("trace", "Workloads: made by recipe, described, drawn.")
_TOLD = 5_000
"""Requests between two looks at the bar."""
_TABLE_ROWS = 30
_MINUTE_S = 60.0

Word = Annotated[str | None, typer.Argument(metavar="FILE|RECIPE", help="Default: as for make.")]


@_traces.command("make")
def make_trace(  # noqa: PLR0913  one for each flag
    recipe: Annotated[
        str | None, typer.Argument(help="Its name; default: sg-20 with a data folder, else week.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .jsonl, .jsonl.gz or .parquet; default: NAME.jsonl."),
    ] = None,
    seed: Seed = 0,
    requests: Requests = None,
    days: DaysText = None,
    rate: Rate = None,
    data: Data = None,
) -> None:
    """Make a workload file by a named recipe.

    Interrupted, it leaves a file whose end says that it is a part.
    """
    from repertory.traces.files import write_workload

    chosen = chosen_workload(recipe, Wishes(seed, requests, days, rate, data))
    path = (out or Path(f"{chosen.name}.jsonl")).expanduser()
    if not path.name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        fail(USAGE, f"{path}: name it .jsonl, .jsonl.gz or .parquet")
    try:
        with _counted(chosen, is_stopped_quietly=False) as arrivals:
            written = write_workload(path, arrivals)
    except KeyboardInterrupt:
        fail(FAILURE, f"interrupted; the end of {path} says that it is a part")
    except OSError as error:
        fail(FAILURE, f"{error.filename or path}: cannot be written: {error.strerror}")
    typer.echo(f"{path}  {written:,} requests, {bytes_text(path.stat().st_size)}")


@_traces.command("describe")
def describe_trace(  # noqa: PLR0913  one for each flag
    workload: Word = None,
    seed: Seed = 0,
    requests: Requests = None,
    days: DaysText = None,
    rate: Rate = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say what a workload is like: rates, bursts, lengths, shares, gaps."""
    chosen = chosen_workload(workload, Wishes(seed, requests, days, rate, data))
    found = _described(chosen)
    if json:
        shown = msgspec.to_builtins(
            {
                "workload": chosen.name,
                "is_part": chosen.is_part,
                "total": found.total,
                "models": found.models,
                "first_s": found.first_s,
                "last_s": found.last_s,
                "repeated": found.repeated,
                "prefix_share": found.prefix_share,
                "top_shares": found.top_shares,
            }
        )
        typer.echo(msgspec.json.encode(shown).decode())
    else:
        _tell(chosen, found)


@_traces.command("plot")
def plot_trace(  # noqa: PLR0913  one for each flag
    workload: Word = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A picture; default: NAME.png.")
    ] = None,
    seed: Seed = 0,
    requests: Requests = None,
    days: DaysText = None,
    rate: Rate = None,
    data: Data = None,
) -> None:
    """Draw a workload: requests of each model over time, and their lengths."""
    from repertory.reports.workloads import draw_workload

    chosen = chosen_workload(workload, Wishes(seed, requests, days, rate, data))
    path = (out or Path(f"{Path(chosen.name).name.partition('.')[0]}.png")).expanduser()
    found = _described(chosen)
    title = f"{chosen.name}, a part" if chosen.is_part else chosen.name
    try:
        draw_workload(found, title, path)
    except (OSError, ValueError) as error:
        fail(FAILURE, f"{path}: cannot be written: {error}")
    typer.echo(f"drawn: {path}")


@contextmanager
def _counted(chosen: Chosen, *, is_stopped_quietly: bool) -> Iterator[Iterator[Arrival]]:
    """With a bar.  Ctrl-C is heard between two requests, so that none is half written."""

    def counted() -> Iterator[Arrival]:
        count = 0
        for count, arrival in enumerate(chosen.arrivals, start=1):
            if not count % _TOLD:
                bar.update(task, completed=count, count=f"{count:,}")
            if ctrl_c.is_pressed:
                if is_stopped_quietly:
                    chosen.is_part = True
                    typer.echo(f"interrupted: a part, up to {arrival.at_s:.0f} s", err=True)
                    return
                raise KeyboardInterrupt
            yield arrival

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]} requests"),
        TimeElapsedColumn(),
    )
    with CtrlC() as ctrl_c, Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(chosen.name).name, total=chosen.expected, count="0")
        yield counted()


def _described(chosen: Chosen) -> "Description":
    from repertory.traces.describe import describe

    try:
        with _counted(chosen, is_stopped_quietly=True) as arrivals:
            return describe(arrivals)
    except ValueError as error:
        fail(FAILURE, f"{chosen.name}: {error}")


def _tell(chosen: Chosen, found: "Description") -> None:
    total = found.total
    part = "  (a part)" if chosen.is_part else ""
    typer.echo(f"{chosen.name}: {total.requests:,} requests for {len(found.models)} models{part}")
    typer.echo(f"from {found.first_s:.3f} s to {found.last_s:.3f} s")
    for name, share in found.top_shares.items():
        typer.echo(f"the busiest {name}: {share:.2%} of the requests")
    if found.prefix_share:
        typer.echo(f"{found.prefix_share:.1%} of prompt tokens are in a named prefix")
    if found.repeated:
        typer.echo(f"{found.repeated:,} requests are equal in all to the one ahead of them")
    shown = found.models[:_TABLE_ROWS]
    heads = ["MODEL", "REQUESTS", "SHARE", "MEAN/S", "PEAK/S", "GAP CV", "LONGEST GAP"]
    heads += ["PROMPT MEAN", "P50", "P99", "OUTPUT MEAN", "P50", "P99"]
    has_minute = found.last_s - found.first_s >= _MINUTE_S
    table(heads, [_row(one, has_minute) for one in (total, *shown)])
    if len(found.models) > len(shown):
        typer.echo(f"and {len(found.models) - len(shown)} more models; --json has all of them")


def _row(one: "ModelDescription", has_minute: bool) -> list[str]:
    """Of less than a minute, the busiest minute would say less than the mean."""
    return [
        one.name,
        f"{one.requests:,}",
        f"{one.share:.2%}",
        f"{one.mean_per_s:.3g}",
        f"{one.peak_per_s:.3g}" if has_minute else "-",
        "-" if one.gap_cv is None else f"{one.gap_cv:.2f}",
        seconds_text(one.longest_gap_s),
        *(
            "-" if tokens is None else f"{tokens:.0f}"
            for tokens in (
                one.prompt_mean_tokens,
                one.prompt_p50_tokens,
                one.prompt_p99_tokens,
                one.output_mean_tokens,
                one.output_p50_tokens,
                one.output_p99_tokens,
            )
        ),
    ]
