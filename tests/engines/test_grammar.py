"""Grammars from strangers: what comes through is theirs, and nothing they write hurts us."""

import contextlib
import json
import random
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.domain.errors import BadRequest, EngineError
from repertory.engines.contract import GrammarKind
from repertory.engines.grammar import automaton as bounds
from repertory.engines.grammar import check_followable, gbnf_of
from repertory.engines.grammar.automaton import Automaton, Grammar, TokenTree
from repertory.engines.grammar.gbnf import compile_gbnf

END = 256
BYTES = TokenTree([*(bytes([byte]) for byte in range(256)), b""])
WORDS = TokenTree(
    [
        *BYTES.pieces,
        *(word.encode() for word in ('"a"', '": ', "true", "aaaaaaaa", "  ", "é€", "12")),
    ]
)


def automaton(text: str, tree: TokenTree = BYTES) -> Automaton:
    return Automaton(Grammar(text, compile_gbnf(text), tree, np.array([END])))


def of_schema(schema: object) -> str:
    return gbnf_of(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def takes(text: str, written: str) -> bool:
    """Whether `written`, byte by byte, is a whole text of the grammar."""
    one = automaton(text)
    for byte in written.encode():
        if not one.allows(byte):
            return False
        one.accept(byte)
    return one.allows(END)


def written(text: str, seed: int, tree: TokenTree = WORDS, most: int = 3000) -> str | None:
    """A random text of the grammar; None if it did not come to its end."""
    luck, one, out = random.Random(seed), automaton(text, tree), b""
    for _ in range(most):
        allowed = np.flatnonzero(one.allowed()).tolist()
        token = END if END in allowed and luck.random() < 0.5 else luck.choice(allowed)
        assert one.allows(token)
        one.accept(token)
        out += tree.pieces[token]
        if token == END or one.is_complete:
            return out.decode()
    return None


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        ('root ::= "a" | "bc"', ["a", "bc"], ["", "b", "ab", "bca"]),
        ("root ::= [a-c]* [^a-z]", ["1", "abc-", "é", "c€"], ["", "a", "d1", "11"]),
        ('root ::= ("x" "y"?){2,3}', ["xx", "xyxyx", "xxx"], ["x", "xyy", "xxxx"]),
        ('root ::= pair+ # two\npair ::= "(" root? ")"', ["()", "(())()"], ["", "(", "())"]),
        ('root ::= "\\x41\\u00e9\\U0001F600\\n\\"\\\\"', ['Aé😀\n"\\'], ["A"]),
        ("root ::= [é-ü]{2}", ["éü", "êê"], ["ée", "é", "ÿé"]),
        ('root ::= .{3} ""', ["abc", "é€😀"], ["ab", "abcd"]),
        ('root ::=\n  "a" |\n  ( "b"\n | "c" )', ["a", "b", "c"], [""]),
        ('root ::= "a"{2} "b"{0} "c"{1,}', ["aac", "aacc"], ["ac", "aabc", "aa"]),
        ("root ::= [\\]\\-a]+", ["]-a"], ["b"]),
    ],
)
def test_a_grammar_takes_its_texts_and_no_others(grammar, taken, refused):  # type: ignore[no-untyped-def]
    assert all(takes(grammar, one) for one in taken)
    assert not any(takes(grammar, one) for one in refused)


@given(st.text(alphabet='ab(){}[]|*+?.:= \n"\\^-<!#{0,9}', max_size=60))
@settings(max_examples=600, deadline=None)
def test_any_text_is_a_grammar_or_a_bad_request(text: str) -> None:
    for grammar in (text, f"root ::= {text}"):
        with contextlib.suppress(BadRequest):
            automaton(grammar).allowed()


DOUBLING = "\n".join(f"a{n} ::= a{n + 1} | a{n + 1}" for n in range(60))
NASTY = {
    "deep groups": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000,
    "a million times": 'root ::= "a"{0,1000000}',
    "left recursion": 'root ::= root "a" | "b"',
    "hidden left recursion": 'root ::= maybe root "a" | "b"\nmaybe ::= "x"?',
    "a rule of itself alone": "root ::= root",
    "a long ring of rules": "\n".join(f"a{n} ::= a{(n + 1) % 3000}" for n in range(3000))
    + "\nroot ::= a0",
    "no root": 'a ::= "b"',
    "no rule": "",
    "an undefined rule": "root ::= nothing",
    "two of a name": 'root ::= "a"\nroot ::= "b"',
    "an empty class": "root ::= []",
    "a half escape": 'root ::= "\\u12"',
    "a surrogate": 'root ::= "\\uD800"',
    "no end of a literal": 'root ::= "abc',
    "nothing to repeat": "root ::= *",
    "backwards": "root ::= [z-a]",
    "a token": "root ::= <[7]>",
    "a nul": "root ::= \0",
    "too many states": "root ::= " + " ".join(['"' + "a" * 60 + '"'] * 900),
    "nothing that ends a nest": 'root ::= ("a"',
    "many digits": "root ::= [a]{" + "9" * 5000 + "}",
    "only blanks": " \n\t#\n",
}


@pytest.mark.parametrize("name", NASTY)
def test_what_is_no_grammar_for_us_is_the_clients_fault(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        automaton(gbnf_of(GrammarKind.GBNF, NASTY[name])).allowed()
    assert caught.value.field is None
    assert len(str(caught.value)) < 500


def test_a_grammar_of_doubling_rules_is_read_without_doubling_the_work() -> None:
    """llama.cpp's search for left recursion goes through all 2^60 paths of this one."""
    grammar = f'root ::= a0\n{DOUBLING}\na60 ::= "a"'
    assert takes(grammar, "a")


def test_repetitions_within_each_other_are_written_once_each() -> None:
    grammar = 'root ::= ((("a"{0,999}){999}){999}){999}'
    assert len(compile_gbnf(grammar).moves) < 5000
    assert automaton(grammar).allows(ord("a"))


AMBIGUOUS = {
    "doubling with each character": 'root ::= "a" root "b" | "a" root "c" | ""',
    "tenfold": "root ::= " + " | ".join(f'"a" root "{one}"' for one in "bcdefghijk") + ' | ""',
    "empty readings": "root ::= x x x x x x x x\nx ::= y y y y y y y y\ny ::= z z z z z z z z\n"
    'z ::= "a"? "a"? "a"?',
    "all ways to nest": 'root ::= ("a" root)* ("a" root)* ("a" root)*',
    "many frames": "\n".join(
        f"r{n} ::= r{n + 1} [a] | r{n + 1} [b] | r{n + 1} [c]" for n in range(40)
    )
    + '\nr40 ::= ""\nroot ::= r0',
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_grammar_takes_bounded_work_and_memory(name: str) -> None:
    """Bounded by count, not by the clock: what is too much is given up, and said."""
    grammar = AMBIGUOUS[name]
    try:
        one = automaton(grammar, WORDS)
        for token in [97, 97, WORDS.pieces.index(b"aaaaaaaa")] * 20:
            if not one.allowed()[token]:
                break
            one.accept(token)
    except EngineError as given_up:
        assert "ambiguous" in str(given_up)  # noqa: PT017 - or it follows it, bounded
    else:
        assert len(one._frames) <= bounds._MOST_FRAMES + bounds._MOST_WORK
        assert max(len(stacks) for stacks in one._stacks) <= bounds._MOST_STACKS


def test_deep_nesting_ends_somewhere_and_stays_a_text_of_the_grammar() -> None:
    one = automaton('root ::= "[" root? "]"')
    while one.allows(ord("[")):
        one.accept(ord("["))
    depth = 0
    while not one.is_complete:
        one.accept(ord("]"))
        depth += 1
    assert depth > 200


def test_an_automaton_forgets_and_goes_on() -> None:
    """Numbers of frames and states stay bounded over a text that keeps meeting new ones."""
    one = automaton('root ::= (pair ",")*\npair ::= "(" (pair | "x") ")"')
    luck = random.Random(1)
    for _ in range(400):
        depth = luck.randrange(1, 200)
        for token in b"(" * depth + b"x" + b")" * depth + b",":
            one.accept(token)
            assert len(one._stacks) <= bounds._MOST_STATES + 1
    assert one.allows(END)


def test_states_do_not_depend_on_what_was_met_before() -> None:
    """A generation that continues elsewhere meets the same masks."""
    grammar = of_schema({"type": "object", "additionalProperties": {"type": "array"}})
    fresh, used = automaton(grammar, WORDS), automaton(grammar, WORDS)
    for seed in range(5):
        text = (written(grammar, seed) or "").encode()
        for one in (fresh, used):
            one.begin()
        used._masks.clear()
        for byte in text:
            assert np.array_equal(fresh.allowed(), used.allowed())
            fresh.accept(byte)
            used.accept(byte)
        fresh = automaton(grammar, WORDS)


def test_what_no_token_can_write_is_refused() -> None:
    grammar = Grammar(
        'root ::= "x"', compile_gbnf('root ::= "x"'), TokenTree([b"a", b""]), np.array([1])
    )
    with pytest.raises(BadRequest):
        check_followable(grammar)


# JSON schemas.

PERSON = {
    "$defs": {
        "address": {
            "type": "object",
            "properties": {"zip~/": {"type": "string", "pattern": "^\\d{5}$"}},
            "required": ["zip~/"],
            "additionalProperties": False,
        }
    },
    "type": "object",
    "title": "A person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 151},
        "score": {"type": "number", "minimum": -1, "maximum": 1},
        "mood": {"enum": ["good\n", 'so "so"', "\\", None, 3.5, {"a": [1]}]},
        "when": {"type": "string", "format": "date-time"},
        "home": {"anyOf": [{"$ref": "#/$defs/address"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
        "pair": {
            "type": "array",
            "prefixItems": [{"const": "x"}, {"type": "boolean"}],
            "items": False,
        },
        "friends": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
    },
    "required": ["name", "mood"],
    "additionalProperties": False,
}


def fits(value: object, schema: object, root: object) -> bool:  # noqa: C901
    """Validity by hand, for the keywords above."""
    if not isinstance(schema, dict):
        return bool(schema)
    if "$ref" in schema:
        target = root
        for part in schema["$ref"].split("/")[1:]:
            target = target[part]  # type: ignore[index]
        return fits(value, target, root)
    if "anyOf" in schema:
        return any(fits(value, one, root) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return value == schema["const"]
    match schema["type"]:
        case "object":
            known = schema["properties"]
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value) <= set(known)
                and all(fits(value[key], known[key], root) for key in value)
            )
        case "array":
            items = [*schema.get("prefixItems", ()), *[schema["items"]] * 99]
            return (
                isinstance(value, list)
                and schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 99)
                and all(fits(one, items[n], root) for n, one in enumerate(value))
            )
        case "string":
            pattern = schema.get("pattern", "(?s).*")
            return (
                isinstance(value, str)
                and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 9999)
                and re.fullmatch(pattern.strip("^$"), value) is not None
                and (
                    "format" not in schema or re.match(r"\d{4}-\d\d-\d\dT\d\d:", value) is not None
                )
            )
        case "integer" | "number":
            is_number = isinstance(value, int if schema["type"] == "integer" else (int, float))
            low, high = schema.get("minimum", -1e99), schema.get("maximum", 1e99)
            return (
                is_number and low <= value <= high and value < schema.get("exclusiveMaximum", 1e99)
            )  # type: ignore[operator]
        case "boolean":
            return isinstance(value, bool)
    return value is None


def test_whatever_is_written_is_valid_by_the_schema() -> None:
    grammar = of_schema(PERSON)
    texts = [written(grammar, seed) for seed in range(80)]
    ended = [json.loads(text) for text in texts if text is not None]
    assert len(ended) > 40
    assert all(fits(value, PERSON, PERSON) for value in ended)
    assert {key for value in ended for key in value} == set(PERSON["properties"])  # type: ignore[call-overload]


def test_any_json_can_be_written_where_nothing_is_asked() -> None:
    value = {'a\n"\\é€😀': [1, -0.5, 1e10, True, None, {}, [], ""], "b": {"c": "d"}}
    for schema in ({}, True, {"type": "object"}, {"type": ["object", "null"]}):
        assert takes(of_schema(schema), json.dumps(value))
        assert takes(
            of_schema(schema), json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        )
        assert takes(of_schema(schema), json.dumps({"a": {"b": [1]}}, indent=2))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (7, 7), (-5, 120), (98, 1002), (-1000, -99), (0, 99999), (-1, 1)]
)
def test_whole_numbers_keep_their_bounds(low: int, high: int) -> None:
    grammar = of_schema({"type": "integer", "minimum": low, "maximum": high})
    near = {low - 1, low, low + 1, 0, 10, 99, 100, 101, high - 1, high, high + 1, high * 10}
    for value in near:
        assert takes(grammar, str(value)) == (low <= value <= high), value


@pytest.mark.parametrize(
    ("pattern", "taken", "refused"),
    [
        ("^[A-Z]{2}-\\d+$", ["AB-1", "XY-123"], ["A-1", "AB-", "ab-1"]),
        ('a["\\\\]b', ['a"b', "a\\b"], ["ab"]),
        ("^(?:foo|ba[rz])?\\.\\w*$", [".", "foo.x_1", "baz."], ["fo.", "bat."]),
        ("[^0-9]{2,}?", ["ab", "é\n"], ["a", "a1"]),
        ("x\\u0041\\/y", ["xA/y"], ["x"]),
    ],
)
def test_a_pattern_holds_inside_of_the_string(pattern, taken, refused):  # type: ignore[no-untyped-def]
    grammar = of_schema({"type": "string", "pattern": pattern})
    assert all(takes(grammar, json.dumps(one, ensure_ascii=False)) for one in taken)
    assert not any(takes(grammar, json.dumps(one, ensure_ascii=False)) for one in refused)


REFUSED_SCHEMAS = [
    False,
    7,
    [],
    {"type": "thing"},
    {"type": []},
    {"enum": []},
    {"enum": "a"},
    {"$ref": "https://example.org/schema.json"},
    {"$ref": "file:///etc/passwd"},
    {"$ref": "#/nowhere"},
    {"$ref": "#"},
    {"$ref": 7},
    {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    {"allOf": [{"$ref": "#"}]},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"not": {"type": "null"}},
    {"uniqueItems": True},
    {"type": "object", "patternProperties": {"a": {}}},
    {"type": "object", "required": ["a"]},
    {"type": "object", "properties": []},
    {"type": "array", "minItems": 3, "maxItems": 2},
    {"type": "array", "items": {}, "minItems": 10**9},
    {"type": "string", "maxLength": 10**9},
    {"type": "string", "maxLength": -1},
    {"type": "string", "minLength": True},
    {"type": "string", "pattern": "(?=a)"},
    {"type": "string", "pattern": "(" * 500},
    {"type": "string", "pattern": "a" * 5000},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "a**"},
    {"type": "string", "pattern": 7},
    {"type": "integer", "minimum": 0.2, "maximum": 0.8},
    {"type": "integer", "minimum": "0"},
    {"type": "number", "multipleOf": 3},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"allOf": [{"type": "string"}, {"type": "number"}]},
    {"type": "string", "const": 5},
    {"const": 5, "enum": [1, 2]},
    {
        "allOf": [
            {"properties": {"a": {}}, "additionalProperties": False},
            {"properties": {"b": {}}},
        ]
    },
    {"additionalProperties": False, "anyOf": [{"properties": {"b": {}}}]},
    {"allOf": [{"prefixItems": [{}]}, {"items": {"type": "null"}}]},
    {"type": "array", "allOf": [7]},
]


@pytest.mark.parametrize("schema", REFUSED_SCHEMAS, ids=str)
def test_a_schema_that_no_grammar_keeps_is_refused(schema: object) -> None:
    with pytest.raises(BadRequest) as caught:
        automaton(of_schema(schema)).allowed()
    assert caught.value.field is None


def test_parts_of_a_schema_are_asked_for_together() -> None:
    part = {"properties": {"b": {"type": "null"}}, "required": ["b"]}
    schema = {
        "$defs": {"part": part},
        "type": "object",
        "properties": {"a": {"minimum": 3, "type": "integer"}, "b": {}},
        "allOf": [{"$ref": "#/$defs/part"}, {"properties": {"a": {"maximum": 5}}}],
    }
    grammar = of_schema(schema)
    assert takes(grammar, '{"a":4,"b":null}')
    assert takes(grammar, '{"b":null}')
    assert not takes(grammar, '{"a":4}')
    assert not takes(grammar, '{"a":6,"b":null}')
    assert not takes(grammar, '{"b":1}')
    union = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    kinds = [
        {"properties": {"kind": {"const": kind}, "x": {"type": value}}, "required": ["kind", "x"]}
        for kind, value in (("n", "null"), ("b", "boolean"))
    ]
    assert takes(of_schema(union), '"a"')
    assert takes(of_schema({"oneOf": kinds}), '{"kind":"b","x":true}')
    assert not takes(of_schema({"oneOf": kinds}), '{"kind":"n","x":true}')


def test_schemas_that_would_blow_up_are_refused() -> None:
    deep: object = {}
    for _ in range(500):
        deep = {"type": "array", "items": deep}
    twice = {
        f"d{n}": {
            "required": [],
            "anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}", "title": "b"}],
        }
        for n in range(40)
    }
    doubling = {"$defs": {**twice, "d40": {"type": "null"}}, "$ref": "#/$defs/d0"}
    for schema in (deep, doubling, {"enum": ["x" * 70_000]}):
        with pytest.raises(BadRequest):
            automaton(of_schema(schema)).allowed()


def test_large_schemas_are_written_part_by_part() -> None:
    long = {"type": "array", "items": {"type": "string", "maxLength": 9999}, "maxItems": 9999}
    assert takes(of_schema(long), '["a","b"]')
    eightfold = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 8} for n in range(30)}
    schema = {"$defs": {**eightfold, "d30": {"type": "null"}}, "$ref": "#/$defs/d0"}
    assert takes(of_schema(schema), "null")
    names = [f"name {n} of a thousand" for n in range(1000)]
    assert takes(of_schema({"enum": names}), json.dumps(names[777]))
    wide = {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(300)}}
    assert takes(of_schema(wide), '{"p7":null,"p299":null}')


@pytest.mark.parametrize("text", ["", "{", "nope", "[" * 100_000, '{"a": NaN', "\0"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        gbnf_of(GrammarKind.JSON_SCHEMA, text)


WORDS_OF_SCHEMAS = st.sampled_from(
    [
        *("type", "properties", "items", "enum", "anyOf", "oneOf", "allOf", "$ref", "minItems"),
        *("maxLength", "pattern", "required", "const", "minimum", "a", "prefixItems", "format"),
        *("additionalProperties", "maxItems", "minLength", "maximum", "exclusiveMinimum", "$defs"),
    ]
)
VALUES_OF_SCHEMAS = st.sampled_from(["object", "array", "string", "number", "#", "#/a", "date"])
JSON: st.SearchStrategy[object] = st.deferred(
    lambda: (
        st.none()
        | st.booleans()
        | st.integers(-9, 9)
        | st.text(max_size=3)
        | st.lists(JSON, max_size=3)
        | st.dictionaries(WORDS_OF_SCHEMAS, JSON | VALUES_OF_SCHEMAS, max_size=4)
    )
)


@given(JSON)
@settings(max_examples=400, deadline=None)
def test_any_json_is_a_schema_or_a_bad_request(schema: object) -> None:
    with contextlib.suppress(BadRequest):
        automaton(of_schema(schema)).allowed()


PATTERNS = st.lists(
    st.sampled_from(
        [
            *"ab.|()[]^-?*+\\\"$",
            *("\\d", "\\w", "\\s", "[a-c]", "[^b]", "{2}", "{1,3}", "(?:", "\\.", "\\n"),
        ]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@given(PATTERNS, st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_what_a_pattern_lets_through_is_found_by_it(pattern: str, seed: int) -> None:
    with warnings.catch_warnings(), contextlib.suppress(BadRequest, re.error):
        warnings.simplefilter("ignore", FutureWarning)  # classes that Python may read otherwise
        text = written(of_schema({"type": "string", "pattern": pattern}), seed, most=60)
        # ECMA-262 takes \\w for ASCII and \\s for more than that: Python has one or the other.
        readings = [re.compile(pattern, flags) for flags in (re.ASCII, re.UNICODE)]
        assert text is None or any(one.search(json.loads(text)) for one in readings)
