"""A stream whose text is kept, with what it wishes beyond `bench.serve.client.Ask`."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["Told", "Wish", "tell"]

_HEADERS = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Wish:
    """One request."""

    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    seed: int
    priority: str | float = "interactive"
    at_s: float = 0.0
    """When it is sent, whatever became of those before."""
    key: str = ""
    """The API key that it is sent with."""


@dataclass(slots=True)
class Told:
    """What came of it; times in seconds since it was sent."""

    wish: Wish
    id: str = ""
    text: str = ""
    ttft_s: float | None = None
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    failure: str | None = None
    on_first: Callable[[], None] = lambda: None


async def tell(
    http: aiohttp.ClientSession,
    url: str,
    wish: Wish,
    timeout_s: float,
    *,
    is_ours: bool = True,
    on_first: Callable[[], None] = lambda: None,
) -> Told:
    """Send it, once, and read its stream to the end; `on_first` is called at its first token."""
    told = Told(wish, on_first=on_first)
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    try:
        async with asyncio.timeout(timeout_s):
            await _read(http, url, told, began_s, is_ours=is_ours)
    except TimeoutError:
        told.failure = f"no end within {timeout_s:.0f} s"
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        told.failure = f"{type(error).__name__}: {error}"
    told.total_s = now_s() - began_s
    if told.failure is None and told.tokens != wish.max_tokens:
        told.failure = f"{told.tokens} of {wish.max_tokens} tokens"
    return told


async def _read(
    http: aiohttp.ClientSession, url: str, told: Told, began_s: float, *, is_ours: bool
) -> None:
    now_s = asyncio.get_running_loop().time
    last_s = began_s
    body, headers = _body(told.wish, is_ours=is_ours), dict(_HEADERS)
    if told.wish.key:
        headers["authorization"] = f"Bearer {told.wish.key}"
    async with http.post(f"{url}/v1/completions", data=body, headers=headers) as reply:
        if reply.status != 200:
            told.failure = f"{reply.status}: {(await reply.read())[:300]!r}"
            return
        async for line in reply.content:
            if line.startswith((b"error:", b"event: error")):
                told.failure = line.decode(errors="replace")
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[len(b"data: ") :])
            if "error" in chunk:
                told.failure = str(chunk["error"])
                return
            last_s = _count(told, chunk, now_s(), began_s, last_s)


def _count(told: Told, chunk: Any, at_s: float, began_s: float, last_s: float) -> float:  # JSON
    told.id = chunk["id"]
    if chunk.get("usage"):
        told.tokens = chunk["usage"]["completion_tokens"]
    if not chunk["choices"] or not chunk["choices"][0].get("text"):
        return last_s
    told.text += chunk["choices"][0]["text"]
    if told.ttft_s is None:
        told.ttft_s = at_s - began_s
        told.on_first()
    else:
        told.gaps_s.append(at_s - last_s)
    return at_s


def _body(wish: Wish, *, is_ours: bool) -> bytes:
    body: dict[str, Any] = {
        "model": wish.model,
        "prompt": list(wish.prompt),
        "max_tokens": wish.max_tokens,
        "seed": wish.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
    }
    if is_ours:
        body["priority"] = wish.priority
    return json.dumps(body).encode()
