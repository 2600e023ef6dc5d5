"""Files and the disks they lie on: may they be read, what kind of file system, how fast."""

import contextlib
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repertory.engines.gguf.header import Header

__all__ = ["ModelFile", "Place", "file_system", "read_place", "read_speed", "refusal"]

_READ_BYTES = 32 << 20
"""Enough to see a disk's rate, and read in 0.3 s at 100 MB/s."""
_ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model, as the doctor looked at it."""

    name: str
    path: Path
    size_bytes: int
    formats: dict[str, int]
    """Bytes of tensors by format."""
    repacked_bytes: int
    vocabulary_tokens: int
    file_system: str
    refusal: str | None
    """Why it cannot be read."""
    bytes_per_s: float | None
    """Past the page cache; None: not measured."""


@dataclass(frozen=True, slots=True)
class Place:
    """The folder that state goes to, or the nearest that exists above it."""

    path: Path
    nearest: Path
    file_system: str
    free_bytes: int
    refusal: str | None
    """Why nothing can be written there."""


def read_place(path: Path) -> Place:
    nearest = next(one for one in (path, *path.parents) if one.exists())
    return Place(
        path=path,
        nearest=nearest,
        file_system=file_system(nearest),
        free_bytes=shutil.disk_usage(nearest).free,
        refusal=_write_refusal(nearest),
    )


def _write_refusal(folder: Path) -> str | None:
    """Rights alone do not tell: a file without a name is made, which leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def refusal(path: Path) -> str | None:
    """Why this user cannot read it; None if it can."""
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return error.strerror or str(error)


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Its type by the kernel's table of mounts; empty where there is none."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    found, longest = "", -1
    target = path.resolve()
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = Path(mount.split()[4].encode().decode("unicode_escape"))
        if (point == target or point in target.parents) and len(point.parts) >= longest:
            found, longest = source.split()[0], len(point.parts)
    return found


def read_speed(path: Path) -> float | None:
    """Bytes per second of one read past the page cache; None where the disk does not do that."""
    size = path.stat().st_size
    count = min(_READ_BYTES, size) // _ALIGNMENT * _ALIGNMENT
    if count < _READ_BYTES:
        return None  # too little to tell a rate from a delay
    begin = (size - count) // 2 // _ALIGNMENT * _ALIGNMENT
    try:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        with contextlib.closing(mmap.mmap(-1, count)) as buffer:
            began_s = time.perf_counter()  # noqa: TID251  it measures
            read = os.preadv(file, [buffer], begin)
            took_s = time.perf_counter() - began_s  # noqa: TID251
    except OSError:
        return None
    finally:
        os.close(file)
    return read / took_s if read == count and took_s > 0 else None


def formats_of(headers: Sequence[Header]) -> dict[str, int]:
    """Bytes of tensors by format."""
    found: dict[str, int] = {}
    for header in headers:
        for tensor in header.tensors:
            found[tensor.format] = found.get(tensor.format, 0) + tensor.size_bytes
    return found
