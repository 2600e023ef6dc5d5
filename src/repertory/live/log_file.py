"""The decision log on disk: append-only, rotated, bounded, written by a thread of its own.

A write that fails never blocks or stops a decision.  Decisions that could not be written are
counted; when writing works again, a header line in the middle of the file says with which step the
log goes on.  All files together never exceed `MOST_FILES` x (`ROTATE_BYTES` + one line).
"""

import logging
import queue
import threading
from pathlib import Path

from repertory import __version__
from repertory.core.journal import Header, encode, encode_header
from repertory.domain.decisions import Decision
from repertory.domain.events import SettingsChanged
from repertory.domain.settings import Settings

__all__ = ["MOST_FILES", "ROTATE_BYTES", "LogFile"]

_log = logging.getLogger(__name__)

ROTATE_BYTES = 32 << 20
"""About 100,000 decisions."""
MOST_FILES = 5
"""The current one and older ones: 160 MiB together."""
_GATHER_S = 0.05
"""Decisions come in bursts: a preemption is six of them within 30 ms.  Each that was written at
once woke this thread on a core that computes, where it held the interpreter's lock and stood before
the worker's own for 0.2 ms."""
_WAITING = 100_000
"""Decisions that may wait for the disk; beyond it they are dropped and counted."""


class LogFile:
    """`record(decision)` from the brain's thread; `close` writes the rest."""

    def __init__(
        self, folder: Path, settings: Settings, *, rotate_bytes: int = ROTATE_BYTES
    ) -> None:
        self.path = folder / "decisions.jsonl"
        self.fault: str | None = None
        """Why it cannot be written now."""
        self._rotate_bytes = rotate_bytes
        self._settings = settings
        self._crowded_out = 0
        self._unwritten = 0
        """Two counters, since two threads count."""
        self._next_step: int | None = None
        """With what the file would go on; any other step comes after a header."""
        self._queue: queue.SimpleQueue[Decision | None] = queue.SimpleQueue()
        self._is_closing = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._rotate()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Decisions that are in no file."""
        return self._crowded_out + self._unwritten

    def record(self, decision: Decision) -> None:
        if self._queue.qsize() >= _WAITING:
            self._crowded_out += 1
            return
        self._queue.put(decision)

    def close(self) -> None:
        self._queue.put(None)
        self._is_closing.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            self._is_closing.wait(_GATHER_S)
            while not self._queue.empty():
                batch.append(self._queue.get())
            is_open = None not in batch
            self._write([one for one in batch if one is not None])

    def _write(self, batch: list[Decision]) -> None:
        done = 0
        try:
            while done < len(batch):
                done += self._append(batch[done:])
        except OSError as refused:
            lost = batch[done:]
            self._unwritten += len(lost)
            self._next_step = None
            for decision in lost:
                self._settings = _settings_after(self._settings, decision)
            if self.fault is None:
                _log.error("the decision log cannot be written: %s", refused)
            self.fault = f"cannot be written: {refused}; make room there, serving goes on"
        else:
            if self.fault is not None and batch:
                _log.warning("the decision log is written again; %d are missing", self.dropped)
                self.fault = None

    def _append(self, batch: list[Decision]) -> int:
        """As many as the current file takes; all of these or none are in it afterwards."""
        begin = self._size_bytes()
        if begin >= self._rotate_bytes:
            self._rotate()
            begin = 0
        text, taken = bytearray(), 0
        next_step, settings = self._next_step, self._settings
        for decision in batch:
            size = begin + len(text)
            if taken and size >= self._rotate_bytes:
                break
            if size == 0 or decision.step != next_step:
                header = Header(__version__, settings, decision.step, self.dropped)
                text += encode_header(header)
            text += encode(decision)
            next_step, settings = decision.step + 1, _settings_after(settings, decision)
            taken += 1
        self._put(text, begin)
        self._next_step, self._settings = next_step, settings
        return taken

    def _size_bytes(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def _put(self, text: bytearray, begin: int) -> None:
        """A disk may fill in the middle of a line; half a line would end every reading."""
        with self.path.open("ab", buffering=0) as file:
            rest = memoryview(text)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(begin)
                raise

    def _rotate(self) -> None:
        """decisions.jsonl becomes decisions.1.jsonl, and so on; the oldest goes."""
        for number in range(MOST_FILES - 1, 0, -1):
            older = self.path.with_name(f"decisions.{number}.jsonl")
            newer = self.path
            if number > 1:
                newer = self.path.with_name(f"decisions.{number - 1}.jsonl")
            if newer.exists():
                newer.replace(older)


def _settings_after(settings: Settings, decision: Decision) -> Settings:
    event = decision.event
    return event.settings if isinstance(event, SettingsChanged) else settings
