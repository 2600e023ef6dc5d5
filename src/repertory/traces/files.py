"""Workload files, read and written as streams: JSONL, JSONL in gzip, Parquet.

A file is never held in memory: 3 GB take as much of it as 3 MB.  The last line of a file whose
making was interrupted says so; who reads it hears it (`say`), or it is an error.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from repertory.domain.workloads import Arrival
from repertory.traces.columns import PARTIAL, WorkloadError, arrival_of, in_order, range_wrong

__all__ = ["Say", "lines_of", "read_workload", "write_workload"]

Say = Callable[[str], None]


class _Row(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """The fast way in and out; what it refuses goes the slow way, which says why."""

    at_s: float
    model: str
    prompt_tokens: int
    output_tokens: int
    prefix_id: str = ""
    prefix_tokens: int = 0
    priority: str = ""
    deadline_s: float | None = None
    key: str = ""


class Sink(Protocol):
    def add(self, arrival: Arrival) -> None: ...
    def close(self, partial: str | None) -> None: ...


def read_workload(path: Path, say: Say | None = None) -> Iterator[Arrival]:
    """Every arrival of a file in our format, checked; raises `WorkloadError` at the first fault."""
    if path.suffix == ".parquet":
        from repertory.traces.parquet import read_arrivals

        return _told(path, read_arrivals(path), say)
    return _told(path, _read_lines(path), say)


def write_workload(path: Path, arrivals: Iterable[Arrival]) -> int:
    """How many were written.  Interrupted, it leaves a file that says that it is a part."""
    written = 0
    last_s = 0.0
    with _sink(path) as sink:
        try:
            for arrival in arrivals:
                sink.add(arrival)
                written += 1
                last_s = arrival.at_s
        except BaseException as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            sink.close(f"{why} after {written:,} requests, at {last_s:.3f} s")
            raise
        sink.close(None)
    return written


def _told(path: Path, rows: Iterator[Arrival | str], say: Say | None) -> Iterator[Arrival]:
    """Arrivals, and at most one string, last: why there are no more."""
    is_empty = True
    for row in rows:
        is_empty = False
        if isinstance(row, str):
            if next(rows, None) is not None:
                raise WorkloadError(
                    f"{path}: after the row that says that it is a part (its making was {row})"
                    " there are more: files were joined; leave that row out to take them as one"
                )
            if say is None:
                raise WorkloadError(
                    f"{path}: this is a part only: its making was {row}; make it again,"
                    " or remove its last line to take it as it is"
                )
            say(f"{path}: this is a part only: its making was {row}")
            return
        yield row
    if is_empty:
        raise WorkloadError(f"{path}: there is no request in it")


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1, as editors do, out of gzip where it is that."""
    number = 0
    with _opened(path) as file:
        while True:
            try:
                line = file.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise WorkloadError(
                    f"{path}:{number + 1}: the compressed file is broken off or damaged after"
                    f" {number:,} lines ({error}): fetch or make it again"
                ) from None
            if not line:
                return
            number += 1
            yield number, line


def _opened(path: Path) -> BinaryIO:
    try:
        if path.suffix == ".gz":
            return cast("BinaryIO", gzip.open(path, "rb"))
        return path.open("rb")
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror}") from None


def _read_lines(path: Path) -> Iterator[Arrival | str]:
    decode = msgspec.json.Decoder(_Row).decode
    before_s = 0.0
    for number, line in lines_of(path):
        try:
            row = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            slow = _slowly(path, number, line)
            if isinstance(slow, str):
                yield slow
                continue
            arrival = slow
        else:
            arrival = Arrival(
                row.at_s,
                row.model,
                row.prompt_tokens,
                row.output_tokens,
                row.prefix_id,
                row.prefix_tokens,
                row.priority,
                row.deadline_s,
                row.key,
            )
            wrong = range_wrong(arrival)
            if wrong is not None:
                raise WorkloadError(f"{path}:{number}: {wrong}")
        wrong = in_order(arrival.at_s, before_s)
        if wrong is not None:
            raise WorkloadError(f"{path}:{number}: {wrong}")
        before_s = arrival.at_s
        yield arrival


def _slowly(path: Path, number: int, line: bytes) -> Arrival | str:
    """A line that the fast way refused: an arrival after all, the mark of a part, or an error."""
    where = f"{path}:{number}"
    if not line.strip():
        raise WorkloadError(f"{where}: the line is blank: remove it")
    try:
        row: Any = json.loads(line)
    except ValueError:
        if not line.endswith(b"\n"):
            raise WorkloadError(
                f"{where}: the last line is broken off: remove it, or make the file again"
            ) from None
        raise WorkloadError(f"{where}: this is no JSON object: {line[:60]!r}") from None
    if not isinstance(row, dict):
        raise WorkloadError(f"{where}: this is no JSON object: {line[:60]!r}")
    if list(row) == [PARTIAL]:
        return str(row[PARTIAL])
    found = arrival_of(row)
    if isinstance(found, str):
        raise WorkloadError(f"{where}: {found}")
    return found


@contextmanager
def _sink(path: Path) -> Iterator[Sink]:
    if path.suffix == ".parquet":
        from repertory.traces.parquet import ParquetSink

        yield ParquetSink(path)
        return
    with path.open("wb") as file:
        if path.suffix != ".gz":
            yield _LineSink(file)
            return
        # Without a name and a time inside: the same arrivals, the same bytes.
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            yield _LineSink(cast("BinaryIO", packed))


class _LineSink:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode

    def add(self, arrival: Arrival) -> None:
        row = _Row(
            arrival.at_s,
            arrival.model,
            arrival.prompt_tokens,
            arrival.output_tokens,
            arrival.prefix_id,
            arrival.prefix_tokens,
            arrival.priority,
            arrival.deadline_s,
            arrival.key,
        )
        self._file.write(self._encode(row) + b"\n")

    def close(self, partial: str | None) -> None:
        if partial is not None:
            self._file.write(self._encode({PARTIAL: partial}) + b"\n")
