"""OpenAI's published shapes: requests field by field, answers validated."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from asgi_client import CHAT, EMBED, PLAIN, Client, Reply, app_of, chat_body, run_virtually
from fake_service import HELLO, FakeService
from openai.types import Completion, CreateEmbeddingResponse, Model, completion_create_params
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import completion_create_params as chat
from openai.types.embedding_create_params import EmbeddingCreateParams
from pydantic import BaseModel
from test_choices import LIKELY
from test_tools import ADD, CALL, QWEN3, played

from repertory.gateway.asking import fields
from repertory.gateway.asking.api_page import api_page
from repertory.gateway.asking.fields import Fate, Field
from repertory.gateway.asking.requests import ChatBody, CompletionBody, EmbeddingBody

TABLES: list[Any] = [
    (CHAT, fields.CHAT, chat.CompletionCreateParams, ChatBody),
    (PLAIN, fields.COMPLETION, completion_create_params.CompletionCreateParams, CompletionBody),
    (EMBED, fields.EMBEDDING, EmbeddingCreateParams, EmbeddingBody),
]
PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def published(schema: Any) -> set[str]:
    """Fields of OpenAI's request, of its streaming and its other form."""
    return {name for form in get_args(schema) or (schema,) for name in get_type_hints(form)}


def known(table: Mapping[str, Field], *fates: Fate) -> set[str]:
    return {name for name, field in table.items() if field.fate in fates}


@pytest.mark.parametrize(("path", "table", "schema", "body"), TABLES)
def test_every_published_field_is_served_ignored_or_refused(
    path: str, table: Mapping[str, Field], schema: Any, body: Any
) -> None:
    ours = {name for name, field in table.items() if field.origin != "OpenAI"}
    assert set(table) - ours == published(schema)
    assert set(body.__struct_fields__) == known(table, Fate.SERVED, Fate.REFUSED)
    assert all(field.note for field in table.values())


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, table, *_ in TABLES for name in known(table, Fate.REFUSED)],
)
def test_refused_fields_are_named_with_the_reason(path: str, name: str) -> None:
    value = ["audio"] if name == "modalities" else "x" if name == "suffix" else {"mode": "x"}
    reply = post(FakeService(), path, **{name: value})
    table = fields.CHAT if path == CHAT else fields.COMPLETION
    assert (reply.status, reply.json["error"]["param"]) == (400, name)
    assert table[name].note in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, table, *_ in TABLES for name in known(table, Fate.IGNORED)],
)
@pytest.mark.parametrize("value", ["x", 3, {"a": 1}])
def test_ignored_fields_change_nothing(path: str, name: str, value: object) -> None:
    without, given = (post(FakeService(), path, **more) for more in ({}, {name: value}))
    assert (given.status, given.body) == (200, without.body)


def test_the_page_says_what_the_tables_say() -> None:
    assert PAGE.read_text() == api_page(), "make docs"


def post(service: FakeService, path: str, **extra: Any) -> Reply:
    body = chat_body(**extra)
    if path != CHAT:
        del body["messages"]
        body.setdefault("prompt" if path == PLAIN else "input", "hi")
    return run_virtually(Client(app_of(service)).post(path, body))


def check(shape: type[BaseModel], value: object) -> None:
    """Strict about types, and about fields that the shape does not have."""
    read = shape.model_validate_json(json.dumps(value), strict=True)
    extra = set(_extra(read))
    assert extra <= OURS, extra


OURS = {"reasoning_content", "progress"}
"""Fields of answers that OpenAI has not: DeepSeek's and vLLM's, and our own."""


def _extra(value: object) -> list[str]:
    """Names of all fields that the published shapes do not have."""
    if isinstance(value, list):
        return [name for one in value for name in _extra(one)]
    if not isinstance(value, BaseModel):
        return []
    inner = [getattr(value, name) for name in type(value).model_fields]
    return [*(value.model_extra or ()), *_extra(inner)]


CHATS: list[Any] = [
    ({}, {}),
    ({}, {"n": 2}),
    ({"steps": LIKELY}, {"logprobs": True, "top_logprobs": 2}),
    ({"steps": played("<think>hm</think>", CALL), "template": QWEN3}, {"tools": [ADD]}),
    ({"steps": played("<think>hm</think>", "Yes."), "template": QWEN3}, {}),
]


@pytest.mark.parametrize(("service", "wanted"), CHATS)
def test_chats_have_the_published_shape(service: Any, wanted: dict[str, Any]) -> None:
    check(ChatCompletion, post(FakeService(**service), CHAT, **wanted).json)


@pytest.mark.parametrize(("service", "wanted"), CHATS)
@pytest.mark.parametrize("options", [{}, {"include_usage": True}])
def test_chunks_have_the_published_shape(
    service: Any, wanted: dict[str, Any], options: dict[str, Any]
) -> None:
    fake = FakeService(**service)
    *events, done = post(fake, CHAT, **wanted, stream=True, stream_options=options).events
    assert done == "[DONE]"
    for event in events:
        check(ChatCompletionChunk, event)


def test_progress_is_the_only_stranger_in_its_chunk() -> None:
    options = {"include_progress": True, "include_usage": True}
    reply = post(FakeService((1.5, *HELLO)), CHAT, stream=True, stream_options=options)
    assert "progress" in reply.events[0]
    check(ChatCompletionChunk, reply.events[0])


@pytest.mark.parametrize(
    ("service", "wanted"),
    [({}, {}), ({}, {"prompt": ["a", "b"], "echo": True}), ({"steps": LIKELY}, {"logprobs": 2})],
)
def test_completions_have_the_published_shape(service: Any, wanted: dict[str, Any]) -> None:
    fake = FakeService(**service)
    check(Completion, post(fake, PLAIN, **wanted).json)
    *events, _ = post(fake, PLAIN, **wanted, stream=True).events
    for event in events:
        for choice in event["choices"]:
            # The published types have no room for null here, though the published API sends it.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check(Completion, event)


def test_embeddings_have_the_published_shape() -> None:
    check(CreateEmbeddingResponse, post(FakeService(), EMBED, input=["a", "b"]).json)


def test_a_model_has_the_published_fields_and_more() -> None:
    reply = run_virtually(Client(app_of(FakeService())).get("/v1/models"))
    for model in reply.json["data"]:
        Model.model_validate_json(json.dumps(model), strict=True)
