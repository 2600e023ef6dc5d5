"""Main memory for cells outside of their context, mapped so that filling it is quick.

Measured, 64 MiB copied into memory that is new: 37 ms where the kernel gives pages of 4 KiB (of a
shared mapping; 25 of a private one), 5 ms in pages of 2 MiB; into memory that is there already
3.6 ms.
"""

import mmap
import threading
import weakref

import numpy as np
from numpy.typing import NDArray

__all__ = ["State", "buffered_bytes", "new_buffer"]

State = NDArray[np.uint8]

_counting = threading.Lock()
_alive_bytes = 0


def new_buffer(size_bytes: int) -> State:
    """Zeros, in a mapping of their own: it goes back to the kernel with the last view of it."""
    mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    _count(size_bytes)
    weakref.finalize(mapping, _count, -size_bytes)
    return np.frombuffer(mapping, np.uint8)


def buffered_bytes() -> int:
    """Of this process's anonymous memory, what such buffers have now."""
    return _alive_bytes


def _count(size_bytes: int) -> None:
    global _alive_bytes
    with _counting:
        _alive_bytes += size_bytes
