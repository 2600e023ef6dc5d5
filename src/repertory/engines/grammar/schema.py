"""From a JSON schema to GBNF: every text that the grammar derives is valid by the schema.

Not every valid text is derived: properties come in the schema's order, whitespace is short, and
properties that the schema does not name come only where it names none.  What no grammar can
promise (`uniqueItems`, `not`, ...) is refused and never passed over; annotations are passed over.

llama-cpp-python has a converter too.  It writes a constant's backslashes unescaped (a line break
inside of JSON strings), takes references by the last part of their name, skips `minimum` and
whatever else it does not know, and writes `{0,100000}` out in full.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repertory.domain.errors import BadRequest
from repertory.engines.grammar.gbnf import MOST_GBNF_BYTES
from repertory.engines.grammar.numbers import number_rule
from repertory.engines.grammar.pattern import pattern_rule
from repertory.engines.grammar.values import are_apart, are_numbers, is_of, listed
from repertory.engines.grammar.writing import BASICS, FORMATS, either, literal, repeated, words

__all__ = ["MOST_SCHEMA_BYTES", "gbnf_of_schema"]

MOST_SCHEMA_BYTES = 64 << 10
_MOST_NESTING = 64
_MOST_REPEATS = 10_000
_MOST_VISITS = 20_000
"""Of schemas: a reference beside other keywords is merged with them, each time anew."""

Schema = Mapping[str, Any]  # Any: JSON as a client sent it

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}
_REFUSED = (
    "not", "if", "then", "else", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependentRequired", "dependentSchemas", "dependencies", "contains",
    "minContains", "maxContains", "uniqueItems", "multipleOf", "unevaluatedProperties",
    "unevaluatedItems", "$dynamicRef", "$recursiveRef", "additionalItems",
)  # fmt: skip
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "additionalItems": (True, {}, False),
    "minProperties": (0,),
    "minContains": (0,),
}
"""Values with which a refused keyword asks for nothing."""


def gbnf_of_schema(text: str) -> str:
    """GBNF of a JSON schema's text; `BadRequest` says where it cannot be."""
    size = len(text.encode("utf-8", "replace"))
    if size > MOST_SCHEMA_BYTES:
        raise BadRequest(f"The schema has {size} bytes; at most {MOST_SCHEMA_BYTES} are taken.")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The schema is no JSON: {error}") from None
    return _Writer(schema).write()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the schema we are: for messages, and against going too deep."""

    path: str = "#"
    depth: int = 0

    def inside(self, *names: object) -> "_Place":
        if self.depth >= _MOST_NESTING:
            raise BadRequest(f"The schema is nested more than {_MOST_NESTING} levels deep.")
        return _Place("/".join((self.path, *map(str, names))), self.depth + 1)

    def fault(self, what: str) -> BadRequest:
        return BadRequest(f"The schema at {self.path:.200}: {what}.")


class _Writer:
    """Rules so far; each visited schema becomes an expression, and what may recur a rule."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._references: dict[str, str] = {}
        """JSON pointer -> its rule."""
        self._size = 0
        self._visits = 0

    def write(self) -> str:
        self._rules["root"] = ""
        self._rules["root"] = self._visit(self._schema, _Place())
        self._add_basics()
        return "\n".join(f"{name} ::= {rule}" for name, rule in self._rules.items()) + "\n"

    def _add_basics(self) -> None:
        """Those that are used, and those that they use."""
        named = [word for rule in self._rules.values() for word in words(rule)]
        while named:
            name = named.pop()
            if name in BASICS and name not in self._rules:
                self._rules[name] = BASICS[name]
                named += words(BASICS[name])

    def _visit(self, schema: Any, place: _Place) -> str:
        """The expression of a schema, in parentheses where it needs them."""
        self._count_visit()
        if schema is True:
            return "value"
        if not isinstance(schema, Mapping):
            what = "false allows nothing" if schema is False else "a schema must be an object"
            raise place.fault(what)
        self._refuse(schema, place)
        if "$ref" in schema:
            if _asserts(schema, but=("$ref",)):
                return self._visit_all(schema, "$ref", [{"$ref": schema["$ref"]}], place)
            return self._reference(schema["$ref"], place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._visit_any(schema, key, place)
        if "allOf" in schema:
            return self._visit_all(schema, "allOf", schema["allOf"], place)
        if "const" in schema or "enum" in schema:
            return self._constants(schema, place)
        types = _types(schema, place)
        return either([self._typed(kind, schema, place) for kind in types])

    def _refuse(self, schema: Schema, place: _Place) -> None:
        for key in _REFUSED:
            if key in schema and schema[key] not in _HARMLESS.get(key, ()):
                raise place.fault(f"{key!r} cannot be promised by a grammar")
        if not isinstance(schema.get("format", ""), str):
            raise place.fault("'format' must be text")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
            raise place.fault("'required' must be a list of names")

    def _typed(self, kind: str, schema: Schema, place: _Place) -> str:
        match kind:
            case "object":
                return self._object(schema, place)
            case "array":
                return self._array(schema, place)
            case "string":
                return self._string(schema, place)
            case "number" | "integer":
                bounds = {key: schema[key] for key in _OF_TYPE["number"] if key in schema}
                return number_rule(kind == "integer", bounds, place.fault) if bounds else kind
        return kind

    def _visit_any(self, schema: Schema, key: str, place: _Place) -> str:
        options = schema[key]
        if not isinstance(options, list) or not options:
            raise place.fault(f"{key!r} must be a list of schemas")
        if key == "oneOf" and len(options) > 1 and not are_apart(options):
            # What fits two of them is invalid, and a grammar cannot tell.
            raise place.fault("'oneOf' of what may overlap cannot be promised; write 'anyOf'")
        rest = {name: value for name, value in schema.items() if name != key}
        if _asserts(rest):
            options = [self._merged([rest, one], place) for one in options]
        return either(
            [self._visit(one, place.inside(key, number)) for number, one in enumerate(options)]
        )

    def _visit_all(self, schema: Schema, key: str, parts: Any, place: _Place) -> str:
        if not isinstance(parts, list) or not parts:
            raise place.fault(f"{key!r} must be a list of schemas")
        rest = {name: value for name, value in schema.items() if name != key}
        return self._visit(self._merged([rest, *parts], place), place.inside(key))

    def _merged(self, parts: Sequence[Any], place: _Place) -> Schema:
        """One schema that asks for all of it."""
        self._count_visit()
        resolved = [self._resolved(part, place) for part in parts if part is not True]
        merged: dict[str, Any] = {}
        for part in resolved:
            for name, value in part.items():
                known = name in merged
                merged[name] = self._both(name, merged[name], value, place) if known else value
        for part in resolved:
            if _closes(part) and set(merged.get("properties", ())) - set(
                part.get("properties", ())
            ):
                raise place.fault("'additionalProperties' beside properties of another part")
            if (
                ("items" in merged) + ("prefixItems" in merged)
                > ("items" in part) + ("prefixItems" in part)
                > 0
            ):
                raise place.fault("'items' of one part beside 'prefixItems' of another")
        return merged

    def _resolved(self, part: Any, place: _Place) -> Schema:
        """A part without a reference at its top."""
        if not isinstance(part, Mapping):
            raise place.fault("a part must be an object")
        if "$ref" not in part:
            return part
        others = {name: value for name, value in part.items() if name != "$ref"}
        target = self._found(part["$ref"], place)
        return self._merged([others, target], place.inside("$ref"))

    def _both(self, name: str, one: Any, other: Any, place: _Place) -> Any:
        if one == other or name not in _ASSERTIONS:
            return one
        if name == "properties" and isinstance(one, Mapping) and isinstance(other, Mapping):
            shared = {key: {"allOf": [one[key], other[key]]} for key in one.keys() & other.keys()}
            return {**one, **other, **{key: shared[key] for key in one if key in shared}}
        if name == "required" and isinstance(one, list) and isinstance(other, list):
            return [*one, *(key for key in other if key not in one)]
        if name == "type":
            ours, theirs = listed(one), listed(other)
            both = [kind for kind in ours if kind in theirs]
            if both:
                return both
        if name in ("minimum", "minLength", "minItems") and are_numbers(one, other):
            return max(one, other)
        if name in ("maximum", "maxLength", "maxItems") and are_numbers(one, other):
            return min(one, other)
        raise place.fault(f"two different {name!r} at once cannot be written as a grammar")

    def _reference(self, pointer: Any, place: _Place) -> str:
        known = self._references.get(pointer) if isinstance(pointer, str) else None
        if known is not None:
            return known
        target = self._found(pointer, place)
        name = self._references[pointer] = f"ref-{len(self._references)}"
        self._rules[name] = ""
        self._keep(name, self._visit(target, place.inside("$ref")))
        return name

    def _found(self, pointer: Any, place: _Place) -> Any:
        """What a reference names.  Nothing is ever fetched."""
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise place.fault("'$ref' must point into this schema, as '#/$defs/...' does")
        target = self._schema
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            else:
                raise place.fault(f"'$ref' names {pointer[:100]!r}, which is not there")
        return target

    def _constants(self, schema: Schema, place: _Place) -> str:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list) or not values:
            raise place.fault("'enum' must be a list of values")
        if "const" in schema:
            values = [value for value in values if value == schema["const"]]
        if "type" in schema:
            kinds = _types(schema, place)
            values = [value for value in values if any(is_of(value, kind) for kind in kinds)]
        for kind in _TYPES:
            asked = [key for key in _OF_TYPE[kind] if key in schema and key != "format"]
            if asked and any(is_of(value, kind) for value in values):
                raise place.fault(f"{asked[0]!r} beside fixed values cannot be checked")
        if not values:
            raise place.fault("no value is left that all its keywords allow")
        return either([literal(json.dumps(value, ensure_ascii=False)) for value in values])

    def _object(self, schema: Schema, place: _Place) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        others = schema.get("additionalProperties", True)
        if not isinstance(properties, Mapping):
            raise place.fault("'properties' must be an object")
        unnamed = [key for key in required if key not in properties]
        if unnamed:
            raise place.fault(f"the required property {str(unnamed[0])[:100]!r} has no schema")
        if not properties:
            if others is False:
                return '("{" ws "}")'
            value = self._visit(others, place.inside("additionalProperties"))
            member = f'string ":" ws {value} ws'
            return (
                "object" if value == "value" else (f'("{{" ws ({member} ("," ws {member})*)? "}}")')
            )
        members = []
        for key, inner in properties.items():
            if inner is False and key not in required:
                continue
            value = self._visit(inner, place.inside("properties", key))
            name = literal(json.dumps(key, ensure_ascii=False))
            members.append((f'{name} ":" ws {value} ws', key in required))
        return self._members(members)

    def _members(self, members: Sequence[tuple[str, bool]]) -> str:
        """Members in order, those that are not required perhaps left out.

        From the last to the first, two ways to go on: with nothing written yet, and after a comma.
        """
        first = later = '""'
        for member, is_required in reversed(members):
            kept = self._rule("more", later) if later != '""' else ""
            follows = f"{member} {kept}".strip()
            skipped_first = "" if is_required else self._rule("rest", first)
            first = follows if is_required else f"({follows} | {skipped_first})"
            after = f'"," ws {follows}'
            later = after if is_required else f"({after})?" if not kept else f"({after} | {kept})"
        return f'("{{" ws {first} "}}")'

    def _array(self, schema: Schema, place: _Place) -> str:
        prefix, items = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(items, list):  # as it was written before 2020-12
            prefix, items = items, schema.get("additionalItems", True)
        if not isinstance(prefix, list):
            raise place.fault("'prefixItems' must be a list of schemas")
        least, most = _counts(schema, "minItems", "maxItems", place)
        most = len(prefix) if items is False and most is None else most
        if (most is not None and most < len(prefix)) or (items is False and least > len(prefix)):
            raise place.fault("its numbers of items contradict each other")
        parts = [
            self._visit(one, place.inside("prefixItems", number)) + " ws"
            for number, one in enumerate(prefix)
        ]
        left = None if most is None else most - len(prefix)
        needed = max(0, least - len(prefix))
        if items is False or left == 0:
            return f"""("[" ws {' "," ws '.join(parts)} "]")""" if parts else '("[" ws "]")'
        item = self._rule("item", self._visit(items, place.inside("items")) + " ws")
        if parts:
            tail = repeated(f'("," ws {item})', needed, left)
            return f"""("[" ws {' "," ws '.join(parts)} {tail} "]")"""
        tail = repeated(f'("," ws {item})', max(0, needed - 1), None if left is None else left - 1)
        inner = f"{item} {tail}".strip()
        return f'("[" ws {inner if needed else f"({inner})?"} "]")'

    def _string(self, schema: Schema, place: _Place) -> str:
        least, most = _counts(schema, "minLength", "maxLength", place)
        has_length = bool(least) or most is not None
        if "pattern" in schema:
            if has_length:
                raise place.fault("'pattern' and a length at once cannot be promised")
            return pattern_rule(schema["pattern"], place.fault)
        if schema.get("format") in FORMATS:
            if has_length:
                raise place.fault("'format' and a length at once cannot be promised")
            return f"({FORMATS[schema['format']]})"
        if not has_length:
            return "string"
        return rf'("\"" {repeated("char", least, most)} "\"")'

    def _rule(self, kind: str, expression: str) -> str:
        """A rule of its own, unless it is but a name."""
        if expression.replace("-", "").isalnum():
            return expression
        name = f"{kind}-{len(self._rules)}"
        self._keep(name, expression)
        return name

    def _count_visit(self) -> None:
        self._visits += 1
        if self._visits > _MOST_VISITS:
            raise BadRequest("The schema grows too large when its references are followed.")

    def _keep(self, name: str, expression: str) -> None:
        self._rules[name] = expression
        self._size += len(expression)
        if self._size > MOST_GBNF_BYTES // 2:
            raise BadRequest("The schema becomes too large a grammar; name its parts in '$defs'.")


_ASSERTIONS = {key for keys in _OF_TYPE.values() for key in keys} | {
    "type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", *_REFUSED,
} - {"format"}  # fmt: skip


def _asserts(schema: Schema, but: Sequence[str] = ()) -> bool:
    return any(key in _ASSERTIONS and key not in but for key in schema)


def _closes(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("additionalProperties", True) not in (True, {})


def _types(schema: Schema, place: _Place) -> list[str]:
    """The types it allows: those it names, or those that its keywords are about, or all."""
    named = schema.get("type")
    if named is not None:
        kinds = listed(named)
        wrong = [kind for kind in kinds if kind not in _TYPES]
        if wrong or not kinds:
            raise place.fault(
                f"{str(wrong[0])[:50]!r} is no type" if wrong else "'type' names none"
            )
        return [kind for kind in kinds if not (kind == "integer" and "number" in kinds)]
    meant = [kind for kind in _TYPES if any(key in schema for key in _OF_TYPE[kind])]
    return [kind for kind in meant if kind != "integer"] or [
        kind for kind in _TYPES if kind != "integer"
    ]


def _counts(schema: Schema, least: str, most: str, place: _Place) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for key, value in ((least, low), (most, high)):
        if value is None and key == most:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise place.fault(f"{key!r} must be a number of things")
        if value > _MOST_REPEATS:
            raise place.fault(f"{key!r} is beyond {_MOST_REPEATS}")
    if high is not None and high < low:
        raise place.fault(f"{least!r} is greater than {most!r}")
    return low, high
