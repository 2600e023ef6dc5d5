"""The work behind an answer: generations run together, and told to whoever carries the answer."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from repertory.domain.errors import EngineError
from repertory.gateway.account import Account
from repertory.gateway.failures import TimedOut
from repertory.gateway.telling.form import DONE, Form, Writer, usage_of
from repertory.gateway.telling.shapes import Usage
from repertory.live.facade import Generation, Piece, Stage

__all__ = ["Generating", "Job", "together"]

_LOOK_S = 0.25
"""A deadline counts from dispatch; dispatch is looked for this often."""

_Write = Callable[[bytes], Awaitable[None]]


class Job(Protocol):
    """What an answer needs done."""

    request_id: str | None
    """None while nothing is admitted."""
    prompt_field: str
    """The part of the body that is at fault when the prompt is."""
    has_begun: bool
    """Something of the answer was streamed."""

    async def whole(self) -> bytes: ...

    async def stream(self, write: _Write) -> None: ...

    def progress_event(self) -> bytes:
        """For a stream that has not begun."""
        ...

    async def aclose(self) -> None:
        """Cancel what still runs.  Harmless afterwards and twice."""
        ...


class Generating:
    """The generations of one request, a writer for each."""

    def __init__(
        self,
        generations: Sequence[Generation],
        form: Form,
        account: Account,
        *,
        prompt_field: str,
        has_usage_event: bool,
        timeout_s: float | None,
    ) -> None:
        self._generations = generations
        self._form = form
        self._account = account
        self._has_usage_event = has_usage_event
        self._timeout_s = timeout_s
        self._ended: set[int] = set()
        self.prompt_field = prompt_field
        self.request_id: str | None = generations[0].id
        self.has_begun = False

    async def whole(self) -> bytes:
        await self._in_time([self._run(at, one.keep) for at, one in self._choices()])
        return self._form.whole(self._usage())

    async def stream(self, write: _Write) -> None:
        await self._in_time([self._run(at, one.events, write) for at, one in self._choices()])
        usage = self._form.usage_event(self._usage()) if self._has_usage_event else b""
        await write(usage + DONE)

    def progress_event(self) -> bytes:
        return self._form.progress_event(self._generations[0].progress())

    async def aclose(self) -> None:
        for generation in self._generations:
            await generation.aclose()

    def _choices(self) -> Iterable[tuple[int, Writer]]:
        return enumerate(self._form.writers)

    async def _run(
        self, index: int, tell: Callable[[Piece], bytes | None], write: _Write | None = None
    ) -> None:
        """One generation to its end; what `tell` makes of its pieces is written.

        What came together is written at once: each write is a call of the system (18 us).
        """
        generation = self._generations[index]
        taken = self._account.piece
        finish = None
        unwritten = b""
        async for piece in generation:
            taken(piece, index)
            finish = piece.finish
            unwritten += tell(piece) or b""
            if unwritten and write is not None and not generation.has_more:
                self.has_begun = True
                told, unwritten = unwritten, b""
                await write(told)
        if finish is None:
            raise EngineError(
                f"The answer of {generation.model!r} broke off; send the request again."
            )
        self._ended.add(index)

    async def _in_time(self, runs: Sequence[Coroutine[Any, Any, None]]) -> None:
        if self._timeout_s is None:
            await together(runs)
            return
        work = asyncio.create_task(together(runs))
        watch = asyncio.create_task(self._watch(self._timeout_s))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            (work if work.done() else watch).result()
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    async def _watch(self, timeout_s: float) -> None:
        """Raises `TimedOut` when a generation takes too long.

        While it waits, for its model or for a slot, that takes none of its time.
        """
        now_s = asyncio.get_running_loop().time
        deadlines_s: dict[int, float] = {}
        while True:
            for index, generation in enumerate(self._generations):
                if index not in deadlines_s and _is_dispatched(generation):
                    deadlines_s[index] = now_s() + timeout_s
            open_s = [at_s for index, at_s in deadlines_s.items() if index not in self._ended]
            left_s = min(open_s, default=now_s() + _LOOK_S) - now_s()
            if left_s <= 0:
                raise TimedOut(timeout_s)
            is_waiting = len(deadlines_s) < len(self._generations)
            await asyncio.sleep(min(left_s, _LOOK_S) if is_waiting else left_s)

    def _usage(self) -> Usage:
        account = self._account
        return usage_of(
            account.prompt_tokens,
            account.output_tokens,
            account.reused_tokens,
            self._form.writers,
        )


def _is_dispatched(generation: Generation) -> bool:
    return generation.progress().stage in (Stage.PREFILL, Stage.DECODE)


async def together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of them; the first that fails ends the others, and its error is raised."""
    if len(works) == 1:
        await works[0]  # the usual case needs no task of its own
        return
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
