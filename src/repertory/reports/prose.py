"""What a server says on standard error: text for people, or one JSON object per line.

A thread of its own writes, so that a terminal or pipe that nobody reads stops no request; what it
has no room for is dropped, and said once there is.
"""

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec

__all__ = ["LogFormat", "Prose", "speaking"]

LogFormat = Literal["text", "json"]

_OURS = "repertory"
_SAID = "repertory.serve"
_REQUESTS = "repertory.gateway.requests"
"""Its messages are JSON objects already: the fields of one request."""
_WAITING = 10_000
"""Lines that may wait for whoever reads."""
_LAST_WORDS_S = 2.0

_Entry = logging.LogRecord | None


class Prose(logging.Handler):
    """Takes log records from any thread; one thread writes them."""

    def __init__(self, log_format: LogFormat, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._dropped = 0
        self._queue: queue.Queue[_Entry] = queue.Queue(_WAITING)
        self.setFormatter(_Json() if log_format == "json" else _Text())
        self._thread = threading.Thread(target=self._run, name="prose", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def say(self, words: str) -> None:
        """A sentence to the operator."""
        logging.getLogger(_SAID).info("%s", words)

    def fail(self, words: str) -> None:
        """The last one."""
        logging.getLogger(_SAID).error("%s", words)

    def finish(self) -> None:
        """Write what waits, unless nobody reads."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_LAST_WORDS_S)
        self._thread.join(_LAST_WORDS_S)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            lines = self.format(record)
            if self._dropped and self._queue.empty():
                lines += "\n" + self.format(self._confession())
            try:
                self._stream.write(lines + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # the terminal is gone; serving goes on
                self._dropped += 1

    def _confession(self) -> logging.LogRecord:
        count, self._dropped = self._dropped, 0
        words = f"{count} lines are missing here: nobody read them in time"
        return logging.LogRecord(_SAID, logging.WARNING, "", 0, words, None, None)


@contextlib.contextmanager
def speaking(log_format: LogFormat) -> Iterator[Prose]:
    """Everything that is logged goes to standard error, ours from the level INFO on."""
    prose = Prose(log_format, sys.stderr)
    root, ours = logging.getLogger(), logging.getLogger(_OURS)
    level = ours.level
    root.addHandler(prose)
    ours.setLevel(logging.INFO)
    try:
        yield prose
    finally:
        ours.setLevel(level)
        root.removeHandler(prose)
        prose.finish()


class _Text(logging.Formatter):
    """What is said to the operator stands alone; the rest has its time and origin."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage() if record.name == _SAID else super().format(record)


class _Json(logging.Formatter):
    """One object a line: time (UTC), level, logger, message; of a request, its fields as well."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.name == _REQUESTS:
            entry = {**msgspec.json.decode(record.getMessage()), **entry, "message": "request"}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()
