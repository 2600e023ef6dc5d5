"""A generation goes on from its tokens alone, on a worker that knows nothing else of it.

In mode `exact` logit for logit, whatever it was in the middle of; else it is a valid continuation.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from running import Answer, Listener, Walk, generation, running_engine, spec_of

from repertory.domain.errors import EngineError
from repertory.domain.requests import FinishReason
from repertory.domain.specs import WeightsForm
from repertory.engines.contract import Engine, GenerationSpec, GrammarKind, Sampling

PROMPT = [300 + 7 * n % 500 for n in range(200)]
"""More than a chunk."""
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 12, "maxLength": 24},
            "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 6},
        },
        "required": ["name", "sizes"],
        "additionalProperties": False,
    }
)
WARM = Sampling(temperature=1.2, seed=11)


async def wishes(engine: Engine, path: Path) -> dict[str, GenerationSpec]:
    """Generations in the middle of everything that a worker keeps of one."""
    schema = await engine.grammar(str(path), GrammarKind.JSON_SCHEMA, SCHEMA)
    umlauts = await engine.grammar(str(path), GrammarKind.GBNF, "root ::= [äöü€𝄞]{60}")
    penalties = replace(
        WARM, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5, min_p=0.01
    )
    bias = replace(WARM, top_k=40, top_p=0.9, logit_bias=((65, 5.0), (66, 4.0)))
    return {
        "plain": generation("plain", PROMPT, 60, sampling=WARM),
        "greedy": generation("greedy", PROMPT[:30], 60),
        "penalties": generation("penalties", PROMPT[:150], 60, sampling=penalties),
        "bias": generation("bias", PROMPT[:9], 60, sampling=bias, logprobs=3),
        "schema": generation(
            "schema", PROMPT[:40], 250, sampling=replace(WARM, grammar=schema), ignore_eos=False
        ),
        "umlauts": generation("umlauts", PROMPT[:40], 250, sampling=replace(WARM, grammar=umlauts)),
    }


@dataclass(frozen=True)
class Split:
    """A generation that goes on after its first tokens."""

    name: str
    whole: Answer
    made: int

    def spec(self, of: GenerationSpec) -> GenerationSpec:
        return replace(of, id=self.name, emitted=tuple(self.whole.tokens[: self.made]))

    @property
    def text(self) -> str:
        """Of the whole, what had not been told with those tokens."""
        told, tokens = "", 0
        for step in self.whole.steps:
            if tokens + len(step.tokens) > self.made:
                break
            tokens += len(step.tokens)
            told += step.text
        return self.whole.text[len(told) :]


def splits(wholes: dict[str, Answer]) -> list[Split]:
    """At the first token, at the last, and at some between; many of them inside a character."""
    found = []
    for name, whole in wholes.items():
        count = len(whole.tokens)
        places = sorted({1, 2, count // 3, count // 2, count - 1} - {0, count})
        found += [Split(f"{name}+{made}", whole, made) for made in places]
    return found


async def wholes_of(specs: dict[str, GenerationSpec], engine: Engine) -> dict[str, Answer]:
    listener = Listener(engine)
    for spec in specs.values():
        await engine.submit("r1", spec)
    await listener.finish(specs)
    return {name: listener.answer(name) for name in specs}


async def resumed(
    path: Path, form: WeightsForm, flags: Sequence[str], all_splits: list[Split]
) -> dict[str, Answer]:
    """On another worker, all at once, beside one that has nothing to do with them."""
    async with running_engine(*flags) as engine:
        specs = await wishes(engine, path)
        await Walk(engine, spec_of(path)).serve(8, 512, form)
        listener = Listener(engine)
        await engine.submit("r1", generation("company", PROMPT[:50], 400))
        for one in all_splits:
            await engine.submit("r1", one.spec(specs[one.name.partition("+")[0]]))
        await listener.finish(one.name for one in all_splits)
        return {one.name: listener.answer(one.name) for one in all_splits}


@pytest.mark.parametrize("form", [WeightsForm.PLAIN, WeightsForm.REPACKED])
def test_exact_resumes_are_equal_to_the_uninterrupted_run(model_file, form):  # type: ignore[no-untyped-def]
    path = model_file(size="50m", weights="q4_0")

    async def uninterrupted() -> dict[str, Answer]:
        async with running_engine("--exact") as engine:
            await Walk(engine, spec_of(path)).serve(6, 512, form)
            return await wholes_of(await wishes(engine, path), engine)

    wholes = asyncio.run(uninterrupted())
    assert "\ufffd" not in wholes["umlauts"].text, "characters of several tokens stay whole"
    assert json.loads(wholes["schema"].text)
    cases = splits(wholes)
    answers = asyncio.run(resumed(path, form, ["--exact"], cases))
    for one in cases:
        answer, rest = answers[one.name], one.whole.tokens[one.made :]
        assert answer.tokens == rest, one.name
        assert answer.digests == one.whole.digests[one.made :], one.name
        assert answer.text == one.text, one.name
        assert answer.finish is one.whole.finish


def test_other_resumes_are_valid_continuations(model_file):  # type: ignore[no-untyped-def]
    """The same lengths; a grammar's text is completed; what was told and what follows fit."""
    path = model_file(size="50m")

    async def uninterrupted() -> dict[str, Answer]:
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(6, 512)
            return await wholes_of(await wishes(engine, path), engine)

    wholes = asyncio.run(uninterrupted())
    cases = splits(wholes)
    answers = asyncio.run(resumed(path, WeightsForm.PLAIN, [], cases))
    for one in cases:
        name = one.name.partition("+")[0]
        text = one.whole.text.removesuffix(one.text) + answers[one.name].text
        if name == "schema":
            assert set(json.loads(text)) == {"name", "sizes"}
        elif name == "umlauts":
            assert len(text) == 60
            assert set(text) <= set("äöü€𝄞")
        else:
            assert one.made + len(answers[one.name].tokens) == 60


def test_a_stop_string_is_met_across_the_split(model_file):  # type: ignore[no-untyped-def]
    """Its beginning was made before, and held back; its end after."""
    path = model_file(size="50m")

    async def play() -> None:
        async with running_engine("--exact") as engine:
            await Walk(engine, spec_of(path)).serve(4, 512)
            listener = Listener(engine)
            letters = await engine.grammar(str(path), GrammarKind.GBNF, "root ::= [a-z]{40}")
            sampling = replace(WARM, grammar=letters)
            free = generation("free", PROMPT[:20], 80, sampling=sampling)
            await engine.submit("r1", free)
            (whole,) = await listener.finish(["free"])
            stop = whole.text[20:28]
            assert whole.text.index(stop) == 20
            stopping = replace(free, id="whole", stop=(stop,))
            await engine.submit("r1", stopping)
            (stopped,) = await listener.finish(["whole"])
            assert stopped.finish is FinishReason.STOP
            assert stopped.text == whole.text[:20]
            for made in range(1, len(stopped.tokens)):
                split = Split(f"whole+{made}", stopped, made)
                await engine.submit("r1", split.spec(stopping))
                (rest,) = await listener.finish([split.name])
                assert rest.text == split.text, made
                assert rest.finish is FinishReason.STOP
                assert rest.tokens == stopped.tokens[made:]

    asyncio.run(play())


def test_what_a_resume_need_not_compute_is_told(model_file):  # type: ignore[no-untyped-def]
    """The slot that it left is still there: in the default mode its answer is found too."""
    path = model_file(size="50m")

    async def play() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(1, 512)
            listener = Listener(engine)
            spec = generation("whole", PROMPT, 30)
            await engine.submit("r1", spec)
            (whole,) = await listener.finish(["whole"])
            await engine.submit("r1", replace(spec, id="rest", emitted=tuple(whole.tokens[:20])))
            (rest,) = await listener.finish(["rest"])
            assert rest.steps[0].reused_tokens == len(PROMPT) + 19
            assert len(rest.tokens) == 10

    asyncio.run(play())


def test_what_cannot_go_on_is_refused(model_file):  # type: ignore[no-untyped-def]
    path = model_file()

    async def play() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(path)).serve(1, 256)
            grammar = await engine.grammar(str(path), GrammarKind.GBNF, 'root ::= "yes" | "no"')
            spec = generation("g", [5, 6], 4)
            held = replace(spec, sampling=replace(WARM, grammar=grammar))
            for wrong in (
                replace(spec, emitted=(1, 2, 3, 4)),
                replace(spec, emitted=(10**6,)),
                replace(held, emitted=(40, 41, 42)),
            ):
                with pytest.raises(EngineError):
                    await engine.submit("r1", wrong)

    asyncio.run(play())
