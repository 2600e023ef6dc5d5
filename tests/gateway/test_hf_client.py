"""A second real client with HTTP and SSE code of its own: huggingface_hub's InferenceClient."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_service import HELLO, FakeService
from httpx2 import RemoteProtocolError
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, UnknownError
from listening import IMPATIENT, listening
from test_choices import LIKELY, SCHEMA
from test_tools import ADD, CALL, QWEN3, played

from repertory.domain.errors import Overloaded, WorkerGone
from repertory.gateway import Waiting
from repertory.live.facade import Piece

HI: Any = [{"role": "user", "content": "hi"}]


def with_client(
    service: FakeService, play: Callable[[InferenceClient], None], waiting: Waiting | None = None
) -> None:
    async def main() -> None:
        async with listening(service, waiting) as url:
            await asyncio.to_thread(_play, url)

    def _play(url: str) -> None:
        with InferenceClient(base_url=url, api_key="none") as client:
            play(client)

    asyncio.run(main())


def test_a_chat_whole_and_streamed() -> None:
    def play(client: InferenceClient) -> None:
        whole = client.chat_completion(HI, model="coder", seed=3)
        assert whole.choices[0].message.content == "Hello ✓!"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage.prompt_tokens == 7
        options: Any = {"include_usage": True}
        stream = client.chat_completion(HI, model="coder", stream=True, stream_options=options)
        chunks = list(stream)
        assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == (
            "Hello ✓!"
        )
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 5

    service = FakeService()
    with_client(service, play)
    assert service.asked[0].options.sampling.seed == 3


def test_choices_and_logprobs() -> None:
    def play(client: InferenceClient) -> None:
        chat = client.chat_completion(HI, model="coder", n=2, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in chat.choices] == [0, 1]
        logprobs: Any = chat.choices[1].logprobs
        assert [one.logprob for one in logprobs.content[0].top_logprobs] == [-0.5, -1.5]

    with_client(FakeService(LIKELY), play)


def test_tools_whole_and_streamed() -> None:
    def play(client: InferenceClient) -> None:
        tools: Any = [ADD]
        whole = client.chat_completion(HI, model="coder", tools=tools, tool_choice="auto")
        message: Any = whole.choices[0].message
        assert message.tool_calls[0].function.name == "add"
        assert message.tool_calls[0].function.arguments == '{"a": 1}'
        stream = client.chat_completion(HI, model="coder", tools=tools, stream=True)
        deltas = [one.choices[0].delta for one in stream]
        told = [call for delta in deltas for call in delta.tool_calls or ()]
        assert next(call.function.name for call in told) == "add"
        assert "".join(call.function.arguments or "" for call in told) == '{"a": 1}'

    with_client(FakeService(played("<think>hm</think>", CALL), template=QWEN3), play)


def test_a_named_tool_and_a_schema() -> None:
    answer = '{"tool_calls": [{"name": "add", "arguments": {"a": 1}}]}'
    service = FakeService(scripts=[played(answer), played("{}")])

    def play(client: InferenceClient) -> None:
        named: Any = {"type": "function", "function": {"name": "add"}}
        tools: Any = [ADD]
        chat = client.chat_completion(HI, model="org/deep", tools=tools, tool_choice=named)
        assert chat.choices[0].finish_reason == "tool_calls"
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        made = client.chat_completion(HI, model="coder", response_format=wanted)
        assert made.choices[0].message.content == "{}"
        held_to = service.asked[-1].options.sampling.grammar
        assert held_to == f"json_schema:{json.dumps(SCHEMA)}", "it sends the schema as a `value`"

    with_client(service, play)
    assert all(one.options.sampling.grammar for one in service.asked)


def test_errors_are_the_clients_own_classes_with_our_words() -> None:
    service = FakeService()

    def play(client: InferenceClient) -> None:
        with pytest.raises(HfHubHTTPError, match="temperature"):
            client.chat_completion(HI, model="coder", temperature=9)
        with pytest.raises(HfHubHTTPError, match="near names"):
            client.chat_completion(HI, model="codr")
        service.refusal = Overloaded("the queue is 130 s long", 9.5)
        with pytest.raises(HfHubHTTPError) as busy:
            client.chat_completion(HI, model="coder")
        assert busy.value.response.headers["retry-after"] == "10"
        service.refusal = WorkerGone("the worker died; ask again")
        with pytest.raises(HfHubHTTPError, match="503"):
            client.chat_completion(HI, model="coder", stream=True)

    with_client(service, play)


def test_a_stream_that_fails_midway_raises() -> None:
    service = FakeService((Piece("Hel", (1,)), WorkerGone("the worker died; ask again")))

    def play(client: InferenceClient) -> None:
        stream = client.chat_completion(HI, model="coder", stream=True)
        with pytest.raises(UnknownError, match="ask again"):
            list(stream)

    with_client(service, play)


def test_spaces_before_a_whole_answer_are_tolerated() -> None:
    service = FakeService()
    service.steps = (service.spaced, *HELLO)

    def play(client: InferenceClient) -> None:
        chat = client.chat_completion(HI, model="coder")
        assert chat.choices[0].message.content == "Hello ✓!"

    with_client(service, play, IMPATIENT)


def test_a_whole_answer_that_is_broken_off_raises() -> None:
    service = FakeService()
    service.steps = (service.spaced, WorkerGone("the worker died"))

    def play(client: InferenceClient) -> None:
        with pytest.raises(RemoteProtocolError, match="incomplete"):
            client.chat_completion(HI, model="coder")

    with_client(service, play, IMPATIENT)


def test_comments_in_a_stream_are_passed_over() -> None:
    service = FakeService()
    service.steps = (service.spaced, *HELLO)

    def play(client: InferenceClient) -> None:
        stream = client.chat_completion(HI, model="coder", stream=True)
        assert "".join(one.choices[0].delta.content or "" for one in stream) == "Hello ✓!"

    with_client(service, play, Waiting(grace_s=0.01, keep_alive_s=0.01))
