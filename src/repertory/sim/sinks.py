"""Where decisions go: nowhere, into a rolling hash, or into a log that others can read."""

import hashlib
from typing import BinaryIO

from repertory import __version__
from repertory.core.journal import Header, encode, encode_header
from repertory.domain.decisions import Decision
from repertory.domain.settings import Settings

__all__ = ["HashSink", "LogSink"]

_BLOCK = 256
"""Lines that are hashed or written at once."""


class HashSink:
    """Two runs with one digest took the same decisions for the same reasons, in the same order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._lines: list[bytes] = []
        self.decisions = 0

    def __call__(self, decision: Decision) -> None:
        self.decisions += 1
        lines = self._lines
        lines.append(encode(decision))
        if len(lines) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        block = b"".join(self._lines)
        self._lines.clear()
        self._hash.update(block)
        self._keep(block)

    def _keep(self, block: bytes) -> None:
        """Nothing is kept."""

    def digest(self) -> str:
        self._flush()
        return self._hash.hexdigest()


class LogSink(HashSink):
    """The decision log as the server writes it, for `repertory why` and reports; and its hash."""

    def __init__(self, file: BinaryIO, settings: Settings, fleet: str = "") -> None:
        super().__init__()
        self._file = file
        file.write(encode_header(Header(__version__, settings, 1, fleet=fleet)))

    def _keep(self, block: bytes) -> None:
        self._file.write(block)
