"""KV that lost its slot comes back: after a swap, after other conversations, bit for bit."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Answer, Listener, Walk, generation, running_engine, spec_of

from repertory.domain.specs import KvShape
from repertory.engines.llamacpp import CHUNK_TOKENS, library
from repertory.engines.llamacpp.cells.computed import Computed, Weights, shared_tokens
from repertory.engines.llamacpp.cells.saved import SavedKv
from repertory.engines.llamacpp.context import (
    Context,
    ContextOptions,
    DecodeFailed,
    SavedSequence,
)
from repertory.engines.llamacpp.library import Model
from repertory.engines.llamacpp.serving import Serving

MIB = 1 << 20
LONG = [300 + 11 * n % 500 for n in range(1000)]
OTHER = [301 + 13 * n % 500 for n in range(1000)]
SAVING = ("--saved-kv-bytes", str(64 * MIB))
WEIGHTS = Weights("w", "llama")
OTHERS = Weights("others", "llama")
STRANGERS = Weights("strangers", "gemma3")
TOKENS = st.lists(st.integers(0, 2), max_size=8).map(tuple)


async def ask(engine, listener: Listener, name: str, prompt: list[int], count: int = 8) -> Answer:  # type: ignore[no-untyped-def]
    await engine.submit("r1", generation(name, prompt, count))
    (answer,) = await listener.finish([name])
    return answer


@pytest.mark.parametrize("flags", [(), ("--exact",)], ids=["default", "exact"])
@pytest.mark.parametrize("way", ["deactivated", "unloaded", "overwritten"])
def test_a_conversation_finds_its_cells_again(model_file, flags, way):  # type: ignore[no-untyped-def]
    """Swapped away and back it computes a hundredth of a long prompt at most, but for the chunk
    that mode `exact` computes anew, and says what it would have said.
    """

    async def play() -> None:
        path = model_file(size="50m")
        async with running_engine(*SAVING, *flags) as engine:
            walk = Walk(engine, spec_of(path))
            await walk.serve(1, 2048)
            listener = Listener(engine)
            first = await ask(engine, listener, "first", LONG)
            turn = [*LONG, *first.tokens, *range(400, 420)]
            expected = await ask(engine, listener, "expected", turn)
            assert first.steps[0].displaced_bytes == 0, "nobody had the slot before"
            if way == "overwritten":
                other = await ask(engine, listener, "other", OTHER)
                assert other.steps[0].displaced_bytes > 8 * MIB * len(turn) // 1024
                assert other.steps[0].displaced_ns > 0
                assert not any(one.displaced_bytes for one in other.steps[1:]), "told once"
            else:
                await walk.deactivate()
                if way == "unloaded":
                    await walk.unload()
                    await walk.load()
                await walk.activate(2, 2048)
            again = await ask(engine, listener, "again", turn)
            least = len(turn) - 1 if not flags else len(turn) // CHUNK_TOKENS * CHUNK_TOKENS
            assert again.steps[0].reused_tokens == least
            assert again.digests == expected.digests or not flags
            assert len(again.tokens) == len(expected.tokens)

    asyncio.run(play())


def test_a_preempted_generation_goes_on_with_its_cells_in_another_context(model_file):  # type: ignore[no-untyped-def]
    """Mode `exact`: all of them, for it is one generation that goes on."""

    async def play() -> None:
        path = model_file(size="50m")
        async with running_engine(*SAVING, "--exact") as engine:
            walk = Walk(engine, spec_of(path))
            await walk.serve(1, 2048)
            listener = Listener(engine)
            whole = await ask(engine, listener, "whole", LONG[:300], 200)
            spec = generation("g", LONG[:300], 200)
            await engine.submit("r1", spec)
            await listener.reach("g", 50)
            await engine.preempt("g")
            await engine.stats()
            while not any(step.is_preempted for step in listener.answer("g").steps):
                await listener.listen()
            made = tuple(listener.answers.pop("g").tokens)
            await walk.deactivate()
            await walk.activate(4, 1024)
            await engine.submit("r1", replace(spec, emitted=made))
            (rest,) = await listener.finish(["g"])
            assert [*made, *rest.tokens] == whole.tokens
            assert rest.digests == whole.digests[len(made) :]
            assert rest.steps[0].reused_tokens == 300 + len(made) - 1

    asyncio.run(play())


def test_what_is_longer_than_the_slots_are_now_waits_for_longer_ones(model_file):  # type: ignore[no-untyped-def]
    """A sequence comes back whole or not at all.  Tried all the same it would count as one that did
    not come back, and nothing of that architecture would be saved again.
    """

    async def play() -> None:
        path = model_file(size="50m")
        async with running_engine(*SAVING) as engine:
            walk = Walk(engine, spec_of(path))
            await walk.serve(1, 2048)
            listener = Listener(engine)
            await ask(engine, listener, "long", LONG)
            await walk.deactivate()
            await walk.activate(1, 512)
            short = await ask(engine, listener, "short", LONG[:300])
            assert short.steps[0].reused_tokens == 0, "computed: it begins as the long one does"
            await walk.deactivate()
            await walk.activate(1, 2048)
            again = await ask(engine, listener, "again", [*LONG, 7, 8, 9])
            assert again.steps[0].reused_tokens >= len(LONG)

    asyncio.run(play())


def test_without_a_budget_nothing_is_saved_and_all_is_computed_again(model_file):  # type: ignore[no-untyped-def]
    async def play() -> None:
        path = model_file(size="50m")
        async with running_engine() as engine:
            walk = Walk(engine, spec_of(path))
            await walk.serve(1, 2048)
            listener = Listener(engine)
            await ask(engine, listener, "first", LONG)
            await walk.deactivate()
            await walk.activate(1, 2048)
            again = await ask(engine, listener, "again", LONG)
            assert again.steps[0].reused_tokens == 0

    asyncio.run(play())


class Sequence:
    """Bytes of a sequence, as far as a budget cares."""

    def __init__(self, size_bytes: int) -> None:
        self.bytes = size_bytes


def saved_of(budget: int, *entries: tuple[tuple[int, ...], int]) -> SavedKv:
    saved = SavedKv(budget)
    for tokens, size in entries:
        saved.put(WEIGHTS, Computed(tokens, len(tokens)), Sequence(size), 1.0)  # type: ignore[arg-type]
    return saved


def test_what_a_saved_one_continues_is_not_kept_twice() -> None:
    saved = saved_of(100, ((1, 2), 30), ((1, 2, 3), 40), ((9,), 10))
    assert saved.bytes == 50


def test_the_one_that_spares_most_is_found_and_only_of_the_same_weights() -> None:
    saved = saved_of(100, ((1, 2), 10), ((1, 2, 3, 4), 10), ((5, 6), 10))
    wanted = Computed((1, 2, 3, 9, 9), 5)
    found = saved.find(WEIGHTS, wanted, 1, is_exact=False)
    assert found is not None
    assert found[0].computed.tokens == (1, 2, 3, 4)
    assert found[1] == 3
    assert saved.find(WEIGHTS, wanted, 4, is_exact=False) is None
    assert saved.find(OTHERS, wanted, 1, is_exact=False) is None


def test_what_did_not_come_back_is_remembered_of_its_architecture() -> None:
    saved = saved_of(100, ((1, 2), 10), ((5, 6), 10))
    found = saved.find(WEIGHTS, Computed((1, 2, 3), 3), 1, is_exact=False)
    assert found is not None
    saved.distrust(found[0])
    assert saved.bytes == 0
    assert not saved.wants(WEIGHTS, 10)
    assert not saved.wants(OTHERS, 10)
    assert saved.wants(STRANGERS, 10)


@given(kept=TOKENS, wanted=TOKENS)
def test_by_default_all_that_both_begin_with_but_one_is_left(
    kept: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    count = shared_tokens(Computed(kept, 0), Computed(wanted, len(wanted)), is_exact=False)
    assert kept[:count] == wanted[:count]
    most = min(len(kept), len(wanted) - 1)
    assert count == max(0, most) or kept[: count + 1] != wanted[: count + 1]


def test_exact_ones_share_whole_chunks_of_prompts_or_all_of_one_generation() -> None:
    prompt, made = tuple(range(300)), tuple(range(900, 950))
    kept = Computed((*prompt, *made[:40]), 300)
    same = Computed((*prompt, *made), 300)
    assert shared_tokens(kept, same, is_exact=True) == 340
    turn = Computed((*prompt, *made[:40], 7, 8), 342)
    assert shared_tokens(kept, turn, is_exact=True) == 256
    shorter = Computed((*prompt[:200], 5), 201)
    assert shared_tokens(kept, shorter, is_exact=True) == 128
    equal = Computed(prompt[:256], 256)
    assert shared_tokens(Computed(prompt, 300), equal, is_exact=True) == 128, "one is left"


@pytest.mark.parametrize("fault", ["refused", "ineffective", "truncated"])
def test_cells_that_do_not_come_back_are_computed_again(  # type: ignore[no-untyped-def]
    model_file, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detected, computed again, and never tried again with this model; the answer is the same."""

    library.start()
    model = Model(model_file(size="50m"))
    saved = SavedKv(64 * MIB)
    options = ContextOptions(is_exact=True, threads=1)

    def run(name: str) -> list[str]:
        context = Context(model, KvShape(1, 1024), options)
        serving = Serving("r1", model, context, saved, WEIGHTS)
        serving.submit(generation(name, LONG[:500], 6))
        digests: list[str] = []
        while not serving.is_idle:
            for step in serving.step(1, 1):
                digests += [one.digest for one in step.traces]
        serving.save_all()
        context.free()
        return digests

    expected = run("first")
    assert saved.bytes > 0
    restore = Context.restore
    if fault == "refused":

        def broken(self: Context, slot: int, one: SavedSequence) -> None:
            raise DecodeFailed("restored 0 bytes of a sequence")

    elif fault == "ineffective":

        def broken(self: Context, slot: int, one: SavedSequence) -> None:
            return None

    else:

        def broken(self: Context, slot: int, one: SavedSequence) -> None:
            restore(self, slot, replace(one, size_bytes=one.bytes // 2))

    monkeypatch.setattr(Context, "restore", broken)
    assert run("again") == expected
    assert saved.bytes == 0
    assert not saved.wants(WEIGHTS, 1)
    model.free()
