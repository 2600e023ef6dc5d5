"""The official client against a real socket, streaming and not, errors included."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_service import HELLO, FakeService
from listening import IMPATIENT, listening
from openai import (
    APIConnectionError,
    APIError,
    AsyncOpenAI,
    BadRequestError,
    InternalServerError,
    NotFoundError,
)
from openai import RateLimitError as RateLimited
from pydantic import BaseModel
from test_choices import LIKELY
from test_tools import ADD, CALL, QWEN3, played

from repertory.domain.errors import ConfigError, Overloaded, WorkerGone
from repertory.domain.requests import FinishReason
from repertory.gateway import Waiting, open_socket
from repertory.live.facade import Piece, Progress, Stage

HI: Any = [{"role": "user", "content": "hi"}]


def with_client(
    service: FakeService,
    play: Callable[[AsyncOpenAI], Awaitable[None]],
    waiting: Waiting | None = None,
) -> None:
    async def main() -> None:
        async with (
            listening(service, waiting) as url,
            AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client,
        ):
            await play(client)

    asyncio.run(main())


def test_a_chat_whole_and_streamed() -> None:
    async def play(client: AsyncOpenAI) -> None:
        whole = await client.chat.completions.create(model="coder", messages=HI, seed=3)
        assert whole.choices[0].message.content == "Hello ✓!"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert whole.usage.prompt_tokens_details is not None
        assert whole.usage.prompt_tokens_details.cached_tokens == 2
        stream = await client.chat.completions.create(
            model="gpt-4o-mini",
            messages=HI,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"top_k": 5},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "Hello ✓!"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 5

    service = FakeService()
    with_client(service, play)
    assert service.asked[0].options.sampling.seed == 3
    assert service.asked[1].options.sampling.top_k == 5


def test_a_plain_completion_whole_and_streamed() -> None:
    async def play(client: AsyncOpenAI) -> None:
        whole = await client.completions.create(model="coder", prompt=[1, 2, 3])
        assert whole.choices[0].text == "Hello ✓!"
        stream = await client.completions.create(model="coder", prompt="hi", stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "Hello ✓!"

    with_client(FakeService(), play)


def test_models() -> None:
    async def play(client: AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["coder", "writer"]
        assert (await client.models.retrieve("gpt-4o-mini")).id == "coder"
        with pytest.raises(NotFoundError, match="near names"):
            await client.models.retrieve("codr")

    with_client(FakeService(), play)


def test_errors_are_the_clients_own_classes() -> None:
    service = FakeService()

    async def play(client: AsyncOpenAI) -> None:
        async def create(**fields: Any) -> None:
            await client.chat.completions.create(**{"model": "coder", "messages": HI, **fields})

        with pytest.raises(BadRequestError) as bad:
            await create(temperature=9)
        assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
        with pytest.raises(BadRequestError) as long:
            await create(messages=[{"role": "user", "content": "x" * 99}])
        assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
        with pytest.raises(NotFoundError):
            await create(model="nobody")
        service.refusal = Overloaded("the queue is 130 s long", 9.5)
        with pytest.raises(RateLimited) as busy:
            await create()
        assert busy.value.response.headers["retry-after"] == "10"
        service.refusal = WorkerGone("the worker died; ask again")
        with pytest.raises(InternalServerError, match="ask again"):
            await create(stream=True)

    with_client(service, play)


def test_a_stream_that_fails_midway_raises_in_the_client() -> None:
    async def play(client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(model="coder", messages=HI, stream=True)
        texts: list[str | None] = []

        async def read() -> None:
            async for chunk in stream:
                texts.append(chunk.choices[0].delta.content)  # noqa: PERF401  it raises midway

        with pytest.raises(APIError, match="ask again"):
            await read()
        assert texts == ["", "Hel"]

    service = FakeService((Piece("Hel", (1,)), WorkerGone("the worker died; ask again")))
    with_client(service, play)


def test_choices_and_logprobs() -> None:
    async def play(client: AsyncOpenAI) -> None:
        create = client.chat.completions.create
        chat = await create(model="coder", messages=HI, n=2, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in chat.choices] == [0, 1]
        logprobs = chat.choices[1].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [one.logprob for one in logprobs.content[0].top_logprobs] == [-0.5, -1.5]
        plain = await client.completions.create(model="coder", prompt=["a", "b"], logprobs=1)
        assert plain.choices[1].logprobs is not None
        assert plain.choices[1].logprobs.text_offset == [0, 1, 1]

    with_client(FakeService(LIKELY), play)


def test_tools_and_thinking_whole_and_streamed() -> None:
    steps = played("<think>hm</think>", "Well. ", CALL[:30], CALL[30:])

    async def play(client: AsyncOpenAI) -> None:
        tools: Any = [ADD]
        whole = await client.chat.completions.create(model="coder", messages=HI, tools=tools)
        message: Any = whole.choices[0].message
        assert (message.content, message.reasoning_content) == ("Well.", "hm")
        assert message.tool_calls[0].function.arguments == '{"a": 1}'
        assert whole.choices[0].finish_reason == "tool_calls"
        stream = client.chat.completions.stream(model="coder", messages=HI, tools=tools)
        async with stream as events:
            async for _ in events:
                pass
            told = (await events.get_final_completion()).choices[0]
        assert told.message.content == "Well."
        assert told.message.tool_calls is not None
        assert told.message.tool_calls[0].function.name == "add"
        assert told.message.tool_calls[0].function.arguments == '{"a": 1}'

    with_client(FakeService(steps, template=QWEN3), play)


def test_a_schema_made_of_a_class() -> None:
    class Sum(BaseModel):
        total: int

    async def play(client: AsyncOpenAI) -> None:
        chat = await client.chat.completions.parse(
            model="org/deep", messages=HI, response_format=Sum
        )
        assert chat.choices[0].message.parsed == Sum(total=3)

    service = FakeService(played('{"total"', ": 3}"))
    with_client(service, play)
    assert '"total"' in service.asked[0].options.sampling.grammar


def test_embeddings() -> None:
    async def play(client: AsyncOpenAI) -> None:
        made = await client.embeddings.create(model="coder", input=["a", "bc"])
        assert [one.embedding for one in made.data] == [[1.0, 97.0, 0.5], [2.0, 98.0, 0.5]]
        assert made.usage.total_tokens == 3

    with_client(FakeService(), play)


def test_spaces_before_a_whole_answer_are_tolerated() -> None:
    service = FakeService()
    service.steps = (service.spaced, *HELLO)

    async def play(client: AsyncOpenAI) -> None:
        chat = await client.chat.completions.create(model="coder", messages=HI)
        assert chat.choices[0].message.content == "Hello ✓!"

    with_client(service, play, IMPATIENT)


def test_a_whole_answer_that_is_broken_off_raises_in_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = FakeService()
    service.steps = (service.spaced, WorkerGone("the worker died"))

    async def play(client: AsyncOpenAI) -> None:
        with pytest.raises(APIConnectionError):
            await client.chat.completions.create(model="coder", messages=HI)

    with_client(service, play, IMPATIENT)
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == []


def test_progress_events_are_tolerated() -> None:
    go = asyncio.Event()
    service = FakeService((Progress(Stage.LOADING, 1, 0.5, 2.0), go, *HELLO))

    async def play(client: AsyncOpenAI) -> None:
        options: Any = {"include_progress": True}
        stream = await client.chat.completions.create(
            model="coder", messages=HI, stream=True, stream_options=options
        )
        texts: list[str | None] = []
        async for chunk in stream:
            if not chunk.choices:
                progress: Any = chunk
                assert progress.progress["stage"] == "loading"
                go.set()
            else:
                texts.append(chunk.choices[0].delta.content)
        assert texts == ["", "Hel", "lo ✓", "!"]
        assert go.is_set()

    with_client(service, play, IMPATIENT)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_client_that_leaves_ends_its_generation(is_streaming: bool) -> None:
    service = FakeService()

    async def play(client: AsyncOpenAI) -> None:
        service.steps = (asyncio.Event(),)
        ask = asyncio.create_task(
            client.chat.completions.create(model="coder", messages=HI, stream=is_streaming)
        )
        await service.admitted.wait()
        ask.cancel()
        await asyncio.gather(ask, return_exceptions=True)
        await service.asked[0].generation.closed.wait()
        service.steps = HELLO
        await client.chat.completions.create(model="coder", messages=HI)

    with_client(service, play)


def test_a_reader_that_stalls_stalls_its_own_generation_only() -> None:
    """64 KiB pieces: the socket's buffers and uvicorn's fill up, then nothing is taken."""
    pieces = [Piece("x" * 65536, (1,))] * 1000
    service = FakeService((*pieces, Piece("", (), FinishReason.STOP)))

    async def play(client: AsyncOpenAI) -> None:
        stream = await client.completions.create(model="coder", prompt="hi", stream=True)
        other = await client.models.list()
        assert other.data
        stalled = await _settled(service)
        assert stalled < 500
        size = sum([len(chunk.choices[0].text) async for chunk in stream])
        assert size == 65536 * 1000

    with_client(service, play)


async def _settled(service: FakeService) -> int:
    """How many pieces were taken when no more are, however often the loop turns."""
    generation, taken, turns = service.asked[0].generation, -1, 0
    while generation.taken != taken or turns < 1000:
        turns = 0 if generation.taken != taken else turns + 1
        taken = generation.taken
        await asyncio.sleep(0)
    return taken


def test_a_port_that_is_taken_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*--port"):
            open_socket("127.0.0.1", port)
