"""Parquet: the only module that imports pyarrow, and only when a file asks for it."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from repertory.domain.workloads import Arrival
from repertory.traces.columns import (
    COLUMNS,
    PARTIAL,
    WorkloadError,
    check_names,
    in_order,
    range_wrong,
)

__all__ = ["ParquetSink", "column_names", "read_arrivals", "read_columns"]

_ROWS = 65_536
"""Of a batch: some 10 MB of Python objects."""
_BUFFER_BYTES = 1 << 20
"""Pages are read through it, not whole row groups, which may be as large as the file."""
_METADATA = b"repertory.partial"


def _library() -> Any:  # it has no types
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise WorkloadError(
            "Parquet needs pyarrow: pip install 'repertory[traces]'; or use JSONL"
        ) from None
    return pyarrow


def _opened(path: Path) -> Any:
    pyarrow = _library()
    if not path.exists():
        raise WorkloadError(f"{path}: cannot be read: No such file or directory")
    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise WorkloadError(f"{path}: this is no whole Parquet file: {error}") from None
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_arrivals(path: Path) -> Iterator[Arrival | str]:
    """Row by row; last, of a file that is a part, why."""
    file = _opened(path)
    schema = file.schema_arrow
    wrong = check_names(schema.names)
    if wrong is not None:
        raise WorkloadError(f"{path}: {wrong}")
    for field in schema:
        column = COLUMNS[field.name]
        # A column that is empty throughout may have lost its kind.
        is_empty = not column.is_needed and _library().types.is_null(field.type)
        if not is_empty and not _is_kind(field.type, column.kind):
            raise WorkloadError(f"{path}: {field.name} must be a {column.kind}, not {field.type}")
    first, before_s = 1, 0.0
    for batch in _batches(path, file):
        for number, arrival in enumerate(_arrivals(path, batch, first), start=first):
            wrong = range_wrong(arrival) or in_order(arrival.at_s, before_s)
            if wrong is not None:
                raise WorkloadError(f"{path}: row {number}: {wrong}")
            before_s = arrival.at_s
            yield arrival
        first += batch.num_rows
    metadata = schema.metadata or {}
    partial = metadata.get(_METADATA) or (file.metadata.metadata or {}).get(_METADATA)
    if partial is not None:
        yield partial.decode()


def _batches(path: Path, file: Any) -> Iterator[Any]:
    """Pages carry no sum of their own: damage shows where they are unpacked, or read as text."""
    rows, batches = 0, file.iter_batches(_ROWS, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is not None:
                batch.validate(full=True)
        except (_library().ArrowInvalid, OSError) as error:
            raise WorkloadError(
                f"{path}: damaged after row {rows:,} ({error}): fetch or make it again"
            ) from None
        if batch is None:
            return
        rows += batch.num_rows
        yield batch


def _is_kind(found: Any, kind: str) -> bool:
    types = _library().types
    if kind == "text":
        inner = found.value_type if types.is_dictionary(found) else found
        return bool(types.is_string(inner) or types.is_large_string(inner))
    if kind == "whole number":
        return bool(types.is_integer(found))
    return bool(types.is_integer(found) or types.is_floating(found))


def _arrivals(path: Path, batch: Any, first: int) -> Iterator[Arrival]:
    """A null in an optional column is its default; in one that is needed, an error."""
    names = batch.schema.names
    columns: list[Any] = []
    for column in COLUMNS.values():
        default = None if column.name == "deadline_s" else 0 if column.kind != "text" else ""
        if column.name not in names:
            columns.append(repeat(default, batch.num_rows))
            continue
        values = batch.column(names.index(column.name))
        listed = values.to_pylist()
        if values.null_count and column.is_needed:
            row = first + listed.index(None)
            raise WorkloadError(f"{path}: row {row}: {column.name} is empty")
        if values.null_count:
            listed = [default if one is None else one for one in listed]
        columns.append(listed)
    columns[0] = map(float, columns[0])
    return map(Arrival, *columns)


def column_names(path: Path) -> list[str]:
    """Of a table whose columns are not the same in every version."""
    return list(_opened(path).schema_arrow.names)


def read_columns(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """A small table whole, as numpy arrays, or lists where a value is a list or a text."""
    file = _opened(path)
    missing = [name for name in names if name not in file.schema_arrow.names]
    if missing:
        raise WorkloadError(f"{path}: {missing[0]!r} is missing; is it the file that it should be?")
    table = file.read(list(names))
    types = _library().types
    found = {}
    for name in names:
        column = table[name]
        is_plain = types.is_integer(column.type) or types.is_floating(column.type)
        found[name] = column.to_numpy() if is_plain else column.to_pylist()
    return found


class ParquetSink:
    """Written by row groups; what is interrupted says so in the file's own metadata."""

    def __init__(self, path: Path) -> None:
        pyarrow = _library()
        kinds = {"text": pyarrow.string(), "whole number": pyarrow.int64()}
        self._schema = pyarrow.schema(
            [(one.name, kinds.get(one.kind, pyarrow.float64())) for one in COLUMNS.values()]
        )
        self._pyarrow = pyarrow
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Arrival] = []

    def add(self, arrival: Arrival) -> None:
        self._rows.append(arrival)
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = [[getattr(row, name) for row in self._rows] for name in COLUMNS]
        self._writer.write_table(self._pyarrow.table(columns, schema=self._schema))
        self._rows.clear()

    def close(self, partial: str | None) -> None:
        if self._rows:
            self._flush()
        if partial is not None:
            self._writer.add_key_value_metadata({f"repertory.{PARTIAL}": partial})
        self._writer.close()
