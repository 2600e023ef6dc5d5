"""What is known of JSON values and schemas by looking: types, and what excludes each other."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["are_apart", "are_numbers", "is_of", "listed"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def are_numbers(*values: Any) -> bool:
    return all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values)


def is_of(value: Any, kind: str) -> bool:
    match kind:
        case "object":
            return isinstance(value, Mapping)
        case "array":
            return isinstance(value, list)
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return are_numbers(value) and float(value).is_integer()
    return are_numbers(value)


def are_apart(options: Iterable[Any]) -> bool:
    """Whether no value fits two of these: other types, or a property fixed to other values."""
    given = list(options)
    if not all(isinstance(one, Mapping) for one in given):
        return False
    if all("type" in one for one in given):
        kinds = [
            "number" if kind == "integer" else kind
            for one in given
            for kind in set(map(str, listed(one["type"])))
        ]
        if len(kinds) == len(set(kinds)):
            return True
    fixed = [_fixed(one) for one in given]
    for key in fixed[0]:
        values = [json.dumps(one.get(key)) for one in fixed if key in one]
        if len(values) == len(given) == len(set(values)):
            return True
    return all("const" in one for one in given) and len(
        {json.dumps(one["const"], sort_keys=True) for one in given}
    ) == len(given)


def _fixed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Required properties that have one value only (a discriminator)."""
    properties = schema.get("properties")
    required = schema.get("required")
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return {}
    found = {}
    for key, inner in properties.items():
        if key in required and isinstance(inner, Mapping):
            values = [inner["const"]] if "const" in inner else inner.get("enum")
            if isinstance(values, list) and len(values) == 1:
                found[key] = values[0]
    return found
