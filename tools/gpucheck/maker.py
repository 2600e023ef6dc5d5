"""Writes model files of real sizes fast: tensors are tiles of one block of random weights.

`repertory.engines.gguf.make` draws every weight, which is right for tests of exactness and takes
minutes for 8B parameters.  Here a 16 GB file costs little more than writing it.  The weights keep
the scale of a random model (1 / sqrt(fan in)), so that activations stay finite through all layers.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from gpucheck.shapes import Shape

__all__ = ["NoRoom", "Tensor", "make", "stored_bytes", "tensors"]

_TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_GROUP = 32
"""Values of a q4_0 block; f16 is tiled in pieces of as many."""
_TILE_GROUPS = 1_000_003
"""A prime, so that no two rows of a matrix are equal: 18 MB of q4_0, 64 MB of f16."""
_SPARE_BYTES = 1 << 30
"""Left free on the disk for the build and the results."""

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class NoRoom(Exception):
    """The disk is too small for the model; nothing was written."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write; `inputs` None is a vector of ones (a norm), which stays float32."""

    name: str
    outputs: int
    inputs: int | None
    deviation: float = 1.0


def make(path: Path, name: str, shape: Shape, progress: Callable[[int, int], None]) -> int:
    """Write a model and return the file's bytes; it appears under its name when it is complete.

    `progress` hears of (bytes written, bytes in total) after each tensor; what it raises ends
    the work.
    """
    total_bytes = sum(stored_bytes(one, shape) for one in tensors(shape))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < total_bytes + _SPARE_BYTES:
        raise NoRoom(
            f"{path.parent} has {free_bytes / 1e9:.1f} GB free, {name} takes "
            f"{total_bytes / 1e9:.1f}: choose another --out or fewer --models"
        )
    writer = GGUFWriter(unfinished, "llama")
    try:
        _add_parameters(writer, name, shape)
        _add_tokenizer(writer, shape.vocabulary)
        for one in tensors(shape):
            _announce(writer, one, shape)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        written_bytes = 0
        for number, one in enumerate(tensors(shape)):
            writer.write_tensor_data(_values(one, shape, number))
            written_bytes += stored_bytes(one, shape)
            progress(written_bytes, total_bytes)
    finally:
        writer.close()
    os.replace(unfinished, path)
    return path.stat().st_size


def stored_bytes(tensor: Tensor, shape: Shape) -> int:
    """A tensor's bytes in the file."""
    if tensor.inputs is None:
        return tensor.outputs * 4
    block_values, block_bytes = GGML_QUANT_SIZES[_TYPES[shape.weights][0]]
    return tensor.outputs * (tensor.inputs // block_values * block_bytes)


def tensors(shape: Shape) -> Iterator[Tensor]:
    """All tensors, in the order of the file."""
    width, wide, narrow = shape.embedding, shape.embedding, shape.kv_heads * shape.head
    yield _matrix("token_embd", shape.vocabulary, width, gain=math.sqrt(width))
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        yield Tensor(prefix + "attn_norm.weight", width, None)
        yield _matrix(prefix + "attn_q", wide, width)
        yield _matrix(prefix + "attn_k", narrow, width)
        yield _matrix(prefix + "attn_v", narrow, width)
        yield _matrix(prefix + "attn_output", width, wide)
        yield Tensor(prefix + "ffn_norm.weight", width, None)
        yield _matrix(prefix + "ffn_gate", shape.feed_forward, width)
        yield _matrix(prefix + "ffn_up", shape.feed_forward, width)
        yield _matrix(prefix + "ffn_down", width, shape.feed_forward)
    yield Tensor("output_norm.weight", width, None)
    yield _matrix("output", shape.vocabulary, width, gain=3.0)  # some tokens are likelier


def _matrix(name: str, outputs: int, inputs: int, gain: float = 1.0) -> Tensor:
    return Tensor(f"{name}.weight", outputs, inputs, gain / math.sqrt(inputs))


def _values(tensor: Tensor, shape: Shape, number: int) -> np.ndarray[tuple[int, ...], np.dtype]:
    if tensor.inputs is None:
        return np.ones(tensor.outputs, np.float32)
    tile = _tile(shape.weights, tensor.deviation)
    groups = tensor.outputs * tensor.inputs // _GROUP
    laid = np.empty((groups, tile.shape[1]), np.uint8)
    at, start = 0, number * 7919 % len(tile)  # each tensor begins elsewhere in the tile
    while at < groups:
        piece = tile[start : start + groups - at]
        laid[at : at + len(piece)] = piece
        at, start = at + len(piece), 0
    if shape.weights == "f16":
        return laid.view(np.float16).reshape(tensor.outputs, tensor.inputs)
    return laid.reshape(tensor.outputs, -1)


@cache
def _tile(weights: str, deviation: float) -> Bytes:
    """Groups of random weights of this deviation, as stored; the same for the same arguments."""
    luck = np.random.default_rng(0)
    if weights == "f16":
        limit = deviation * math.sqrt(3)  # of a uniform draw
        drawn = luck.uniform(-limit, limit, _TILE_GROUPS * _GROUP).astype(np.float16)
        return drawn.view(np.uint8).reshape(_TILE_GROUPS, -1)
    # A value is scale * (code - 8).  Codes 1 ... 15: without the lowest they are centred on 8,
    # with the deviation sqrt(56 / 3).
    low, high = luck.integers(1, 16, (2, _TILE_GROUPS, _GROUP // 2), np.uint8)
    scale = np.array(deviation / math.sqrt(56 / 3), "<f2")
    tile = np.empty((_TILE_GROUPS, 2 + _GROUP // 2), np.uint8)
    tile[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    tile[:, 2:] = low | high << 4
    return tile


def _announce(writer: GGUFWriter, tensor: Tensor, shape: Shape) -> None:
    size_bytes = stored_bytes(tensor, shape)
    if tensor.inputs is None:
        writer.add_tensor_info(tensor.name, (tensor.outputs,), np.dtype(np.float32), size_bytes)
    elif shape.weights == "f16":
        matrix = (tensor.outputs, tensor.inputs)
        writer.add_tensor_info(tensor.name, matrix, np.dtype(np.float16), size_bytes)
    else:
        rows = (tensor.outputs, size_bytes // tensor.outputs)
        stored = _TYPES[shape.weights][0]
        writer.add_tensor_info(tensor.name, rows, np.dtype(np.uint8), size_bytes, stored)


def _add_parameters(writer: GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(f"random-{name}")
    writer.add_file_type(_TYPES[shape.weights][1])
    writer.add_quantization_version(2)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)


def _add_tokenizer(writer: GGUFWriter, size: int) -> None:
    """Byte-level BPE of the full size: reading a vocabulary is part of what a load takes."""
    merges = list(islice(_merges(), size - 256 - 1))
    tokens = [*_byte_symbols(), *(left + right for left, right in merges), "<|end|>"]
    assert len(set(tokens)) == size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (size - 1) + [TokenType.CONTROL])
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(size - 1)
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)


def _byte_symbols() -> list[str]:
    """A printable character for each byte: itself where Latin-1 prints, else one from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """Words of two, three and four letters, each from the one that is a letter shorter."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    for length in (2, 3, 4):
        for *first, last in product(letters, repeat=length):
            yield "".join(first), last
