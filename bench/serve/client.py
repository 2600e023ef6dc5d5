"""A streaming client that notes when each chunk came.  The same for every server."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["Answer", "Ask", "ask", "play", "prompt_of", "session"]

FIRST_ID, LAST_ID = 300, 30_000
"""Ordinary tokens of the made models: no specials, no single bytes."""
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""llama-server's defaults, said to both."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    model: str
    prompt: tuple[int, ...]
    """Token ids: no server has more to compute than another."""
    max_tokens: int
    at_s: float = 0.0
    """Open loop: when it is sent, whatever became of those before."""


@dataclass(slots=True)
class Answer:
    """What became of it; times in seconds since it was sent."""

    ask: Ask
    ttft_s: float | None = None
    total_s: float = 0.0
    tokens: int = 0
    cached_tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)
    failure: str | None = None

    def ttft_or(self, timeout_s: float) -> float:
        """A failure counts as its timeout."""
        return timeout_s if self.failure or self.ttft_s is None else self.ttft_s


def prompt_of(tokens: int, luck: random.Random) -> tuple[int, ...]:
    return tuple(luck.randrange(FIRST_ID, LAST_ID) for _ in range(tokens))


def session() -> aiohttp.ClientSession:
    """A connection for each request: llama-server closes kept ones while they are written to."""
    return aiohttp.ClientSession(
        trust_env=False,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(),
    )


async def ask(http: aiohttp.ClientSession, url: str, wanted: Ask, timeout_s: float) -> Answer:
    """Send it, once, and read its stream to the end."""
    answer = Answer(wanted)
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    try:
        async with asyncio.timeout(timeout_s):
            await _read(http, url, answer, began_s)
    except TimeoutError:
        answer.failure = f"no end within {timeout_s:.0f} s"
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        answer.failure = f"{type(error).__name__}: {error}"
    answer.total_s = now_s() - began_s
    if answer.failure is None and answer.tokens != wanted.max_tokens:
        answer.failure = f"{answer.tokens} of {wanted.max_tokens} tokens"
    return answer


async def _read(http: aiohttp.ClientSession, url: str, answer: Answer, began_s: float) -> None:
    now_s = asyncio.get_running_loop().time
    last_s = None
    body = _body(answer.ask)
    async with http.post(f"{url}/v1/completions", data=body, headers=_HEADERS) as reply:
        if reply.status != 200:
            answer.failure = f"{reply.status}: {(await reply.read())[:200]!r}"
            return
        async for line in reply.content:
            if line.startswith((b"error:", b"event: error")):
                answer.failure = line.decode(errors="replace")
            if not line.startswith(b"data: {"):
                continue
            if b'"usage":{' in line:
                _count(answer, json.loads(line[len(b"data: ") :]))
            at_s = now_s()
            if last_s is None:
                answer.ttft_s = at_s - began_s
            else:
                answer.gaps_s.append(at_s - last_s)
            last_s = at_s


_HEADERS = {"content-type": "application/json"}


def _body(wanted: Ask) -> bytes:
    wishes = {
        "model": wanted.model,
        "prompt": list(wanted.prompt),
        "max_tokens": wanted.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        **SAMPLING,
    }
    return json.dumps(wishes).encode()


def _count(answer: Answer, chunk: Any) -> None:  # Any: JSON
    usage = chunk["usage"]
    answer.tokens = usage["completion_tokens"]
    details = usage.get("prompt_tokens_details") or {}
    answer.cached_tokens = details.get("cached_tokens", 0)


async def play(url: str, asks: Sequence[Ask], timeout_s: float) -> list[Answer]:
    """Open loop: each request at its time; returns when all have ended."""
    loop = asyncio.get_running_loop()
    async with session() as http:
        began_s = loop.time()

        async def send(one: Ask) -> Answer:
            await asyncio.sleep(max(0.0, began_s + one.at_s - loop.time()))
            return await ask(http, url, one, timeout_s)

        return list(await asyncio.gather(*(send(one) for one in asks)))
