"""`replay`: a decision log's events again, and whether the same decisions come of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from repertory import __version__
from repertory.cli.shared import (
    FAILURE,
    NOT_FOUND,
    USAGE,
    Json,
    StateDir,
    app,
    fail,
    state_folder,
)
from repertory.config.fleet import read_fleet
from repertory.core.controller import Controller
from repertory.core.costbook import CostBook
from repertory.core.journal import Header, decode_event, read_lines
from repertory.core.replaying import LogUnfit, Replayed, header_of, replay
from repertory.domain.decisions import Decision
from repertory.domain.events import ModelAdded
from repertory.reports.log_files import read_runs

__all__ = ["replay_log"]


@app.command("replay")
def replay_log(
    logs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="LOG...",
            help="Files of one run, the oldest first; default: the server's latest run.",
        ),
    ] = None,
    state_dir: StateDir = None,
    fleet: Annotated[
        Path | None, typer.Option(help="Of a simulation's log: the fleet.yaml that it was of.")
    ] = None,
    profiles: Annotated[
        Path | None, typer.Option(help="The folder of profiles that it was given, if any.")
    ] = None,
    json: Json = False,
) -> None:
    """Give a brain the events of a decision log: its actions are the same, byte for byte.

    Else the first that differs is told, with its step and event.  For logs of the server, and for
    those that simulate --log writes of our own brain.
    """
    paths = logs or _latest(state_folder(state_dir))
    try:
        header, found = _replayed(paths, fleet, profiles)
    except LogUnfit as unfit:
        fail(FAILURE, f"{paths[0]}: {unfit}")
    except OSError as error:
        fail(NOT_FOUND, f"{error.filename}: cannot be read: {error.strerror}")
    if json:
        import msgspec

        typer.echo(msgspec.json.encode(found).decode())
    else:
        typer.echo(f"{found.decisions:,} decisions came out the same, byte for byte")
    if found.is_whole:
        return
    typer.echo(found.words, err=True)
    if header.version != __version__:
        typer.echo(
            f"the log is of version {header.version}, this is {__version__}: its rules may differ",
            err=True,
        )
    raise typer.Exit(FAILURE)


def _latest(folder: Path) -> Sequence[Path]:
    runs = read_runs(folder)
    if not runs:
        fail(NOT_FOUND, f"no decision log in {folder}; did the server have another --state-dir?")
    return runs[-1]


def _replayed(
    paths: Sequence[Path], fleet: Path | None, profiles: Path | None
) -> tuple[Header, Replayed]:
    lines = _lines(paths)
    header = header_of(next(lines, b""))
    costs = None
    if fleet is not None:
        costs = _costs(paths, fleet, profiles)
    elif header.fleet:
        fail(
            USAGE,
            f"{paths[0]}: a simulation of {header.fleet}: its brain began with that fleet's "
            f"costs, so name it with --fleet, and its --profiles if it had any",
        )

    def make(record: Callable[[Decision], None]) -> Controller:
        return Controller(header.settings, record, costs)

    return header, replay(lines, make)


def _costs(paths: Sequence[Path], path: Path, profiles: Path | None) -> CostBook:
    """What a fleet takes for the models that the log tells of."""
    from repertory.cli.sim.fleet import read_profiles
    from repertory.sim.world import World

    added = (decode_event(one) for one in read_lines(_lines(paths)))
    models = tuple(event.spec for event in added if isinstance(event, ModelAdded))
    fleet = replace(read_fleet(path), models=models)
    return CostBook(World(fleet, 0, 0.0, read_profiles(profiles, fleet)).profile)


def _lines(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            yield from file
