"""Several generations and prompts, log-probabilities, constraints and echo."""

import asyncio
import json
from random import Random
from typing import Any

import pytest
from asgi_client import CHAT, PLAIN, Client, Reply, app_of, chat_body, run_virtually
from fake_service import HELLO, FakeService, Step
from msgspec import UNSET

from repertory.domain.errors import Overloaded, WorkerGone
from repertory.domain.requests import FinishReason
from repertory.engines.contract import Ranked, TokenLogprob
from repertory.gateway.reading import Reader
from repertory.gateway.reading.calls import Calls
from repertory.gateway.reading.formats import HERMES
from repertory.gateway.telling.chat_form import ChatForm
from repertory.gateway.telling.completion_form import CompletionForm
from repertory.gateway.telling.form import Heading, event
from repertory.gateway.telling.shapes import (
    ChatChunk,
    ChatChunkChoice,
    Completion,
    CompletionChoice,
    Delta,
)
from repertory.live.facade import Piece

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def ask(service: FakeService, path: str = CHAT, **fields: Any) -> Reply:
    body = chat_body(**fields)
    if path == PLAIN:
        del body["messages"]
        body.setdefault("prompt", "hi")
    return run_virtually(Client(app_of(service)).post(path, body))


def said(text: str, *tokens: int) -> tuple[Step, ...]:
    return (Piece(text, tokens or (1,), FinishReason.STOP),)


def test_n_generations_have_their_index_and_seeds_that_follow_the_named_one() -> None:
    service = FakeService(scripts=[said("a"), said("b"), said("c", 1, 2)])
    reply = ask(service, n=3, seed=2**63 - 2)
    texts = [(one["index"], one["message"]["content"]) for one in reply.json["choices"]]
    assert texts == [(0, "a"), (1, "b"), (2, "c")]
    assert [asked.options.sampling.seed for asked in service.asked] == [2**63 - 2, 2**63 - 1, 0]
    assert reply.json["usage"]["prompt_tokens"] == 7, "the prompt counts once"
    assert reply.json["usage"]["completion_tokens"] == 4
    assert reply.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_choices_stream_as_they_come() -> None:
    slow: tuple[Step, ...] = (1.0, Piece("s", (1,)), 2.0, Piece("low", (2,), FinishReason.LENGTH))
    fast: tuple[Step, ...] = (Piece("f", (1,)), 2.0, Piece("ast", (2,), FinishReason.STOP))
    *events, done = ask(FakeService(scripts=[slow, fast]), n=2, stream=True).events
    assert done == "[DONE]"
    choices = [event["choices"][0] for event in events]
    order = [(one["index"], one["delta"].get("content")) for one in choices]
    assert order == [(1, ""), (1, "f"), (0, ""), (0, "s"), (1, "ast"), (0, "low")]
    assert [one["finish_reason"] for one in choices][-2:] == ["stop", "length"]
    assert {event["id"] for event in events} == {"chatcmpl-r1"}


def test_several_prompts_come_in_order_each_with_its_copies() -> None:
    service = FakeService(scripts=[said(text) for text in "abcd"])
    reply = ask(service, PLAIN, prompt=["x", [5, 6]], n=2, seed=1, best_of=2)
    assert [one["text"] for one in reply.json["choices"]] == ["a", "b", "c", "d"]
    asked = [(one.prompt, one.options.sampling.seed) for one in service.asked]
    assert asked == [((120,), 1), ((120,), 2), ((5, 6), 1), ((5, 6), 2)]
    assert reply.json["usage"]["prompt_tokens"] == 3


def test_if_one_is_refused_none_runs() -> None:
    service = FakeService(refusal=Overloaded("busy", 3), refuses_after=2)
    assert ask(service, n=3).status == 429
    assert [one.generation.closed.is_set() for one in service.asked] == [True, True]
    assert [one.generation.taken for one in service.asked] == [0, 0]


@pytest.mark.parametrize("is_streaming", [False, True])
def test_one_that_fails_ends_the_others(is_streaming: bool) -> None:
    service = FakeService(scripts=[(1e9,), (1.0, WorkerGone("the worker died"))])
    reply = ask(service, n=2, stream=is_streaming)
    assert reply.status == 503
    assert all(one.generation.closed.is_set() for one in service.asked)


def test_a_client_that_leaves_ends_all_of_its_generations() -> None:
    service = FakeService((1e9,))

    async def main() -> None:
        client = Client(app_of(service))
        asyncio.get_running_loop().call_later(3.0, client.leaves.set)
        await client.post(CHAT, chat_body(n=3))

    run_virtually(main())
    assert [one.generation.closed.is_set() for one in service.asked] == [True] * 3


def ranked(piece: bytes, logprob: float) -> Ranked:
    return Ranked(sum(piece), piece, logprob)


HALVES = (
    TokenLogprob(ranked(b"a", -0.5), (ranked(b"a", -0.5), ranked(b"b", -1.5))),
    TokenLogprob(ranked(b"\xe2\x9c", -0.1), (ranked(b"\xe2\x9c", -0.1),)),
    TokenLogprob(ranked(b"\x93", float("-inf")), (ranked(b"!", -0.2),)),
)
LIKELY: tuple[Step, ...] = (
    Piece("a", (1,), logprobs=HALVES[:1]),
    Piece("", (2,), logprobs=HALVES[1:2]),
    Piece("✓", (3,), FinishReason.STOP, logprobs=HALVES[2:]),
)
CHAT_TOKENS = [
    {
        "token": "a",
        "bytes": [97],
        "logprob": -0.5,
        "top_logprobs": [
            {"token": "a", "bytes": [97], "logprob": -0.5},
            {"token": "b", "bytes": [98], "logprob": -1.5},
        ],
    },
    {
        "token": "�",
        "bytes": [0xE2, 0x9C],
        "logprob": -0.1,
        "top_logprobs": [{"token": "�", "bytes": [0xE2, 0x9C], "logprob": -0.1}],
    },
    {
        "token": "�",
        "bytes": [0x93],
        "logprob": -9999.0,
        "top_logprobs": [{"token": "!", "bytes": [33], "logprob": -0.2}],
    },
]


def test_logprobs_of_a_chat() -> None:
    service = FakeService(LIKELY)
    reply = ask(service, logprobs=True, top_logprobs=2)
    assert service.asked[0].options.logprobs == 2
    assert reply.json["choices"][0]["logprobs"] == {"content": CHAT_TOKENS, "refusal": None}
    *events, _ = ask(service, logprobs=True, stream=True).events
    assert service.asked[1].options.logprobs == 0
    told = [event["choices"][0]["logprobs"] for event in events]
    assert told == [
        None,
        {"content": CHAT_TOKENS[:1], "refusal": None},
        {"content": CHAT_TOKENS[1:], "refusal": None},
    ]


def test_logprobs_of_a_plain_completion() -> None:
    service = FakeService(LIKELY)
    whole = ask(service, PLAIN, logprobs=2).json["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["a", "bytes:\\xe2\\x9c", "bytes:\\x93"],
        "token_logprobs": [-0.5, -0.1, -9999.0],
        "top_logprobs": [
            {"a": -0.5, "b": -1.5},
            {"bytes:\\xe2\\x9c": -0.1},
            {"!": -0.2, "bytes:\\x93": -9999.0},
        ],
        "text_offset": [0, 1, 1],
    }
    *events, _ = ask(service, PLAIN, logprobs=2, stream=True).events
    told = [event["choices"][0]["logprobs"] for event in events]
    for key in whole:
        assert [one for part in told for one in part[key]] == whole[key]


def test_logit_bias_reaches_the_server_in_order_of_the_ids() -> None:
    service = FakeService()
    assert ask(service, logit_bias={"50": -100, "7": 0.5}).status == 200
    assert service.asked[0].options.sampling.logit_bias == ((7, 0.5), (50, -100.0))


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, ""),
        ({"response_format": {"type": "json_object"}}, 'json_schema:{"type": "object"}'),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
            f"json_schema:{json.dumps(SCHEMA)}",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            f"json_schema:{json.dumps(SCHEMA)}",
        ),
        ({"json_schema": SCHEMA}, f"json_schema:{json.dumps(SCHEMA)}"),
        ({"grammar": "root ::= [a-z]"}, "gbnf:root ::= [a-z]"),
        ({"structured_outputs": {"json": SCHEMA}}, f"json_schema:{json.dumps(SCHEMA)}"),
        ({"structured_outputs": {"json": '{"type":"array"}'}}, 'json_schema:{"type":"array"}'),
        ({"structured_outputs": {"json_object": True}}, 'json_schema:{"type": "object"}'),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "gbnf:root ::= x"),
        (
            {"structured_outputs": {"choice": ["yes", 'a "b"\\\n']}},
            'gbnf:root ::= "yes" | "a \\"b\\"\\\\\\n"',
        ),
    ],
)
@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_constraints_become_grammars(path: str, fields: dict[str, Any], grammar: str) -> None:
    if path == PLAIN and "response_format" in fields:
        return
    service = FakeService()
    reply = ask(service, path, **fields)
    assert reply.status == 200, reply.body
    assert service.asked[0].options.sampling.grammar == grammar


def test_an_echo_goes_before_the_answer() -> None:
    service = FakeService()
    assert ask(service, PLAIN, prompt=["hi", [72]], echo=True).json["choices"] == [
        {"index": 0, "text": "hiHello ✓!", "finish_reason": "stop", "logprobs": None},
        {"index": 1, "text": "HHello ✓!", "finish_reason": "stop", "logprobs": None},
    ]
    assert ask(service, PLAIN, echo=True, stream=True).text == "hiHello ✓!"


TEXTS = ["a", '"\\\n\x00\x1f.', "é✓\u2028😀", "</script>", "\x7f"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("has_usage", [False, True])
def test_the_quick_way_of_a_piece_is_the_full_encoding(text: str, has_usage: bool) -> None:
    heading = Heading("id", 'a "model" \x00', 7, has_usage)
    usage = None if has_usage else UNSET
    choice = ChatChunkChoice(1, Delta(content=text))
    full = ChatChunk("id", "chat.completion.chunk", 7, heading.model, [choice], usage)
    for reader in (None, Reader(None, Calls(HERMES, ("add",)))):
        chat = ChatForm(heading, [None, reader], False, Random(1)).writers[1]
        chat.events(Piece("opens", (1,)))
        assert chat.events(Piece(text, (2,))) == event(full)
    plain = CompletionForm(heading, ["", ""], False).writers[1]
    said = CompletionChoice(1, text)
    whole = Completion("id", "text_completion", 7, heading.model, [said], usage)
    assert plain.events(Piece(text, (1,))) == event(whole)


def test_what_was_reused_is_shown() -> None:
    usage = ask(FakeService(HELLO)).json["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
