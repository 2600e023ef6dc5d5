"""The decision log's files: which there are, which belong to one run, and what they hold."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from repertory.core.journal import first_step, read_lines

__all__ = ["decisions", "read_runs"]


def read_runs(folder: Path) -> list[list[Path]]:
    """The files of each run of the server, oldest first: ids and clocks begin anew with it."""
    runs: list[list[Path]] = []
    for path in sorted(folder.glob("decisions*.jsonl"), key=_rotations, reverse=True):
        with path.open("rb") as lines:
            is_first = first_step(lines.readline()) == 1
        if is_first or not runs:
            runs.append([])
        runs[-1].append(path)
    return runs


def decisions(logs: Iterable[Path]) -> Iterator[dict[str, Any]]:  # Any: decoded log lines
    for path in logs:
        with path.open("rb") as lines:
            yield from read_lines(lines)


def _rotations(path: Path) -> int:
    """How often it was rotated: the current file has no number, the oldest the highest."""
    number = path.name.split(".")[1]
    return int(number) if number.isdigit() else 0
