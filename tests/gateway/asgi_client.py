"""A client that speaks ASGI itself: sees every message, leaves or stalls when told to."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from fake_service import FakeService

from repertory.gateway import Limits, build_app
from repertory.gateway.answer import EXTENSION
from repertory.testing.clock import run_virtual

_Result = TypeVar("_Result")

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
EMBED = "/v1/embeddings"


def app_of(service: FakeService, limits: Limits | None = None) -> Any:
    return build_app(service, random=Random(7), unix_s=lambda: 1_700_000_000.9, limits=limits)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "coder", "messages": [{"role": "user", "content": "hi"}], **fields}


@dataclass
class Reply:
    """What came back, with the loop's time of each message."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    started_s: float | None = None
    is_complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(chunk for _, chunk in self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """Data of the stream's events; comments and event names are passed over."""
        lines = self.body.decode().split("\n")
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]

    @property
    def text(self) -> str:
        choices = [each["choices"] for each in self.events if each != "[DONE]"]
        return "".join(
            choice[0].get("text") or choice[0].get("delta", {}).get("content") or ""
            for choice in choices
            if choice
        )


@dataclass
class Client:
    """`leaves`: when set, the client is gone.  `reads`: while clear, it reads nothing, or a message
    every `patience_s`.  `aborted`: set when its connection is cut.
    """

    app: Any
    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event | None = None
    patience_s: float | None = None
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    headers: dict[str, str] = field(default_factory=dict)
    reply: Reply = field(default_factory=Reply)

    async def post(self, path: str, body: object) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", path, raw)

    async def get(self, path: str) -> Reply:
        return await self.send("GET", path, b"")

    async def send(self, method: str, path: str, body: bytes) -> Reply:
        bodies = [body[: len(body) // 2], body[len(body) // 2 :]]

        async def receive() -> Mapping[str, Any]:
            if bodies:
                part = bodies.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(bodies)}
            await self.leaves.wait()
            return {"type": "http.disconnect"}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [
                (name.encode(), value.encode())
                for name, value in {"host": "test", **self.headers}.items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "extensions": {EXTENSION: {"abort": self.aborted.set}},
        }
        await self.app(scope, receive, self._take)
        return self.reply

    async def _take(self, message: Mapping[str, Any]) -> None:
        if self.reads is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.patience_s):
                    await self.reads.wait()
        now_s = asyncio.get_running_loop().time()
        if message["type"] == "http.response.start":
            assert self.reply.started_s is None, "a second response"
            self.reply.started_s = now_s
            self.reply.status = message["status"]
            self.reply.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        assert self.reply.started_s is not None
        assert not self.reply.is_complete, "something after the end"
        if message["body"]:
            self.reply.chunks.append((now_s, bytes(message["body"])))
        self.reply.is_complete = not message.get("more_body", False)


def run_virtually(main: Coroutine[Any, Any, _Result]) -> _Result:
    """`asyncio.run` where no second is ever waited for."""
    return run_virtual(lambda _: main)
