"""What a body may hold, what reaches the server, and what is refused, naming the field."""

import json
from typing import Any

import pytest
from asgi_client import CHAT, PLAIN, Client, Reply, app_of, chat_body, run_virtually
from fake_service import FakeService, spec

from repertory.engines.contract import Sampling
from repertory.gateway import Limits


def post(service: FakeService, body: object, path: str = CHAT) -> Reply:
    return run_virtually(Client(app_of(service)).post(path, body))


def plain(**fields: Any) -> dict[str, Any]:
    return {"model": "coder", "prompt": "hi", **fields}


def test_every_parameter_reaches_the_server() -> None:
    service = FakeService()
    fields = {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 2,
        "seed": 42,
        "stop": ["\n\n", "END"],
        "ignore_eos": True,
        "user": "somebody",
        "n": 1,
        "metadata": {"unknown": ["to", "us"]},
    }
    assert post(service, chat_body(**fields)).status == 200
    options = service.asked[0].options
    assert options.sampling == Sampling(0.5, 40, 0.9, 0.1, 1.1, -0.5, 2.0, 42)
    assert (options.max_tokens, options.stop, options.ignore_eos) == (9, ("\n\n", "END"), True)


@pytest.mark.parametrize(
    ("priority", "weight"),
    [("interactive", 1.0), ("batch", 0.1), (2, 2.0), (0.25, 0.25), (None, None)],
)
def test_a_priority_is_a_name_or_a_weight(priority: object, weight: float | None) -> None:
    service = FakeService()
    assert post(service, chat_body(priority=priority)).status == 200
    assert service.asked[0].options.weight == weight


@pytest.mark.parametrize("priority", ["urgent", 0, -1, 11, True, [1]])
def test_other_priorities_are_refused_by_name(priority: object) -> None:
    refused = post(FakeService(), chat_body(priority=priority))
    assert refused.status == 400
    assert refused.json["error"]["param"] == "priority"


def test_null_means_not_given() -> None:
    names = "max_tokens temperature top_p top_k min_p repeat_penalty presence_penalty stop stream n"
    service = FakeService()
    nulls = dict.fromkeys([*names.split(), "stream_options", "tools", "logprobs", "seed"])
    assert post(service, chat_body(**nulls)).status == 200
    options = service.asked[0].options
    assert (options.max_tokens, options.stop) == (None, ())
    assert options.sampling == Sampling(seed=options.sampling.seed)


def test_other_names_of_the_same() -> None:
    service = FakeService()
    fields = {"max_completion_tokens": 3, "repeat_penalty": 1.3, "top_k": -1, "stop": "x"}
    assert post(service, chat_body(**fields)).status == 200
    options = service.asked[0].options
    assert (options.max_tokens, options.stop) == (3, ("x",))
    assert (options.sampling.repetition_penalty, options.sampling.top_k) == (1.3, 0)


def test_a_seed_nobody_named_is_drawn_anew_and_any_named_one_is_not_negative() -> None:
    service = FakeService()

    async def main() -> None:
        app = app_of(service)
        for seed in (None, None, -1):
            await Client(app).post(CHAT, chat_body(seed=seed))

    run_virtually(main())
    first, second, named = (asked.options.sampling.seed for asked in service.asked)
    assert first != second
    assert named == 2**63 - 1
    assert min(first, second) >= 0


def test_contents_are_text_or_parts_of_text() -> None:
    service = FakeService()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "me"},
        {"role": "assistant", "content": None, "reasoning_content": "hm"},
    ]
    assert post(service, chat_body(messages=messages)).status == 200
    assert list(service.rendered[0]) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb", "name": "me"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("ab", (97, 98)),
        (["ab"], (97, 98)),
        ([5, 6, 7], (5, 6, 7)),
        ([[5, 6, 7]], (5, 6, 7)),
        ([5], (5,)),
    ],
    ids=str,
)
def test_prompts(prompt: object, tokens: tuple[int, ...]) -> None:
    service = FakeService()
    assert post(service, plain(prompt=prompt), PLAIN).status == 200
    assert service.asked[0].prompt == tokens


ADD = {"type": "function", "function": {"name": "add"}}


def refused(path: str, body: object) -> tuple[int, str | None, str]:
    service = FakeService()
    reply = post(service, body, path)
    error = reply.json["error"]
    assert service.asked == []
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return reply.status, error["param"], error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"seed": 2**63}, "seed"),
        ({"seed": True}, "seed"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (
            {"stream": True, "stream_options": {"include_progress": 1}},
            "stream_options.include_progress",
        ),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"timeout": 0}, "timeout"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [ADD, ADD]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [ADD], "tool_choice": "sub"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"function": {"name": "sub"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "grammar": "root ::= x"}, "grammar"),
        ({"tools": [ADD], "response_format": {"type": "json_object"}}, "response_format"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "a", "parameters": {"$ref": 1}}}
                ],
                "tool_choice": "required",
                "max_tokens": 0,
            },
            "max_tokens",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "1", "function": {"name": "a", "arguments": 3}}],
                    }
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "json_schema": {}}, "json_schema"),
        ({"grammar": "none"}, "grammar"),
        ({"json_schema": []}, "json_schema"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "none"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs.json"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"reasoning_format": "legacy"}, "reasoning_format"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"spec": 1}}, "chat_template_kwargs.spec"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], param: str) -> None:
    status, named, message = refused(CHAT, chat_body(**fields))
    assert (status, named) == (400, param), message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"echo": True, "prompt": [300]}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_wrong_fields_of_plain_completions_are_named(fields: dict[str, Any], param: str) -> None:
    status, named, message = refused(PLAIN, plain(**fields))
    assert (status, named) == (400, param), message


@pytest.mark.parametrize("field", ["model", "messages"])
def test_missing_fields_are_named(field: str) -> None:
    body = chat_body()
    del body[field]
    status, named, message = refused(CHAT, body)
    assert (status, named) == (400, field)
    assert "required" in message


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "byte 0"),
        (b'{"model":', "byte 9"),
        (b'{"model": @}', "byte 10"),
        (b'{"model": "\xff"}', "byte 11"),
        (b'{"model": "\\ud800"}', "byte 19"),
        (b"[" * 200_000, "expected"),
        (b'{"x":' + b"[" * 200_000, "nested too deeply"),
        (b"[]", "object"),
        (b"null", "object"),
    ],
)
def test_what_is_no_json_object_is_refused_with_its_place(body: bytes, where: str) -> None:
    status, named, message = refused(CHAT, body)
    assert (status, named) == (400, None)
    assert where.lower() in message.lower()


def test_a_prompt_over_the_context_names_its_field_and_the_arithmetic() -> None:
    chat = chat_body(messages=[{"role": "user", "content": "x" * 60}])
    status, named, message = refused(CHAT, chat)
    assert (status, named) == (400, "messages")
    assert "65 prompt tokens" in message
    assert "64" in message
    status, named, _ = refused(PLAIN, plain(prompt=[1] * 64))
    assert (status, named) == (400, "prompt")
    reply = post(FakeService(), chat)
    assert reply.json["error"]["code"] == "context_length_exceeded"


def test_an_unknown_model_is_404_with_near_names() -> None:
    status, named, message = refused(CHAT, chat_body(model="codr"))
    assert (status, named) == (404, "model")
    assert "coder" in message


def test_a_body_over_the_limit_is_413() -> None:
    service = FakeService(specs=(spec("coder", context_tokens=10**6),))
    app = app_of(service, Limits(body_bytes=1000))

    async def main() -> list[int]:
        replies = []
        for size in (900, 1000):
            body = chat_body(messages=[{"role": "user", "content": "x" * size}])
            replies.append((await Client(app).post(CHAT, body)).status)
        return replies

    assert run_virtually(main()) == [200, 413]


def test_a_client_that_leaves_while_it_sends_is_no_error() -> None:
    service = FakeService()
    client = Client(app_of(service))
    client.leaves.set()

    async def main() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        scope = {
            "type": "http",
            "method": "POST",
            "path": CHAT,
            "headers": [],
            "query_string": b"",
            "root_path": "",
        }
        await client.app(scope, receive, client._take)

    run_virtually(main())
    assert service.asked == []


def test_no_text_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    secret = "the quick brown fox"
    caplog.set_level("DEBUG")
    post(FakeService(), chat_body(messages=[{"role": "user", "content": secret}]))
    post(FakeService(), chat_body(messages=secret))
    lines = [
        json.loads(record.getMessage())
        for record in caplog.records
        if record.name == "repertory.gateway.requests"
    ]
    assert [line["outcome"] for line in lines] == ["done", "client_error"]
    assert lines[0]["request"] == "r1"
    assert lines[0]["output_tokens"] == 5
    assert secret not in caplog.text
    assert "Hel" not in caplog.text
