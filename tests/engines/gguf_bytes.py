"""GGUF files of a few hundred bytes, right or wrong in any place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from struct import pack

Scalar = int | float | bool | str
U32, BOOL, TEXT, ARRAY, U64 = 4, 7, 8, 9, 10
F32_TENSOR, Q4_0_TENSOR, Q8_0_TENSOR = 0, 2, 8


def text(value: str) -> bytes:
    return pack("<Q", len(value.encode())) + value.encode()


def scalar(value: Scalar) -> bytes:
    match value:
        case bool():
            return pack("<I?", BOOL, value)
        case str():
            return pack("<I", TEXT) + text(value)
        case int() if value >= 2**32:
            return pack("<IQ", U64, value)
        case int():
            return pack("<II", U32, value)
        case _:
            return pack("<If", 6, value)


def array(values: Sequence[int] | Sequence[str]) -> bytes:
    kind = TEXT if values and isinstance(values[0], str) else U32
    head = pack("<IIQ", ARRAY, kind, len(values))
    return head + b"".join(text(v) if isinstance(v, str) else pack("<I", v) for v in values)


@dataclass
class Gguf:
    """What `build` writes; a test changes a field to make it wrong."""

    keys: Mapping[str, Scalar | Sequence[int] | Sequence[str]] = field(default_factory=dict)
    tensors: Sequence[tuple[str, Sequence[int], int, int, int]] = ()
    """(name, shape, format, offset, bytes)."""
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32
    data: bool = True

    def build(self) -> bytes:
        keys = b"".join(
            text(key) + (scalar(v) if isinstance(v, int | float | str) else array(v))
            for key, v in self.keys.items()
        )
        table = b"".join(
            text(name) + pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
            for name, shape, kind, offset, _ in self.tensors
        )
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.keys) if self.key_count is None else self.key_count,
        )
        head = b"GGUF" + pack("<IQQ", self.version, *counts) + keys + table
        head += bytes(-len(head) % self.alignment)
        end = max((offset + size for *_, offset, size in self.tensors), default=0)
        return head + (bytes(end) if self.data else b"")


def small_model(**changes: Scalar | Sequence[int] | Sequence[str]) -> Gguf:
    """A llama of two layers; changes name keys with `__` for a dot, under `llama.` if bare."""
    keys: dict[str, Scalar | Sequence[int] | Sequence[str]] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 2048,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"t{n}" for n in range(96)],
        "tokenizer.ggml.bos_token_id": 1,
    }
    for name, value in changes.items():
        key = name.replace("__", ".")
        keys[key if key.startswith(("general.", "split.", "tokenizer.")) else f"llama.{key}"] = (
            value
        )
    architecture = str(keys["general.architecture"])
    renamed = {
        (architecture + key.removeprefix("llama") if key.startswith("llama.") else key): value
        for key, value in keys.items()
    }
    tensors = [
        ("token_embd.weight", (64, 96), Q4_0_TENSOR, 0, 3456),
        ("blk.0.attn_q.weight", (64, 64), Q4_0_TENSOR, 3456, 2304),
        ("blk.0.attn_norm.weight", (64,), F32_TENSOR, 5760, 256),
        ("output.weight", (64, 96), Q8_0_TENSOR, 6016, 6528),
    ]
    return Gguf(renamed, tensors)
