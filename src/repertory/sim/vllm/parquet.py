"""Columns of a Parquet file: the one door to pyarrow here, opened when a profile is read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repertory.domain.errors import ConfigError

__all__ = ["rows_of"]


def rows_of(
    path: Path, columns: Sequence[str], where: Sequence[tuple[str, str, Any]]
) -> list[dict[str, Any]]:
    """Rows that pass all of `where` (column, "=" and the like, value); columns may be missing."""
    try:
        from pyarrow import ArrowInvalid  # type: ignore[import-untyped]
        from pyarrow.parquet import (  # type: ignore[import-untyped]
            ParquetFile,
            read_table,
        )
    except ImportError:
        raise ConfigError(
            "profiles are Parquet files: pip install 'repertory[traces]' to read them"
        ) from None
    try:
        has = set(ParquetFile(path).schema_arrow.names)
        filters = [one for one in where if one[0] in has]
        wanted = [name for name in columns if name in has]
        rows: list[dict[str, Any]] = read_table(
            path, columns=wanted, filters=filters or None
        ).to_pylist()
    except ArrowInvalid as error:
        raise ConfigError(f"{path}: this is no Parquet file: {error}") from None
    return rows
