"""Weights apart from KV, and what the kernel says about memory.

Everything here runs on the mover thread.  Equal files in equal form are opened once; the mapped
bytes, the anonymous bytes and the source of a load are read from the kernel, never assumed.
"""

import ctypes
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from repertory.domain.errors import LoadFailed
from repertory.domain.ladder import Rung
from repertory.domain.specs import ModelSpec, Placement, WeightsForm
from repertory.engines.llamacpp.cells.buffers import buffered_bytes
from repertory.engines.llamacpp.library import Accelerator, Model, free_bytes

__all__ = [
    "FileState",
    "Shelf",
    "Shelved",
    "drop_from_host",
    "file_state",
    "process_bytes",
    "read_into_host",
    "release_at_once",
    "resident_share",
    "shards",
    "source_of",
    "taken_bytes",
    "trim",
]

_HOST_SHARE = 0.9
"""A file is on `HOST` when this share of it is in the page cache (worker.md, Memory)."""
_READ_BYTES = 4 << 20
_RESTING_BYTES = 56 << 20
"""Five vocabularies of 32k tokens.  With those that `Vocabularies` opens they stay within what a
server's processes may grow by (`live.compose.GROWTH_BYTES`)."""
_WIPED_SHARE = 0.05
_M_MMAP_THRESHOLD = -3
_OWN_MAPPING_BYTES = 1 << 20
_MADV_DONTNEED = 4
_MADV_POPULATE_READ = 22  # Linux 5.14
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True, slots=True)
class FileState:
    """What must not change between describing a file and mapping it."""

    inode: int
    modified_ns: int
    size_bytes: int


def file_state(path: Path) -> FileState:
    """Raises `LoadFailed` if there is no such file."""
    try:
        found = path.stat()
    except OSError as error:
        raise LoadFailed(f"cannot open {path.name}: {error.strerror}") from error
    return FileState(found.st_ino, found.st_mtime_ns, found.st_size)


def shards(path: Path) -> tuple[Path, ...]:
    """All files of a model, given its first."""
    match = _SHARD.search(path.name)
    if match is None:
        return (path,)
    stem, total = path.name[: match.start()], int(match[2])
    return tuple(path.with_name(f"{stem}-{n:05d}-of-{total:05d}.gguf") for n in range(1, total + 1))


@dataclass(frozen=True, slots=True)
class _Range:
    """A stretch of this process's address space."""

    start: int
    end: int


@dataclass(eq=False, slots=True)
class Shelved:
    """One opened file in one form; `uses` replicas stand on it."""

    model: Model
    key: "_Key"
    location: str
    anonymous_bytes: int
    """What opening it took besides the file's own pages: vocabulary, tensor table, copies; where
    weights were copied, also those that are looked up in the file."""
    mapped: "list[_Range]"
    """Where the file is computed from in place; empty if its weights were copied elsewhere."""
    weights_bytes: int = 0
    rest_bytes: int = 0
    """Beside an accelerator: what lies in main memory."""
    first_ns: int = 0
    """Of taking it last: what the next time will not take, for it is kept."""
    uses: int = 1


_Key = tuple[str, WeightsForm, str, int | None]
"""Digest, form, accelerator, layers on it."""


class Shelf:
    """The opened weights of a worker.

    Opening a file is mostly reading its vocabulary (32k tokens: 85 ms, whatever the weights).  So
    a mapped file that nobody stands on any more gives up its pages and stays open: it *rests*, at
    the price of its vocabulary, and its next load only has to map the pages again (1.1B: 25 ms).
    """

    def __init__(
        self,
        opened: Callable[[str, Model], None] = lambda *_: None,
        leaving: Callable[[str, Model], None] = lambda *_: None,
        meanwhile: Callable[[], int] = lambda: 0,
    ) -> None:
        """`opened` hears of a model that will rest, `leaving` before it is freed.

        While weights are copied into this process, `meanwhile` is called before each tensor, and
        may give and take weights itself; it answers the anonymous bytes that it took.
        """
        self._held: dict[_Key, Shelved] = {}
        self._resting: OrderedDict[_Key, Shelved] = OrderedDict()
        self._opened = opened
        self._leaving = leaving
        self._meanwhile = meanwhile

    def take(
        self, spec: ModelSpec, placement: Placement, accelerator: Accelerator | None
    ) -> Shelved:
        """Open the weights, or share those already open."""
        form, layers = placement.form, placement.layers
        key = (spec.digest, form, "" if accelerator is None else accelerator.name, layers)
        held = self._held.get(key)
        if held is not None:
            held.uses, held.first_ns = held.uses + 1, 0
            return held
        self._forget_others(spec)
        held = self._resting.pop(key, None)
        if held is None:
            held = _opened(spec, key, accelerator, self._meanwhile)
            if held.mapped:
                self._opened(held.location, held.model)
        held.weights_bytes = held.anonymous_bytes + _populated_bytes(held.mapped)
        held.uses = 1
        self._held[key] = held
        return held

    def give_back(self, held: Shelved) -> None:
        """Free the weights when nobody stands on them any more.  `trim` after mapped ones."""
        held.uses -= 1
        if held.uses:
            return
        del self._held[held.key]
        if held.mapped:
            _let_go(held.mapped)
            self._resting[held.key], held.first_ns = held, 0
            self._bound()
        else:
            held.model.free()
            trim()

    def _bound(self) -> None:
        """The one that has rested longest goes first."""
        while sum(one.anonymous_bytes for one in self._resting.values()) > _RESTING_BYTES:
            _, oldest = self._resting.popitem(last=False)
            self._free(oldest)

    def _forget_others(self, spec: ModelSpec) -> None:
        """What rests of a file that was replaced."""
        for key, one in list(self._resting.items()):
            if one.location == spec.location and key[0] != spec.digest:
                del self._resting[key]
                self._free(one)

    def _free(self, held: Shelved) -> None:
        self._leaving(held.location, held.model)
        held.model.free()


def _opened(
    spec: ModelSpec, key: _Key, accelerator: Accelerator | None, meanwhile: Callable[[], int]
) -> Shelved:
    paths = shards(Path(spec.location))
    before, before_here = taken_bytes(accelerator), taken_bytes(None)
    known = frozenset(_mapped_ranges(paths))
    _, form, _, layers = key
    is_copied = form is WeightsForm.REPACKED or accelerator is not None
    wiper = _Wiper(paths, known)
    others_bytes = 0

    def on_progress(share: float) -> None:
        nonlocal others_bytes
        if is_copied:
            wiper.wipe(share)
            if accelerator is None:  # what a device states of itself would be mixed up
                others_bytes += meanwhile()

    model = Model(
        paths[0],
        repacked=form is WeightsForm.REPACKED,
        accelerator=accelerator,
        layers=layers,
        on_progress=on_progress,
    )
    mapped = left = [one for one in _mapped_ranges(paths) if one not in known]
    if is_copied:
        _let_go(mapped)  # copied elsewhere; the file's pages count as HOST again
        mapped = []
    taken = max(0, taken_bytes(accelerator) - before - others_bytes)
    if form is WeightsForm.REPACKED:
        # Token embeddings are looked up in the file itself, and their pages come back one by one.
        taken += max(0, spec.weights_bytes - spec.repacked_bytes)
    if accelerator is None:
        first_ns = model.words_ns if mapped else 0  # it rests, and keeps its vocabulary
        return Shelved(model, key, spec.location, taken, mapped, first_ns=first_ns)
    taken = max(taken, model.accelerator_bytes)  # a remote device does not tell what it has
    rest = max(0, taken_bytes(None) - before_here) + _rest_bytes(left, layers)
    return Shelved(model, key, spec.location, taken, mapped, rest_bytes=rest)


def _rest_bytes(left: "list[_Range]", layers: int | None) -> int:
    """What a model on an accelerator leaves of its file in memory.

    Layers are computed from the file's own pages, which are mapped in now; where there are none,
    rows are looked up there, and their pages come one by one.
    """
    if layers is not None:
        return _populated_bytes(left)
    return sum(one.end - one.start for one in left)


class _Wiper:
    """Lets go of a file's pages while its weights are copied elsewhere.

    The library maps all of them first and keeps them to the end, so that a 1.1B q4_0 that rests at
    578 MiB took 1,174 on its way there.  Let go of at every twentieth part of the way it takes 616
    at most, in the same time: pages of the page cache are mapped again without being read again.
    """

    def __init__(self, paths: tuple[Path, ...], known: "frozenset[_Range]") -> None:
        self._paths, self._known = paths, known
        self._mapped: list[_Range] = []
        self._next_share = 0.0

    def wipe(self, share: float) -> None:
        """Not at the end: by then the library has unmapped what it copied, and another thread of
        this process may have its own memory there, which would be zeroed.
        """
        if share < self._next_share or share >= 1.0:
            return
        if not self._mapped:
            self._mapped = [one for one in _mapped_ranges(self._paths) if one not in self._known]
        _let_go(self._mapped)
        self._next_share = share + _WIPED_SHARE


def _let_go(ranges: "list[_Range]") -> None:
    for one in ranges:
        _libc.madvise(one.start, one.end - one.start, _MADV_DONTNEED)


def _populated_bytes(ranges: list[_Range]) -> int:
    """Map the pages in, and say how many bytes that are."""
    failed = [_libc.madvise(one.start, one.end - one.start, _MADV_POPULATE_READ) for one in ranges]
    if any(failed):  # an older kernel: its pages are faulted in later, one by one
        return _resident_bytes(ranges)
    return sum(one.end - one.start for one in ranges)


def source_of(paths: tuple[Path, ...]) -> Rung:
    """Where a load's bytes will really come from."""
    sizes = [path.stat().st_size for path in paths]
    resident = sum(size * resident_share(path) for path, size in zip(paths, sizes, strict=True))
    return Rung.HOST if resident >= _HOST_SHARE * sum(sizes) else Rung.DISK


def resident_share(path: Path) -> float:
    """The share of a file's pages that is in the page cache."""
    pages = _resident_pages(path)
    return float(pages.mean()) if pages.size else 1.0


def _resident_pages(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    size = path.stat().st_size
    if size == 0:
        return np.zeros(0, np.bool_)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        view = np.frombuffer(mapping, np.uint8)
        failed = _libc.mincore(view.ctypes.data, size, pages.ctypes.data)
        del view  # the mapping cannot close while it is looked at
    return np.zeros(pages.size, np.bool_) if failed else (pages & 1).astype(np.bool_)


def read_into_host(path: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Bring a file into the page cache; only what is not there is read.

    `meanwhile` is called before each piece of 4 MiB that is read.
    """
    pages = _resident_pages(path)
    buffer = bytearray(_READ_BYTES)
    step = _READ_BYTES // mmap.PAGESIZE
    with path.open("rb", buffering=0) as file:
        for first in range(0, pages.size, step):
            if not pages[first : first + step].all():
                meanwhile()
                file.seek(first * mmap.PAGESIZE)
                file.readinto(buffer)


def drop_from_host(path: Path) -> None:
    """Let the page cache go; pages that are mapped somewhere stay."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages not yet written are not dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def release_at_once() -> None:
    """Once per process: what is 1 MiB or more gets a mapping of its own, and goes when it is freed.

    glibc raises that size as it learns what is freed, up to 32 MiB, and the heap of a thread other
    than the first keeps twice as much at its top, which `trim` does not reach: a repacked 50M that
    was unloaded left 22 MiB, and the next load seemed to take 18 MiB instead of 40.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def trim() -> None:
    """Give freed memory back to the kernel; glibc keeps some 24 MiB otherwise (worker.md)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def taken_bytes(accelerator: Accelerator | None) -> int:
    """What is in use where replicas live: anonymous memory of this process, or the device's.

    Saved cells are no part of it: they come and go while a move is measured.
    """
    if accelerator is not None:
        return accelerator.memory_bytes - free_bytes(accelerator)
    return _kernel_fields("/proc/self/status", ("RssAnon",))["RssAnon"] - buffered_bytes()


def process_bytes() -> dict[str, int]:
    """Pss, Anonymous and file bytes of this process."""
    return _kernel_fields("/proc/self/smaps_rollup", ("Pss", "Anonymous", "Pss_File"))


def _kernel_fields(path: str, names: tuple[str, ...]) -> dict[str, int]:
    fields = dict.fromkeys(names, 0)
    with Path(path).open() as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in fields:
                fields[name] = int(rest.split()[0]) * 1024
    return fields


def _mapped_ranges(paths: tuple[Path, ...]) -> list[_Range]:
    inodes = {path.stat().st_ino for path in paths}
    found: list[_Range] = []
    with Path("/proc/self/maps").open() as file:
        for line in file:
            parts = line.split(maxsplit=5)
            if len(parts) == 6 and int(parts[4]) in inodes and parts[5].strip().endswith(".gguf"):
                start, _, end = parts[0].partition("-")
                found.append(_Range(int(start, 16), int(end, 16)))
    return found


def _resident_bytes(ranges: list[_Range]) -> int:
    wanted = {f"{one.start:x}" for one in ranges}
    total, is_wanted = 0, False
    with Path("/proc/self/smaps").open() as file:
        for line in file:
            head, _, rest = line.partition(" ")
            if "-" in head and not head.endswith(":"):
                is_wanted = head.partition("-")[0].lstrip("0") in wanted
            elif is_wanted and head == "Rss:":
                total += int(rest.split()[0]) * 1024
    return total
