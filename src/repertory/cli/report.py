"""`report`: what came of runs, and why, as one page."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from repertory.cli.shared import FAILURE, USAGE, app, fail
from repertory.reports.figures import bytes_text

if TYPE_CHECKING:
    from repertory.reports.page.logs import LogDigest
    from repertory.reports.page.runs import RunDigest
    from repertory.traces.summary import Slo

__all__ = ["report"]

_SLO = "ttft_p99<2s,tpot_p99<100ms"


@app.command()
def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN]...", help="Run files, or folders of them."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    slo: Annotated[str, typer.Option(help="What a good answer is.")] = _SLO,
    log: Annotated[
        list[Path] | None,
        typer.Option(help="A decision log of one of the runs, or a server's state folder."),
    ] = None,
) -> None:
    """Write one HTML page of runs: latencies, goodput, comparison, where models were and why.

    The page needs nothing beside it.
    """
    from repertory.reports.page.page import notices, page
    from repertory.traces.summary import parse_slo

    wanted = parse_slo(slo)
    run_files = [path for one in runs or () for path in _run_files(one.expanduser())]
    log_files = [_log_files(one.expanduser()) for one in log or ()]
    if not run_files and not log_files:
        fail(USAGE, "of which runs?  Name run files (`repertory simulate` writes some) or a --log")
    told_runs, told_logs = _digests(run_files, log_files, wanted)
    for words in notices(told_runs, told_logs):
        typer.echo(words, err=True)
    text = page(told_runs, told_logs, wanted).encode()
    target = out.expanduser()
    try:
        target.write_bytes(text)
    except OSError as error:
        fail(FAILURE, f"{target}: cannot be written: {error.strerror}")
    typer.echo(f"{target}  {bytes_text(len(text))}")


def _run_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.jsonl"))
    if not found:
        fail(USAGE, f"{path}: no run file (*.jsonl) is in this folder")
    return found


def _log_files(path: Path) -> tuple[Path, list[Path]]:
    """Its name, and the files of that run, oldest first: a log is rotated."""
    from repertory.reports.log_files import read_runs

    if path.is_dir():
        found = read_runs(path)
        if not found:
            fail(USAGE, f"{path}: no decision log is in this folder")
        return path / "decisions.jsonl", found[-1]
    if path.is_file() and path.name.startswith("decisions."):
        of_run = next((files for files in read_runs(path.parent) if path in files), None)
        if of_run is not None:
            return path, of_run[: of_run.index(path) + 1]
    return path, [path]


def _digests(
    run_files: Sequence[Path], log_files: Sequence[tuple[Path, Sequence[Path]]], slo: "Slo"
) -> "tuple[list[RunDigest], list[LogDigest]]":
    from repertory.reports.page.logs import digest_log
    from repertory.reports.page.runs import digest_run
    from repertory.traces.runs import RunFileError

    told_runs, told_logs = [], []
    path = Path()
    try:
        total_bytes = sum(
            path.stat().st_size
            for path in (*run_files, *(path for _, files in log_files for path in files))
        )
        with _bar(total_bytes) as advance:
            for path, files in log_files:
                told_logs.append(digest_log(files, path, advance))
            for path in run_files:
                told_runs.append(digest_run(path, slo, told_logs, advance))
    except RunFileError as error:
        fail(FAILURE, str(error))
    except OSError as error:
        fail(FAILURE, f"{error.filename or path}: cannot be read: {error.strerror}")
    return told_runs, told_logs


@contextmanager
def _bar(total_bytes: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=total_bytes)
        yield lambda more_bytes: bar.advance(task, more_bytes)
