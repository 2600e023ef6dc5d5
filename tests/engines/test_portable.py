"""A generation's state is its spec and its tokens: stopped anywhere, resumed anywhere, in any order
and company, it says what it would have said.
"""

import asyncio
import random
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from running import Answer, Listener, Walk, running_engine, spec_of
from test_resume import wholes_of, wishes
from toy import PIECES, ToyContext, ToyModel

from repertory.domain.requests import FinishReason
from repertory.domain.specs import KvShape
from repertory.engines.contract import GenerationSpec, Sampling, TokenStep
from repertory.engines.grammar.automaton import Grammar, TokenTree
from repertory.engines.grammar.gbnf import compile_gbnf
from repertory.engines.llamacpp.cells.computed import Weights
from repertory.engines.llamacpp.cells.saved import SavedKv
from repertory.engines.llamacpp.serving import Serving

MODEL: Any = ToyModel()
TREE = TokenTree([*PIECES, b""])
ENDS = np.array([len(PIECES)])
TEXT = "root ::= [a-g é€𝄞]{5,60}"
MOST_TOKENS = 40
WEIGHTS = {mode: Weights("toy", "toy", is_exact=mode) for mode in (False, True)}


def grammar_of(text: str) -> Grammar | None:
    return Grammar(text, compile_gbnf(text), TREE, ENDS) if text else None


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from((0.0, 0.8, 1.5)),
    top_k=st.sampled_from((0, 5)),
    repetition_penalty=st.sampled_from((1.0, 1.3)),
    presence_penalty=st.sampled_from((0.0, 0.7)),
    frequency_penalty=st.sampled_from((0.0, 0.7)),
    seed=st.integers(0, 2**32),
    grammar=st.sampled_from(("", TEXT)),
)


@st.composite
def specs(draw: st.DrawFn) -> GenerationSpec:
    """Prompts begin alike, so that they find each other's cells."""
    length = draw(st.sampled_from((1, 5, 127, 128, 129, 200, 256, 300)))
    tail = draw(st.lists(st.integers(0, len(PIECES) - 1), max_size=3))
    prompt = (*(n % 7 for n in range(length)), *tail)
    return GenerationSpec(
        id="",
        prompt=prompt,
        max_tokens=draw(st.integers(1, MOST_TOKENS)),
        sampling=draw(SAMPLINGS),
        stop=tuple(draw(st.lists(st.sampled_from(("END", "ab", "a€", "gg")), max_size=2))),
        ignore_eos=draw(st.booleans()),
        trace_logits=True,
        logprobs=draw(st.sampled_from((None, 2))),
    )


@dataclass
class Told:
    """What came of a generation, wherever it ran."""

    spec: GenerationSpec
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    digests: list[str] = field(default_factory=list)
    logprobs: list[object] = field(default_factory=list)
    finish: FinishReason | None = None

    def take(self, step: TokenStep) -> None:
        assert self.finish is None, "it goes on after its end"
        assert step.error is None, step.error
        self.tokens += step.tokens
        self.text += step.text
        self.digests += [one.digest for one in step.traces]
        self.logprobs += step.logprobs
        self.finish = step.finish

    @property
    def rest(self) -> GenerationSpec:
        return replace(self.spec, emitted=tuple(self.tokens))


@dataclass
class Stage:
    """Replicas of one model that share what is saved."""

    saved: SavedKv
    is_exact: bool
    replicas: list[Serving] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    """Where each runs or waits for its slot; others are stopped, or over."""

    def add(self, shape: KvShape) -> None:
        self.replicas.append(self._opened(shape))

    def submit(self, name: str, at: int) -> None:
        spec = self.told[name].rest
        self.replicas[at].submit(spec, grammar_of(spec.sampling.grammar))
        self.running[name] = at

    def step(self, at: int) -> None:
        for step in self.replicas[at].step(1, 1):
            told = self.told[step.generation_id]
            told.take(step)
            if told.finish is not None:
                del self.running[told.spec.id]

    def stop(self, name: str) -> None:
        assert self.replicas[self.running.pop(name)].cancel(name)

    def close(self, at: int, shape: KvShape) -> None:
        """As a deactivate and an activate do, where nobody runs; else as a resize."""
        serving = self.replicas[at]
        if serving.is_idle:
            serving.save_all()
            self.replicas[at] = self._opened(shape)
        elif shape.sequences >= len([one for one in self.running.values() if one == at]):
            context: Any = ToyContext(shape, is_exact=self.is_exact)
            serving.move_to(context)

    def change(self, kind: int, one: int, other: int, shape: KvShape) -> None:
        """One of what may happen, on one of those that there are."""
        name, at = f"g{one % len(self.told)}", other % len(self.replicas)
        if kind == 0 and name in self.running:
            self.stop(name)
        elif kind <= 1 and self.is_stopped(name):
            self.submit(name, at)
        elif kind == 2:
            self.close(at, shape)
        else:
            for _ in range(one + 1):
                self.step(at)

    def is_stopped(self, name: str) -> bool:
        return name not in self.running and self.told[name].finish is None

    def end(self) -> None:
        """Let everybody go on to the end."""
        for name in filter(self.is_stopped, sorted(self.told)):
            self.submit(name, 0)
        while self.running:
            for at in range(len(self.replicas)):
                self.step(at)

    def _opened(self, shape: KvShape) -> Serving:
        context: Any = ToyContext(shape, is_exact=self.is_exact)
        name = f"r{len(self.replicas)}"
        return Serving(name, MODEL, context, self.saved, WEIGHTS[self.is_exact])


def uninterrupted(spec: GenerationSpec, is_exact: bool) -> Told:
    stage = Stage(SavedKv(0), is_exact, told={spec.id: Told(spec)})
    stage.add(KvShape(1, 512))
    stage.submit(spec.id, 0)
    while stage.running:
        stage.step(0)
    return stage.told[spec.id]


SHAPES = st.builds(KvShape, st.sampled_from((1, 1, 2, 4)), st.sampled_from((352, 512)))
CHANGES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 7), st.integers(0, 7), SHAPES), max_size=60
)


ONE_SLOT = KvShape(1, 512)


def alike(length: int) -> GenerationSpec:
    prompt, sampling = tuple(n % 7 for n in range(length)), Sampling(temperature=0.8, seed=length)
    return GenerationSpec("", prompt, 20, sampling, ignore_eos=True, trace_logits=True)


@example(  # one after another in one slot: the second begins in the middle of the first's chunk
    chosen=[alike(200), alike(300), alike(250)],
    shapes=[ONE_SLOT],
    budget=0,
    changes=[],
    is_exact=True,
)
@example(  # and where what was saved of the one is found by the other
    chosen=[alike(200), alike(300), alike(250)],
    shapes=[ONE_SLOT],
    budget=1 << 20,
    changes=[(1, 0, 0, ONE_SLOT), *[(3, 7, 0, ONE_SLOT)] * 4, (2, 0, 0, ONE_SLOT)],
    is_exact=True,
)
@settings(max_examples=100, deadline=None)
@given(
    chosen=st.lists(specs(), min_size=1, max_size=5),
    shapes=st.lists(SHAPES, min_size=1, max_size=3),
    budget=st.sampled_from((0, 3000, 1 << 20)),
    changes=CHANGES,
    is_exact=st.booleans(),
)
def test_stopped_anywhere_and_resumed_in_any_order_each_says_what_it_would_have_said(
    chosen: list[GenerationSpec],
    shapes: list[KvShape],
    budget: int,
    changes: list[tuple[int, int, int, KvShape]],
    is_exact: bool,
) -> None:
    """Tokens, text, log-probabilities, end, and in mode `exact` what logits they came from."""
    stage = Stage(SavedKv(budget), is_exact)
    for number, spec in enumerate(chosen):
        stage.told[f"g{number}"] = Told(replace(spec, id=f"g{number}"))
    for shape in shapes:
        stage.add(shape)
    for change in changes:
        stage.change(*change)
    stage.end()
    assert stage.saved.wants(WEIGHTS[is_exact], 1) == (budget > 0), "what came back is believed"
    for name, told in stage.told.items():
        alone = uninterrupted(told.spec, is_exact)
        assert told.tokens == alone.tokens, name
        assert told.text == alone.text, name
        assert told.digests == alone.digests, name
        assert told.logprobs == alone.logprobs, name
        assert told.finish is alone.finish, name


def test_preempted_again_and_again_the_real_engine_says_the_same(model_file):  # type: ignore[no-untyped-def]
    """Mode `exact`, logit for logit: in the middle of a schema, characters of four bytes, penalties
    and log-probabilities; with cells from memory and without, the context made anew in between.
    """
    path = model_file(size="50m", weights="q4_0")

    async def play() -> None:
        luck = random.Random(5)
        async with running_engine("--exact", "--saved-kv-bytes", str(4 << 20)) as engine:
            walk, listener = Walk(engine, spec_of(path)), Listener(engine)
            await walk.serve(6, 512)
            asked = await wishes(engine, path)
            wholes = await wholes_of(asked, engine)
            made: dict[str, list[Answer]] = {name: [] for name in asked}
            restored = 0
            while unfinished := [name for name in asked if not is_over(made[name])]:
                parts = {name: f"{name}/{len(made[name])}" for name in unfinished}
                for name in luck.sample(unfinished, len(unfinished)):
                    emitted = tuple(token for one in made[name] for token in one.tokens)
                    await engine.submit("r1", replace(asked[name], id=parts[name], emitted=emitted))
                stopping = luck.choice(unfinished)
                await listener.reach_or_end(parts[stopping], luck.randrange(1, 40))
                for name in unfinished:
                    await engine.preempt(parts[name])
                    await listener.stopped(parts[name])
                    made[name].append(listener.answer(parts[name]))
                    restored += sum(step.restored_bytes > 0 for step in made[name][-1].steps)
                await walk.deactivate()
                await walk.activate(luck.choice((2, 4, 6)), 512)
            assert restored, "cells came back at least once"
            for name, parts_of in made.items():
                assert joined(parts_of) == joined([wholes[name]]), name

    asyncio.run(play())


def is_over(parts: list[Answer]) -> bool:
    return bool(parts) and parts[-1].finish is not None


def joined(parts: list[Answer]) -> tuple[object, ...]:
    tokens = [token for one in parts for token in one.tokens]
    digests = [digest for one in parts for digest in one.digests]
    return tokens, digests, "".join(one.text for one in parts), parts[-1].finish
