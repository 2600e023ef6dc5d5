"""What HTTP itself is allowed, over real sockets: heads, slow clients, too many connections.

Bounds that must be reached are tiny, and those that must not are hours: no test depends on speed.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import uvloop
from asgi_client import CHAT, chat_body
from fake_service import FakeService

from repertory.gateway import Limits, Waiting
from repertory.gateway.app import build_app
from repertory.gateway.listener import Bounds, Listener, open_socket
from repertory.live.facade import Piece

TINY_S, HOURS_S = 0.05, 10_000.0
PATIENT = Bounds(head_s=HOURS_S, body_idle_s=HOURS_S, body_s=HOURS_S)
PATIENCE_S = 60.0
"""Of a test with its own server; reached by a hang only."""

Visit = Callable[["Site"], Coroutine[Any, Any, None]]


class Site:
    """A server that listens, and its connections."""

    def __init__(self, port: int, service: FakeService, denied: list[str]) -> None:
        self.port = port
        self.denied = denied
        self.service = service
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, first: bytes = b"") -> "Line":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        writer.write(first)
        return Line(reader, writer)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body)

    async def rest(self) -> bytes:
        """What is still sent until the end."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def site(bounds: Bounds, waiting: Waiting) -> AsyncIterator[Site]:
    service = FakeService()
    limits = Limits(waiting=waiting)
    app = build_app(service, random=Random(7), unix_s=lambda: 1_700_000_000.9, limits=limits)
    with open_socket("127.0.0.1", 0) as listening:
        denied: list[str] = []
        listener = Listener(app, listening, 1.0, bounds, denied.append)
        serving = asyncio.create_task(listener.serve())
        await listener.accepting()
        place = Site(listener.port, service, denied)
        try:
            yield place
        finally:
            place.close()
            listener.stop()
            await serving


def visit(bounds: Bounds, what: Visit, waiting: Waiting | None = None) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), site(bounds, waiting or Waiting()) as place:
            await what(place)

    _run(main())


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def get(path: str = "/health", *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "host: test", *headers, "", "")).encode()


def post(body: bytes, announced: int | None = None) -> bytes:
    size = len(body) if announced is None else announced
    return f"POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-length: {size}\r\n\r\n".encode() + body


GOOD = json.dumps(chat_body()).encode()


def is_ours(body: Any) -> bool:
    return set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(get("/" + "x" * 40_000), id="a long path"),
        pytest.param(get("/health", "a: " + "x" * 40_000), id="a long header"),
        pytest.param(get("/health", *(f"a{n}: {'x' * 900}" for n in range(40))), id="many bytes"),
        pytest.param(get("/health", *(f"a{n}: x" for n in range(200))), id="many headers"),
        pytest.param(b"GET /health HTTP/1.1\r\na: " + b"x" * 40_000, id="a header without an end"),
    ],
)
def test_a_large_head_is_431_and_the_end_of_its_connection(request_bytes: bytes) -> None:
    async def what(place: Site) -> None:
        line = await place.open(request_bytes)
        status, headers, body = await line.answer()
        assert (status, headers["connection"], is_ours(body)) == (431, "close", True)
        assert await line.rest() == b""
        assert (await (await place.open(get())).answer())[0] == 200, "others are not concerned"
        assert place.denied == ["head"]

    visit(PATIENT, what)


def test_a_head_within_its_bound_passes_in_pieces_and_again() -> None:
    async def what(place: Site) -> None:
        line = await place.open()
        request = get("/health", *(f"a{n}: {'x' * 300}" for n in range(90)))
        for _ in range(3):
            for at in range(0, len(request), 7_000):
                line.send(request[at : at + 7_000])
                await asyncio.sleep(0)
            assert (await line.answer())[0] == 200

    visit(PATIENT, what)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 TLS to a plain port\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: x\r\n\r\n",  # a target that is no path
    ],
)
def test_what_is_no_http_is_400_in_our_words(sent: bytes) -> None:
    async def what(place: Site) -> None:
        line = await place.open(sent)
        status, _, body = await line.answer()
        assert (status, is_ours(body)) == (400, True)
        assert await line.rest() == b""
        assert place.denied == ["malformed"]

    visit(PATIENT, what)


@pytest.mark.parametrize("sent", [b"G", b"GET /health HTTP/1.1\r\nhost: te"])
def test_headers_that_do_not_come_are_408(sent: bytes) -> None:
    async def what(place: Site) -> None:
        line = await place.open(sent)
        status, _, body = await line.answer()
        assert (status, is_ours(body)) == (408, True)
        assert await line.rest() == b""

    visit(Bounds(head_s=TINY_S, body_idle_s=HOURS_S, body_s=HOURS_S), what)


def test_a_connection_on_which_nothing_is_asked_is_closed_without_a_word() -> None:
    async def what(place: Site) -> None:
        line = await place.open()
        assert await line.rest() == b""

    visit(Bounds(head_s=TINY_S, body_idle_s=HOURS_S, body_s=HOURS_S), what)


@pytest.mark.parametrize("body_s", [HOURS_S, TINY_S])
def test_a_body_that_does_not_go_on_is_408_and_its_generation_never_begins(body_s: float) -> None:
    async def what(place: Site) -> None:
        line = await place.open(post(GOOD[:20], len(GOOD)))
        status, _, body = await line.answer()
        assert (status, is_ours(body)) == (408, True)
        assert await line.rest() == b""
        assert place.service.asked == []
        assert place.denied == ["slow"]

    idle_s = TINY_S if body_s == HOURS_S else HOURS_S
    visit(Bounds(head_s=HOURS_S, body_idle_s=idle_s, body_s=body_s), what)


def test_a_body_that_drips_ends_with_its_time() -> None:
    """Each byte is in time; all of them together are not."""

    async def what(place: Site) -> None:
        line = await place.open(post(b"", 10**6))
        ended = asyncio.create_task(line.answer())
        while not ended.done():
            line.send(b" ")
            await asyncio.sleep(0)
        assert (await ended)[0] == 408

    visit(Bounds(head_s=HOURS_S, body_idle_s=HOURS_S, body_s=0.3), what)


def test_a_long_answer_has_no_bound_of_its_own() -> None:
    """Only clients are hurried: the answer takes longer than any bound here."""

    async def what(place: Site) -> None:
        hold = asyncio.Event()
        place.service.steps = (Piece("a", (1,)), hold, *FakeService().steps)
        line = await place.open(post(GOOD))
        await place.service.admitted.wait()
        slow = await place.open(post(GOOD[:20], len(GOOD)))
        assert (await slow.answer())[0] == 408, "a bound has passed"
        hold.set()
        assert (await line.answer())[0] == 200

    visit(Bounds(head_s=HOURS_S, body_idle_s=TINY_S, body_s=HOURS_S), what)


def test_what_is_refused_behind_a_running_answer_is_not_written_into_it() -> None:
    async def what(place: Site) -> None:
        hold = asyncio.Event()
        place.service.steps = (Piece("a", (1,)), hold)
        line = await place.open(post(GOOD))
        await place.service.admitted.wait()
        line.send(get("/" + "x" * 40_000))
        assert await line.rest() == b""

    visit(PATIENT, what)


def test_connections_over_the_bound_are_told_and_free_ones_serve_again() -> None:
    async def what(place: Site) -> None:
        first, second = await place.open(get()), await place.open(get())
        assert (await first.answer())[0] == (await second.answer())[0] == 200
        third = await place.open(get())
        status, headers, body = await third.answer()
        assert (status, is_ours(body)) == (503, True)
        assert int(headers["retry-after"]) > 0
        assert place.denied == ["connections"]
        assert await third.rest() == b""
        first.send(get())
        assert (await first.answer())[0] == 200, "who is in, stays"
        place.close()
        assert await first.rest() == b""
        while status == 503:  # the server hears of the closed ones when it does
            status = (await (await place.open(get())).answer())[0]
        assert status == 200

    visit(Bounds(head_s=HOURS_S, body_idle_s=HOURS_S, body_s=HOURS_S, connections=2), what)


def test_far_more_connections_are_closed_at_once() -> None:
    async def what(place: Site) -> None:
        lines = [await place.open() for _ in range(1 + 64 + 1)]
        assert await lines[-1].rest() == b""
        lines[0].send(get())
        assert (await lines[0].answer())[0] == 200

    visit(Bounds(head_s=HOURS_S, body_idle_s=HOURS_S, body_s=HOURS_S, connections=1), what)


def test_a_client_that_takes_nothing_keeps_neither_slot_nor_connection() -> None:
    """Nothing of its answer may be left to be sent, or the connection would wait for it."""

    async def what(place: Site) -> None:
        place.service.steps = [Piece("x" * 1000, (1,))] * 20_000  # 20 MB, more than sockets hold
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", place.port))
            client.sendall(post(json.dumps(chat_body(stream=True)).encode()))
            await place.service.admitted.wait()
            await place.service.asked[0].generation.closed.wait()
            status = 503
            while status == 503:  # its connection is the only one allowed
                status = (await (await place.open(get())).answer())[0]
            assert status == 200
        assert place.service.asked[0].generation.taken < 20_000

    bounds = Bounds(head_s=HOURS_S, body_idle_s=HOURS_S, body_s=HOURS_S, connections=1)
    visit(bounds, what, Waiting(grace_s=TINY_S, keep_alive_s=TINY_S, stall_s=TINY_S))
