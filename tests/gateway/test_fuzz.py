"""Whatever a client sends, it gets an answer or an error in OpenAI's shape, and never a 5xx."""

import json
from typing import Any

import pytest
from asgi_client import CHAT, EMBED, PLAIN, Client, Reply, app_of, run_virtually
from fake_service import FakeService
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.gateway.asking.requests import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
)

BODIES = {
    CHAT: ChatBody,
    PLAIN: CompletionBody,
    EMBED: EmbeddingBody,
    "/tokenize": TokenizeBody,
    "/v1/detokenize": DetokenizeBody,
}
FIELDS = sorted({name for body in BODIES.values() for name in body.__struct_fields__} | {"unknown"})
TEMPLATES = ("", '{{ tools }} <tool_call>{"name"', "<think> {{ tools }} system")

words = st.sampled_from(
    [
        *(
            "coder",
            "writer",
            "text",
            "user",
            "system",
            "assistant",
            "tool",
            "none",
            "",
            "é",
            "\x00",
        ),
        *("function", "required", "json_object", "json_schema", "base64", "root ::= x"),
    ]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    words,
    st.text(st.characters(exclude_categories=["Cs"])),
)
KEYS = [
    *("role", "content", "type", "text", "name", "arguments", "function", "parameters", "schema"),
    *("strict", "json_schema", "json", "include_usage", "include_progress", "grammar", "choice"),
    *("regex", "id", "tool_calls", "tools", "messages", "spec", "5", "-1"),
]
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | words, inner)
    ),
    max_leaves=12,
)
calls = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": values,
            "function": values
            | st.fixed_dictionaries({"name": words}, optional={"arguments": values}),
        },
    ),
    max_size=2,
)
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": words,
            "content": values,
            "name": values,
            "tool_calls": values | calls,
            "tool_call_id": values,
            "reasoning_content": values,
        },
    ),
    max_size=3,
)
tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["add", "look", "a b", ""])},
                optional={"parameters": values, "description": values, "strict": values},
            ),
        }
    ),
    max_size=3,
)
sensible = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(0, 4),
        "stream": st.booleans(),
        "stream_options": st.fixed_dictionaries(
            {}, optional={"include_usage": st.booleans(), "include_progress": st.booleans()}
        ),
        "logprobs": st.booleans() | st.integers(0, 3),
        "top_logprobs": st.integers(-1, 21),
        "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), st.integers(-101, 101)),
        "tools": tools,
        "tool_choice": st.sampled_from(["none", "auto", "required"])
        | st.just({"type": "function", "function": {"name": "add"}}),
        "response_format": st.fixed_dictionaries(
            {"type": st.sampled_from(["text", "json_object", "json_schema"])},
            optional={"json_schema": values | st.fixed_dictionaries({"schema": values})},
        ),
        "structured_outputs": st.dictionaries(st.sampled_from(KEYS), values, max_size=1),
        "grammar": words,
        "echo": st.booleans(),
        "best_of": st.integers(1, 2),
        "timeout": st.floats(-1, 5),
        "chat_template_kwargs": st.dictionaries(st.sampled_from(KEYS), values, max_size=2),
    },
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=8)
nearly_good = st.builds(
    lambda good, fields, extra: {**good, **fields, **extra},
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(["coder", "gpt-4o-mini", "org/deep"]),
            "messages": messages | st.just([{"role": "user", "content": "x"}]),
            "prompt": st.sampled_from(["x", [1, 2], ["x", "y"], [[3], [4]]]),
            "input": st.sampled_from(["x", [1, 2], ["x", "y"], [[3], "x"]]),
            "tokens": st.lists(st.integers(0, 300), max_size=4),
        }
    ),
    sensible,
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=1),
)
paths = st.sampled_from([*BODIES, CHAT, PLAIN])


def send(path: str, body: bytes, template: str = "") -> Reply:
    service = FakeService(template=template)
    reply = run_virtually(Client(app_of(service)).post(path, body))
    assert reply.is_complete
    assert reply.status in (200, 400, 404)
    if reply.status != 200:
        error = reply.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert isinstance(error["message"], str)
        assert error["message"]
    assert all(asked.generation.closed.is_set() for asked in service.asked)
    return reply


@given(paths, bodies | nearly_good, st.sampled_from(TEMPLATES))
@settings(deadline=None, max_examples=500)
def test_any_fields(path: str, body: dict[str, Any], template: str) -> None:
    reply = send(path, json.dumps(body).encode(), template)
    if reply.status == 200 and path in (CHAT, PLAIN):
        whole = reply.text if body.get("stream") else reply.body.decode()
        assert "Hello ✓!" in whole or body.get("n", 1) > 1 or isinstance(body.get("prompt"), list)


@given(paths, values)
@settings(deadline=None)
def test_any_json(path: str, body: object) -> None:
    send(path, json.dumps(body).encode())


@given(paths, st.binary() | st.text(alphabet='{}[]",:\\u0d8ex1').map(str.encode))
@settings(deadline=None)
def test_any_bytes(path: str, body: bytes) -> None:
    send(path, body)


@given(paths, nearly_good, st.integers(0, 400), st.binary(max_size=3))
@settings(deadline=None)
def test_damaged_bodies(path: str, body: dict[str, Any], at: int, damage: bytes) -> None:
    raw = json.dumps(body).encode()
    send(path, raw[:at] + damage + raw[at + len(damage) :])


DEEP_PLACES = [
    '"json_schema":@',
    '"chat_template_kwargs":{"a":@}',
    '"tools":[{"type":"function","function":{"name":"a","parameters":@}}]',
    '"tool_choice":"required","tools":[{"type":"function","function":{"name":"a","parameters":@}}]',
    '"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"a","arguments":@}}]}]',
    '"unknown":@',
]


@pytest.mark.parametrize("place", DEEP_PLACES)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("depth", [100, 500, 900, 950, 990, 1010, 1100, 100_000])
def test_json_that_is_too_deep_anywhere_is_refused(place: str, template: str, depth: int) -> None:
    deep = '{"$ref":' * depth + "1" + "}" * depth
    fields = place.replace("@", deep)
    messages = "" if "messages" in place else '"messages":[{"role":"user","content":"x"}],'
    send(CHAT, f'{{"model":"org/deep",{messages}{fields}}}'.encode(), template)


@pytest.mark.parametrize("depth", [500, 900, 950, 990, 1010, 1100])
def test_arguments_that_are_too_deep_are_refused(depth: int) -> None:
    arguments = '{"a":' * depth + "1" + "}" * depth
    call = {"id": "x", "function": {"name": "a", "arguments": arguments}}
    messages = [{"role": "assistant", "tool_calls": [call]}]
    body = {"model": "org/deep", "messages": messages}
    send(CHAT, json.dumps(body).encode())
