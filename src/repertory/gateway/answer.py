"""An answer on its way to a client, as an ASGI application.  Knows no web framework.

1. Nothing is sent before the first token, so that a failure can still be a real HTTP error.
   After `grace_s` a stream begins anyway, with a comment that keeps the client alive, and after
   `whole_grace_s` a whole answer begins with a space, which JSON allows.
2. What is silent for `keep_alive_s` gets another comment, or another space.
3. A failure after that is an `error` event and the end of a stream; a whole answer is broken off,
   so that no client takes it for an answer.
4. A client that leaves ends its generations, whatever they were waiting for; no load is cancelled.
5. A client that reads slowly slows its own iteration: nothing is buffered here.
6. A client that takes nothing at all for `stall_s` has left: what it asked for holds a slot.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from repertory.domain.errors import RepertoryError
from repertory.gateway.account import Account
from repertory.gateway.answering.jobs import Job
from repertory.gateway.failures import Failure, failure_of, unforeseen

__all__ = ["EXTENSION", "Answer", "Waiting"]

EXTENSION = "repertory"
"""In the ASGI scope, with `abort`: closes the connection without waiting for what is unsent."""

_Message = MutableMapping[str, Any]  # ASGI's own type
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_COMMENT = b": keep-alive\n\n"
_SPACE = b" "
_JSON = {"content-type": "application/json"}
_EVENT_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would collect the events otherwise
}
_LEFT_STATUS = 499
"""nginx's number for a client that left; it is seen in the log only."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a client is kept waiting."""

    grace_s: float = 5.0
    """A third of the shortest first-byte limit that clients are known to have (15 s); until then
    a load that fails, or a queue that refuses, is still a real HTTP status."""
    whole_grace_s: float = 30.0
    """Half of the silence after which common proxies give up (nginx and load balancers: 60 s).
    Longer than for streams: those have an event for errors; here a failure after it can only
    break the connection off, so a real status is worth more."""
    keep_alive_s: float = 10.0
    """Proxies and clients are known to give up after 15 to 30 silent seconds."""
    progress_s: float = 1.0
    """Between two progress events, where a client asked for them."""
    stall_s: float = 120.0
    """For one write that the client does not take.  Twice the silence after which common proxies
    give up.  A write waits for some 25 KiB to be read: one event per second is enough."""


class Answer:
    """One job's way to its client."""

    def __init__(
        self,
        job: Job,
        account: Account,
        waiting: Waiting,
        *,
        is_streaming: bool = False,
        has_progress: bool = False,
    ) -> None:
        self._job = job
        self._account = account
        self._waiting = waiting
        self._is_streaming = is_streaming
        self._has_progress = has_progress
        self._stalled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the client takes nothing any more."""

    async def __call__(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        work = asyncio.create_task(self._stream(send) if self._is_streaming else self._whole(send))
        gone = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({work, gone, self._stalled}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_left = not work.done()
            await _end(work, gone)
            await self._job.aclose()
            if is_left:
                outcome = "stalled" if self._stalled.done() else "cancelled"
                self._account.close(outcome, _LEFT_STATUS)
        if not work.cancelled():
            work.result()
        elif self._stalled.done() and EXTENSION in scope.get("extensions", {}):
            scope["extensions"][EXTENSION]["abort"]()

    async def _whole(self, send: _Send) -> None:
        out = _Carrier(send, _JSON, self._headers)
        alive = asyncio.create_task(self._keep_alive(out, _SPACE, self._waiting.whole_grace_s))
        try:
            body = await self._job.whole()
        except RepertoryError as error:
            await _end(alive)
            await self._break_off(out, failure_of(error, self._job.prompt_field))
            return
        except Exception:
            await _end(alive)
            await self._break_off(out, unforeseen())
            raise
        finally:
            await _end(alive)
        self._account.close("done", 200)
        if out.is_open:
            await out.write(body)
            await out.close()
        else:
            await send_whole(send, 200, body, self._headers())

    async def _stream(self, send: _Send) -> None:
        out = _Carrier(send, _EVENT_STREAM, self._headers)
        meanwhile = [self._keep_alive(out, _COMMENT, self._waiting.grace_s)]
        if self._has_progress:
            meanwhile.append(self._report(out))
        alive = [asyncio.create_task(work) for work in meanwhile]
        try:
            await self._job.stream(out.write)
            self._account.close("done", 200)
        except RepertoryError as error:
            await _end(*alive)
            await self._break_off(out, failure_of(error, self._job.prompt_field))
            return
        except Exception:
            await _end(*alive)
            await self._break_off(out, unforeseen())
            raise
        finally:
            await _end(*alive)
        await out.close()

    async def _keep_alive(self, out: "_Carrier", filler: bytes, grace_s: float) -> None:
        waiting = self._waiting
        try:
            await out.keep_alive(filler, grace_s, waiting.keep_alive_s, waiting.stall_s)
        except TimeoutError:
            self._stalled.set_result(None)

    async def _report(self, out: "_Carrier") -> None:
        """Progress events, until something of the answer is there."""
        while True:
            await asyncio.sleep(self._waiting.progress_s)
            if self._job.has_begun:
                return
            await out.write(self._job.progress_event())

    async def _break_off(self, out: "_Carrier", failure: Failure) -> None:
        self._account.close(failure.outcome, 200 if out.is_open else failure.status)
        if not out.is_open:
            await send_whole(
                out.send, failure.status, failure.body, {**self._headers(), **failure.headers}
            )
        elif self._is_streaming:
            await out.write(failure.event)
            await out.close()
        # A whole answer that has begun is left incomplete: the server then drops the connection.

    def _headers(self) -> dict[str, str]:
        id_ = self._job.request_id
        return {} if id_ is None else {"x-request-id": id_}


class _Carrier:
    """A response that opens with the first bytes of its body."""

    def __init__(
        self, send: _Send, kind: Mapping[str, str], headers: Callable[[], Mapping[str, str]]
    ) -> None:
        self.send = send
        self._kind = kind
        self._headers = headers
        self._one_writer = asyncio.Lock()
        self._now_s = asyncio.get_running_loop().time
        self._moved_s = self._now_s()
        """When a write last began or ended."""
        self.is_open = False

    async def write(self, part: bytes) -> None:
        async with self._one_writer:
            self._moved_s = self._now_s()
            if not self.is_open:
                await self.send(_start(200, {**self._kind, **self._headers()}))
                self.is_open = True
            await self.send({"type": "http.response.body", "body": part, "more_body": True})
            self._moved_s = self._now_s()

    async def close(self) -> None:
        async with self._one_writer:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def keep_alive(
        self, filler: bytes, grace_s: float, keep_alive_s: float, stall_s: float
    ) -> None:
        """`filler` into the silence, until cancelled; `TimeoutError` if a write takes `stall_s`."""
        await asyncio.sleep(grace_s)
        if not self.is_open and not self._one_writer.locked():
            await self._fill(filler, stall_s)
        while True:
            is_writing = self._one_writer.locked()
            left_s = self._moved_s + (stall_s if is_writing else keep_alive_s) - self._now_s()
            if left_s > 0.0:
                await asyncio.sleep(min(left_s, keep_alive_s))
            elif is_writing:
                raise TimeoutError
            else:
                await self._fill(filler, stall_s)

    async def _fill(self, filler: bytes, stall_s: float) -> None:
        async with asyncio.timeout(stall_s):
            await self.write(filler)


async def send_whole(send: _Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """A JSON body at once."""
    sized = {**_JSON, "content-length": str(len(body)), **headers}
    await send(_start(status, sized))
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _start(status: int, headers: Mapping[str, str]) -> _Message:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


async def _left(receive: _Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
