"""A GGUF file taken apart and put together again, with nothing checked: to make wrong ones."""

from dataclasses import dataclass, field
from struct import pack, unpack_from

__all__ = ["Key", "Layout", "TensorLine", "text"]

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass
class Key:
    """One line of the metadata."""

    name: bytes
    kind: int
    value: bytes
    """As in the file."""


@dataclass
class TensorLine:
    """One line of the tensor table."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int


@dataclass
class Layout:
    """The parts of a file."""

    keys: list[Key]
    tensors: list[TensorLine]
    data: bytes
    version: int = 3
    magic: bytes = b"GGUF"
    counts: dict[str, int] = field(default_factory=dict)
    """Announced counts that are not the true ones: `keys`, `tensors`."""

    @classmethod
    def read(cls, raw: bytes) -> "Layout":
        version, tensors, count = unpack_from("<IQQ", raw, 4)
        at = 24
        keys: list[Key] = []
        for _ in range(count):
            name, at = _text(raw, at)
            kind = unpack_from("<I", raw, at)[0]
            end = _end(raw, at + 4, kind)
            keys.append(Key(name, kind, raw[at + 4 : end]))
            at = end
        table: list[TensorLine] = []
        for _ in range(tensors):
            name, at = _text(raw, at)
            dimensions = unpack_from("<I", raw, at)[0]
            shape = list(unpack_from(f"<{dimensions}Q", raw, at + 4))
            kind, offset = unpack_from("<IQ", raw, at + 4 + 8 * dimensions)
            table.append(TensorLine(name, shape, kind, offset))
            at += 16 + 8 * dimensions
        return cls(keys, table, raw[at + -at % _ALIGNMENT :], version)

    def head(self) -> bytes:
        """Everything before the data, without its padding."""
        counts = (
            self.counts.get("tensors", len(self.tensors)),
            self.counts.get("keys", len(self.keys)),
        )
        keys = b"".join(text(key.name) + pack("<I", key.kind) + key.value for key in self.keys)
        table = b"".join(
            text(one.name)
            + pack(f"<I{len(one.shape)}QIQ", len(one.shape), *one.shape, one.kind, one.offset)
            for one in self.tensors
        )
        return self.magic + pack("<IQQ", self.version, *counts) + keys + table

    def build(self) -> bytes:
        head = self.head()
        return head + bytes(-len(head) % _ALIGNMENT) + self.data

    def key(self, ending: str) -> Key:
        """The key whose name ends so."""
        return next(one for one in self.keys if one.name.endswith(ending.encode()))


def text(value: bytes) -> bytes:
    return pack("<Q", len(value)) + value


def _text(raw: bytes, at: int) -> tuple[bytes, int]:
    length = unpack_from("<Q", raw, at)[0]
    return raw[at + 8 : at + 8 + length], at + 8 + length


def _end(raw: bytes, at: int, kind: int) -> int:
    if kind == _TEXT:
        return _text(raw, at)[1]
    if kind != _ARRAY:
        return at + _SIZES[kind]
    inner, count = unpack_from("<IQ", raw, at)
    at += 12
    if inner != _TEXT:
        return at + count * _SIZES[inner]
    for _ in range(count):
        at = _text(raw, at)[1]
    return at
