"""The one constraint of an answer, under whichever of its names a client sends it."""

import json
from collections.abc import Iterator
from typing import Any

from repertory.domain.errors import BadRequest
from repertory.engines.contract import GrammarKind
from repertory.gateway.asking.asks import Constraint
from repertory.gateway.asking.requests import GenerationBody, ResponseFormat, StructuredOutputs

__all__ = ["constraint_of"]

_ANY_OBJECT = '{"type": "object"}'
"""JSON mode, as OpenAI means it: an object of any kind."""


def constraint_of(
    body: GenerationBody, response_format: ResponseFormat | None = None
) -> Constraint | None:
    """What the answer is held to.  Two constraints are refused: no grammar can be both."""
    found = list(_constraints(body, response_format))
    if len(found) > 1:
        raise BadRequest(
            f"'{found[1].field}' goes not together with '{found[0].field}': an answer is held to "
            "one of them.",
            found[1].field,
        )
    return found[0] if found else None


def _constraints(
    body: GenerationBody, response_format: ResponseFormat | None
) -> Iterator[Constraint]:
    if response_format is not None:
        yield from _of_response_format(response_format)
    if body.json_schema is not None:
        yield _schema(body.json_schema, "json_schema")
    if body.grammar:
        yield Constraint(GrammarKind.GBNF, body.grammar, "grammar")
    if body.structured_outputs is not None:
        yield from _of_structured_outputs(body.structured_outputs)


def _of_response_format(wanted: ResponseFormat) -> Iterator[Constraint]:
    if wanted.type == "json_object":
        named = [name for name in ("schema", "value") if getattr(wanted, name) is not None]
        for name in named:
            yield _schema(getattr(wanted, name), f"response_format.{name}")
        if not named:
            yield Constraint(GrammarKind.JSON_SCHEMA, _ANY_OBJECT, "response_format")
    if wanted.type == "json_schema":
        schema = wanted.json_schema.schema if wanted.json_schema is not None else None
        field = "response_format.json_schema.schema"
        if schema is None:
            raise BadRequest("This format needs its schema.", field)
        yield _schema(schema, field)


def _of_structured_outputs(wanted: StructuredOutputs) -> Iterator[Constraint]:
    for name in ("regex", "structural_tag"):
        if getattr(wanted, name) is not None:
            raise BadRequest(
                f"'{name}' is not served; write it as a 'grammar'.", f"structured_outputs.{name}"
            )
    if wanted.json is not None:
        field = "structured_outputs.json"
        if isinstance(wanted.json, str):
            yield Constraint(GrammarKind.JSON_SCHEMA, wanted.json, field)
        else:
            yield _schema(wanted.json, field)
    if wanted.json_object:
        yield Constraint(GrammarKind.JSON_SCHEMA, _ANY_OBJECT, "structured_outputs.json_object")
    if wanted.grammar is not None:
        yield Constraint(GrammarKind.GBNF, wanted.grammar, "structured_outputs.grammar")
    if wanted.choice is not None:
        root = " | ".join(_literal(choice) for choice in wanted.choice)
        yield Constraint(GrammarKind.GBNF, f"root ::= {root}", "structured_outputs.choice")


def _schema(schema: dict[str, Any], field: str) -> Constraint:  # Any: JSON
    return Constraint(GrammarKind.JSON_SCHEMA, json.dumps(schema, ensure_ascii=False), field)


def _literal(text: str) -> str:
    """GBNF's literal for a text; what has no escape of its own there stands as it is."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'
