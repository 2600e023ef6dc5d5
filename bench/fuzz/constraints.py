"""Random GBNF grammars and JSON schemas: sensible ones, and those that break naive readers."""

from random import Random
from typing import Any

__all__ = ["grammar", "schema"]

_LITERALS = ('"a"', '"yes"', '"\\n"', '"\\x41"', '"é"', '""', '"a\\"b"', '"\\u00e9"')
_CLASSES = ("[a-z]", "[^\\n]", "[0-9]", "[A-Za-z_]", "[^a]", "[é-ü]", "[\\]]", ".", "[z-a]", "[]")
_MARKS = ("", "", "", "*", "+", "?", "{2}", "{1,3}", "{0,}", "{,2}", "{3,1}", "{0,100000}")
_BROKEN = (
    'root ::= "a',
    "root ::= missing",
    "root ::=",
    "",
    "root",
    "root ::= [a-",
    'root ::= ("a"',
    'root ::= "a" )',
    "root ::= root",
    'root ::= root "a"',
    'root ::= "" | root root',
    'root ::= ("a"*)*',
    "root ::= (" * 200 + '"a"' + ")" * 200,
    'root ::= "\\ud800"',
    "root ::= [\\x]",
    'rule ::= "a"',
    'root ::= "a"\nroot ::= "b"',
    'root ::= a{99999999999999999999} \na ::= "b"',
    'root ::= (("a"{0,99}){0,99}){0,99}',
    "root ::= <[5]> | !<[6]>",
    'root ::= "a" # no end',
)


def grammar(luck: Random) -> str:
    """Often good, sometimes left-recursive, ambiguous, empty or huge, sometimes no grammar."""
    if luck.random() < 0.25:
        return luck.choice(_BROKEN)
    names = ["root", *("ab", "item", "x-1")[: luck.randrange(4)]]
    return "\n".join(f"{name} ::= {_choices(luck, names, 0)}" for name in names)


def _choices(luck: Random, names: list[str], depth: int) -> str:
    branches = range(luck.choice((1, 1, 2, 3)))
    return " | ".join(_sequence(luck, names, depth) for _ in branches)


def _sequence(luck: Random, names: list[str], depth: int) -> str:
    terms = range(luck.choice((1, 2, 3)))
    return " ".join(_term(luck, names, depth) + luck.choice(_MARKS) for _ in terms)


def _term(luck: Random, names: list[str], depth: int) -> str:
    kind = luck.random()
    if kind < 0.4:
        return luck.choice(_LITERALS)
    if kind < 0.7:
        return luck.choice(_CLASSES)
    if kind < 0.85 or depth > 2:
        return luck.choice(names)
    return f"({_choices(luck, names, depth + 1)})"


_PATTERNS = (
    "^[a-z]+$",
    "^\\d{2,4}$",
    "a|b",
    "(a+)+$",
    "^[\\w-]*$",
    "(?=a)b",
    "(",
    "\\p{L}",
    "^.*$",
)
_FORMATS = ("date", "date-time", "uuid", "email", "ipv4", "nonsense")


def schema(luck: Random, depth: int = 0) -> dict[str, Any]:  # JSON
    """A JSON schema; the outermost may hold definitions that refer to each other."""
    kinds = _SCALARS if depth > 2 else _SCALARS + _NESTED
    found = luck.choice(kinds)(luck, depth)
    if depth == 0 and luck.random() < 0.2:
        found["$defs"] = {name: schema(luck, 2) for name in ("leaf", "tree")}
    if luck.random() < 0.1:
        found[luck.choice(("title", "description", "default", "x-unknown"))] = luck.choice(
            ("text", None, 5, [], {})
        )
    if luck.random() < 0.06:
        found[luck.choice(tuple(_ODD))] = _ODD[luck.choice(tuple(_ODD))]
    return found


def _text(luck: Random, _: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "string"}
    if luck.random() < 0.3:
        found["minLength"] = luck.choice((0, 1, 3, 10**6))
    if luck.random() < 0.3:
        found["maxLength"] = luck.choice((0, 1, 8, 10**6, 10**18))
    if luck.random() < 0.2:
        found["pattern"] = luck.choice(_PATTERNS)
    if luck.random() < 0.2:
        found["format"] = luck.choice(_FORMATS)
    return found


def _number(luck: Random, _: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": luck.choice(("integer", "number"))}
    for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"):
        if luck.random() < 0.2:
            found[bound] = luck.choice((0, -5, 7, 1e300, 10**30, 0.5, -(10**18)))
    return found


def _fixed(luck: Random, _: int) -> dict[str, Any]:
    values = ("red", "é\n", 5, None, True, 0.25, [], {"a": 1})
    if luck.random() < 0.5:
        return {"const": luck.choice(values)}
    return {"enum": luck.sample(values, luck.randrange(len(values)))}


def _plain(luck: Random, _: int) -> dict[str, Any]:
    return luck.choice(({"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}))


def _reference(luck: Random, _: int) -> dict[str, Any]:
    places = ("#/$defs/leaf", "#/$defs/tree", "#", "#/nowhere", "http://127.0.0.1:9/x", "#/$defs")
    return {"$ref": luck.choice(places)}


def _object(luck: Random, depth: int) -> dict[str, Any]:
    names = luck.sample(("name", "age", "tags", 'q"uote', "é", ""), luck.randrange(5))
    found: dict[str, Any] = {"type": "object"}
    found["properties"] = {name: schema(luck, depth + 1) for name in names}
    if luck.random() < 0.7:
        found["required"] = luck.sample(names, luck.randrange(len(names) + 1))
    if luck.random() < 0.3:
        found["required"] = [*found.get("required", ()), "unnamed"]
    if luck.random() < 0.5:
        found["additionalProperties"] = luck.choice((False, True, {"type": "integer"}))
    return found


def _list(luck: Random, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "array", "items": schema(luck, depth + 1)}
    if luck.random() < 0.3:
        found["minItems"] = luck.choice((0, 1, 3, 10**6))
    if luck.random() < 0.3:
        found["maxItems"] = luck.choice((0, 2, 10**6))
    if luck.random() < 0.1:
        found["prefixItems"] = [schema(luck, depth + 1)]
    return found


def _joined(luck: Random, depth: int) -> dict[str, Any]:
    word = luck.choice(("anyOf", "oneOf", "allOf"))
    return {word: [schema(luck, depth + 1) for _ in range(luck.randrange(4))]}


_SCALARS = (_text, _number, _fixed, _plain, _reference)
_NESTED = (_object, _object, _object, _list, _joined)
_ODD: dict[str, Any] = {
    "type": "nothing",
    "properties": [],
    "required": "name",
    "items": 5,
    "enum": {},
    "$ref": 7,
    "anyOf": {},
    "minLength": -1,
    "pattern": None,
}
