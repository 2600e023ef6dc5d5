"""Which workload: a file or a recipe, and what part of it.  The flags that commands share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from repertory.cli.shared import USAGE, fail
from repertory.config import read_environment
from repertory.domain.workloads import Arrival

__all__ = [
    "Chosen",
    "Data",
    "DaysText",
    "Rate",
    "Requests",
    "Seed",
    "Wishes",
    "chosen_workload",
]

Seed = Annotated[int, typer.Option(min=0, help="The same seed, the same bytes.")]
Requests = Annotated[int | None, typer.Option(min=1, help="End after so many.")]
DaysText = Annotated[
    str | None, typer.Option("--days", metavar="A-B", help="Only these; the first begins at 0 s.")
]
Rate = Annotated[
    float | None, typer.Option(help="Thin it to this mean of requests/s; time keeps its pace.")
]
Data = Annotated[
    Path | None, typer.Option(help="The folder of published traces; else REPERTORY_DATA.")
]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the flags say of a recipe."""

    seed: int
    requests: int | None
    days: str | None
    rate: float | None
    data: Path | None


@dataclass(slots=True)
class Chosen:
    """A file or a recipe, ready to be read once."""

    name: str
    arrivals: Iterator[Arrival]
    expected: float | None
    """Requests, as far as anybody knows."""
    is_part: bool = False


def chosen_workload(word: str | None, wishes: Wishes) -> Chosen:
    from repertory.traces.recipes import default_recipe, find_recipe, is_file_name, open_file

    data = wishes.data or read_environment().data_dir
    if word is not None and is_file_name(word):
        if wishes.days or wishes.rate or wishes.seed:
            fail(USAGE, "--seed, --days and --rate are for recipes: a file is what it is")
        chosen = Chosen(word, iter(()), None)

        def say(words: str) -> None:
            chosen.is_part = True
            typer.echo(words, err=True)

        chosen.arrivals = open_file(Path(word).expanduser(), say, requests=wishes.requests)
        return chosen
    recipe = find_recipe(word or default_recipe(data), data)
    days = _days(wishes.days)
    expected = recipe.expected_requests(days, wishes.rate)
    if wishes.requests is not None:
        expected = min(expected, wishes.requests)
    arrivals = recipe.arrivals(
        wishes.seed, days=days, rate_per_s=wishes.rate, requests=wishes.requests
    )
    return Chosen(recipe.name, arrivals, expected)


def _days(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not dash)):
        fail(USAGE, f"--days {text}: write two days like 7-13, or one like 7")
    return int(first), int(last if dash else first)
