"""What a model's text means: thinking, calls and content, however the text is cut."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.gateway.reading import Call, Content, Part, Reader, Reasoning
from repertory.gateway.reading.calls import Calls
from repertory.gateway.reading.formats import DESCRIBED, HERMES, LLAMA, MISTRAL, CallFormat
from repertory.gateway.reading.thinking import Thinking

FORMATS = {"hermes": HERMES, "mistral": MISTRAL, "llama": LLAMA, "described": DESCRIBED}
NAMES = ("add", "look")


def joined(parts: list[Part]) -> list[Part]:
    """Neighbours of one kind are one part."""
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        if isinstance(part, Call) or type(last) is not type(part):
            whole.append(part)
        else:
            assert not isinstance(last, Call)
            assert last is not None
            whole[-1] = type(part)(last.text + part.text)
    return whole


def read(
    pieces: list[str],
    call_format: CallFormat | None = None,
    is_open: bool | None = None,
    most: int | None = None,
) -> list[Part]:
    calls = None if call_format is None else Calls(call_format, NAMES, most)
    reader = Reader(None if is_open is None else Thinking(is_open), calls)
    parts: list[Part] = []
    for piece in pieces:
        parts += reader.feed(piece)
    return joined(parts + reader.finish())


ADD = Call("add", '{"a": 1, "b": "}\\"] é"}')
BOTH = {"a": 1, "b": '}"] é'}
HERMES_ADD = "<tool_call>\n" + json.dumps({"name": "add", "arguments": BOTH}) + "\n</tool_call>"
LLAMA_ADD = json.dumps({"name": "add", "parameters": BOTH})
MISTRAL_ADD = "[TOOL_CALLS]" + json.dumps([{"name": "add", "arguments": BOTH}])
DESCRIBED_ADD = json.dumps({"tool_calls": [{"name": "add", "arguments": BOTH}] * 2})


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("hermes", HERMES_ADD, [ADD]),
        ("hermes", f"{HERMES_ADD}\n{HERMES_ADD}\n", [ADD, ADD]),
        ("hermes", f"Let me see.\n\n{HERMES_ADD}", [Content("Let me see."), ADD]),
        ("hermes", f"{HERMES_ADD} and more", [ADD, Content(" and more")]),
        ("hermes", HERMES_ADD.removesuffix("\n</tool_call>"), [ADD]),
        ("hermes", '<tool_call>{"name": "now"}</tool_call>', [Call("now", "{}")]),
        ("mistral", MISTRAL_ADD, [ADD]),
        ("mistral", f"Well. {MISTRAL_ADD}", [Content("Well."), ADD]),
        ("llama", LLAMA_ADD, [ADD]),
        ("llama", f"<|python_tag|>{LLAMA_ADD}; {LLAMA_ADD}", [ADD, ADD]),
        ("llama", f" \n{LLAMA_ADD}\n", [ADD]),
        ("described", DESCRIBED_ADD, [ADD, ADD]),
    ],
)
def test_calls_are_found(name: str, text: str, parts: list[Part]) -> None:
    assert read([text], FORMATS[name]) == parts
    assert read(list(text), FORMATS[name]) == parts


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", " plain text \n"),
        ("hermes", "a < b, a <tool_cal, <tool_call"),
        ("hermes", "<tool_call>not json</tool_call>"),
        ("hermes", '<tool_call>{"name": }</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>'),
        ("hermes", '<tool_call>\n{"name": "add", "arguments": {"a": 1'),
        ("hermes", "<tool_call>" + "[" * 100_000 + "]" * 100_000),
        ("mistral", "[TOOL_CALLS][]"),
        ("mistral", "see [1] and [TOOL_CALLS]"),
        ("llama", '{"name": "Bob", "parameters": {}}'),
        ("llama", '{"name": "add"}'),
        ("llama", "<|python_tag|>print(1)"),
        ("llama", "<|python"),
        ("llama", f"The call {LLAMA_ADD}"),
        ("described", '{"tool_calls": []}'),
        ("described", '{"answer": 42} is it'),
        ("described", "{"),
    ],
)
def test_what_is_no_call_is_content_to_the_letter(name: str, text: str) -> None:
    assert read([text], FORMATS[name]) == [Content(text)]
    assert read(list(text), FORMATS[name]) == [Content(text)]


def test_a_good_call_after_a_bad_one_is_found() -> None:
    bad = "<tool_call>{]</tool_call>"
    assert read([bad + HERMES_ADD], HERMES) == [Content(bad), ADD]


def test_no_more_calls_than_wanted() -> None:
    text = f"a {HERMES_ADD} {HERMES_ADD} b"
    assert read([text], HERMES, most=1) == [Content("a"), ADD, Content(" b")]
    assert read([DESCRIBED_ADD], DESCRIBED, most=1) == [ADD]


@pytest.mark.parametrize(
    ("text", "is_open", "parts"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, [Reasoning("hm"), Content("Yes.")]),
        ("\n<think>hm</think>Yes.", False, [Reasoning("hm"), Content("Yes.")]),
        ("\nhm, a < b\n</think>\nYes. ", True, [Reasoning("hm, a < b"), Content("Yes. ")]),
        ("<think>\n\n</think>\n\nYes.", False, [Content("Yes.")]),
        ("Yes <think>no</think>", False, [Content("Yes <think>no</think>")]),
        ("<thin", False, [Content("<thin")]),
        ("<think>and on", False, [Reasoning("and on")]),
        ("and </thin", True, [Reasoning("and </thin")]),
        ("hm</think>\n", True, [Reasoning("hm")]),
    ],
)
def test_thinking_is_split_off(text: str, is_open: bool, parts: list[Part]) -> None:
    assert read([text], None, is_open) == parts
    assert read(list(text), None, is_open) == parts


def test_calls_come_behind_thinking_only() -> None:
    text = f"I might {HERMES_ADD}</think>{HERMES_ADD}"
    assert read([text], HERMES, True) == [Reasoning(f"I might {HERMES_ADD}"), ADD]


fragments = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"),
        *(HERMES_ADD, LLAMA_ADD, MISTRAL_ADD, DESCRIBED_ADD, "[", "]", "{", "}", '"', "\\", ";"),
        *(" ", "\n", "a", "é", "<", "</", "{}", '{"name": "add", "arguments": {}}'),
    ]
)


@given(
    st.lists(fragments, max_size=8).map("".join),
    st.lists(st.integers(0, 300)),
    st.sampled_from([None, *FORMATS.values()]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, 1]),
)
@settings(deadline=None, max_examples=300)
def test_any_cut_gives_the_same(
    text: str,
    cuts: list[int],
    call_format: CallFormat | None,
    is_open: bool | None,
    most: int | None,
) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    whole = read([text], call_format, is_open, most)
    assert read(pieces, call_format, is_open, most) == whole
    assert read(list(text), call_format, is_open, most) == whole


@given(st.lists(fragments, max_size=8).map("".join), st.sampled_from(list(FORMATS.values())))
@settings(deadline=None, max_examples=300)
def test_nothing_is_lost_where_nothing_is_called(text: str, call_format: CallFormat) -> None:
    parts = read([text], call_format)
    if not any(isinstance(part, Call) for part in parts):
        assert parts == ([Content(text)] if text else [])
