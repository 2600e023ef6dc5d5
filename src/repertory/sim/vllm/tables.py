"""Rows of a published table of kernel times that are about one thing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repertory.traces.parquet import column_names, read_columns

__all__ = ["rows_of"]


def rows_of(
    path: Path, columns: Sequence[str], where: Mapping[str, object]
) -> list[dict[str, Any]]:  # Any: numbers and texts, as the table has them
    """Rows in which every column of `where` has its value, if the table has that column at all."""
    has = set(column_names(path))
    wanted = {name: value for name, value in where.items() if name in has}
    read = read_columns(path, tuple(dict.fromkeys((*columns, *wanted))))
    table = {name: _plain(column) for name, column in read.items()}
    rows = list(range(len(table[columns[0]])))
    for name, value in wanted.items():
        column = table[name]
        rows = [row for row in rows if column[row] == value]
    return [{name: table[name][row] for name in columns} for row in rows]


def _plain(column: Any) -> list[Any]:
    """Of Python's own numbers, so that no array's scalar travels on."""
    return column if isinstance(column, list) else list(column.tolist())
