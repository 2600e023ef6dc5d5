"""Tools and thinking: how a model is asked, and what its answer is made of."""

import json
from typing import Any

import pytest
from asgi_client import CHAT, Client, Reply, app_of, chat_body, run_virtually
from fake_service import FakeService, Step

from repertory.domain.requests import FinishReason
from repertory.engines.contract import Ranked, TokenLogprob
from repertory.gateway.reading import marks_of
from repertory.gateway.reading.formats import HERMES, LLAMA, MISTRAL, CallFormat
from repertory.live.facade import Piece

QWEN = (
    "{%- if tools %}<|im_start|>system ... <tools>{{ tool | tojson }}</tools> ... "
    '<tool_call>\\n{\\"name\\": <function-name>, '
    '\\"arguments\\": <args-json-object>}\\n</tool_call>'
    "{%- endif %}"
)
QWEN3 = QWEN + "{%- if enable_thinking is false %}<think>\\n\\n</think>{%- endif %}"
LLAMA3 = (
    '{{- "Environment: ipython\\n" }}{%- if tools is not none %}Respond in the format '
    '{"name": function name, "parameters": dictionary of argument name and its value}.{%- endif %}'
)
MISTRAL3 = '[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS] {{ "[TOOL_CALLS][" }}'
R1 = "{% if add_generation_prompt %}<|Assistant|><think>\\n{% endif %}"
CODER = "{{ tools }} system <tool_call>\\n<function=example_function_name>\\n<parameter=arguments>"
FUNCTIONARY = (
    "{{ tools }} Environment: ipython <|python_tag|> <{start_tag}={function_name}>{parameters}"
)
PLAIN = "{% for message in messages %}{{ message.role }} system {% endfor %}"
GEMMA = "{{ raise_exception('System role not supported') }}"

ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
LOOK: dict[str, Any] = {"type": "function", "function": {"name": "look"}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("template", "call_format"),
    [
        (QWEN, HERMES),
        (QWEN3, HERMES),
        (LLAMA3, LLAMA),
        (MISTRAL3, MISTRAL),
        (QWEN.replace("\\\\n", "\\n").replace('\\\\"', '"'), HERMES),
        (MISTRAL3.replace("S][", "S] ["), MISTRAL),
        ('{{ tools }}{{- "<tool_call>\\n" }}\n{{- \'{"name": <function-name>}\' }}', HERMES),
        (CODER, None),
        ("{{ tools }}<tool_call>{function-name}\\n<arg_key>{arg-key-1}</arg_key>", None),
        (FUNCTIONARY, None),
        ('{{ tools }} {{ "[TOOL_CALLS]" + name + "[ARGS]" }}', None),
        ("{{ tools }}", None),
        (PLAIN, None),
    ],
)
def test_formats_are_known_by_their_templates(
    template: str, call_format: CallFormat | None
) -> None:
    assert marks_of(template).call_format == call_format


def played(*texts: str, finish: FinishReason = FinishReason.STOP) -> tuple[Step, ...]:
    return (*(Piece(text, (1,)) for text in texts), Piece("", (2,), finish))


def ask(service: FakeService, **fields: Any) -> Reply:
    return run_virtually(Client(app_of(service)).post(CHAT, chat_body(**fields)))


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message["tool_calls"]
    ]


def test_a_template_that_knows_tools_gets_them_and_its_calls_are_read() -> None:
    service = FakeService(played("Let me", f" see.\n{CALL}"), template=QWEN)
    choice = ask(service, tools=[ADD, LOOK]).json["choices"][0]
    assert service.variables[0]["tools"] == [ADD, LOOK]
    assert service.asked[0].options.shows_specials
    assert service.asked[0].options.sampling.grammar == ""
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    assert calls_of(choice["message"]) == [("add", {"a": 1})]
    call = choice["message"]["tool_calls"][0]
    assert call["type"] == "function"
    assert len(call["id"]) == 9, "as Mistral's templates want it"
    assert call["id"].isalnum()


def test_an_answer_that_is_only_calls_has_no_content() -> None:
    service = FakeService(played(CALL, "\n", CALL), template=QWEN)
    message = ask(service, tools=[ADD]).json["choices"][0]["message"]
    assert message["content"] is None
    assert len(calls_of(message)) == 2
    assert len({call["id"] for call in message["tool_calls"]}) == 2


def test_calls_stream_in_openais_shape() -> None:
    service = FakeService(played("Well.", CALL[:20], CALL[20:], CALL), template=QWEN)
    *events, done = ask(service, tools=[ADD], stream=True).events
    assert done == "[DONE]"
    choices = [event["choices"][0] for event in events]
    first = choices[2]["delta"]["tool_calls"][0]
    assert (first["index"], first["type"]) == (0, "function")
    assert first["function"] == {"name": "add", "arguments": ""}
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Well."},
        {"tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1}'}}]},
        {"tool_calls": [{**first, "index": 1, "id": choices[4]["delta"]["tool_calls"][0]["id"]}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": '{"a": 1}'}}]},
        {},
    ]
    reasons = [choice["finish_reason"] for choice in choices]
    assert reasons == [None] * 6 + ["tool_calls"]


@pytest.mark.parametrize("is_streaming", [False, True])
def test_what_is_no_call_is_content(is_streaming: bool) -> None:
    broken = "Look: <tool_call>{broken}</tool_call> <tool_c"
    reply = ask(FakeService(played(*broken), template=QWEN), tools=[ADD], stream=is_streaming)
    if is_streaming:
        assert reply.text == broken
        assert reply.events[-2]["choices"][0]["finish_reason"] == "stop"
    else:
        assert reply.json["choices"][0]["message"]["content"] == broken
        assert "tool_calls" not in reply.json["choices"][0]["message"]


def test_a_call_that_is_cut_off_by_its_length_is_content() -> None:
    service = FakeService(played(CALL[:30], finish=FinishReason.LENGTH), template=QWEN)
    choice = ask(service, tools=[ADD]).json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL[:30], "length")


def test_one_call_only_where_parallel_calls_are_not_wanted() -> None:
    service = FakeService(played(CALL, CALL), template=QWEN)
    message = ask(service, tools=[ADD], parallel_tool_calls=False).json["choices"][0]["message"]
    assert len(calls_of(message)) == 1


def test_no_more_calls_are_taken_than_the_template_takes_back() -> None:
    call = '{"name": "add", "parameters": {"a": 1}}'
    service = FakeService(played(f"{call}; {call}"), template=LLAMA3)
    message = ask(service, tools=[ADD]).json["choices"][0]["message"]
    assert calls_of(message) == [("add", {"a": 1})]
    assert message["content"] is None


def test_no_tools_are_offered_where_none_may_be_called() -> None:
    service = FakeService(played(CALL), template=QWEN)
    message = ask(service, tools=[ADD], tool_choice="none").json["choices"][0]["message"]
    assert message["content"] == CALL
    assert "tools" not in service.variables[0]
    assert not service.asked[0].options.shows_specials


@pytest.mark.parametrize("template", [PLAIN, CODER, ""])
def test_other_templates_get_the_tools_described(template: str) -> None:
    answer = '{"tool_calls": [{"name": "add", "arguments": {"a": 1}}]}'
    service = FakeService(played(answer), template=template)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}]
    choice = ask(service, model="org/deep", messages=messages, tools=[ADD]).json["choices"][0]
    assert calls_of(choice["message"]) == [("add", {"a": 1})]
    assert "tools" not in service.variables[0]
    offer = service.rendered[0][0]
    if template != "":
        assert offer["role"] == "system"
        assert offer["content"].startswith("Be brief.\n\n")
    assert '"add"' in offer["content"]
    assert "Add two numbers." in offer["content"]
    assert "plain text" in offer["content"]
    assert service.asked[0].options.sampling.grammar == ""


def test_a_template_without_a_system_role_gets_the_description_from_the_user() -> None:
    service = FakeService(played("2"), template=GEMMA)
    ask(service, model="org/deep", tools=[ADD])
    [message] = service.rendered[0]
    assert message["role"] == "user"
    assert message["content"].endswith("\n\nhi")


def required(template: str, choice: object, *tools: dict[str, Any], **fields: Any) -> Any:
    answer = '{"tool_calls": [{"name": "add", "arguments": {"a": 1}}]}'
    service = FakeService(played(*answer), template=template)
    fields = {"model": "org/deep", "tools": list(tools), "tool_choice": choice, **fields}
    told = ask(service, **fields).json["choices"][0]
    assert told["finish_reason"] == "tool_calls"
    assert calls_of(told["message"]) == [("add", {"a": 1})]
    assert service.variables[0]["enable_thinking"] is False
    grammar = service.asked[0].options.sampling.grammar
    assert grammar.startswith("json_schema:")
    schema = json.loads(grammar.removeprefix("json_schema:"))
    assert schema["required"] == ["tool_calls"]
    return schema


@pytest.mark.parametrize("template", [PLAIN, QWEN3])
def test_a_required_call_is_held_to_by_a_schema(template: str) -> None:
    calls = required(template, "required", ADD, LOOK)["properties"]["tool_calls"]
    assert calls["minItems"] == 1
    assert "maxItems" not in calls
    shapes = [one["properties"] for one in calls["items"]["anyOf"]]
    assert [shape["name"] for shape in shapes] == [{"const": "add"}, {"const": "look"}]
    assert shapes[0]["arguments"] == ADD["function"]["parameters"]
    assert shapes[1]["arguments"] == {"type": "object"}


def test_a_named_call_is_the_only_one() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    calls = required(QWEN, named, LOOK, ADD)["properties"]["tool_calls"]
    assert (calls["maxItems"], len(calls["items"]["anyOf"])) == (1, 1)


def test_references_in_a_tools_schema_still_find_their_target() -> None:
    number = {"type": "integer"}
    own = {
        "type": "object",
        "$defs": {"N": number},
        "properties": {"a": {"$ref": "#/$defs/N"}, "b": {"$ref": "#"}},
    }
    tool = {"type": "function", "function": {"name": "add", "parameters": own}}
    schema = required(PLAIN, "required", tool)
    shape = schema["properties"]["tool_calls"]["items"]["anyOf"][0]["properties"]
    assert shape["arguments"] == {"$ref": "#/$defs/add"}
    moved = schema["$defs"]["add"]
    assert moved["$defs"] == {"N": number}
    assert moved["properties"] == {
        "a": {"$ref": "#/$defs/add/$defs/N"},
        "b": {"$ref": "#/$defs/add"},
    }


HISTORY = [
    {"role": "user", "content": "1+1 and 2+2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
            {"id": "y", "type": "function", "function": {"name": "look", "arguments": "broken"}},
        ],
    },
    {"role": "tool", "tool_call_id": "x", "content": "2"},
    {"role": "tool", "tool_call_id": "y", "content": "4"},
    {"role": "user", "content": "so?"},
]


@pytest.mark.parametrize("template", [QWEN, "{{ tools }}"])
def test_a_template_that_knows_tools_gets_earlier_calls_with_their_arguments_as_objects(
    template: str,
) -> None:
    service = FakeService(template=template)
    assert ask(service, model="org/deep", messages=HISTORY).status == 200
    _, called, *results, _ = service.rendered[0]
    arguments = [call["function"]["arguments"] for call in called["tool_calls"]]
    assert arguments == [{"a": 1}, "broken"]
    assert [one["tool_call_id"] for one in results] == ["x", "y"]


def test_a_template_that_knows_none_gets_earlier_calls_as_text() -> None:
    service = FakeService(template=PLAIN)
    assert ask(service, model="org/deep", messages=HISTORY).status == 200
    _, called, told = service.rendered[0]
    assert json.loads(called["content"]) == {
        "tool_calls": [
            {"name": "add", "arguments": {"a": 1}},
            {"name": "look", "arguments": "broken"},
        ]
    }
    assert told == {"role": "user", "content": "Result of add: 2\nResult of look: 4\nso?"}


def test_thinking_is_split_off() -> None:
    service = FakeService(played("<think>\n", "hm", "\n</think>", "\n\nYes."), template=QWEN3)
    reply = ask(service).json
    assert reply["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
        "reasoning_content": "hm",
    }
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    *events, _ = ask(service, stream=True).events
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[1:] == [{"reasoning_content": "hm"}, {"content": "Yes."}, {}]


def test_thinking_may_begin_in_the_prompt() -> None:
    steps = played("hm", "</think>", "Yes.")
    for opens, thought in (("<think>\n", "hm"), ("<think>\n\n</think>\n\n", None)):
        service = FakeService(steps, template=R1, opens=opens)
        message = ask(service).json["choices"][0]["message"]
        assert message.get("reasoning_content") == thought
        assert message["content"] == ("Yes." if thought else "hm</think>Yes.")


def test_thinking_is_left_in_where_wanted_and_where_nothing_marks_it() -> None:
    text = "<think>hm</think>Yes."
    for template, fields in ((QWEN3, {"reasoning_format": "none"}), (PLAIN, {})):
        reply = ask(FakeService(played(text), template=template), **fields).json
        assert reply["choices"][0]["message"]["content"] == text
        assert "completion_tokens_details" not in reply["usage"]


def test_what_is_held_to_a_grammar_does_not_think_unless_told_to() -> None:
    for wanted in (None, True):
        service = FakeService(played('{"a": 1}'), template=R1, opens="<think>\n")
        fields = {} if wanted is None else {"chat_template_kwargs": {"enable_thinking": wanted}}
        reply = ask(service, response_format={"type": "json_object"}, **fields).json
        assert reply["choices"][0]["message"]["content"] == '{"a": 1}'
        assert service.variables[0]["enable_thinking"] is bool(wanted)


def test_variables_of_the_template_are_passed_on() -> None:
    service = FakeService()
    ask(service, chat_template_kwargs={"enable_thinking": False, "x": [1]}, reasoning_effort="low")
    ask(service, reasoning_effort="none")
    assert service.variables == [
        {"reasoning_effort": "low", "enable_thinking": False, "x": [1]},
        {"reasoning_effort": "none", "enable_thinking": False},
    ]


def test_thoughts_and_calls_of_each_choice_are_its_own() -> None:
    scripts = [played("<think>hm</think>", CALL), played("No.")]
    reply = ask(FakeService(scripts=scripts, template=QWEN3), tools=[ADD], n=2).json
    first, second = reply["choices"]
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "stop")
    assert first["message"]["reasoning_content"] == "hm"
    assert second["message"]["content"] == "No."


def test_no_logprob_is_lost_while_text_is_held_back() -> None:
    token = TokenLogprob(Ranked(1, b"<", -0.5), ())
    steps = [Piece(letter, (1,), logprobs=(token,)) for letter in CALL]
    service = FakeService((*steps, Piece("", (), FinishReason.STOP)), template=QWEN)
    *events, _ = ask(service, tools=[ADD], logprobs=True, stream=True).events
    told = [event["choices"][0]["logprobs"] for event in events]
    assert sum(len(one["content"]) for one in told if one) == len(CALL)
