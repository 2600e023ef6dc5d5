"""The command line.  Exit codes: 0 ok, 1 failure, 2 usage, 3 server unreachable, 4 not found.

Engines and the live server are imported by the commands that need them: `ps` must not wait for a
compute library.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from repertory import __version__
from repertory.cli import (
    ask,
    bench,
    check,
    keys,
    models,
    profile,
    report,
    serve,
    trace,
)
from repertory.cli.shared import FAILURE, app, code_of
from repertory.cli.sim import plan, replay, simulate
from repertory.domain.errors import RepertoryError

__all__ = [
    "ask",
    "bench",
    "check",
    "keys",
    "main",
    "models",
    "plan",
    "profile",
    "replay",
    "report",
    "serve",
    "simulate",
    "trace",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.  A user never sees a traceback of our own errors."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="repertory")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILURE
    except RepertoryError as error:
        typer.echo(f"repertory: {error}", err=True)
        return code_of(error)
    return 0


def _say_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"repertory {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="And exit.")
    ] = False,
) -> None:
    """Serve many LLMs from few devices behind one OpenAI-compatible endpoint."""
