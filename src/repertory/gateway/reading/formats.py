"""Formats in which models call tools, and what a chat template says of itself.

Formats are recognised by marks in the template's own text.  One that is not known for certain is
not guessed: the gateway then describes the tools itself (`DESCRIBED`).
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from repertory.gateway.reading.parts import Call
from repertory.gateway.reading.thinking import CLOSING, OPENING

__all__ = [
    "DESCRIBED",
    "HERMES",
    "LLAMA",
    "MISTRAL",
    "CallFormat",
    "TemplateMarks",
    "marks_of",
]

_TOOLS = re.compile(r"\btools\b")


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A mark, a JSON value, perhaps a closing mark."""

    opening: str
    """Found anywhere in a text.  Empty: the value is the first thing that is said."""
    closing: str = ""
    lead: str = ""
    """Without `opening`: may stand before the value."""
    separators: str = ""
    """Without `opening`: besides white space, between one value and the next."""
    most: int | None = None
    """Calls that its templates take in one message."""
    takes_unknown: bool = True
    """A marked value is a call even of a tool that was not offered: the model wanted one, and
    whoever runs the tools can tell it.  A bare one may be an answer that happens to be JSON."""

    def calls_of(self, raw: str, names: Collection[str]) -> list[Call] | None:
        """The calls in a JSON value; None if it is something else."""
        try:
            value = json.loads(raw, parse_constant=_no_constant)
            return _calls_of(value, None if self.takes_unknown else names)
        except (ValueError, RecursionError):
            return None


HERMES = CallFormat("<tool_call>", "</tool_call>")
"""Hermes, Qwen 2.5, Qwen 3: {"name": ..., "arguments": {...}}."""
MISTRAL = CallFormat("[TOOL_CALLS]")
"""Mistral up to tokenizer v7: [{"name": ..., "arguments": {...}}, ...]."""
LLAMA = CallFormat("", lead="<|python_tag|>", separators=";", most=1, takes_unknown=False)
"""Llama 3.1 to 3.3: {"name": ..., "parameters": {...}}."""
DESCRIBED = CallFormat("", takes_unknown=False)
"""Ours: {"tool_calls": [{"name": ..., "arguments": {...}}, ...]}."""

_FORMATS = (
    (re.compile(r"\[TOOL_CALLS\] ?\["), MISTRAL),
    (re.compile(r"""<tool_call>[\s"'{}+\\n-]*?\{\\?"name\\?\""""), HERMES),
    (re.compile(r'\{\\?"name\\?": function name, \\?"parameters\\?":'), LLAMA),
)
"""What templates of that format say, and others do not: newer ones of Mistral have
`[TOOL_CALLS]name[ARGS]`, Qwen 3 Coder and GLM 4.5 have XML behind the mark.  This is the source of
templates: between a mark and its value there may be quotes, escapes and ends of statements."""


@dataclass(frozen=True, slots=True)
class TemplateMarks:
    """What a template knows of."""

    knows_tools: bool
    call_format: CallFormat | None
    """None: it knows no tools, or calls them in a way that is not known here."""
    thinks: bool
    takes_system: bool


@lru_cache(maxsize=64)
def marks_of(template: str) -> TemplateMarks:
    knows_tools = _TOOLS.search(template) is not None
    return TemplateMarks(
        knows_tools=knows_tools,
        call_format=_call_format(template) if knows_tools else None,
        thinks=OPENING in template or CLOSING in template,
        takes_system="system" in template
        and "system role not supported" not in template.lower(),  # as Gemma's says
    )


def _call_format(template: str) -> CallFormat | None:
    return next((one for mark, one in _FORMATS if mark.search(template)), None)


def _calls_of(value: Any, names: Collection[str] | None) -> list[Call] | None:  # Any: JSON
    if isinstance(value, dict) and set(value) == {"tool_calls"}:
        value = value["tool_calls"]
    entries = value if isinstance(value, list) else [value]
    calls = [_call_of(entry, names) for entry in entries]
    if not calls or None in calls:
        return None
    return [call for call in calls if call is not None]


def _call_of(entry: Any, names: Collection[str] | None) -> Call | None:  # Any: JSON
    if not isinstance(entry, dict):
        return None
    name = entry.get("name")
    if not isinstance(name, str) or not name or (names is not None and name not in names):
        return None
    arguments = entry.get("arguments", entry.get("parameters"))
    if arguments is None and names is None:
        arguments = {}  # marked as a call, of a tool that takes nothing
    if not isinstance(arguments, dict):
        return None
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
