"""Tools: which may be called, and how a model is told whose template knows none.

Such a model is told in a system message to answer with `{"tool_calls": [...]}`; where a call is
required, the answer is held to that by a schema.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from msgspec import to_builtins

from repertory.domain.errors import BadRequest
from repertory.engines.contract import GrammarKind
from repertory.gateway.asking.asks import Chat, Constraint, ToolWish
from repertory.gateway.asking.requests import ChatBody

__all__ = ["call_constraint", "described", "tool_wish", "without_tool_roles"]

_Json = Any  # values of clients' schemas and messages

_OFFER = """\
You can call these functions. Each line is one, with the JSON schema of its arguments:
{tools}

To call functions, answer with nothing but JSON of this form:
{{"tool_calls": [{{"name": "<function>", "arguments": {{<arguments>}}}}]}}
{otherwise}"""
_MUST = "Answer with a call now."
_MAY = "If no call is needed, answer in plain text."


def tool_wish(body: ChatBody) -> ToolWish | None:
    """The tools that this answer may call; None: none."""
    tools = body.tools or []
    choice = body.tool_choice
    most = 1 if body.parallel_tool_calls is False else None
    if not tools:
        if choice not in (None, "none", "auto"):
            raise BadRequest("There are no 'tools' to choose from.", "tool_choice")
        return None
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise BadRequest("Two tools have one name.", "tools")
    wire = [to_builtins(tool) for tool in tools]
    if choice == "none":
        return None
    if choice in (None, "auto", "required"):
        return ToolWish(tuple(wire), choice == "required", most)
    chosen = _named(choice)
    if chosen not in names:
        raise BadRequest(
            f"'tool_choice' is none, auto, required, or names one of: {', '.join(names)}.",
            "tool_choice",
        )
    return ToolWish((wire[names.index(chosen)],), True, 1)


def _named(choice: _Json) -> str | None:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def call_constraint(wish: ToolWish) -> Constraint:
    """An answer that is a call of one of the tools, and nothing else."""
    return Constraint(GrammarKind.JSON_SCHEMA, json.dumps(_answer_schema(wish)), "tools")


def _answer_schema(wish: ToolWish) -> _Json:
    calls: dict[str, _Json] = {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [_call_schema(tool["function"]) for tool in wish.tools]},
    }
    if wish.most is not None:
        calls["maxItems"] = wish.most
    schema: dict[str, _Json] = _closed({"tool_calls": calls})
    shared = {
        tool["function"]["name"]: tool["function"]["parameters"]
        for tool in wish.tools
        if _has_references(tool["function"])
    }
    if shared:
        schema["$defs"] = {name: _moved(value, name) for name, value in shared.items()}
    return schema


def _call_schema(function: Mapping[str, _Json]) -> _Json:
    arguments = function.get("parameters") or {"type": "object"}
    if _has_references(function):
        arguments = {"$ref": f"#/$defs/{function['name']}"}
    return _closed({"name": {"const": function["name"]}, "arguments": arguments})


def _closed(properties: Mapping[str, _Json]) -> dict[str, _Json]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _has_references(function: Mapping[str, _Json]) -> bool:
    return '"$ref"' in json.dumps(function.get("parameters"))


def _moved(schema: _Json, name: str) -> _Json:
    """A schema that now stands under `$defs/name`: its references from the root follow it."""
    if isinstance(schema, list):
        return [_moved(one, name) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, name) for key, value in schema.items()}
    target = schema.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = f"#/$defs/{name}{target[1:]}"
    return moved


def described(chat: Chat, wish: ToolWish, takes_system: bool) -> Chat:
    """The same chat for a template that knows no tools."""
    lines = "\n".join(json.dumps(_outline(tool["function"])) for tool in wish.tools)
    offer = _OFFER.format(tools=lines, otherwise=_MUST if wish.is_required else _MAY)
    messages = list(without_tool_roles(chat.messages))
    role = "system" if takes_system else "user"
    if messages and messages[0]["role"] == role:
        first = messages.pop(0)
        offer = (
            f"{first['content']}\n\n{offer}" if takes_system else f"{offer}\n\n{first['content']}"
        )
    return replace(chat, messages=({"role": role, "content": offer}, *messages))


def _outline(function: Mapping[str, _Json]) -> Mapping[str, _Json]:
    return {key: value for key, value in function.items() if key != "strict"}


def without_tool_roles(messages: Sequence[Mapping[str, _Json]]) -> Iterator[Mapping[str, _Json]]:
    """Calls become the JSON that they were; their results become what the user says next."""
    names: dict[str, str] = {}
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            called = names.get(message.get("tool_call_id", ""), message.get("name", "the function"))
            results.append(f"Result of {called}: {message['content']}")
            continue
        if results and message["role"] == "user":
            yield {**message, "content": "\n".join([*results, message["content"]])}
            results = []
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        calls = message.get("tool_calls", ())
        for call in calls:
            names[str(call.get("id", ""))] = call["function"]["name"]
        yield _as_text(message) if calls else message
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _as_text(message: Mapping[str, _Json]) -> Mapping[str, _Json]:
    calls = [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in message["tool_calls"]
    ]
    text = json.dumps({"tool_calls": calls}, ensure_ascii=False)
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    content = message["content"]
    return {**kept, "content": f"{content}\n{text}" if content else text}
