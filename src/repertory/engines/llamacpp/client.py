"""The server's end of a worker: the `Engine` contract over a socket."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Stage,
    Unload,
)
from repertory.domain.errors import WorkerGone
from repertory.domain.events import Measured
from repertory.domain.specs import ModelSpec, NodeSpec
from repertory.engines.contract import (
    Frame,
    GenerationSpec,
    GrammarKind,
    ModelDescription,
    WorkerStats,
)
from repertory.engines.wire import (
    SIGNATURES,
    Beat,
    Call,
    Failure,
    FromWorker,
    Output,
    Reply,
    decode_from_worker,
    encode,
    error_of,
    take_payloads,
)

__all__ = ["LlamaCppEngine"]

_READ_BYTES = 1 << 18


class LlamaCppEngine:
    """One worker process, from the server's side.  Made inside a running event loop.

    It does not start the process: it is given the connected pair.  When the connection ends,
    `outputs` ends and every call raises `WorkerGone`.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.last_beat: Beat | None = None
        """The worker's last sign of life: its supervisor judges from it."""
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._next_id = 0
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._is_gone = False
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def probe(self) -> NodeSpec:
        return await self._call("probe")  # type: ignore[no-any-return]  # typed by SIGNATURES

    async def describe(self, location: str) -> ModelDescription:
        return await self._call("describe", location)  # type: ignore[no-any-return]

    async def render(
        self, location: str, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        return await self._call("render", location, messages, extra)  # type: ignore[no-any-return]

    async def tokenize(self, location: str, text: str) -> tuple[int, ...]:
        return await self._call("tokenize", location, text)  # type: ignore[no-any-return]

    async def detokenize(self, location: str, tokens: Sequence[int]) -> str:
        return await self._call("detokenize", location, tokens)  # type: ignore[no-any-return]

    async def grammar(self, location: str, kind: GrammarKind, text: str) -> str:
        return await self._call("grammar", location, kind, text)  # type: ignore[no-any-return]

    async def stage(self, action: Stage, spec: ModelSpec) -> Measured:
        return await self._call("stage", action, spec)  # type: ignore[no-any-return]

    async def load(self, action: Load, spec: ModelSpec) -> Measured:
        return await self._call("load", action, spec)  # type: ignore[no-any-return]

    async def activate(self, action: Activate) -> Measured:
        return await self._call("activate", action)  # type: ignore[no-any-return]

    async def resize(self, action: Resize) -> Measured:
        return await self._call("resize", action)  # type: ignore[no-any-return]

    async def deactivate(self, action: Deactivate) -> Measured:
        return await self._call("deactivate", action)  # type: ignore[no-any-return]

    async def unload(self, action: Unload) -> Measured:
        return await self._call("unload", action)  # type: ignore[no-any-return]

    async def drop(self, action: Drop) -> Measured:
        return await self._call("drop", action)  # type: ignore[no-any-return]

    async def submit(self, replica_id: str, spec: GenerationSpec) -> None:
        await self._call("submit", replica_id, spec)

    async def cancel(self, generation_id: str) -> None:
        await self._call("cancel", generation_id)

    async def preempt(self, generation_id: str) -> None:
        await self._call("preempt", generation_id)

    async def hold(self, generation_id: str, is_held: bool) -> None:
        await self._call("hold", generation_id, is_held)

    async def outputs(self) -> AsyncIterator[Frame]:
        """The one stream of frames.  One reader: frames are handed out once."""
        while (frame := await self._frames.get()) is not None:
            yield frame

    async def stats(self) -> WorkerStats:
        return await self._call("stats")  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close the socket; the worker ends by itself."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _call(self, method: str, *arguments: Any) -> Any:  # typed by SIGNATURES
        if self._is_gone:
            raise WorkerGone("the worker is gone")
        call_id = self._next_id
        self._next_id += 1
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = (method, answer)
        raw = msgspec.Raw(msgspec.msgpack.encode(arguments))
        try:
            self._writer.write(encode(Call(call_id, method, raw)))
            return await answer
        finally:
            self._calls.pop(call_id, None)

    async def _read(self) -> None:
        received = bytearray()
        try:
            while news := await self._reader.read(_READ_BYTES):
                received += news
                for payload in take_payloads(received):
                    self._take(decode_from_worker(payload))
        except (ConnectionError, WorkerGone, msgspec.MsgspecError):
            pass  # what is left to say is said below: the worker is gone
        finally:
            self._is_gone = True
            self._frames.put_nowait(None)
            for _, answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(WorkerGone("the worker died during this call"))

    def _take(self, message: FromWorker) -> None:
        match message:
            case Output(frame):
                self._frames.put_nowait(frame)
            case Beat():
                self.last_beat = message
            case Reply(call_id, result):
                method, answer = self._calls.get(call_id, ("", None))
                if answer is not None and not answer.done():
                    answer.set_result(
                        msgspec.msgpack.decode(result, type=SIGNATURES[method].result)
                    )
            case Failure(call_id):
                _, answer = self._calls.get(call_id, ("", None))
                if answer is not None and not answer.done():
                    answer.set_exception(error_of(message))
