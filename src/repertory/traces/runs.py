"""Run files: one JSON object per line, a `RunHeader` first, then a `RequestRecord` per request.

A run that was broken off is a file without its last lines: what is there is whole.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from repertory.domain.workloads import RequestRecord, RunHeader

__all__ = ["Run", "RunFileError", "RunReader", "RunWriter", "read_run", "stream_run"]

_encoder = msgspec.json.Encoder()
_FORMAT = "repertory run 1"


class RunFileError(Exception):
    """The file's fault: it says which line, and what is wrong there."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run file, read whole: a record takes some 400 bytes."""

    header: RunHeader
    records: tuple[RequestRecord, ...]
    is_cut: bool = False
    """Its last line was broken off."""


class _First(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    run: RunHeader


_NOTE_BYTES = 256
"""Kept free behind the header: why a run is only a part is known when it ends."""


class RunWriter:
    """Writes records as they come, so that what was measured outlives an interruption."""

    def __init__(self, file: BinaryIO, header: RunHeader) -> None:
        self._file = file
        self._header = header
        first = _encoder.encode(_First(_FORMAT, header))
        self._room_bytes = len(first) + _NOTE_BYTES
        self._file.write(first.ljust(self._room_bytes) + b"\n")

    def remark(self, note: str) -> None:
        """Say at the head of the file why it is only a part; cut to the room that is left there."""
        kept = note
        while True:
            first = _encoder.encode(_First(_FORMAT, replace(self._header, note=kept)))
            if len(first) <= self._room_bytes:
                break
            kept = kept[:-1]
        end = self._file.tell()
        self._file.seek(0)
        self._file.write(first.ljust(self._room_bytes))
        self._file.seek(end)

    def add(self, record: RequestRecord) -> None:
        self._file.write(_encoder.encode(record) + b"\n")

    def flush(self) -> None:
        self._file.flush()


def read_run(path: Path) -> Run:
    """Raises `RunFileError` for a file that is no run, and for a line that is no record."""
    with path.open("rb") as file:
        header = _header(path, file.readline())
        records: list[RequestRecord] = []
        for line in _records(path, file):
            if line is None:
                return Run(header, tuple(records), is_cut=True)
            records.append(line)
    return Run(header, tuple(records))


def stream_run(path: Path) -> Iterator[RequestRecord]:
    """Its records one by one, for files larger than memory; a broken last line is left out."""
    with path.open("rb") as file:
        _header(path, file.readline())
        for record in _records(path, file):
            if record is None:
                return
            yield record


def _header(path: Path, line: bytes) -> RunHeader:
    try:
        first = msgspec.json.decode(line, type=_First)
    except msgspec.DecodeError as error:
        raise RunFileError(f"{path}:1: this is no run file: {error}") from None
    if first.format != _FORMAT:
        raise RunFileError(f"{path}:1: the format is {first.format!r}, this reads {_FORMAT!r}")
    return first.run


def _records(path: Path, lines: Iterable[bytes]) -> Iterator[RequestRecord | None]:
    """None for a last line that was broken off."""
    decoder = msgspec.json.Decoder(RequestRecord)
    for number, line in enumerate(lines, start=2):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            if not line.endswith(b"\n"):
                yield None
                return
            raise RunFileError(f"{path}:{number}: this is no request's record: {error}") from None


class RunReader:
    """A run file record by record, for files larger than memory.

    Raises as `read_run` does: for what is no run when it is opened, for a line while it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            line = self._file.readline()
            self.header = _header(path, line)
        except BaseException:
            self._file.close()
            raise
        self.read_bytes = len(line)
        """So far."""
        self.is_cut = False
        """Its last line was broken off; known at the end."""

    def __enter__(self) -> "RunReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[RequestRecord]:
        for record in _records(self.path, self._counted()):
            if record is None:
                self.is_cut = True
                return
            yield record

    def _counted(self) -> Iterator[bytes]:
        for line in self._file:
            self.read_bytes += len(line)
            yield line
