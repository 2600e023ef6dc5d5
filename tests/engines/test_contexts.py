"""Saved sequences really go from one context into another: a replay would hide that they do not."""

import numpy as np
import pytest

from conftest import ModelMaker
from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import library
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
