"""A chat's messages as templates want them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from repertory.domain.errors import BadRequest
from repertory.gateway.asking.requests import Message, Part

__all__ = ["messages_of"]


def messages_of(messages: Sequence[Message]) -> tuple[Mapping[str, Any], ...]:
    return tuple(_message(message, at) for at, message in enumerate(messages))


def _message(message: Message, at: int) -> Mapping[str, Any]:
    if message.content is None and message.role != "assistant":
        raise BadRequest(
            f"Only an assistant's message may have no content; this one is {message.role!r}.",
            f"messages[{at}].content",
        )
    role = "system" if message.role == "developer" else message.role
    """OpenAI's newer word for it, which no model's template knows."""
    wire: dict[str, Any] = {"role": role, "content": _text(message.content, at)}
    for key in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, key)
        if value is not None:
            wire[key] = value
    if message.tool_calls:
        wire["tool_calls"] = [
            _call(call, f"messages[{at}].tool_calls[{nth}]")
            for nth, call in enumerate(message.tool_calls)
        ]
    return wire


def _call(call: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """OpenAI has the arguments as text; templates write them as JSON, and want the object."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest("A call needs its function's name.", f"{field}.function.name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _decoded(arguments)
    elif not isinstance(arguments, dict):
        raise BadRequest("Arguments are JSON as a text.", f"{field}.function.arguments")
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _decoded(arguments: str) -> Any:  # Any: JSON
    """A model may have made them wrong: then the template gets the text."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _text(content: str | list[Part] | None, at: int) -> str:
    """Parts are joined by line breaks, as llama.cpp and vLLM do."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for nth, part in enumerate(content):
        field = f"messages[{at}].content[{nth}]"
        if part.type != "text":
            raise BadRequest(f"Only text is understood, not {part.type!r}.", f"{field}.type")
        if part.text is None:
            raise BadRequest("A text part needs its text.", f"{field}.text")
        texts.append(part.text)
    return "\n".join(texts)
