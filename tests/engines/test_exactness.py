"""Mode `exact`: a generation's logits do not depend on its company, slot, context or resizes.

Tokens often stay equal where logits do not, so logits are compared, at more than 1,024 tokens of
KV, where llama.cpp's default mode is known to differ (worker.md, Exactness).
"""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from running import Answer, Listener, Walk, generation, running_engine, spec_of

from repertory.domain.specs import KvShape, WeightsForm
from repertory.engines.contract import TokenStep
from repertory.engines.llamacpp import context as contexts
from repertory.engines.llamacpp import library
from repertory.engines.llamacpp.context import Context, ContextOptions, Logits
from repertory.engines.llamacpp.library import Model
from repertory.engines.llamacpp.serving import Serving

LONG = 1100
TOKENS = 12


def prompt_of(seed: int, tokens: int) -> list[int]:
    chosen = random.Random(seed)
    return [chosen.randrange(300, 900) for _ in range(tokens)]


async def alone(path: Path, form: WeightsForm, prompt: list[int]) -> Answer:
    async with running_engine("--exact") as engine:
        await Walk(engine, spec_of(path)).serve(1, 1280, form)
        await engine.submit("r1", generation("one", prompt, TOKENS))
        (answer,) = await Listener(engine).finish(["one"])
        return answer


async def in_company(path: Path, form: WeightsForm, prompt: list[int]) -> Answer:
    """Other lengths before, beside and after; the context grows and shrinks on the way."""
    async with running_engine("--exact") as engine:
        walk = Walk(engine, spec_of(path))
        await walk.serve(4, 1536, form)
        listener = Listener(engine)
        await engine.submit("r1", generation("early", prompt_of(1, 130), 3))
        await engine.submit("r1", generation("beside", prompt_of(2, 700), 40))
        await engine.submit("r1", generation("one", prompt, TOKENS))
        await listener.reach("one", 3)
        await walk.resize(8, 2048)
        for number in range(4):
            await engine.submit("r1", generation(f"late{number}", prompt_of(number, 300), 6))
        await listener.reach("one", 8)
        await listener.finish([f"late{number}" for number in range(4)])
        return (await listener.finish(["one"]))[0]


@pytest.mark.parametrize(
    ("weights", "form"),
    [
        ("q8_0", WeightsForm.PLAIN),
        ("q4_0", WeightsForm.PLAIN),
        ("q4_0", WeightsForm.REPACKED),
    ],
)
def test_exact_logits_do_not_depend_on_the_company(model_file, weights, form):  # type: ignore[no-untyped-def]
    path = model_file(size="50m", weights=weights)
    prompt = prompt_of(0, LONG)
    reference = asyncio.run(alone(path, form, prompt))
    answer = asyncio.run(in_company(path, form, prompt))
    assert len(reference.digests) == TOKENS
    assert answer.digests == reference.digests
    assert answer.tokens == reference.tokens


async def after_a_relative(path: Path, prompt: list[int], relative: list[int]) -> Answer:
    """Another prompt with the same beginning ran before, and left its cells."""
    async with running_engine("--exact") as engine:
        await Walk(engine, spec_of(path)).serve(3, 1280)
        listener = Listener(engine)
        for name in ("relative", "stranger"):
            tokens = relative if name == "relative" else prompt_of(9, 260)
            await engine.submit("r1", generation(name, tokens, 30))
        await listener.finish(["relative", "stranger"])
        await engine.submit("r1", generation("stranger2", prompt_of(8, 300), 30))
        await engine.submit("r1", generation("one", prompt, TOKENS))
        return (await listener.finish(["one"]))[0]


@pytest.mark.parametrize("shared", [100, 128, 700, LONG])
def test_a_reused_prefix_does_not_change_logits(model_file, shared):  # type: ignore[no-untyped-def]
    path = model_file(size="50m", weights="q8_0")
    prompt = prompt_of(0, LONG)
    relative = prompt[:shared] + prompt_of(5, 1150 - shared)
    reference = asyncio.run(alone(path, WeightsForm.PLAIN, prompt))
    answer = asyncio.run(after_a_relative(path, prompt, relative))
    assert answer.steps[0].reused_tokens == shared // 128 * 128
    assert answer.digests == reference.digests


class Watched(Context):
    """Remembers the lengths of its prefill steps."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, KvShape(2, 512), ContextOptions(is_exact=True, threads=1))
        self.lengths: list[int] = []

    def prefill(
        self, slot: int, tokens: Sequence[int], position: int, *, wants_logits: bool
    ) -> Logits | None:
        self.lengths.append(len(tokens))
        return super().prefill(slot, tokens, position, wants_logits=wants_logits)


def answered(serving: Serving, name: str, prompt: list[int]) -> list[TokenStep]:
    serving.submit(generation(name, prompt, TOKENS))
    steps: list[TokenStep] = []
    while not serving.is_idle:
        steps += serving.step(1, 1)
    return steps


@pytest.mark.parametrize("shared", [100, 128, 300])
def test_a_reused_prefix_does_not_change_logits_where_steps_are_shorter(  # type: ignore[no-untyped-def]
    model_file, monkeypatch: pytest.MonkeyPatch, shared: int
) -> None:
    """What is kept are chunks of the longest steps: a shorter step's end is always at theirs."""
    monkeypatch.setattr(contexts, "_MOST_CHUNK_WORK", 0.0)
    library.start()
    model = Model(model_file(weights="q8_0"))
    prompt = prompt_of(0, 333)
    found = []
    for before in ([], prompt[:shared] + prompt_of(5, 350 - shared)):
        context = Watched(model)
        serving = Serving("r1", model, context)
        if before:
            answered(serving, "relative", before)
        context.lengths.clear()
        found.append(answered(serving, "one", prompt))
        reused = found[-1][0].reused_tokens
        assert reused == (shared // 128 * 128 if before else 0)
        assert context.lengths == [16] * ((333 - reused) // 16) + [333 % 16]
        context.free()
    scratch, after = ([one.traces for one in steps] for steps in found)
    assert len(scratch) == TOKENS
    assert after == scratch
    model.free()
