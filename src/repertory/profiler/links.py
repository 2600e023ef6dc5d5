"""How fast bytes go on this machine, by no engine: memory, page cache, disk."""

import asyncio
import contextlib
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from repertory.domain.readings import ContentionReading, LinkReading
from repertory.profiler.stand import Stand
from repertory.profiler.subjects import repeated

__all__ = ["LINK_BYTES", "read_copy", "read_disk", "read_page_cache"]

LINK_BYTES = 64 << 20
"""Beyond every cache of a processor, and read in 0.6 s at 100 MB/s."""
_ALIGNMENT = 4096
_PIECE_BYTES = 4 << 20


async def read_copy(stand: Stand) -> tuple[LinkReading, ...]:
    """Main memory to main memory, by one core: how KV goes out and back on a CPU."""
    origin = np.ones(LINK_BYTES, np.uint8)
    target = np.ones(LINK_BYTES, np.uint8)
    seconds = await repeated(lambda: asyncio.to_thread(_timed, lambda: np.copyto(target, origin)))
    return (LinkReading("memory copy", "flat", LINK_BYTES, seconds),)


async def read_page_cache(stand: Stand, path: Path) -> tuple[LinkReading, ...]:
    """A file that is in main memory already, copied out of the page cache."""
    size = _size(path)
    buffer = bytearray(size)

    def read() -> None:
        with path.open("rb", buffering=0) as file:
            view = memoryview(buffer)
            for first in range(0, size, _PIECE_BYTES):
                file.readinto(view[first : first + _PIECE_BYTES])

    await asyncio.to_thread(read)
    seconds = await repeated(lambda: asyncio.to_thread(_timed, read))
    return (LinkReading("page cache read", "buffered", size, seconds),)


async def read_disk(
    stand: Stand, path: Path, other: Path | None
) -> tuple[LinkReading | ContentionReading, ...]:
    """Past the page cache, and beside another file's reader; empty where that cannot be."""
    size = _whole(path)
    try:
        alone = await repeated(lambda: asyncio.to_thread(_direct, path, size))
        link = LinkReading("disk read", "direct", size, alone)
        if other is None:
            return (link,)
        together = await repeated(lambda: asyncio.to_thread(_beside, path, size, other))
    except OSError as error:
        stand.notes.append(f"the disk was not read past the page cache: {error.strerror}")
        return ()
    return link, ContentionReading("disk read, beside another", alone, together)


def _whole(path: Path) -> int:
    return _size(path) // _ALIGNMENT * _ALIGNMENT


def _size(path: Path) -> int:
    return min(LINK_BYTES, path.stat().st_size)


def _direct(path: Path, size: int) -> float:
    if not hasattr(os, "O_DIRECT") or not size:
        raise OSError(95, "not supported here")
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with contextlib.closing(mmap.mmap(-1, size)) as buffer:
            began_s = time.perf_counter()
            read = os.preadv(file, [buffer], 0)
            took_s = time.perf_counter() - began_s
    finally:
        os.close(file)
    if read != size:
        raise OSError(5, f"{read} of {size} bytes came")
    return took_s


def _beside(path: Path, size: int, other: Path) -> float:
    with ThreadPoolExecutor(1) as second:
        reading = second.submit(_direct, other, _whole(other))
        took_s = _direct(path, size)
        reading.result()
    return took_s


def _timed(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
