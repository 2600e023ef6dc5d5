"""Saved sequences really go from one context into another (a replay would hide that they do not),
and how long its steps are.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from conftest import ModelMaker
from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import CHUNK_TOKENS, library
from repertory.engines.llamacpp import context as contexts
from repertory.engines.llamacpp.context import Context, ContextOptions
from repertory.engines.llamacpp.library import Model

PROMPT = list(range(1, 41))


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
@pytest.mark.parametrize("target_slots", [1, 2, 4, 8])
@pytest.mark.parametrize(("slots", "slot"), [(1, 0), (4, 0), (4, 2), (4, 3)])
def test_a_sequence_continues_in_a_context_of_any_number_of_slots(
    model_file: ModelMaker, arch: str, slots: int, slot: int, target_slots: int
) -> None:
    library.start()
    model = Model(model_file(arch=arch))
    options = ContextOptions(is_exact=True, threads=1)
    origin = Context(model, KvShape(slots, 256), options)
    target = Context(model, KvShape(target_slots, 512), options)
    origin.prefill(slot, PROMPT, 0, wants_logits=False)
    target.restore(target_slots - 1, origin.save(slot))
    wanted = origin.decode([slot], [7], [len(PROMPT)]).copy()
    got = target.decode([target_slots - 1], [7], [len(PROMPT)])
    assert np.array_equal(got, wanted)
    for context in (origin, target):
        context.free()
    model.free()


@pytest.fixture
def model(model_file: ModelMaker) -> Iterator[Model]:
    library.start()
    model = Model(model_file(weights="q4_0"))
    yield model
    model.free()


def chunk_tokens(model: Model, shape: KvShape, options: ContextOptions) -> int:
    context = Context(model, shape, options)
    tokens = context.chunk_tokens
    context.free()
    return tokens


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, 16), (31, 16), (32, 32), (63, 32), (100, 64), (127, 64), (128, 128), (9999, 128)],
)
def test_a_slow_model_s_steps_are_halved_until_they_are_short_enough(
    model: Model, monkeypatch: pytest.MonkeyPatch, most: int, expected: int
) -> None:
    """`most`: tokens that take as long as a step may."""
    monkeypatch.setattr(contexts, "_MOST_CHUNK_WORK", most * model.weights_bytes)
    options = ContextOptions(is_exact=False, threads=1)
    assert chunk_tokens(model, KvShape(1, 256), options) == expected


def test_the_length_of_a_step_is_by_the_weights_alone(
    model: Model, model_file: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal prompts have equal chunks, whatever else differs."""
    monkeypatch.setattr(contexts, "_MOST_CHUNK_WORK", 40 * model.weights_bytes)
    repacked = Model(model_file(weights="q4_0"), repacked=True)
    found = {
        chunk_tokens(one, KvShape(*shape), ContextOptions(is_exact, threads))
        for one in (model, repacked)
        for shape in ((1, 256), (8, 512), (200, 256))
        for is_exact in (True, False)
        for threads in (1, 2)
    }
    assert found == {32}
    repacked.free()


def test_an_accelerator_s_steps_are_the_longest(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "_MOST_CHUNK_WORK", 0.0)
    shape = KvShape(1, 256)
    assert chunk_tokens(model, shape, ContextOptions(is_exact=True, threads=1)) == 16
    fast = ContextOptions(is_exact=True, threads=1, is_on_cpu=False)
    assert chunk_tokens(model, shape, fast) == CHUNK_TOKENS
