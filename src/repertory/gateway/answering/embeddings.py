"""Vectors of texts."""

import struct
from asyncio import Semaphore
from base64 import b64encode
from collections.abc import Awaitable, Callable

from repertory.domain.errors import BadRequest, ContextExceeded, EngineError
from repertory.domain.specs import ModelSpec
from repertory.gateway.account import Account
from repertory.gateway.answering.jobs import together
from repertory.gateway.asking.asks import EmbeddingAsk
from repertory.gateway.telling.form import encode
from repertory.gateway.telling.shapes import Embedding, EmbeddingList, EmbeddingUsage
from repertory.live.facade import Generation, Service

__all__ = ["Embeddings"]

_AT_ONCE = 16
"""Inputs of one request that are under way together: enough to fill a batch of the engine, and
the queue stays open for others."""


class Embeddings:
    """The job of one request: all inputs, some at a time; the first that fails ends it."""

    prompt_field = "input"

    def __init__(
        self, service: Service, spec: ModelSpec, ask: EmbeddingAsk, account: Account
    ) -> None:
        self._service = service
        self._spec = spec
        self._ask = ask
        self._account = account
        self._room = Semaphore(_AT_ONCE)
        self._running: list[Generation] = []
        self._vectors: list[tuple[float, ...]] = [()] * len(ask.inputs)
        self.request_id: str | None = None
        self.has_begun = False

    async def whole(self) -> bytes:
        await together([self._embed(at) for at in range(len(self._ask.inputs))])
        data = [
            Embedding("embedding", at, _base64(vector) if self._ask.is_base64 else list(vector))
            for at, vector in enumerate(self._vectors)
        ]
        tokens = self._account.prompt_tokens
        return encode(EmbeddingList("list", data, self._ask.model, EmbeddingUsage(tokens, tokens)))

    async def stream(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        raise AssertionError("embeddings are not streamed")

    def progress_event(self) -> bytes:
        raise AssertionError("embeddings are not streamed")

    async def aclose(self) -> None:
        for generation in self._running:
            await generation.aclose()

    async def _embed(self, at: int) -> None:
        async with self._room:
            try:
                vector = await self._vector(self._ask.inputs[at])
            except (BadRequest, ContextExceeded) as error:
                if error.field in (None, "prompt") and len(self._ask.inputs) > 1:
                    error.field = f"input[{at}]"
                raise
        wanted = self._ask.dimensions
        if wanted not in (None, len(vector)):
            raise BadRequest(
                f"{self._spec.name!r} makes vectors of {len(vector)} numbers; they are not cut.",
                "dimensions",
            )
        self._vectors[at] = vector

    async def _vector(self, text: str | tuple[int, ...]) -> tuple[float, ...]:
        prompt = await self._service.tokenize(self._spec, text) if isinstance(text, str) else text
        if not prompt:
            raise BadRequest("The input holds no token.", "prompt")
        generation = await self._service.generate(self._spec, prompt, self._ask.options)
        self._running.append(generation)
        self._account.admit(generation)
        self.request_id = self.request_id or generation.id
        vector: tuple[float, ...] = ()
        async for piece in generation:
            vector = piece.embedding or vector
        if not vector:
            raise EngineError(f"{self._spec.name!r} made no embedding; send the request again.")
        return vector


def _base64(vector: tuple[float, ...]) -> str:
    """Little-endian 32-bit floats, as OpenAI sends them."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
