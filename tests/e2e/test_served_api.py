"""The whole API through two real clients, on the real engine, while models are swapped."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient
from openai import AsyncOpenAI
from serving import DEADLINE_S, RunningServer, starting

from repertory.engines.gguf.make import make_model

CHAT: Any = [{"role": "user", "content": "What is a repertory theatre?"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"play": {"enum": ["Hamlet", "Faust"]}, "acts": {"type": "integer"}},
    "required": ["play", "acts"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "play", "schema": SCHEMA}}
TOOL: Any = {"type": "function", "function": {"name": "stage", "parameters": SCHEMA}}
NAMED: Any = {"type": "function", "function": {"name": "stage"}}


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Three 50M models and an encoder, and memory for one at a time."""
    folder = tmp_path_factory.mktemp("cramped")
    for seed, name in enumerate(("ant", "bee", "cat")):
        make_model(folder / f"{name}.gguf", size="50m", weights="q8_0", seed=seed, name=name)
    make_model(folder / "vec.gguf", arch="bert", size="tiny", seed=7, name="vec")
    with starting(tmp_path_factory.mktemp("state") / "state") as begin:
        yield begin(folder, memory="300MiB")


async def constrained(client: AsyncOpenAI, model: str) -> None:
    answer = await client.chat.completions.create(
        model=model, messages=CHAT, response_format=FORMAT, max_tokens=100
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert found["play"] in ("Hamlet", "Faust")
    assert isinstance(found["acts"], int)


async def called(client: AsyncOpenAI, model: str) -> None:
    chunks = await client.chat.completions.create(
        model=model, messages=CHAT, tools=[TOOL], tool_choice=NAMED, max_tokens=200, stream=True
    )
    names, arguments, finish = [], "", None
    async for chunk in chunks:
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
    assert names == ["stage"]
    assert json.loads(arguments).keys() == {"play", "acts"}
    assert finish == "tool_calls"


async def several_with_logprobs(client: AsyncOpenAI, model: str) -> None:
    answer = await client.chat.completions.create(
        model=model,
        messages=CHAT,
        n=3,
        seed=5,
        max_tokens=6,
        logprobs=True,
        top_logprobs=2,
        extra_body={"ignore_eos": True},
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [len(one.top_logprobs) for one in choice.logprobs.content] == [2] * 6
        assert all(one.logprob <= 0 for one in choice.logprobs.content)


async def embedded(client: AsyncOpenAI, model: str) -> None:
    answer = await client.embeddings.create(model=model, input=["to be", "not to be", "to be"])
    first, second, third = (one.embedding for one in answer.data)
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-3)
    assert first == third != second


async def refused(client: AsyncOpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError, match="grammar"):
        await client.chat.completions.create(
            model=model, messages=CHAT, extra_body={"grammar": "root ::= missing"}
        )
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model=f"{model}x", messages=CHAT)


WISHES: list[Callable[[AsyncOpenAI, str], Awaitable[None]]] = [
    constrained,
    called,
    several_with_logprobs,
    embedded,
    refused,
]


def test_every_kind_of_request_is_served_while_models_are_swapped(cramped: RunningServer) -> None:
    async def main() -> None:
        async with cramped.async_client() as client:
            asked = [wish(client, model) for wish in WISHES for model in ("ant", "bee", "cat")]
            await asyncio.gather(*asked, embedded(client, "vec"))

    asyncio.run(main())


def test_an_encoder_does_not_chat(cramped: RunningServer) -> None:
    with cramped.client() as client, pytest.raises(openai.BadRequestError, match="embeddings"):
        client.chat.completions.create(model="vec", messages=CHAT)


def test_the_next_turn_of_a_chat_computes_its_new_message_only(cramped: RunningServer) -> None:
    with cramped.client() as client:
        body: Any = {"model": "ant", "max_tokens": 20, "extra_body": {"ignore_eos": True}}
        told = [{"role": "user", "content": "word " * 120}]
        first = client.chat.completions.create(messages=told, **body)
        assert first.usage is not None
        text = first.choices[0].message.content
        told += [{"role": "assistant", "content": text}, {"role": "user", "content": "and?"}]
        second = client.chat.completions.create(messages=told, **body)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= 0.8 * first.usage.prompt_tokens


def test_tokens_are_counted_without_a_load(cramped: RunningServer) -> None:
    for name in cramped.loaded():
        cramped.wish(name, "unload")
        cramped.wait_status(name, "unloaded")
    status, counted = cramped.post("/tokenize", {"model": "bee", "messages": CHAT})
    assert status == 200
    assert counted["count"] == len(counted["tokens"]) > 0
    status, text = cramped.post("/detokenize", {"model": "bee", "tokens": counted["tokens"]})
    assert status == 200
    assert CHAT[0]["content"] in json.dumps(text)
    assert cramped.loaded() == []


def test_another_client_chats_streams_constrains_and_is_refused(cramped: RunningServer) -> None:
    client = InferenceClient(base_url=f"{cramped.url}/v1", api_key="-", timeout=DEADLINE_S)
    whole = client.chat_completion(CHAT, model="bee", max_tokens=8, seed=3, temperature=0)
    chunks = client.chat_completion(
        CHAT, model="bee", max_tokens=8, seed=3, temperature=0, stream=True
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    held = client.chat_completion(CHAT, model="cat", max_tokens=100, response_format=FORMAT)
    assert json.loads(held.choices[0].message.content or "")["play"] in ("Hamlet", "Faust")
    with pytest.raises(Exception, match="no model 'nobody'"):
        client.chat_completion(CHAT, model="nobody")


def test_answers_to_all_this_are_in_the_metrics(cramped: RunningServer, tmp_path: Path) -> None:
    page = cramped.get("/metrics")[1].decode()
    for name in ("ant", "bee", "cat", "vec"):
        assert f'model="{name}"' in page
