"""Make small GGUF files with random weights, for tests and demonstrations without a network.

A random model is useless and yet honest: it costs the memory and the time of a real one of its
shape, its tokenizer round-trips every byte, and each token depends on the whole context, because
every matrix keeps the scale of what goes through it (1 / sqrt(fan in)).  With the customary 0.02
a deep random model repeats one token, and a mistake in the KV memory would go unseen.

This is the one module that imports `gguf`: `header.py` reads files without it, since the stock
reader needs seconds for a big vocabulary and trusts the file.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from repertory.domain.errors import ConfigError

__all__ = ["CHAT_TEMPLATE", "Recipe", "make_model"]

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML."""


class Recipe(TypedDict, total=False):
    """What may be asked for; what is left out comes from `_DEFAULTS`."""

    arch: Literal["llama", "qwen3", "bert"]
    size: Literal["tiny", "50m", "300m", "1b"]
    weights: Literal["f16", "q8_0", "q4_0"]
    seed: int
    context_tokens: int
    name: str | None


_DEFAULTS: Recipe = {
    "arch": "llama",
    "size": "50m",
    "weights": "q8_0",
    "seed": 0,
    "context_tokens": 4096,
    "name": None,
}


def make_model(
    path: Path | str,
    *,
    progress: Callable[[int, int], None] | None = None,
    **wishes: Unpack[Recipe],
) -> int:
    """Write a model file and return its weights' bytes; equal recipes give equal files.

    The file appears under its name when it is complete.  Memory is that of one tensor.
    `progress` hears of (bytes written, bytes in total) after each one.
    """
    recipe = _DEFAULTS | wishes
    _check(recipe)
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        written_bytes = _write(unfinished, recipe, progress or _ignore)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return written_bytes


@dataclass(frozen=True, slots=True)
class _Shape:
    embedding: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int

    @property
    def head(self) -> int:
        return self.embedding // self.heads


_SHAPES = {
    "tiny": _Shape(128, 2, 4, 2, 384, 1024),
    "50m": _Shape(512, 8, 8, 4, 1536, 32000),
    "300m": _Shape(1024, 16, 16, 8, 2816, 32000),
    "1b": _Shape(2048, 22, 32, 8, 5632, 32000),
}
_TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_ARCHITECTURES = ("llama", "qwen3", "bert")
_MEAN_POOLING = 1
_CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _check(recipe: Recipe) -> None:
    """Wishes may come from a command line, so they are checked here and not by the types only."""
    choices = (
        ("arch", recipe["arch"], _ARCHITECTURES),
        ("size", recipe["size"], tuple(_SHAPES)),
        ("weights", recipe["weights"], tuple(_TYPES)),
    )
    for field, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(f"no {field} {value!r} to make; write one of {', '.join(allowed)}")
    if recipe["context_tokens"] < 1:
        raise ConfigError(f"context_tokens must be positive, not {recipe['context_tokens']}")
    if recipe["seed"] < 0:
        raise ConfigError(f"seed must not be negative, but is {recipe['seed']}")


def _ignore(written_bytes: int, total_bytes: int) -> None:
    """The progress of who does not ask."""


def _write(path: Path, recipe: Recipe, progress: Callable[[int, int], None]) -> int:
    shape = _SHAPES[recipe["size"]]
    stored, _ = _TYPES[recipe["weights"]]
    if recipe["arch"] == "bert":
        tensors = list(_encoder_tensors(shape, recipe["context_tokens"]))
    else:
        tensors = list(_tensors(shape, recipe["arch"]))
    total_bytes = sum(one.stored_bytes(stored) for one in tensors)
    writer = GGUFWriter(path, recipe["arch"])
    try:
        _add_parameters(writer, shape, recipe)
        _add_tokenizer(writer, shape.vocabulary)
        for one in tensors:
            _announce(writer, one, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        written_bytes = 0
        for number, one in enumerate(tensors):
            writer.write_tensor_data(_values(one, stored, (recipe["seed"], number)))
            written_bytes += one.stored_bytes(stored)
            progress(written_bytes, total_bytes)
    finally:
        writer.close()
    return written_bytes


def _add_parameters(writer: GGUFWriter, shape: _Shape, recipe: Recipe) -> None:
    default_name = "random-{arch}-{size}-{weights}-seed{seed}".format(**recipe)
    writer.add_name(recipe["name"] or default_name)
    writer.add_file_type(_TYPES[recipe["weights"]][1])
    writer.add_quantization_version(2)
    writer.add_context_length(recipe["context_tokens"])
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    if recipe["arch"] == "bert":
        writer.add_layer_norm_eps(1e-12)
        writer.add_causal_attention(False)
        writer.add_uint32("bert.pooling_type", _MEAN_POOLING)
        writer.add_token_type_count(1)
        return
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _add_tokenizer(writer: GGUFWriter, size: int) -> None:
    """Byte-level BPE as GPT-2's: 256 symbols and merges of them, so that any bytes round-trip."""
    merges = list(islice(_merges(), size - 256 - len(_CONTROL_TOKENS)))
    tokens = [*_byte_symbols(), *(left + right for left, right in merges), *_CONTROL_TOKENS]
    assert len(tokens) == len(set(tokens)) == size
    controls = [TokenType.CONTROL] * len(_CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (size - len(controls)) + controls)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    end_of_text, end_of_turn = tokens.index("<|endoftext|>"), tokens.index("<|im_end|>")
    writer.add_bos_token_id(end_of_text)
    writer.add_pad_token_id(end_of_text)
    writer.add_eos_token_id(end_of_turn)
    writer.add_eot_token_id(end_of_turn)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _byte_symbols() -> list[str]:
    """A printable character for each byte: itself where Latin-1 prints, else one from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs to merge, the most useful first: what can start a word, then its two and three letters.

    36,530 of them, each with a new text: enough for the biggest vocabulary above, so that a model
    which picks tokens at random still prints letters.
    """
    space = _byte_symbols()[ord(" ")]
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    yield from ((space, letter) for letter in letters)
    yield from product(letters, letters)
    yield from ((space + first, second) for first, second in product(letters, letters))
    threes = [(first + second, third) for first, second, third in product(letters, repeat=3)]
    yield from threes
    yield from ((space + pair, third) for pair, third in threes)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor to write; `inputs` None is a vector (a norm or a bias), which stays float32."""

    name: str
    outputs: int
    inputs: int | None = None
    gain: float = 1.0
    """Of its standard deviation, over 1 / sqrt(inputs); of a vector, its values."""

    def stored_bytes(self, stored: GGMLQuantizationType) -> int:
        if self.inputs is None:
            return self.outputs * 4
        block_values, block_bytes = GGML_QUANT_SIZES[stored]
        return self.outputs * (self.inputs // block_values * block_bytes)


def _encoder_tensors(shape: _Shape, context_tokens: int) -> Iterator[_Tensor]:
    """BERT's: every matrix has a bias, norms stand behind the sums, positions are looked up."""
    width = shape.embedding

    def with_bias(name: str, outputs: int, inputs: int) -> Iterator[_Tensor]:
        yield _Tensor(name + ".weight", outputs, inputs)
        yield _Tensor(name + ".bias", outputs, gain=0.0)

    def norm(name: str) -> Iterator[_Tensor]:
        yield _Tensor(name + ".weight", width)
        yield _Tensor(name + ".bias", width, gain=0.0)

    yield _Tensor("token_embd.weight", shape.vocabulary, width, math.sqrt(width))
    yield _Tensor("position_embd.weight", context_tokens, width, math.sqrt(width))
    yield _Tensor("token_types.weight", width, gain=0.0)  # of one type: the same for every token
    yield from norm("token_embd_norm")
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield from with_bias(prefix + name, width, width)
        yield from norm(prefix + "attn_output_norm")
        yield from with_bias(prefix + "ffn_up", shape.feed_forward, width)
        yield from with_bias(prefix + "ffn_down", width, shape.feed_forward)
        yield from norm(prefix + "layer_output_norm")


def _tensors(shape: _Shape, arch: str) -> Iterator[_Tensor]:
    wide, narrow = shape.heads * shape.head, shape.kv_heads * shape.head
    # Embeddings are looked up, not summed over: unit values whatever their width.
    yield _Tensor(
        "token_embd.weight", shape.vocabulary, shape.embedding, math.sqrt(shape.embedding)
    )
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        yield _Tensor(prefix + "attn_norm.weight", shape.embedding)
        yield _Tensor(prefix + "attn_q.weight", wide, shape.embedding)
        yield _Tensor(prefix + "attn_k.weight", narrow, shape.embedding)
        yield _Tensor(prefix + "attn_v.weight", narrow, shape.embedding)
        if arch == "qwen3":
            yield _Tensor(prefix + "attn_q_norm.weight", shape.head)
            yield _Tensor(prefix + "attn_k_norm.weight", shape.head)
        yield _Tensor(prefix + "attn_output.weight", shape.embedding, wide)
        yield _Tensor(prefix + "ffn_norm.weight", shape.embedding)
        yield _Tensor(prefix + "ffn_gate.weight", shape.feed_forward, shape.embedding)
        yield _Tensor(prefix + "ffn_up.weight", shape.feed_forward, shape.embedding)
        yield _Tensor(prefix + "ffn_down.weight", shape.embedding, shape.feed_forward)
    yield _Tensor("output_norm.weight", shape.embedding)
    # Logits of deviation 3: some tokens are likely, none is certain.
    yield _Tensor("output.weight", shape.vocabulary, shape.embedding, 3.0)


def _announce(writer: GGUFWriter, tensor: _Tensor, stored: GGMLQuantizationType) -> None:
    size_bytes = tensor.stored_bytes(stored)
    if tensor.inputs is None:
        writer.add_tensor_info(tensor.name, (tensor.outputs,), np.dtype(np.float32), size_bytes)
    elif stored is GGMLQuantizationType.F16:
        shape = (tensor.outputs, tensor.inputs)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float16), size_bytes)
    else:
        shape = (tensor.outputs, size_bytes // tensor.outputs)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), size_bytes, stored)


def _values(
    tensor: _Tensor, stored: GGMLQuantizationType, seed: tuple[int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """Random values of the tensor's deviation, drawn as stored codes under one scale.

    Drawing codes costs a tenth of quantizing floats and, for a random model, comes to the same.
    The lowest code of each format is folded into zero, which centres the rest.
    """
    if tensor.inputs is None:
        return np.full(tensor.outputs, tensor.gain, np.float32)
    deviation = tensor.gain / math.sqrt(tensor.inputs)
    luck = np.random.default_rng(seed)
    count = tensor.outputs * tensor.inputs
    if stored is GGMLQuantizationType.F16:
        values = np.frombuffer(luck.bytes(count * 2), "<i2").astype(np.float32)
        values *= np.float32(deviation / _spread(2**15 - 1))
        return values.astype(np.float16).reshape(tensor.outputs, tensor.inputs)
    if stored is GGMLQuantizationType.Q8_0:
        drawn = np.frombuffer(luck.bytes(count), np.uint8)
        codes = np.where(drawn == 0x80, np.uint8(0), drawn)
        return _blocks(codes.reshape(tensor.outputs, -1, 32), deviation / _spread(127))
    assert stored is GGMLQuantizationType.Q4_0
    codes = _NIBBLE_PAIRS[np.frombuffer(luck.bytes(count // 2), np.uint8)]
    return _blocks(codes.reshape(tensor.outputs, -1, 16), deviation / _spread(7))


def _spread(top: int) -> float:
    """Deviation of a uniform draw from -top - 1 … top whose lowest value counts as zero."""
    return math.sqrt(top * (2 * top + 1) / 6)


def _blocks(
    codes: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], scale: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Each row's blocks with their half-precision scale in front, as one row of bytes."""
    rows, blocks, code_bytes = codes.shape
    packed = np.empty((rows, blocks, 2 + code_bytes), np.uint8)
    packed[:, :, :2] = np.frombuffer(np.array(scale, "<f2").tobytes(), np.uint8)
    packed[:, :, 2:] = codes
    return packed.reshape(rows, -1)


_NIBBLE_PAIRS = np.array(
    [(byte >> 4 or 8) << 4 | (byte & 15 or 8) for byte in range(256)], np.uint8
)
"""A byte of two 4-bit codes (value = code - 8) -> the same with code 0 folded into the zero, 8."""
