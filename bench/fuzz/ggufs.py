"""Damaged model files: a pure function of (seed, number) and of the good files."""

from collections.abc import Callable, Sequence
from random import Random
from struct import pack

from bench.fuzz.gguf_layout import Key, Layout, text

__all__ = ["damaged_gguf"]

_EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 16)
_ODD_TEXTS = (b"", b"a\0b", b"\xff\xfe", b"x" * 70_000, "é🙂".encode(), b"%s%n", b"../../etc")


def damaged_gguf(seed: int, number: int, sources: Sequence[bytes]) -> tuple[str, bytes]:
    """(name of the damage, the file)."""
    luck = Random(f"{seed}/gguf/{number}")
    name = tuple(_WAYS)[number % len(_WAYS)]
    return name, _WAYS[name](luck, luck.choice(sources))


def _flip_head(luck: Random, raw: bytes) -> bytes:
    return _flip(luck, raw, len(Layout.read(raw).head()))


def _flip_any(luck: Random, raw: bytes) -> bytes:
    """Mostly in the weights: such a file computes something else, perhaps no numbers at all."""
    return _flip(luck, raw, len(raw))


def _flip(luck: Random, raw: bytes, most: int) -> bytes:
    found = bytearray(raw)
    for _ in range(luck.choice((1, 1, 4, 30))):
        found[luck.randrange(most)] ^= 1 << luck.randrange(8)
    return bytes(found)


def _cut(luck: Random, raw: bytes) -> bytes:
    head = len(Layout.read(raw).head())
    most = luck.choice((24, 200, head, head + 32, len(raw)))
    return raw[: luck.randrange(most)]


def _grown(luck: Random, raw: bytes) -> bytes:
    return raw + luck.choice((b"\0", b"GGUF", raw[:1000], luck.randbytes(4096)))


def _counts(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    which = luck.choice(("keys", "tensors"))
    true = len(found.keys) if which == "keys" else len(found.tensors)
    found.counts[which] = luck.choice((*_EXTREMES, true - 1, true + 1))
    return found.build()


def _lengths(luck: Random, raw: bytes) -> bytes:
    """The length of a name, a text or an array."""
    found = Layout.read(raw)
    key = luck.choice(found.keys)
    lie = pack("<Q", luck.choice((*_EXTREMES, 5, 1000)))
    if key.kind == 8:
        key.value = lie + key.value[8:]
    elif key.kind == 9:
        key.value = key.value[:4] + lie + key.value[12:]
    else:
        key.name = key.name[:2] + b"\0" * luck.choice((0, 1, 70_000))
    return found.build()


def _array_texts(luck: Random, raw: bytes) -> bytes:
    """Tokens or merges of other lengths, empty, equal or no UTF-8."""
    found = Layout.read(raw)
    key = found.key(luck.choice(("ggml.tokens", "ggml.merges")))
    count = int.from_bytes(key.value[4:12], "little")
    at, texts = 12, []
    for _ in range(count):
        length = int.from_bytes(key.value[at : at + 8], "little")
        texts.append(key.value[at + 8 : at + 8 + length])
        at += 8 + length
    for _ in range(luck.choice((1, 10, count))):
        texts[luck.randrange(count)] = luck.choice((*_ODD_TEXTS, texts[0], b" ", b"a"))
    if luck.random() < 0.4:
        texts = texts[: luck.randrange(count)]
    key.value = pack("<IQ", 8, len(texts)) + b"".join(map(text, texts))
    return found.build()


def _numbers(luck: Random, raw: bytes) -> bytes:
    """Layers, heads, lengths, ids of tokens: other numbers."""
    found = Layout.read(raw)
    sizes = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
    key = luck.choice([one for one in found.keys if one.kind in sizes])
    bits = 8 * len(key.value)
    value = luck.choice((*_EXTREMES, 2, 3, 5, 7, 33, 127, 4096, 10**6)) % 2**bits
    key.value = value.to_bytes(len(key.value), "little")
    return found.build()


def _floats(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    key = luck.choice([one for one in found.keys if one.kind == 6])
    odd = (float("nan"), float("inf"), 0.0, -1.0, 1e-38, 3e38)
    key.value = pack("<f", luck.choice(odd))
    return found.build()


def _kinds(luck: Random, raw: bytes) -> bytes:
    """A value under another type, with bytes that fit the type or do not."""
    found = Layout.read(raw)
    key = luck.choice(found.keys)
    kind, value = luck.choice(
        (
            (8, text(b"a text")),
            (7, b"\1"),
            (7, b"\7"),
            (6, pack("<f", 1.5)),
            (11, pack("<q", -5)),
            (12, pack("<d", 1e300)),
            (9, pack("<IQ", 8, 0)),
            (9, pack("<IQI", 4, 1, 7)),
            (9, pack("<IQ", 9, 1)),
            (13, b""),
            (255, b"\0" * 8),
        )
    )
    key.kind, key.value = kind, value
    return found.build()


def _texts(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    key = luck.choice([one for one in found.keys if one.kind == 8])
    key.value = text(
        luck.choice((*_ODD_TEXTS, b"llama", b"bert", b"mamba", b"t5", b"gpt2", b"spm"))
    )
    return found.build()


def _template(luck: Random, raw: bytes) -> bytes:
    """A chat template that is wrong, or asks for too much."""
    found = Layout.read(raw)
    found.key("chat_template").value = text(luck.choice(_TEMPLATES))
    return found.build()


_TEMPLATES = (
    b"{{ messages",
    b"{% for m in messages %}",
    b"{{ messages[99].content }}",
    b"{{ nothing.of.this }}",
    b"{{ raise_exception('no') }}",
    b"{% for i in range(10**9) %}x{% endfor %}",
    b"{{ 'x' * 10**9 }}",
    b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
    b"{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    b"{% include 'x' %}",
    b"{{ 1 / 0 }}",
    b"{{ 2 ** 10 ** 8 }}",
    b"{{ messages | tojson }}",
    b"\xff\xfe{{ messages }}",
    b"",
    b"plain text",
    b"{{ messages[0].content }}" * 3000,
)


def _dropped(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    for _ in range(luck.choice((1, 1, 3))):
        parts = found.keys if luck.random() < 0.5 else found.tensors
        del parts[luck.randrange(len(parts))]
    return found.build()


def _doubled(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    if luck.random() < 0.5:
        found.tensors.append(luck.choice(found.tensors))
    else:
        key = luck.choice(found.keys)
        found.keys.append(Key(key.name, key.kind, key.value))
    return found.build()


def _shuffled(luck: Random, raw: bytes) -> bytes:
    """Tensors' offsets, names or lines in another order."""
    found = Layout.read(raw)
    way = luck.randrange(3)
    if way == 0:
        luck.shuffle(found.tensors)
    else:
        one, other = luck.sample(found.tensors, 2)
        if way == 1:
            one.offset, other.offset = other.offset, one.offset
        else:
            one.name, other.name = other.name, one.name
    return found.build()


def _offsets(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    tensor = luck.choice(found.tensors)
    tensor.offset = luck.choice((*_EXTREMES, tensor.offset + 1, tensor.offset + 32, len(raw)))
    return found.build()


def _shapes(luck: Random, raw: bytes) -> bytes:
    """As many values, or not, in other dimensions: some still parse."""
    found = Layout.read(raw)
    tensor = luck.choice(found.tensors)
    way = luck.randrange(5)
    if way == 0:
        tensor.shape.reverse()
    elif way == 1:
        tensor.shape[luck.randrange(len(tensor.shape))] = luck.choice((*_EXTREMES, 32, 64))
    elif way == 2:
        tensor.shape += [1] * luck.choice((1, 2, 3, 40))
    elif way == 3 and tensor.shape[0] % 64 == 0:
        tensor.shape = [tensor.shape[0] // 2, 2, *tensor.shape[1:]]
    else:
        tensor.shape = []
    return found.build()


def _formats(luck: Random, raw: bytes) -> bytes:
    """Tensors of another format; where its size is the same the file still parses."""
    found = Layout.read(raw)
    tensor = luck.choice(found.tensors)
    tensor.kind = luck.choice((0, 1, 2, 3, 4, 8, 9, 20, 24, 30, 99, 2**32 - 1))
    return found.build()


def _names(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    tensor = luck.choice(found.tensors)
    tensor.name = luck.choice(
        (*_ODD_TEXTS, b"blk.99.attn_q.weight", b"token_embd.weight", tensor.name + b"x")
    )
    return found.build()


def _head_of_file(luck: Random, raw: bytes) -> bytes:
    found = Layout.read(raw)
    if luck.random() < 0.5:
        found.magic = luck.choice((b"FUGG", b"GGML", b"\0\0\0\0", b"PK\3\4"))
    else:
        found.version = luck.choice((0, 1, 2, 4, 0x03000000, 2**32 - 1))
    return found.build()


def _wild_weights(luck: Random, raw: bytes) -> bytes:
    """Everything parses, and the numbers are no numbers, or zero."""
    found = Layout.read(raw)
    size = len(found.data)
    filling = luck.choice((b"\xff", b"\0", b"\x7f", b"\x7e"))
    start = luck.choice((0, luck.randrange(size)))
    found.data = found.data[:start] + filling * (size - start)
    return found.build()


def _split(luck: Random, raw: bytes) -> bytes:
    """Says that it is a part of more, or of another alignment."""
    found = Layout.read(raw)
    name = luck.choice((b"split.count", b"split.no", b"split.tensors.count", b"general.alignment"))
    value = luck.choice((0, 2, 3, 7, 64, 1 << 31))
    found.keys.append(Key(name, 4, pack("<I", value)))
    return found.build()


_WAYS: dict[str, Callable[[Random, bytes], bytes]] = {
    "flip-head": _flip_head,
    "flip-any": _flip_any,
    "cut": _cut,
    "grown": _grown,
    "counts": _counts,
    "lengths": _lengths,
    "array-texts": _array_texts,
    "numbers": _numbers,
    "floats": _floats,
    "kinds": _kinds,
    "texts": _texts,
    "template": _template,
    "dropped": _dropped,
    "doubled": _doubled,
    "shuffled": _shuffled,
    "offsets": _offsets,
    "shapes": _shapes,
    "formats": _formats,
    "names": _names,
    "magic": _head_of_file,
    "wild-weights": _wild_weights,
    "split": _split,
}
