"""One request over HTTP, its stream read to the end: what a client of any such server sees.

`/v1/completions` with `stream`: it takes prompts as token ids or as text, so that no chat template
makes one server compute more than another.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["Endpoint", "Heard", "Wanted", "ask", "greet", "session"]

_GREETING_S = 10.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and how to name things to it."""

    url: str
    models: dict[str, str] = field(default_factory=dict)
    """The workload's names to the server's; who is not in it keeps its name."""
    keys: dict[str, str] = field(default_factory=dict)
    """The workload's keys to API keys; "" is for all others."""
    has_priority: bool = False
    """It knows `priority` and deadlines, as ours does."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, ready to be sent."""

    model: str
    prompt: Sequence[int] | str
    max_tokens: int
    priority: str = ""
    deadline_s: float | None = None
    key: str = ""


@dataclass(slots=True)
class Heard:
    """What came back.  Times are of the running loop's clock."""

    status: int | None = None
    request_id: str | None = None
    """As the server's own log has it; None: it does not say."""
    first_s: float | None = None
    last_s: float | None = None
    longest_gap_s: float | None = None
    tokens: int | None = None
    """By the server's own count; None: it gave none."""
    pieces: int = 0
    prompt_tokens: int | None = None
    failure: str | None = None


def session() -> aiohttp.ClientSession:
    """A connection for each request: some servers close kept ones while they are written to."""
    return aiohttp.ClientSession(
        trust_env=False,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def greet(to: Endpoint) -> bool:
    """Whether it is one of ours, that knows priorities; raises `OSError` where nobody answers."""
    headers = _headers(to, Wanted("", "", 1))
    try:
        async with (
            session() as http,
            asyncio.timeout(_GREETING_S),
            http.get(f"{to.url}/v1/models", headers=headers) as reply,
        ):
            found = json.loads(await reply.read())
            return any(one.get("owned_by") == "repertory" for one in found["data"])
    except TimeoutError:
        raise OSError(f"it says nothing within {_GREETING_S:g} s") from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise OSError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return False  # it lists no models, and may still complete


async def ask(http: aiohttp.ClientSession, to: Endpoint, wanted: Wanted, timeout_s: float) -> Heard:
    """Send it, once, and read its stream to the end; whatever goes wrong is told, not raised."""
    heard = Heard()
    try:
        async with asyncio.timeout(timeout_s):
            await _read(http, to, wanted, heard)
    except TimeoutError:
        heard.failure = f"no end within {timeout_s:g} s"
    except (aiohttp.ClientError, ConnectionError, ValueError, KeyError, TypeError) as error:
        heard.failure = f"{type(error).__name__}: {error}"
    return heard


async def _read(http: aiohttp.ClientSession, to: Endpoint, wanted: Wanted, heard: Heard) -> None:
    now_s = asyncio.get_running_loop().time
    async with http.post(
        f"{to.url}/v1/completions", data=_body(to, wanted), headers=_headers(to, wanted)
    ) as reply:
        heard.status = reply.status
        heard.request_id = reply.headers.get("x-request-id")
        if reply.status != 200:
            heard.failure = f"{reply.status}: {_said(await reply.read())}"
            return
        is_whole = False
        async for line in reply.content:
            if line.startswith((b"error:", b"event: error")):
                heard.failure = heard.failure or line.decode(errors="replace").strip()
            if not line.startswith(b"data:"):
                continue  # comments keep the connection alive
            content = line[5:].strip()
            if content == b"[DONE]":
                is_whole = True
                continue
            _take(heard, json.loads(content), now_s())
        if not is_whole and heard.failure is None:
            heard.failure = "the stream broke off"


def _take(heard: Heard, chunk: Any, at_s: float) -> None:  # Any: JSON
    if chunk.get("error"):
        heard.failure = _shortened(str(chunk["error"]))
        return
    usage = chunk.get("usage")
    if usage:
        heard.tokens = usage.get("completion_tokens")
        heard.prompt_tokens = usage.get("prompt_tokens")
    choices = chunk.get("choices")
    if not choices or (not choices[0].get("text") and choices[0].get("finish_reason")):
        return  # the end, which is no token
    heard.pieces += 1
    if heard.first_s is None:
        heard.first_s = at_s
    elif heard.last_s is not None:
        gap_s = at_s - heard.last_s
        heard.longest_gap_s = max(gap_s, heard.longest_gap_s or 0.0)
    heard.last_s = at_s


def _body(to: Endpoint, wanted: Wanted) -> bytes:
    body: dict[str, Any] = {
        "model": to.models.get(wanted.model, wanted.model),
        "prompt": wanted.prompt if isinstance(wanted.prompt, str) else list(wanted.prompt),
        "max_tokens": wanted.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "temperature": 0.8,
    }
    if to.has_priority and wanted.priority:
        number = wanted.priority.replace(".", "", 1).isdigit()
        body["priority"] = float(wanted.priority) if number else wanted.priority
    return json.dumps(body).encode()


def _headers(to: Endpoint, wanted: Wanted) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    key = to.keys.get(wanted.key, to.keys.get("", ""))
    if key:
        headers["authorization"] = f"Bearer {key}"
    if to.has_priority and wanted.deadline_s is not None:
        headers["x-repertory-deadline-ms"] = str(round(1e3 * wanted.deadline_s))
    return headers


def _said(body: bytes) -> str:
    """An error's message, where the body has one."""
    try:
        return _shortened(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return _shortened(body.decode(errors="replace"))


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
