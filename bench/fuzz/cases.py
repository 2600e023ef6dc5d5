"""One case for each number: a pure function of (seed, number), so that any can be sent alone."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from random import Random

from bench.fuzz.bodies import ENDPOINTS, MODELS, body_for
from bench.fuzz.spoil import spoiled

__all__ = ["SLOW_EVERY", "Case", "Manner", "case_of", "request_bytes"]

SLOW_EVERY = 1250
"""One case of so many stops in the middle of a request and waits to be told (408 after 20 s)."""


class Manner(Enum):
    """How the client behaves."""

    READS = "reads"
    """To the end of every answer that it is owed."""
    HEARS = "hears"
    """What it sent may be no request: an answer, or the end of the connection, will do."""
    LEAVES = "leaves"
    """After so many bytes of the answer, or a moment."""
    STALLS = "stalls"
    """Sends no more and waits until the server ends it."""


@dataclass(frozen=True)
class Case:
    """What is sent, how, and what is owed."""

    number: int
    kind: str
    pieces: tuple[bytes, ...]
    """Sent one after the other, `pause_s` apart."""
    methods: tuple[str, ...] = ("POST",)
    """Of the requests in it: each is owed an answer."""
    manner: Manner = Manner.READS
    pause_s: float = 0.0
    leaves_after_bytes: int = 0
    """Of the answer; 0: none of them."""
    leaves_after_s: float = 0.0
    is_abrupt: bool = False
    """Leaves with a reset."""

    @property
    def raw(self) -> bytes:
        return b"".join(self.pieces)


def case_of(seed: int, number: int) -> Case:
    luck = Random(f"{seed}/{number}")
    if number % SLOW_EVERY == SLOW_EVERY - 1:
        return _stalled(luck, number)
    kinds = tuple(_KINDS)
    kind = luck.choices(kinds, [_KINDS[each][0] for each in kinds])[0]
    return replace(_KINDS[kind][1](luck), number=number, kind=kind)


def request_bytes(
    path: str, body: bytes, method: str = "POST", headers: tuple[str, ...] = ()
) -> bytes:
    """A request as a client would write it."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogatepass") + body


def _case(*pieces: bytes, methods: tuple[str, ...] = ("POST",)) -> Case:
    return Case(0, "", pieces, methods)


def _ask(luck: Random) -> tuple[str, bytes]:
    """A path and a good body."""
    kind, path, _ = luck.choices(ENDPOINTS, [weight for *_, weight in ENDPOINTS])[0]
    return path, json.dumps(body_for(luck, kind), ensure_ascii=luck.random() < 0.5).encode()


def _good(luck: Random) -> Case:
    return _case(request_bytes(*_ask(luck)))


def _bad(luck: Random) -> Case:
    kind, path, _ = luck.choices(ENDPOINTS, [weight for *_, weight in ENDPOINTS])[0]
    return _case(request_bytes(path, spoiled(luck, body_for(luck, kind))))


def _leaving(luck: Random) -> Case:
    """Asks for much, and goes."""
    kind, path, _ = luck.choice(ENDPOINTS[:2])
    body = body_for(luck, kind) | {"max_tokens": 64, "ignore_eos": True, "stream": True}
    if luck.random() < 0.3:
        body["stream"] = False
    return replace(
        _case(request_bytes(path, json.dumps(body).encode())),
        manner=Manner.LEAVES,
        leaves_after_bytes=luck.choice((0, 0, 1, 300, 2000)),
        leaves_after_s=luck.choice((0.0, 0.001, 0.01, 0.05)),
        is_abrupt=luck.random() < 0.5,
    )


def _leaving_early(luck: Random) -> Case:
    """Goes in the middle of its own request."""
    raw = request_bytes(*_ask(luck))
    return replace(
        _case(raw[: luck.randrange(len(raw))]),
        manner=Manner.LEAVES,
        leaves_after_s=luck.choice((0.0, 0.005)),
        is_abrupt=luck.random() < 0.5,
    )


def _slow(luck: Random) -> Case:
    """In pieces, with pauses between them, cut anywhere."""
    raw = request_bytes(*_ask(luck))
    cuts = sorted(luck.randrange(len(raw)) for _ in range(luck.randrange(1, 8)))
    parts = [raw[at:to] for at, to in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return replace(_case(*parts), pause_s=luck.choice((0.0, 0.002, 0.01)))


def _pipelined(luck: Random) -> Case:
    requests = [_any_small(luck) for _ in range(luck.randrange(2, 7))]
    raw = b"".join(each for _, each in requests)
    return _case(raw, methods=tuple(method for method, _ in requests))


def _any_small(luck: Random) -> tuple[str, bytes]:
    if luck.random() < 0.5:
        return "POST", request_bytes(*_ask(luck))
    method = luck.choice(("GET", "HEAD"))
    return method, request_bytes(luck.choice(("/health", "/v1/models", "/nowhere")), b"", method)


_PATHS = (
    "/v1/models",
    "/v1/models/ant",
    "/v1/models/%61nt",
    "/v1/models/nobody",
    "/health",
    "/metrics",
    "/admin/ps",
    "/admin/models/ant/dance",
    "/admin/models//load",
    "/v1/chat/completions",
    "/tokenize",
    "/",
    "//",
    "/v1//models",
    "/v1/models/../../etc/passwd",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/%00",
    "/v1/models/%00",
    "/v1/models/a%0d%0ab",
    "/v1/models/%ff%fe",
    "/v1/models/%",
    "/v1/models/%zz",
    "/v1/models/\u00e9",
    "/v1/models/a b",
    "/v1/models?x=1&y=%00",
    "/v1/models#fragment",
    "/v1/models/" + "x" * 5000,
    "/v1/models/" + "x/" * 2000,
    "/V1/MODELS",
    "/v1/models/",
    "*",
    "http://elsewhere.example/v1/models",
    "http://",
    "v1/models",
    "/.well-known/openid-configuration",
    "/v1/models;a=b",
)
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")


def _odd_path(luck: Random) -> Case:
    """Any method on any path; what is no request target may be answered by closing."""
    method, path = luck.choice(_METHODS), luck.choice(_PATHS)
    body = luck.choice((b"", b"", b"{}", b"x" * 1000))
    case = _case(request_bytes(path, body, method), methods=(method,))
    return replace(case, manner=Manner.HEARS)


def _wish(luck: Random) -> Case:
    """An operator loads and unloads while others ask."""
    wish = luck.choice(("load", "load", "unload", "pin", "unpin"))
    return _case(request_bytes(f"/admin/models/{luck.choice(MODELS)}/{wish}", b""))


def _odd_headers(luck: Random) -> Case:
    path, body = _ask(luck)
    raw = request_bytes(path, body, headers=luck.choice(_HEADERS))
    return replace(_case(raw), manner=Manner.HEARS)


_HEADERS: tuple[tuple[str, ...], ...] = (
    ("x-long: " + "x" * 40_000,),
    tuple(f"x-{n}: {n}" for n in range(200)),
    ("no colon here",),
    (": no name",),
    ("x y: space in the name",),
    ("x-fold: a\r\n b",),
    ("x-nul: a\0b",),
    ("x-cr: a\rb",),
    ("x-\u00e9: b",),
    ("x-bytes: \udcff",),
    ("transfer-encoding: chunked",),
    ("transfer-encoding: gzip, chunked",),
    ("transfer-encoding: identity",),
    ("content-length: 5",),
    ("content-length: -1",),
    ("content-length: 99999999999999999999",),
    ("content-length: +5",),
    ("host: other", "host: third"),
    ("expect: 100-continue",),
    ("expect: 200-maybe",),
    ("connection: upgrade", "upgrade: websocket", "sec-websocket-key: eA=="),
    ("connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABk"),
    ("connection: close",),
    ("connection: \0",),
    ("content-encoding: gzip",),
    ("content-type: text/plain; charset=utf-7",),
    ("accept: application/xml",),
    ("authorization: Bearer " + "k" * 3000,),
    ("authorization: \u00e9",),
    ("x-api-key: ",),
    ("range: bytes=0-5",),
    ("cookie: " + "a=b; " * 3000,),
)  # fmt: skip


def _chunked(luck: Random) -> Case:
    """A body in chunks of its own making, right or wrong."""
    path, body = _ask(luck)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    at = luck.randrange(len(body) + 1)
    parts = [part for part in (body[:at], body[at:]) if part]
    good = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    way = luck.randrange(8)
    if way < 3:
        trailer = luck.choice((b"", b"x-after: 5\r\n"))
        return _case(head + good + b"0\r\n" + trailer + b"\r\n")
    wrong = (
        b"zz\r\n",
        b"-5\r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nabc",
        b"5\r\nabcdefgh\r\n0\r\n\r\n",
        b"0" * 5000 + b"\r\n\r\n",
    )[way - 3]
    return replace(_case(head + good + wrong), manner=Manner.HEARS)


def _no_http(luck: Random) -> Case:
    raw = luck.choice(_NO_HTTP)
    if luck.random() < 0.3:
        raw = luck.randbytes(luck.randrange(1, 400))
    elif luck.random() < 0.4:
        found = bytearray(request_bytes(*_ask(luck)))
        for _ in range(luck.choice((1, 3, 20))):
            found[luck.randrange(min(len(found), 150))] ^= 1 << luck.randrange(8)
        raw = bytes(found)
    return replace(_case(raw), manner=Manner.HEARS)


_NO_HTTP = (
    b"GET /health\r\n\r\n",
    b"GET /health HTTP/0.9\r\n\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    b"GET /health HTTP/9.9\r\n\r\n",
    b"GET  /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\nhost: localhost\n\n",
    b"\r\n\r\n\r\nGET /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"get /health http/1.1\r\nhost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 500,
    b"\0" * 40_000,
    b"A" * 70_000,
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"\r\n" * 20_000,
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 60,
    b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGARBAGE\r\n\r\n",
)


def _stalled(luck: Random, number: int) -> Case:
    raw = request_bytes(*_ask(luck))
    return Case(number, "stalls", (raw[: luck.randrange(1, len(raw))],), manner=Manner.STALLS)


_KINDS: dict[str, tuple[int, Callable[[Random], Case]]] = {
    "good": (40, _good),
    "bad body": (30, _bad),
    "odd path": (6, _odd_path),
    "odd headers": (4, _odd_headers),
    "chunked": (2, _chunked),
    "no HTTP": (4, _no_http),
    "pipelined": (3, _pipelined),
    "in pieces": (3, _slow),
    "leaves": (4, _leaving),
    "leaves early": (3, _leaving_early),
    "wish": (1, _wish),
}
"""Kind -> how many of a hundred, and its maker."""
