"""Good bodies made wrong: values of other types and sizes, and bytes that are no JSON."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

from bench.fuzz.bodies import Body

__all__ = ["spoiled"]

_Place = tuple[Any, Any]  # a container and its key or index


class _Raw:
    """Written as it stands: what `json` would not write, or only slowly."""

    def __init__(self, text: str) -> None:
        self.text = text


_ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    1e308,
    -0.0,
    "",
    "x" * 20_000,
    "\u0000",
    "é" * 50,
    "\\",
    [],
    {},
    [None],
    {"": ""},
    [[[[[[1]]]]]],
    {"type": "text"},
    {"a": {"b": {"c": []}}},
    _Raw("NaN"),
    _Raw("Infinity"),
    _Raw("-Infinity"),
    _Raw("1e999"),
    _Raw("-"),
    _Raw("01"),
    _Raw("1."),
    _Raw('"\\ud800"'),
    _Raw('"\\udc00\\ud800"'),
    _Raw('"\\x41"'),
    _Raw('"\\u12"'),
    _Raw("'single'"),
    _Raw("undefined"),
    _Raw("[1,]"),
    _Raw('{"a":1,}'),
    _Raw("9" * 5000),
    _Raw("[" * 200 + "]" * 200),
    _Raw("[" * 20_000 + "]" * 20_000),
    _Raw('{"a":' * 900 + "1" + "}" * 900),
    _Raw('{"a":' * 20_000 + "1" + "}" * 20_000),
    _Raw("[" * 100_000),
)


def spoiled(luck: Random, body: Body) -> bytes:
    """The bytes of a body after one to three changes of values, and sometimes of bytes."""
    if luck.random() < 0.85:
        for _ in range(luck.choice((1, 1, 2, 3))):
            _change(luck, body)
    raw = _written(luck, body).encode("utf-8", "surrogatepass")
    if luck.random() < 0.3:
        raw = luck.choice(_BYTES)(luck, raw)
    return raw


def _places(value: Any) -> list[_Place]:
    keys: Any = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    return [found for key in keys for found in [(value, key), *_places(value[key])]]


def _change(luck: Random, body: Body) -> None:
    places = _places(body)
    if not places:
        return
    container, key = luck.choice(places)
    way = luck.random()
    if way < 0.75:
        container[key] = deepcopy(luck.choice(_ODD))
    elif way < 0.85:
        del container[key]
    elif isinstance(container, dict):
        name = luck.choice(("unknown", "model", "é", "\u0000", str(key).upper()))
        container[name] = deepcopy(luck.choice(_ODD))
    else:
        container.extend(container[key : key + 1] * luck.choice((1, 20, 500)))


def _written(luck: Random, value: Any) -> str:
    """JSON, with what stands in `_Raw` as it is; now and then a key stands twice."""
    match value:
        case _Raw():
            return value.text
        case dict():
            pairs = [f"{json.dumps(str(k))}:{_written(luck, v)}" for k, v in value.items()]
            if pairs and luck.random() < 0.02:
                pairs.append(luck.choice(pairs))
            return "{" + ",".join(pairs) + "}"
        case list():
            return "[" + ",".join(_written(luck, each) for each in value) + "]"
        case int() if abs(value) > 10**300:
            return f"{'-' if value < 0 else ''}1{'0' * 400}"
    return json.dumps(value, ensure_ascii=luck.random() < 0.5)


def _cut(luck: Random, raw: bytes) -> bytes:
    return raw[: luck.randrange(len(raw) + 1)]


def _flipped(luck: Random, raw: bytes) -> bytes:
    found = bytearray(raw)
    for _ in range(luck.choice((1, 2, 8)) if found else 0):
        found[luck.randrange(len(found))] ^= 1 << luck.randrange(8)
    return bytes(found)


def _sown(luck: Random, raw: bytes) -> bytes:
    """Bytes that are no UTF-8, in any place."""
    at = luck.randrange(len(raw) + 1)
    wrong = luck.choice(
        (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\0")
    )
    return raw[:at] + wrong + raw[at:]


def _recoded(luck: Random, raw: bytes) -> bytes:
    text = raw.decode("utf-8", "replace")
    return text.encode(luck.choice(("utf-16", "utf-32", "utf-8-sig", "cp500")), "replace")


def _wrapped(luck: Random, raw: bytes) -> bytes:
    head, tail = luck.choice(
        (
            (b"", b"}"),
            (b"[", b"]"),
            (b" " * 5000, b""),
            (b"", b"\n{}"),
            (b"//\n", b""),
            (b"\x1f\x8b", b""),
        )
    )
    return head + raw + tail


def _other(luck: Random, _: bytes) -> bytes:
    return luck.choice(
        (b"", b"null", b"5", b'"text"', b"[]", b"{}", b"\0" * 100, luck.randbytes(200), b"a=1&b=2")
    )


_BYTES: tuple[Callable[[Random, bytes], bytes], ...] = (
    _cut,
    _flipped,
    _sown,
    _recoded,
    _wrapped,
    _other,
)
