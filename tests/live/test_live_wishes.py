"""What the gateway may ask of the live server besides text: checked early, and passed through."""

import asyncio
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from test_server import OPTIONS, PROMPT, Bench, catalogue, play, read  # noqa: F401 - a fixture

from repertory.domain.errors import BadRequest
from repertory.domain.events import Finished, FirstToken
from repertory.domain.requests import FinishReason
from repertory.engines.contract import GrammarKind, Sampling
from repertory.engines.gguf.make import CHAT_TEMPLATE, make_model
from repertory.live.catalogue import Catalogue
from repertory.live.facade import Stage
from repertory.live.options import ModelChoice


def test_pieces_carry_log_probabilities_for_each_token(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        pieces = await read(await bench.start("one", replace(OPTIONS, logprobs=3)))
        for piece in pieces:
            assert [one.drawn.token for one in piece.logprobs] == list(piece.tokens)
            assert all(len(one.top) == 3 for one in piece.logprobs)

    play(catalogue, scene)


def test_an_embedding_comes_with_the_finish_and_teaches_nothing_about_lengths(
    catalogue: Catalogue,  # noqa: F811
) -> None:
    async def scene(bench: Bench) -> None:
        wish = replace(OPTIONS, wants_embedding=True, max_tokens=None)
        (piece,) = await read(await bench.start("one", wish))
        assert piece.finish is FinishReason.STOP
        assert not piece.tokens
        assert math.hypot(*piece.embedding) == pytest.approx(1.0)
        await asyncio.sleep(1)
        model = bench.controller.state.models["one"]
        assert model.output.median_tokens == bench.controller.state.settings.output_prior_tokens
        events = [decision.event for decision in bench.decisions]
        assert not any(isinstance(event, FirstToken) for event in events)
        assert [one.output_tokens for one in events if isinstance(one, Finished)] == [0]
        await read(await bench.start("one"))
        await asyncio.sleep(1)
        assert model.output.median_tokens == 16

    play(catalogue, scene)


def test_an_answer_held_to_a_grammar_ends_with_it(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        spec = bench.server.resolve("one")
        schema = json.dumps({"type": "array", "items": {"type": "boolean"}, "maxItems": 2})
        grammar = await bench.server.grammar(spec, GrammarKind.JSON_SCHEMA, schema)
        options = replace(OPTIONS, sampling=Sampling(grammar=grammar), max_tokens=100)
        pieces = await read(await bench.start("one", options))
        assert isinstance(json.loads("".join(piece.text for piece in pieces)), list)
        assert pieces[-1].finish is FinishReason.STOP
        with pytest.raises(BadRequest) as caught:
            await bench.server.grammar(spec, GrammarKind.GBNF, "root ::= x")
        assert caught.value.field is None
        assert bench.server.chat_template(spec) == CHAT_TEMPLATE
        assert await bench.server.detokenize(spec, [104, 105]) == "hi"

    play(catalogue, scene)


def test_wrong_ids_name_their_field_and_load_nothing(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        spec = bench.server.resolve("one")
        for wrong in (-1, 1024):
            biased = replace(OPTIONS, sampling=Sampling(logit_bias=((3, 1.0), (wrong, 1.0))))
            with pytest.raises(BadRequest) as caught:
                await bench.start("one", biased)
            assert caught.value.field == "logit_bias"
            with pytest.raises(BadRequest) as caught:
                await bench.server.detokenize(spec, [3, wrong])
            assert caught.value.field == "tokens"
        await asyncio.sleep(1)
        assert bench.server.status().models[0].status == "unloaded"

    play(catalogue, scene)


def test_progress_tells_the_place_the_load_and_the_end_of_waiting(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        answers = [await bench.start("one") for _ in range(3)]
        found = [answer.progress() for answer in answers]
        assert [one.stage for one in found] == [Stage.LOADING] * 3
        assert [one.place for one in found] == [1, 2, 3]
        assert all(one.share is not None and 0.0 <= one.share <= 1.0 for one in found)
        assert all(one.eta_s is not None and one.eta_s > 0.0 for one in found)
        pieces = aiter(answers[0])
        await anext(pieces)
        assert answers[0].progress().stage is Stage.DECODE
        assert answers[0].progress().place is None

    play(catalogue, scene)


def test_a_slow_reader_holds_no_more_than_its_answer(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        slow, other = await bench.start("one"), await bench.start("one")
        await read(other)
        assert 0 < slow.buffered_tokens <= 16
        await read(slow)
        assert slow.buffered_tokens == 0

    play(catalogue, scene)


def test_a_model_for_embeddings_is_on_offer_and_generates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "encoder.gguf"
    make_model(path, arch="bert", size="tiny", context_tokens=1024)
    offered = Catalogue((ModelChoice("encoder", path),), ())

    async def scene(bench: Bench) -> None:
        spec = bench.server.resolve("encoder")
        assert spec.context_tokens == 512
        assert spec.kv_bytes_per_token == 0
        with pytest.raises(BadRequest) as caught:
            await bench.start("encoder")
        assert caught.value.field == "model"
        await asyncio.sleep(1)
        assert bench.server.status().models[0].status == "unloaded"
        wish = replace(OPTIONS, wants_embedding=True)
        answer = await bench.server.generate(spec, PROMPT, wish)
        assert (await read(answer))[-1].embedding

    play(offered, scene)


def test_an_encoder_with_a_longer_context_reserves_more(tmp_path: Path) -> None:
    path = tmp_path / "encoder.gguf"
    make_model(path, arch="bert", size="tiny", context_tokens=2048)
    short = Catalogue((ModelChoice("encoder", path),), ())
    long = Catalogue((ModelChoice("encoder", path, context_tokens=1024),), ())
    for one in (short, long):
        one.refresh()
    assert long.find("encoder").context_tokens == 1024
    assert long.find("encoder").buffers_bytes == 2 * short.find("encoder").buffers_bytes
