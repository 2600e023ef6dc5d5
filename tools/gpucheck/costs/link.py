"""How fast bytes go to the device and back, from pinned and from pageable memory; and the disk."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucheck.measure import Taken, Wrong, timed
from gpucheck.shapes import Shape
from repertory.domain.readings import LinkReading
from repertory.engines.llamacpp import library
from repertory.engines.llamacpp.library import Accelerator, api
from repertory.engines.llamacpp.weights import drop_from_host, resident_share

__all__ = ["measure_links"]

_REPEATS = 5
_LEAST_BYTES = 16 << 20
_DISK_BYTES = 1 << 30
_READ_BYTES = 4 << 20
_ALIGNMENT_BYTES = 256
"""A piece begins at a multiple of it; CUDA wants 128."""
_I8 = 24
"""GGML_TYPE_I8."""

Bytes = NDArray[np.uint8]


def measure_links(path: Path, shape: Shape, accelerator: Accelerator | None) -> Taken:
    """As many bytes as the KV of the longest context, flat and in as many pieces as it has tensors.

    Without a device, the cores' own memory is copied: a rehearsal.
    """
    taken = Taken()
    library.start()
    wanted_bytes = max(_LEAST_BYTES, shape.points[-1] * shape.kv_bytes_per_token)
    pieces = 2 * shape.layers
    piece_bytes = wanted_bytes // pieces // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
    size_bytes = pieces * piece_bytes
    device = _cpu() if accelerator is None else accelerator.pointer
    pageable = np.ones(size_bytes, np.uint8)
    _copies(taken, device, pageable, "pageable", piece_bytes)
    with _pinned(device, size_bytes) as pinned:
        if pinned is None:
            taken.notes.append("pinned memory is not offered by this device")
        else:
            pinned[:] = 1
            _copies(taken, device, pinned, "pinned", piece_bytes)
    there = np.empty_like(pageable)
    there[:] = 0
    _note(taken, "memory copy", "flat", size_bytes, lambda: np.copyto(there, pageable))
    _disk(taken, path)
    return taken


def _copies(taken: Taken, device: int, here: Bytes, memory: str, piece_bytes: int) -> None:
    """There and back, checked once: what came back must be what was sent."""
    for how, each_bytes in (("flat", here.size), ("per tensor", piece_bytes)):
        with _there(device, here.size, each_bytes) as there:
            name = f"{how}, {memory}"
            _note(taken, "device in", name, here.size, lambda: there.set(here))
            _note(taken, "device out", name, here.size, lambda: there.get(here))
            here[:: 1 << 20] = 0
            there.get(here)
            if not here.all():
                raise Wrong(f"other bytes came back from the device ({name})")


def _note(taken: Taken, what: str, how: str, size_bytes: int, work: Callable[[], object]) -> None:
    work()  # pages that are touched first
    seconds = tuple(timed(work)[0] for _ in range(_REPEATS))
    taken.links.append(LinkReading(what, how, size_bytes, seconds))


def _disk(taken: Taken, path: Path) -> None:
    """Reading a file anew, and once more from the page cache."""
    drop_from_host(path)
    size_bytes = min(_DISK_BYTES, path.stat().st_size)
    if resident_share(path) > 0.0:
        taken.notes.append(f"the page cache keeps {path.name}: its reads are from memory")
    for what in ("disk read", "page cache read"):
        seconds, _ = timed(lambda: _read(path, size_bytes))
        taken.links.append(LinkReading(what, "buffered", size_bytes, (seconds,)))


def _read(path: Path, size_bytes: int) -> None:
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.tell() < size_bytes:
            file.readinto(buffer)


def _function(name: str, result: Any, *arguments: Any) -> Any:  # Any: ctypes types and functions
    found = getattr(api._lib, name)
    found.restype, found.argtypes = result, list(arguments)
    return found


def _cpu() -> int:
    pointer: int = _function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)(b"CPU")
    return pointer


@contextmanager
def _pinned(device: int, size_bytes: int) -> Iterator[Bytes | None]:
    """Memory of the host that the device reads by itself; None: it offers none.

    Where the system refuses to pin so much, the library hands out ordinary memory; that is none.
    """
    void = ctypes.c_void_p
    kind = _function("ggml_backend_dev_host_buffer_type", void, void)(device)
    if not kind:
        yield None
        return
    buffer = _allocated(kind, size_bytes)
    try:
        if _function("ggml_backend_buffer_get_type", void, void)(buffer) != kind:
            yield None
            return
        base = _function("ggml_backend_buffer_get_base", void, void)(buffer)
        memory = (ctypes.c_uint8 * size_bytes).from_address(base)
        yield np.frombuffer(memoryview(memory), np.uint8)
    finally:
        _function("ggml_backend_buffer_free", None, void)(buffer)


def _allocated(kind: int, size_bytes: int) -> int:
    allocate = _function(
        "ggml_backend_buft_alloc_buffer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
    )
    buffer: int | None = allocate(kind, size_bytes)
    if not buffer:
        raise Wrong(f"no memory for {size_bytes / 1e9:.2f} GB to measure a link with")
    return buffer


class _Parameters(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


@dataclass(frozen=True, slots=True)
class _There:
    """Tensors of equal size, one after another in the device's memory."""

    tensors: tuple[int, ...]
    each_bytes: int

    def set(self, here: Bytes) -> None:
        self._copy("ggml_backend_tensor_set", here)

    def get(self, here: Bytes) -> None:
        self._copy("ggml_backend_tensor_get", here)

    def _copy(self, name: str, here: Bytes) -> None:
        void, size = ctypes.c_void_p, ctypes.c_size_t
        copy = _function(name, None, void, void, size, size)
        at = here.ctypes.data
        for tensor in self.tensors:
            copy(tensor, at, 0, self.each_bytes)
            at += self.each_bytes


@contextmanager
def _there(device: int, size_bytes: int, each_bytes: int) -> Iterator[_There]:
    void = ctypes.c_void_p
    count = size_bytes // each_bytes
    overhead_bytes = _function("ggml_tensor_overhead", ctypes.c_size_t)()
    parameters = _Parameters((count + 1) * overhead_bytes, None, True)
    context = _function("ggml_init", void, _Parameters)(parameters)
    buffer = _allocated(_function("ggml_backend_dev_buffer_type", void, void)(device), size_bytes)
    try:
        base = _function("ggml_backend_buffer_get_base", void, void)(buffer)
        make = _function("ggml_new_tensor_1d", void, void, ctypes.c_int, ctypes.c_int64)
        lay = _function("ggml_backend_tensor_alloc", ctypes.c_int, void, void, void)
        tensors = tuple(make(context, _I8, each_bytes) for _ in range(count))
        for number, tensor in enumerate(tensors):
            if lay(buffer, tensor, base + number * each_bytes):
                raise Wrong("the device does not lay tensors as it says")
        yield _There(tensors, each_bytes)
    finally:
        _function("ggml_backend_buffer_free", None, void)(buffer)
        _function("ggml_free", None, void)(context)
