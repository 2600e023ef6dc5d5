"""Vectors of texts, and counting tokens."""

import asyncio
import base64
import struct
from typing import Any

import pytest
from asgi_client import EMBED, Client, Reply, app_of, run_virtually
from fake_service import FakeService

from repertory.domain.errors import BadRequest, Overloaded, WorkerGone


def post(service: FakeService, path: str, **fields: Any) -> Reply:
    return run_virtually(Client(app_of(service)).post(path, {"model": "coder", **fields}))


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"),
    [
        ("ab", [[2.0, 97.0, 0.5]], 2),
        (["ab"], [[2.0, 97.0, 0.5]], 2),
        (["ab", "b"], [[2.0, 97.0, 0.5], [1.0, 98.0, 0.5]], 3),
        ([7, 8, 9], [[3.0, 7.0, 0.5]], 3),
        ([[7, 8], [9]], [[2.0, 7.0, 0.5], [1.0, 9.0, 0.5]], 3),
        (["b", [9]], [[1.0, 98.0, 0.5], [1.0, 9.0, 0.5]], 2),
    ],
    ids=str,
)
def test_each_input_has_its_vector(given: object, vectors: list[list[float]], tokens: int) -> None:
    service = FakeService()
    reply = post(service, EMBED, input=given, encoding_format="float", dimensions=3)
    assert reply.json == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": vector}
            for at, vector in enumerate(vectors)
        ],
        "model": "coder",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    assert all(one.options.wants_embedding for one in service.asked)
    assert reply.headers["x-request-id"] == "r1"


def test_vectors_may_come_as_base64() -> None:
    data = post(FakeService(), EMBED, input="a", encoding_format="base64").json["data"]
    raw = base64.b64decode(data[0]["embedding"])
    assert struct.unpack("<3f", raw) == (1.0, 97.0, 0.5)


def test_inputs_run_together_but_not_all() -> None:
    service = FakeService((1e9,))

    async def main() -> None:
        client = Client(app_of(service))
        asyncio.get_running_loop().call_later(3.0, client.leaves.set)
        await client.post(EMBED, {"model": "coder", "input": ["x"] * 40})

    run_virtually(main())
    assert len(service.asked) == 16
    assert all(one.generation.closed.is_set() for one in service.asked)


def test_more_inputs_than_run_together_keep_their_order() -> None:
    service = FakeService(scripts=[(float(40 - at),) for at in range(40)])
    data = post(service, EMBED, input=["x" * (at + 1) for at in range(40)]).json["data"]
    assert [one["embedding"][0] for one in data] == [at + 1.0 for at in range(40)]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"input": ["a", ""]}, 400, "input[1]"),
        ({"input": [[]]}, 400, "input[0]"),
        ({"input": [[1], 2]}, 400, "input[1]"),
        ({"input": ["a"] * 2049}, 400, "input"),
        ({"input": "x" * 64}, 400, "input"),
        ({"input": ["x", "x" * 64]}, 400, "input[1]"),
        ({"input": "a", "dimensions": 2}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "model": "nobody"}, 404, "model"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], status: int, param: str) -> None:
    reply = post(FakeService(), EMBED, **fields)
    assert (reply.status, reply.json["error"]["param"]) == (status, param), reply.body


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (Overloaded("busy", 3), 429, None),
        (WorkerGone("gone"), 503, None),
        (BadRequest("Ids end at 255.", "prompt"), 400, "input[0]"),
        (BadRequest("It generates only.", "model"), 400, "model"),
    ],
)
def test_refusals(error: Exception, status: int, param: str | None) -> None:
    reply = post(FakeService(refusal=error), EMBED, input=["a", "b"])
    assert (reply.status, reply.json["error"]["param"]) == (status, param)


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_tokens_are_counted_and_read_back(prefix: str) -> None:
    service = FakeService()
    reply = post(service, f"{prefix}/tokenize", prompt="hi é")
    tokens = list("hi é".encode())
    assert reply.json == {"count": 5, "max_model_len": 64, "tokens": tokens}
    assert post(service, f"{prefix}/detokenize", tokens=tokens).json == {"prompt": "hi é"}
    assert service.asked == []


def test_a_chat_is_counted_as_its_template_writes_it() -> None:
    service = FakeService(template='{{ tools }} <tool_call>{"name"')
    tool = {"type": "function", "function": {"name": "add"}}
    messages = [{"role": "user", "content": "hi"}]
    fields = {"messages": messages, "tools": [tool], "add_generation_prompt": False}
    assert post(service, "/tokenize", **fields).json["count"] == len("user:hi")
    assert service.variables == [{"tools": [tool], "add_generation_prompt": False}]


def test_a_chat_with_described_tools_is_counted_with_the_description() -> None:
    service = FakeService()
    tools = [{"type": "function", "function": {"name": "add"}}]
    messages = [{"role": "user", "content": "hi"}]
    count = post(service, "/tokenize", messages=messages, tools=tools).json["count"]
    assert count > 200


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ],
)
def test_wrong_fields_of_token_counting_are_named(
    path: str, fields: dict[str, Any], param: str
) -> None:
    reply = post(FakeService(), path, **fields)
    assert (reply.status, reply.json["error"]["param"]) == (400, param), reply.body
