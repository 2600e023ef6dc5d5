"""A saved sequence as a file: what it is of, its tokens, its bytes, and the sums of all.

    mark, length and sum of the head | head (JSON) | token ids | the library's bytes

Nothing of a file is believed: one that is cut, of another build or another model, or that has lost
a bit is `Spoiled`, and says why.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.engines.llamacpp.cells.computed import Computed, Weights
from repertory.engines.llamacpp.context import SavedSequence, empty_sequence

__all__ = [
    "Head",
    "Spoiled",
    "head_of",
    "name_of",
    "read_content",
    "read_head",
    "start_of",
    "write_blob",
]

_MARK = b"REPE-KV1"
_FRONT = struct.Struct("<8sII")
_MOST_HEAD_BYTES = 1 << 16
_TOKEN = np.dtype("<i4")


class Spoiled(Exception):
    """This file is of no use."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of itself."""

    build: str
    """Of the library: another one may lay its bytes out in another way."""
    weights: str
    kind: str
    start: str
    """`start_of` its tokens."""
    tokens: int
    tokens_digest: str
    prefill_tokens: int
    content_bytes: int
    content_sum: int
    cost_s: float
    """To compute it again, as it was reckoned when it was written."""

    @property
    def name(self) -> str:
        """Of the file: equal tokens of equal weights have one."""
        return _name(self.build, self.weights, self.tokens_digest, self.prefill_tokens)

    @property
    def file_bytes(self) -> int:
        return len(_front(self)) + self.tokens * _TOKEN.itemsize + self.content_bytes


def start_of(weights: Weights, tokens: Sequence[int]) -> str:
    """Of weights and the first chunk: what begins otherwise shares less than is worth a copy."""
    return _digest(tokens[:CHUNK_TOKENS], weights.name)


def name_of(build: str, weights: Weights, computed: Computed) -> str:
    """Of the file that would hold it."""
    return _name(build, weights.name, _digest(computed.tokens), computed.prefill_tokens)


def head_of(
    build: str, weights: Weights, computed: Computed, sequence: SavedSequence, cost_s: float
) -> Head:
    tokens = computed.tokens
    return Head(
        build=build,
        weights=weights.name,
        kind=weights.kind,
        start=start_of(weights, tokens),
        tokens=len(tokens),
        tokens_digest=_digest(tokens),
        prefill_tokens=computed.prefill_tokens,
        content_bytes=sequence.content.size,
        content_sum=zlib.crc32(sequence.content.data),
        cost_s=cost_s,
    )


def write_blob(path: Path, head: Head, computed: Computed, sequence: SavedSequence) -> None:
    """Whole or not at all: under another name first.  For its owner's eyes only, for it holds what
    people said.
    """
    part = path.with_suffix(".part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write(file, memoryview(_front(head)))
            _write(file, memoryview(np.array(computed.tokens, _TOKEN).tobytes()))
            _write(file, sequence.content.data)
            os.fsync(file.fileno())
            _leave_cache(file)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_head(path: Path) -> tuple[Head, Computed]:
    """What it is of; checked, but for the bytes of the cells."""
    try:
        with path.open("rb") as file:
            head = _read_front(file)
            raw = file.read(head.tokens * _TOKEN.itemsize)
            if path.stat().st_size != head.file_bytes:
                raise Spoiled("it is cut, or longer than it says")
    except OSError as error:
        raise Spoiled(str(error)) from error
    tokens = tuple(np.frombuffer(raw, _TOKEN).tolist())
    if len(tokens) != head.tokens or _digest(tokens) != head.tokens_digest:
        raise Spoiled("its tokens are not those of its head")
    return head, Computed(tokens, head.prefill_tokens)


def read_content(path: Path, head: Head) -> SavedSequence:
    """The cells, checked against the sum that was taken when they were saved."""
    sequence = empty_sequence(head.content_bytes)
    left = sequence.content.data.cast("B")
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(head.file_bytes - head.content_bytes)
            while left and (count := file.readinto(left)):
                left = left[count:]
            _leave_cache(file)
    except OSError as error:
        raise Spoiled(str(error)) from error
    if left or zlib.crc32(sequence.content.data) != head.content_sum:
        raise Spoiled("its bytes are not those that were saved")
    return sequence


def _front(head: Head) -> bytes:
    said = json.dumps(asdict(head), sort_keys=True).encode()
    return _FRONT.pack(_MARK, len(said), zlib.crc32(said)) + said


def _read_front(file: BinaryIO) -> Head:
    front = file.read(_FRONT.size)
    if len(front) < _FRONT.size:
        raise Spoiled("it is cut")
    mark, size, checksum = _FRONT.unpack(front)
    if mark != _MARK or size > _MOST_HEAD_BYTES:
        raise Spoiled("it is no saved state, or one of another version")
    said = file.read(size)
    if len(said) != size or zlib.crc32(said) != checksum:
        raise Spoiled("its head is damaged")
    try:
        return Head(**json.loads(said))
    except TypeError as error:
        raise Spoiled("its head is of another version") from error


def _name(build: str, weights: str, tokens_digest: str, prefill_tokens: int) -> str:
    whole = f"{build}\n{weights}\n{tokens_digest}\n{prefill_tokens}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32] + ".kv"


def _digest(tokens: Sequence[int], name: str = "") -> str:
    return hashlib.sha256(name.encode() + np.array(tokens, _TOKEN).tobytes()).hexdigest()


def _write(file: BinaryIO, left: memoryview) -> None:
    while left:
        left = left[file.write(left) :]


def _leave_cache(file: BinaryIO) -> None:
    """The page cache is for models: it is their rung `HOST`."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
