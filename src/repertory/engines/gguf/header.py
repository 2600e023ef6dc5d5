"""Read the head of a GGUF file, which anybody may have written: every number in it may lie.

The package `gguf` has a reader, but it keeps an array per token and per merge and believes all
counts: 7.9 s and 0.6 GB for a vocabulary of 152k, 21 s and 1.9 GB for one of 262k (2 cores, v0.19).
This one keeps what describes the model, walks over the rest, and reads 1 MiB at a time.  It asks
at least what the library's own loader asks (`ggml/src/gguf.cpp`), so that a file which passes here
and fails there is rare.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from struct import Struct

from repertory.domain.errors import LoadFailed

__all__ = ["FORMATS", "Header", "Tensor", "Value", "read_header"]

Value = int | float | bool | str | tuple[int | float | bool, ...]

MAX_HEADER_BYTES = 256 * 2**20
"""Sixteen times the largest seen (262k tokens: 16 MB); bounds reading, not memory."""
MAX_KEYS = 2**16
MAX_TENSORS = 2**16
MAX_STRINGS = 2**22
"""In all arrays together: five times the largest seen; bounds the time to about 1 s."""
MAX_TEXT_BYTES = 2**20
"""Longer texts are walked over.  Chat templates have up to 30 kB."""
MAX_LIST = 4096
"""Longer number arrays are walked over; those that matter have a number per layer."""
MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
"""The library's limits for a tensor."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One line of the tensor table."""

    name: str
    format: str
    """As ggml calls it: f16, q4_0, …"""
    shape: tuple[int, ...]
    """Innermost first: (values per row, rows, …)."""
    size_bytes: int

    @property
    def rows(self) -> int:
        """The library's `ne[1]`: 1 for a vector."""
        return self.shape[1] if len(self.shape) > 1 else 1


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    values: Mapping[str, Value]
    """Numbers, texts and short number arrays."""
    lengths: Mapping[str, int]
    """Of all arrays."""
    tensors: tuple[Tensor, ...]
    header_bytes: int
    """Where the tensor data begins."""
    file_bytes: int

    def number(self, key: str) -> int | None:
        """A whole number that is not negative; None where the file has none."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise LoadFailed(f"{key} should be a count but is {value!r:.60}")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise LoadFailed(f"{key} should be a text but is {value!r:.60}")
        return value

    def truth(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise LoadFailed(f"{key} should be true or false but is {value!r:.60}")


def read_header(path: Path) -> Header:
    """Parse and check; `LoadFailed` says what is wrong, whatever the bytes are."""
    try:
        with FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise LoadFailed("is no regular file")
            return _parse(_Source(file, status.st_size))
    except LoadFailed as error:
        raise LoadFailed(f"{path.name}: {error}") from None
    except OSError as error:
        raise LoadFailed(f"{path.name}: {error.strerror}") from error


FORMATS = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 40),
    10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144),
    13: ("q5_k", 256, 176),
    14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36),
    41: ("q1_0", 128, 18),
    42: ("q2_0", 64, 18),
}
"""Number in the file -> (name, values per block, bytes per block), from `ggml.h`; a test compares
them with the package's table."""

_NUMBERS = {
    0: Struct("<B"),
    1: Struct("<b"),
    2: Struct("<H"),
    3: Struct("<h"),
    4: Struct("<I"),
    5: Struct("<i"),
    6: Struct("<f"),
    7: Struct("<?"),
    10: Struct("<Q"),
    11: Struct("<q"),
    12: Struct("<d"),
}
_TEXT, _ARRAY = 8, 9


class _Source:
    """The file as a stream with a window; it never gives more than is there."""

    def __init__(self, file: FileIO, size: int) -> None:
        self._file = file
        self.size = size
        self._end = min(size, MAX_HEADER_BYTES)
        self._window = b""
        self._window_from = 0
        self._at = 0
        """In the window."""

    @property
    def position(self) -> int:
        return self._window_from + self._at

    @property
    def left_bytes(self) -> int:
        return self._end - self.position

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._window):
            self._refill(count)
        taken = self._window[self._at : self._at + count]
        self._at += count
        return taken

    def scalar(self, form: Struct) -> int | float | bool:
        value: int | float | bool = form.unpack(self.take(form.size))[0]
        return value

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def skip(self, count: int) -> None:
        if count > self.left_bytes:
            self._fail(count)
        self._at += count

    def skip_texts(self, count: int) -> None:
        """The hot loop: a vocabulary and its merges, half a million texts."""
        length_at = Struct("<Q").unpack_from
        at, window = self._at, self._window
        last = len(window) - 8
        for _ in range(count):
            if at > last:
                self._at = at
                self._refill(8)
                at, window = self._at, self._window
                last = len(window) - 8
            at += 8 + length_at(window, at)[0]
        self._at = at
        self.skip(0)

    def _refill(self, count: int) -> None:
        """Move the window to the position; at least `count` bytes, or it is no good file."""
        if count > self.left_bytes:
            self._fail(count)
        self._window_from, self._at = self.position, 0
        self._file.seek(self._window_from)
        wanted = min(self.left_bytes, max(count, 2**20))
        self._window = self._file.read(wanted)
        if len(self._window) < count:
            raise LoadFailed("shrank while it was read")

    def _fail(self, count: int) -> None:
        if self._end < self.size:
            raise LoadFailed(f"header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        raise LoadFailed(
            f"is cut off or corrupt: byte {self.position} announces {count} more, "
            f"of {self.size} in the file"
        )


def _parse(source: _Source) -> Header:
    if source.left_bytes < 24 or source.take(4) != b"GGUF":
        raise LoadFailed("is no GGUF file")
    version = source.u32()
    if version not in (2, 3):
        reason = "big-endian" if version & 0xFFFF == 0 else f"of version {version}"
        raise LoadFailed(f"is a GGUF file {reason}; versions 2 and 3, little-endian, are known")
    tensor_count, key_count = source.u64(), source.u64()
    _check_count("keys", key_count, MAX_KEYS)
    _check_count("tensors", tensor_count, MAX_TENSORS)
    values, lengths = _read_keys(source, key_count)
    table = [_read_tensor(source) for _ in range(tensor_count)]
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise LoadFailed(f"general.alignment {alignment!r:.60} is no power of two")
    header_bytes = _padded(source.position, alignment)
    _check_data(table, alignment, source.size - header_bytes)
    tensors = tuple(tensor for tensor, _ in table)
    return Header(values, lengths, tensors, header_bytes, source.size)


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise LoadFailed(f"announces {count} {what}; {most} is the most that is believed")


def _padded(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment


def _read_keys(source: _Source, count: int) -> tuple[dict[str, Value], dict[str, int]]:
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    strings_left = MAX_STRINGS
    for _ in range(count):
        key = _read_name(source, 65535)
        if key in values or key in lengths:
            raise LoadFailed(f"has the key {key:.60} twice")
        kind = source.u32()
        if kind == _TEXT:
            values[key] = _read_text(source)
        elif kind in _NUMBERS:
            values[key] = source.scalar(_NUMBERS[kind])
        elif kind != _ARRAY:
            raise LoadFailed(f"{key:.60} has the unknown type {kind}")
        else:
            kind, lengths[key] = source.u32(), source.u64()
            if kind == _TEXT:
                strings_left -= lengths[key]
                _check_count("texts", MAX_STRINGS - strings_left, MAX_STRINGS)
                source.skip_texts(lengths[key])
            elif kind in _NUMBERS:
                short = _read_numbers(source, _NUMBERS[kind], lengths[key])
                if short is not None:
                    values[key] = short
            else:
                raise LoadFailed(f"{key:.60} is an array of the unknown type {kind}")
    return values, lengths


def _read_name(source: _Source, most_bytes: int) -> str:
    length = source.u64()
    if not 0 < length <= most_bytes:
        raise LoadFailed(f"has a name of {length} bytes; 1 to {most_bytes} are allowed")
    return source.take(length).decode("utf-8", "replace")


def _read_text(source: _Source) -> str:
    length = source.u64()
    if length > MAX_TEXT_BYTES:
        source.skip(length)
        return f"(a text of {length} bytes)"
    return source.take(length).decode("utf-8", "replace")


def _read_numbers(
    source: _Source, form: Struct, count: int
) -> tuple[int | float | bool, ...] | None:
    if count > MAX_LIST:
        source.skip(count * form.size)
        return None
    raw = source.take(count * form.size)
    return tuple(number for (number,) in form.iter_unpack(raw))


def _read_tensor(source: _Source) -> tuple[Tensor, int]:
    """A tensor and where it claims to lie in the data."""
    name = _read_name(source, MAX_NAME_BYTES)
    dimensions = source.u32()
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise LoadFailed(f"tensor {name} has {dimensions} dimensions")
    shape = tuple(source.u64() for _ in range(dimensions))
    kind = source.u32()
    if kind not in FORMATS:
        raise LoadFailed(f"tensor {name} is stored in the unknown format {kind}")
    format_name, block_values, block_bytes = FORMATS[kind]
    if shape[0] % block_values:
        raise LoadFailed(f"tensor {name}: rows of {shape[0]} values do not fit {format_name}")
    size_bytes = shape[0] // block_values * block_bytes
    for extent in shape[1:]:
        size_bytes *= extent
    return Tensor(name, format_name, shape, size_bytes), source.u64()


def _check_data(table: list[tuple[Tensor, int]], alignment: int, data_bytes: int) -> None:
    """Tensors follow each other without gap or overlap, and the file holds them all."""
    expected = 0
    names: set[str] = set()
    for tensor, offset in table:
        if tensor.name in names:
            raise LoadFailed(f"has the tensor {tensor.name} twice")
        names.add(tensor.name)
        if offset != expected:
            raise LoadFailed(f"tensor {tensor.name} lies at {offset}, expected at {expected}")
        if offset + tensor.size_bytes > data_bytes:
            raise LoadFailed(
                f"is cut off: tensor {tensor.name} ends at byte {offset + tensor.size_bytes} "
                f"of the data, which has {max(0, data_bytes)}"
            )
        expected = _padded(offset + tensor.size_bytes, alignment)
