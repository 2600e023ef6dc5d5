"""What all commands share: the root, exit codes, options of one meaning, tables, refusals."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, Self

import typer
from rich.console import Console
from rich.table import Table

from repertory.config import Found, read_environment, size_bytes
from repertory.domain.errors import ConfigError, RepertoryError
from repertory.live.options import ModelChoice

__all__ = [
    "FAILURE",
    "NOT_FOUND",
    "UNREACHABLE",
    "USAGE",
    "CtrlC",
    "Json",
    "Memory",
    "StateDir",
    "app",
    "code_of",
    "fail",
    "found_in",
    "group",
    "state_folder",
    "table",
]

FAILURE, USAGE, UNREACHABLE, NOT_FOUND = 1, 2, 3, 4

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def group(name: str, words: str) -> typer.Typer:
    """Commands under one name, such as `models make`."""
    commands = typer.Typer(help=words, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(commands, name=name)
    return commands


def _size(text: str | int) -> int:
    size = size_bytes(text) if isinstance(text, str) else text
    if not size:
        raise typer.BadParameter(f"{text!r} is no size; write it like 8GiB or 500MB")
    return size


Json = Annotated[bool, typer.Option("--json", help="For machines.")]
StateDir = Annotated[Path | None, typer.Option(help="Where the server keeps its state.")]
Memory = Annotated[
    int | None,
    typer.Option(parser=_size, metavar="SIZE", help="For everything; default: what is free."),
]


def code_of(error: RepertoryError) -> int:
    """The exit code that fits."""
    return USAGE if isinstance(error, ConfigError) else FAILURE


def state_folder(chosen: Path | None) -> Path:
    """The flag, the environment, the default: the first that speaks."""
    environment = read_environment()
    folder = chosen or environment.state_dir or environment.default_state_dir
    return folder.expanduser().absolute()


def found_in(say: Callable[[str], None], folder: Path) -> Found:
    """A folder's models; what is none is said, and does not stop the rest."""
    from repertory.engines.gguf.files import discover

    found = discover(folder)
    excluded = tuple(f"{each.location}: {each.reason}" for each in found.excluded)
    if found.models:
        for reason in excluded:
            say(f"not served: {reason}")
    models = tuple(ModelChoice(model.name, Path(model.location)) for model in found.models)
    return Found(models, excluded)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned words; not wrapped where nobody looks, so that pipes get whole lines."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 240
    console.print(table)


def fail(code: int, message: str) -> NoReturn:
    typer.echo(f"repertory: {message}", err=True)
    raise typer.Exit(code)


class CtrlC:
    """The first one is noted, so that what is under way ends where it can; a second one is heard at
    once.
    """

    def __init__(self) -> None:
        self.is_pressed = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_pressed = True
        signal.signal(signal.SIGINT, self._before)
