"""Saved cells on the disk: for what main memory gives up, and for what outlives this worker.

Everything worth it is written when it is saved, so that a death takes nothing that was written;
and read back before a generation that wants it takes its slot.  No step waits for either.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from repertory.engines.llamacpp.cells.blob import (
    Head,
    Spoiled,
    head_of,
    name_of,
    read_content,
    read_head,
    start_of,
    write_blob,
)
from repertory.engines.llamacpp.cells.computed import Computed, Weights, shared_tokens
from repertory.engines.llamacpp.context import SavedSequence
from repertory.engines.llamacpp.turns import be_nice
from repertory.policy.requests.keep import Keep

__all__ = ["DiskKv", "Match", "Written"]

_log = logging.getLogger(__name__)
_DISTRUSTED = "distrusted.json"
"""What did not come back under which build: it is not tried again after a restart either."""


@dataclass(frozen=True, slots=True)
class Match:
    """A file that spares so many tokens."""

    path: Path
    head: Head
    computed: Computed
    tokens: int


@dataclass(frozen=True, slots=True)
class Written:
    """What is to be written."""

    weights: Weights
    computed: Computed
    sequence: SavedSequence
    cost_s: float


class DiskKv:
    """The files of one state folder, within a budget.  One thread writes, one reads."""

    def __init__(self, folder: Path, budget_bytes: int, build: str) -> None:
        """What lies there of an earlier worker is taken over in the background; with no budget it
        is removed.
        """
        self._folder = folder
        self._build = build
        self._keep = Keep(budget_bytes)
        self._starts: dict[str, str] = {}
        """By file: `start_of` what it holds."""
        self._lock = threading.Lock()
        self._writing = ThreadPoolExecutor(1, "kv-out", be_nice)
        self._reading = ThreadPoolExecutor(1, "kv-in")
        self.is_off = budget_bytes <= 0
        self._writing.submit(self._take_over)

    @property
    def bytes(self) -> int:
        return self._keep.total_bytes

    def may_have(self, weights: Weights, wanted: Computed) -> bool:
        """Whether a look is worth it.  Reads nothing."""
        start = start_of(weights, wanted.tokens)
        with self._lock:
            return start in self._starts.values()

    def write(self, one: Written, is_wanted: Callable[[], bool]) -> "Future[None]":
        """In the background, if it is still wanted when its turn comes."""
        return self._writing.submit(self._write, one, is_wanted)

    def read(self, begin: Callable[[], None]) -> "Future[None]":
        """Run `begin`, which looks and loads, on the thread that reads."""
        return self._reading.submit(begin)

    def find(self, weights: Weights, wanted: Computed, least_tokens: int) -> Match | None:
        """What spares most of `wanted`; None if it is fewer tokens than asked for."""
        best: Match | None = None
        for path in self._starting(start_of(weights, wanted.tokens)):
            found = self._look(path)
            if found is None:
                continue
            head, computed = found
            tokens = shared_tokens(computed, wanted, is_exact=weights.is_exact)
            if tokens >= least_tokens and (best is None or tokens > best.tokens):
                best = Match(path, head, computed, tokens)
        return best

    def load(self, match: Match) -> SavedSequence | None:
        """None: it was spoiled, and is no more."""
        try:
            sequence = read_content(match.path, match.head)
        except Spoiled as spoiled:
            self._give_up(match.path, spoiled)
            return None
        with self._lock:
            if match.path.name in self._starts:
                self._keep.use(match.path.name)
        return sequence

    @property
    def distrusted(self) -> frozenset[str]:
        """Kinds that did not come back as they should, as far as it is written down."""
        try:
            said = json.loads((self._folder / _DISTRUSTED).read_bytes())
            return frozenset(said["kinds"]) if said["build"] == self._build else frozenset()
        except (OSError, ValueError, LookupError, TypeError):
            return frozenset()

    def distrust(self, kind: str) -> None:
        """Nothing of this kind is believed any more."""
        self._writing.submit(self._distrust, kind)

    def when_idle(self) -> "Future[None]":
        """Done when all that is to be written by now is written."""
        return self._writing.submit(lambda: None)

    def close(self) -> None:
        """Let what is under way end."""
        self._writing.shutdown()
        self._reading.shutdown()

    def _starting(self, start: str) -> list[Path]:
        with self._lock:
            names = sorted(name for name, one in self._starts.items() if one == start)
        return [self._folder / name for name in names]

    def _look(self, path: Path) -> tuple[Head, Computed] | None:
        try:
            return read_head(path)
        except Spoiled as spoiled:
            self._give_up(path, spoiled)
            return None

    def _take_over(self) -> None:
        """The oldest first, so that what does not fit any more is that."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.iterdir(), key=_age):
            if path.name == _DISTRUSTED and not self.is_off:
                continue
            if path.suffix != ".kv" or self.is_off:
                path.unlink(missing_ok=True)  # cut short, or from times that had a budget
                continue
            found = self._look(path)
            if found is None:
                continue
            if found[0].build != self._build:
                self._give_up(path, Spoiled(f"it is of {found[0].build}"))
            elif found[0].name != path.name:
                self._give_up(path, Spoiled("its name is not what it holds"))
            else:
                self._enter(found[0])
        if self.is_off:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, one: Written, is_wanted: Callable[[], bool]) -> None:
        if not is_wanted():
            return
        name = name_of(self._build, one.weights, one.computed)
        if self._has(name):
            return
        head = head_of(self._build, one.weights, one.computed, one.sequence, one.cost_s)
        if not self._has_room(head.file_bytes):
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_blob(self._folder / head.name, head, one.computed, one.sequence)
        except OSError as error:  # a full disk, mostly: it is computed again then
            _log.warning("a saved state is not written: %s", error)
            return
        self._drop_what_it_continues(one, head)
        self._enter(head)

    def _has(self, name: str) -> bool:
        with self._lock:
            if name not in self._starts:
                return False
            self._keep.use(name)
            return True

    def _has_room(self, size_bytes: int) -> bool:
        """Of the budget, and of the disk: others need it, too."""
        place = next(one for one in (self._folder, *self._folder.parents) if one.is_dir())
        free_bytes = shutil.disk_usage(place).free
        if size_bytes <= min(self._keep.budget_bytes, free_bytes):
            return True
        _log.info("a saved state of %d bytes has no room on the disk", size_bytes)
        return False

    def _enter(self, head: Head) -> None:
        with self._lock:
            self._starts[head.name] = head.start
            gone = self._keep.put(head.name, head.file_bytes, head.cost_s)
            for name in gone:
                del self._starts[name]
        for name in gone:
            (self._folder / name).unlink(missing_ok=True)

    def _drop_what_it_continues(self, one: Written, head: Head) -> None:
        for path in self._starting(head.start):
            if path.name == head.name:
                continue
            found = self._look(path)
            if found is not None:
                tokens = found[1].tokens
                if tokens == one.computed.tokens[: len(tokens)]:
                    self._drop(path)

    def _distrust(self, kind: str) -> None:
        said = {"build": self._build, "kinds": sorted(self.distrusted | {kind})}
        try:
            part = self._folder / f"{_DISTRUSTED}.part"
            part.write_text(json.dumps(said))
            part.replace(self._folder / _DISTRUSTED)
        except OSError as error:
            _log.warning("what is not believed is not written down: %s", error)
        with self._lock:
            names = sorted(self._starts)
        for name in names:
            found = self._look(self._folder / name)
            if found is not None and found[0].kind == kind:
                self._drop(self._folder / name)

    def _give_up(self, path: Path, spoiled: Spoiled) -> None:
        _log.warning("the saved state %s is given up: %s", path.name, spoiled)
        self._drop(path)

    def _drop(self, path: Path) -> None:
        with self._lock:
            self._starts.pop(path.name, None)
            self._keep.drop(path.name)
        path.unlink(missing_ok=True)


def _age(path: Path) -> tuple[int, str]:
    try:
        return (path.stat().st_mtime_ns, path.name)
    except OSError:
        return (0, path.name)
