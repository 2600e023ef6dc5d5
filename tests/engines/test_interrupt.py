"""A step that is ended before its time leaves everything as before it, and is computed again."""

import threading
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ModelMaker
from repertory.domain.specs import KvShape
from repertory.engines.contract import Frame, GenerationSpec, Sampling
from repertory.engines.llamacpp import library
from repertory.engines.llamacpp.context import Context, ContextOptions
from repertory.engines.llamacpp.interrupt import Interrupted
from repertory.engines.llamacpp.library import Model
from repertory.engines.llamacpp.serving import Serving
from repertory.engines.llamacpp.steps import Cores, StepLoop

PATIENCE_S = 30.0
PROMPT = list(range(1, 41))


@pytest.fixture(scope="module")
def model(model_file: ModelMaker) -> Iterator[Model]:
    library.start()
    model = Model(model_file(weights="q8_0"))
    yield model
    model.free()


@pytest.mark.parametrize("is_exact", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_cells_and_logits_are_those_of_before_it(
    model: Model, is_exact: bool, threads: int
) -> None:
    context = Context(model, KvShape(2, 256), ContextOptions(is_exact, threads))
    wanted = context.prefill(0, PROMPT, 0, wants_logits=True)
    assert wanted is not None
    wanted = wanted.copy()
    next_wanted = context.decode([0], [7], [len(PROMPT)]).copy()
    context.interrupt.ask()
    with pytest.raises(Interrupted):
        context.prefill(1, PROMPT, 0, wants_logits=True)
    with pytest.raises(Interrupted):
        context.decode([0], [8], [len(PROMPT) + 1])
    context.interrupt.withdraw()
    assert (context.tokens_in(0), context.tokens_in(1)) == (len(PROMPT) + 1, 0)
    again = context.prefill(1, PROMPT, 0, wants_logits=True)
    assert again is not None
    assert np.array_equal(again, wanted)
    assert np.array_equal(context.decode([1], [7], [len(PROMPT)]), next_wanted)
    context.free()


def spec(name: str, prompt_tokens: int) -> GenerationSpec:
    prompt = tuple(1 + n % 50 for n in range(prompt_tokens))
    return GenerationSpec(name, prompt, 12, Sampling(seed=len(name)), ignore_eos=True)


class Running:
    """Three generations in two slots, stepped by hand; what each has got."""

    def __init__(self, model: Model) -> None:
        self.context = Context(model, KvShape(2, 512), ContextOptions(is_exact=True, threads=1))
        self.serving = Serving("r", model, self.context)
        self.tokens: dict[str, tuple[int, ...]] = {"a": (), "bb": (), "ccc": ()}
        for name, length in (("a", 10), ("bb", 300), ("ccc", 5)):
            self.serving.submit(spec(name, length))

    def step(self) -> None:
        for one in self.serving.step(1, 1):
            assert one.error is None
            self.tokens[one.generation_id] += one.tokens

    def end(self) -> dict[str, tuple[int, ...]]:
        while self.serving.has_work:
            self.step()
        self.context.free()
        return self.tokens


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["", "a", "bb", "ccc", "nobody"]), max_size=20))
def test_whoever_is_asked_for_and_however_often_all_say_the_same(
    model: Model, asked: list[str]
) -> None:
    undisturbed, running = Running(model).end(), Running(model)
    for name in asked:
        running.step()
        if name and running.serving.has_work:
            running.serving.interrupt(name)
            running.step()
            running.context.interrupt.withdraw()
    assert running.end() == undisturbed


def test_only_a_step_about_that_generation_is_ended(model: Model) -> None:
    running = Running(model)
    running.step()  # the prompt of `a`
    running.serving.interrupt("bb")  # it has a slot, and no part in that step
    running.serving.interrupt("ccc")
    running.step()
    assert len(running.tokens["a"]) == 2
    running.serving.interrupt("a")
    running.step()
    assert len(running.tokens["a"]) == 2
    running.context.interrupt.withdraw()
    running.end()


class Endless:
    """Stands in for a `Serving` whose steps end when they are interrupted, and never else."""

    name, used_ns, total_ns, expected_ns = "r", 0, 0, 1_000_000
    last = next = None
    has_work = True

    def __init__(self) -> None:
        self.context = self.interrupts = Interrupts()
        self.begun = threading.Event()

    def step(self, _: int, __: int) -> tuple[()]:
        self.begun.set()
        assert self.interrupts.asked.wait(PATIENCE_S), "nobody interrupts it"
        return ()

    def interrupt(self, name: str) -> None:
        if name == "g":
            self.interrupts.ask()

    def share_ns(self, name: str) -> int | None:
        return 5 if name == "g" and self.has_work else None

    def cancel(self, _: str) -> None:
        self.has_work = False


class Interrupts:
    """Of a context, and the context."""

    def __init__(self) -> None:
        self.interrupt = self
        self.asked = threading.Event()

    def ask(self) -> None:
        self.asked.set()

    def withdraw(self) -> None:
        self.asked.clear()


def test_a_preemption_does_not_wait_for_the_end_of_the_step() -> None:
    frames: list[Frame] = []
    loop, endless = StepLoop(Cores(2), frames.append, lambda: False, "test"), Endless()
    loop.call(lambda: loop.open(cast("Serving", endless))).result(PATIENCE_S)
    assert endless.begun.wait(PATIENCE_S)
    for name in ("unknown", "g"):
        loop.interrupt(name)
    loop.call(lambda: loop.preempt("g")).result(PATIENCE_S)
    assert [step.is_preempted for frame in frames for step in frame.steps] == [True]
    assert not endless.interrupts.asked.is_set(), "the next step would end at once"
    loop.close()
