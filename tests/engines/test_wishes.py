"""What a generation may ask for, on a real worker: grammars, probabilities, embeddings, reuse."""

import asyncio
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Listener, Walk, generation, running_engine, spec_of

from repertory.domain.errors import BadRequest, EngineError
from repertory.domain.requests import FinishReason
from repertory.engines.contract import GrammarKind, Sampling
from repertory.engines.llamacpp.sampling import TokenSampler, likeliest
from repertory.engines.pooling import Pool, Pooling

MIB = 1 << 20
PEOPLE = json.dumps(
    {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b\n"]}, "maxItems": 3},
            "ok": {"type": "boolean"},
        },
        "required": ["age", "ok"],
        "additionalProperties": False,
    }
)


def sampled(seed: int, grammar: str) -> Sampling:
    return Sampling(temperature=1.5, top_p=0.95, top_k=50, seed=seed, grammar=grammar)


@pytest.mark.parametrize("flags", [(), ("--exact",)], ids=["default", "exact"])
def test_answers_keep_to_their_schema_whatever_the_company_and_the_slot(model_file, flags):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = model_file(size="50m")
        async with running_engine(*flags) as engine:
            grammar = await engine.grammar(str(path), GrammarKind.JSON_SCHEMA, PEOPLE)
            walk = Walk(engine, spec_of(path))
            await walk.serve(4, 512)
            listener = Listener(engine)
            wishes = {"ignore_eos": False, "trace_logits": False}
            for seed in range(8):
                spec = generation(
                    f"g{seed}", [7, 8, 9], 200, sampling=sampled(seed, grammar), **wishes
                )
                await engine.submit("r1", spec)
            await engine.submit("r1", generation("free", [5, 6], 60))
            await listener.reach("g0", 3)
            await walk.resize(8, 512)
            answers = await listener.finish([f"g{seed}" for seed in range(8)])
            for answer in answers:
                value = json.loads(answer.text)
                assert set(value) <= {"age", "tags", "ok"}
                assert 0 <= value["age"] <= 120
                assert answer.finish is FinishReason.STOP
            await listener.finish(["free"])
            again = generation("again", [7, 8, 9], 200, sampling=sampled(3, grammar), **wishes)
            await engine.submit("r1", again)
            (repeated,) = await listener.finish(["again"])
            if flags:
                assert repeated.tokens == answers[3].tokens

    asyncio.run(run())


def test_generations_with_grammars_leave_no_memory_behind(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = model_file()
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(8, 256)
            listener = Listener(engine)

            async def batch(first: int) -> int:
                names = []
                for number in range(first, first + 60):
                    schema = {"type": "array", "items": {"enum": [number, "x"]}, "minItems": 3}
                    text = json.dumps(schema)
                    gbnf = await engine.grammar(str(path), GrammarKind.JSON_SCHEMA, text)
                    sampling = sampled(number, gbnf)
                    names.append(f"g{number}")
                    await engine.submit("r1", generation(names[-1], [3, 4], 30, sampling=sampling))
                await listener.finish(names)
                return (await engine.stats()).anonymous_bytes

            await batch(0)
            before = await batch(60)
            for first in range(120, 360, 60):
                after = await batch(first)
            assert after - before < 4 * MIB

    asyncio.run(run())


def test_a_cancel_is_never_overtaken_by_its_submit(model_file):  # type: ignore[no-untyped-def]
    """The grammar is still being read when the cancel comes."""

    async def run() -> None:
        path = model_file(size="50m")
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(1, 512)
            spec = generation("g", [3, 4], 500, sampling=sampled(1, 'root ::= [a-z]* "."'))
            submitted = asyncio.create_task(engine.submit("r1", spec))
            await asyncio.sleep(0)
            await engine.cancel("g")
            await submitted
            listener = Listener(engine)
            await engine.submit("r1", generation("next", [3, 4], 5))
            await listener.finish(["next"])
            assert len(listener.answer("g").tokens) < 500

    asyncio.run(run())


def test_holds_apply_in_their_order_also_while_a_grammar_is_read(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = model_file(size="50m")
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(2, 512)
            listener = Listener(engine)
            for name, calls in (("held", (True, False, True)), ("free", (True, False))):
                sampling = sampled(1, 'root ::= [a-z]* "."')
                spec = generation(name, [3, 4], 40, sampling=sampling, ignore_eos=False)
                holds = [engine.hold(name, is_held) for is_held in calls]
                await asyncio.gather(engine.submit("r1", spec), *holds)
                if name == "held":
                    await engine.submit("r1", generation("marker", [3, 4], 5))
                    await listener.finish(["marker"])
                    still = len(listener.answer("held").tokens)
            await listener.finish(["free"])
            assert len(listener.answer("held").tokens) == still
            await engine.hold("held", False)
            await listener.finish(["held"])

    asyncio.run(run())


def test_a_bad_grammar_fails_its_own_generation_only(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 256)
            with pytest.raises(BadRequest):
                await engine.submit(
                    "r1", generation("bad", [3, 4], 5, sampling=Sampling(grammar="root ::= x"))
                )
            listener = Listener(engine)
            await engine.submit("r1", generation("good", [3, 4], 5))
            assert len((await listener.finish(["good"]))[0].tokens) == 5

    asyncio.run(run())


def test_ids_outside_of_the_vocabulary_are_refused_before_they_reach_a_step(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 256)
            for wrong in (-1, 1024):
                bias = Sampling(logit_bias=((wrong, 1.0),))
                with pytest.raises(EngineError, match="outside of the vocabulary"):
                    await engine.submit("r1", generation("bad", [3, 4], 5, sampling=bias))

    asyncio.run(run())


def test_a_grammar_over_another_files_vocabulary_is_refused(model_file, tmp_path):  # type: ignore[no-untyped-def]
    """The file was replaced while it is served."""

    async def run() -> None:
        path = tmp_path / "replaced.gguf"
        path.write_bytes(model_file().read_bytes())
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(2, 256)
            path.unlink()
            path.write_bytes(model_file(size="50m").read_bytes())
            sampling = Sampling(grammar='root ::= "a"')
            with pytest.raises(EngineError, match="replaced"):
                await engine.submit("r1", generation("bad", [3, 4], 5, sampling=sampling))
            listener = Listener(engine)
            await engine.submit("r1", generation("good", [3, 4], 5))
            assert len((await listener.finish(["good"]))[0].tokens) == 5

    asyncio.run(run())


def test_a_grammar_too_ambiguous_to_follow_ends_its_own_generation_only(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        grammar = 'root ::= x x x x x x x x\nx ::= ("a" x "b" | "a" x "c" | "a" x "d" | "")*'
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 256)
            listener = Listener(engine)
            sampling = Sampling(temperature=0.0, grammar=grammar)
            await engine.submit("r1", generation("g", [3, 4], 60, sampling=sampling))
            await engine.submit("r1", generation("good", [3, 4], 60))
            good, hard = await listener.finish(["good", "g"])
            assert len(good.tokens) == 60
            assert hard.finish is not None or "ambiguous" in (hard.error or "")

    asyncio.run(run())


def test_probabilities_of_all_tokens_sum_to_one_and_ignore_penalties(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(1, 256)
            listener = Listener(engine)
            sampling = Sampling(temperature=2.0, seed=5, presence_penalty=2.0, top_k=7)
            await engine.submit("r1", generation("g", [3, 4], 8, sampling=sampling, logprobs=1024))
            (answer,) = await listener.finish(["g"])
            named = [one for step in answer.steps for one in step.logprobs]
            assert [one.drawn.token for one in named] == answer.tokens
            for one in named:
                assert sum(math.exp(ranked.logprob) for ranked in one.top) == pytest.approx(1.0)
                assert one.drawn in one.top
            pieces = b"".join(one.drawn.piece for one in named)
            assert pieces.decode("utf-8", "replace") == await engine.detokenize(
                str(model_file()), answer.tokens
            )

    asyncio.run(run())


def test_likeliest_is_a_log_softmax_of_the_raw_row() -> None:
    row = (np.random.default_rng(1).standard_normal(5000) * 4).astype(np.float32)
    exact = row.astype(np.float64) - math.log(np.exp(row.astype(np.float64)).sum())
    found = likeliest(row, 17, 20)
    assert found.drawn == pytest.approx(exact[17], abs=1e-5)
    assert list(found.ids) == np.argsort(-row, kind="stable")[:20].tolist()
    assert found.logprobs == pytest.approx(exact[list(found.ids)], abs=1e-5)
    assert likeliest(row, 17, 0).ids == ()


def test_bias_comes_before_penalties_and_does_not_touch_the_models_row() -> None:
    row = np.zeros(10, np.float32)
    row[[2, 3]] = (1.0, 0.9)
    before = row.copy()
    sampling = Sampling(temperature=0.0, repetition_penalty=2.0, logit_bias=((2, -1.5), (3, 4.0)))
    assert TokenSampler(sampling, prompt=[]).next(row, 1) == 3
    assert TokenSampler(sampling, prompt=[3]).next(row, 1) == 3  # 4.9 / 2
    assert np.array_equal(row, before)


# Embeddings.


@given(
    st.sampled_from(list(Pooling)),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_pooling_is_the_same_over_any_chunks(pooling: Pooling, sizes: list[int]) -> None:
    rows = np.random.default_rng(0).standard_normal((sum(sizes), 16)).astype(np.float32)
    whole, parts = Pool(pooling), Pool(pooling)
    whole.add(rows)
    for number, size in enumerate(sizes):
        start = sum(sizes[:number])
        parts.add(rows[start : start + size])
    expected = {Pooling.MEAN: rows.mean(axis=0), Pooling.FIRST: rows[0], Pooling.LAST: rows[-1]}
    wanted = expected[pooling] / np.linalg.norm(expected[pooling])
    assert parts.embedding() == pytest.approx(whole.embedding(), abs=1e-6)
    assert parts.embedding() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_an_embedding_beside_a_stream_does_not_change_its_bits(model_file):  # type: ignore[no-untyped-def]
    async def run(with_embedding: bool) -> list[str]:
        async with running_engine("--exact") as engine:
            await Walk(engine, spec_of(model_file(size="50m"))).serve(4, 1280)
            listener = Listener(engine)
            prompt = [300 + n * 7 % 600 for n in range(1100)]
            await engine.submit("r1", generation("g", prompt, 24))
            await listener.reach("g", 4)
            if with_embedding:
                for name in ("e1", "e2"):
                    wish = generation(name, range(400, 700), 1, wants_embedding=True)
                    await engine.submit("r1", wish)
                first, second = await listener.finish(["e1", "e2"])
                assert not listener.answer("g").is_over
                assert first.steps[-1].embedding == second.steps[-1].embedding
                assert len(first.steps[-1].embedding) == 512
                assert len(first.steps) == 1
            (answer,) = await listener.finish(["g"])
            return answer.digests

    assert asyncio.run(run(True)) == asyncio.run(run(False))


def test_an_encoder_embeds_whole_prompts_and_generates_nothing(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = model_file(arch="bert", size="50m", context_tokens=512)
        async with running_engine() as engine:
            facts = await engine.describe(str(path))
            assert facts.is_embedding_only
            assert facts.kv_bytes_per_token == 0
            walk = Walk(engine, spec_of(path))
            await walk.load()
            before = (await engine.stats()).anonymous_bytes
            measured = await walk.activate(2, 512)
            listener = Listener(engine)
            words = [300 + n for n in range(510)]
            texts = {"long": words, "again": words, "swapped": [words[1], words[0], *words[2:]]}
            for name, text in (*texts.items(), ("short", [5])):
                await engine.submit("r1", generation(name, text, 1, wants_embedding=True))
            answers = await listener.finish([*texts, "short"])
            long, again, swapped, short = (one.steps[-1].embedding for one in answers)
            assert long == again
            assert len({long, swapped, short}) == 3
            assert math.hypot(*long) == pytest.approx(1.0, abs=1e-5)
            taken = (await engine.stats()).anonymous_bytes - before
            assert measured.kv_bytes == 0
            assert measured.buffers_bytes is not None
            assert taken <= measured.buffers_bytes + 4 * MIB
            assert measured.buffers_bytes <= facts.buffers_bytes
            with pytest.raises(EngineError):
                await engine.submit("r1", generation("g", [3, 4], 5))
            await walk.resize(4, 512)
            await engine.submit("r1", generation("after", words, 1, wants_embedding=True))
            (after,) = await listener.finish(["after"])
            assert after.steps[-1].embedding == long

    asyncio.run(run())


# Reuse.


def test_the_next_turn_of_a_chat_reuses_the_answer_too(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = model_file(size="50m")
        async with running_engine() as engine:
            walk = Walk(engine, spec_of(path))
            await walk.serve(2, 1024)
            listener = Listener(engine)
            first_prompt = [300 + n for n in range(150)]
            await engine.submit("r1", generation("first", first_prompt, 61))
            (first,) = await listener.finish(["first"])
            await engine.submit("r1", generation("stranger", range(700, 760), 20))
            await listener.finish(["stranger"])
            await walk.resize(4, 1024)
            turn = [*first_prompt, *first.tokens]
            await engine.submit("r1", generation("second", [*turn, *range(500, 530)], 10))
            (second,) = await listener.finish(["second"])
            reused = second.steps[0].reused_tokens
            assert reused == len(turn) - 1  # the last token was drawn and never computed
            assert reused >= 0.9 * len(turn)

    asyncio.run(run())


def test_a_stranger_does_not_overwrite_a_conversation_while_there_is_room(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 512)
            listener = Listener(engine)
            talk = [*range(300, 400)]
            for name, prompt in (
                ("talk", talk),
                ("stranger", [*talk[:10], *range(600, 690)]),  # the same greeting
                ("another", [*talk[:10], *range(700, 790)]),
                ("back", [*talk[:10], *range(700, 790), 5]),
            ):
                await engine.submit("r1", generation(name, prompt, 5))
                await listener.finish([name])
            assert listener.answer("stranger").steps[0].reused_tokens == 0
            assert listener.answer("another").steps[0].reused_tokens == 10
            assert listener.answer("back").steps[0].reused_tokens == 100

    asyncio.run(run())


@pytest.mark.parametrize("flags", [(), ("--exact",)], ids=["default", "exact"])
def test_a_prompt_takes_over_what_a_running_generation_shares_with_it(model_file, flags):  # type: ignore[no-untyped-def]
    async def run(has_company: bool) -> tuple[int, list[str]]:
        async with running_engine(*flags) as engine:
            await Walk(engine, spec_of(model_file(size="50m"))).serve(4, 1280)
            listener = Listener(engine)
            system = [300 + n * 11 % 600 for n in range(1050)]
            if has_company:
                await engine.submit("r1", generation("first", [*system, 5], 200))
                await listener.reach("first", 3)
            await engine.submit("r1", generation("second", [*system, 6, 7], 12))
            (second,) = await listener.finish(["second"])
            assert not has_company or not listener.answer("first").is_over
            return second.steps[0].reused_tokens, second.digests

    alone, beside = asyncio.run(run(False)), asyncio.run(run(True))
    assert alone[0] == 0
    assert beside[0] == (1024 if flags else 1050)
    if flags:
        assert beside[1] == alone[1]
