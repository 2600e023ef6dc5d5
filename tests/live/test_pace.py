"""Readers that fall behind: their generations are held in the worker, and nobody else waits."""

import asyncio
from dataclasses import replace

import pytest
from test_server import OPTIONS, Bench, catalogue, play, read  # noqa: F401 - a fixture

from repertory.domain.errors import WorkerGone
from repertory.domain.events import DrainAsked, Wish
from repertory.domain.requests import FinishReason
from repertory.domain.specs import DeviceSpec, ModelSpec
from repertory.live.catalogue import Catalogue
from repertory.live.facade import Piece
from repertory.live.generation import HIGH_TOKENS, LOW_TOKENS, RunningAnswer
from repertory.perf.profiles import Profile, prior_profile
from worlds import GIB

LONG = replace(OPTIONS, max_tokens=900)
AGES_S = 3600.0


async def fallen_behind(bench: Bench, name: str = "one") -> RunningAnswer:
    """An answer that nobody reads, held."""
    answer = await bench.start(name, LONG)
    await asyncio.sleep(AGES_S)
    assert answer.is_held
    return answer


def real(spec: ModelSpec, device: DeviceSpec) -> Profile:
    """Durations of a model of a real size: a tiny one is through in a frame."""
    return prior_profile(replace(spec, weights_bytes=2 * GIB), device)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_generation_whose_reader_falls_behind_is_held_until_it_reads(
    catalogue: Catalogue,  # noqa: F811
) -> None:
    async def scene(bench: Bench) -> None:
        wanted = text_of(await read(await bench.start("one", LONG)))
        slow = await fallen_behind(bench)
        untaken = slow.buffered_tokens
        assert HIGH_TOKENS < untaken < LONG.max_tokens
        assert bench.server.status().running == 1, "it keeps its slot"
        quick = await read(await bench.start("one", LONG))
        assert quick[-1].finish is FinishReason.LENGTH
        assert slow.buffered_tokens == untaken
        pieces = aiter(slow)
        taken = [await anext(pieces)]
        while slow.is_held:
            taken.append(await anext(pieces))
        assert slow.buffered_tokens < LOW_TOKENS
        taken += [piece async for piece in pieces]
        assert text_of(taken) == wanted
        await asyncio.sleep(1)
        assert bench.server.status().running == 0

    play(catalogue, scene, profile=real)


def test_a_reader_that_keeps_up_is_never_held(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        answer = await bench.start("one", LONG)
        async for _ in answer:
            assert not answer.is_held

    play(catalogue, scene, profile=real)


def test_an_answer_that_fits_below_the_mark_is_computed_to_its_end(
    catalogue: Catalogue,  # noqa: F811
) -> None:
    async def scene(bench: Bench) -> None:
        answer = await bench.start("one", replace(OPTIONS, max_tokens=HIGH_TOKENS))
        await asyncio.sleep(AGES_S)
        assert bench.server.status().running == 0
        assert not answer.is_held
        assert sum(len(piece.tokens) for piece in await read(answer)) == HIGH_TOKENS

    play(catalogue, scene, profile=real)


def test_nobody_is_held_while_somebody_waits_for_a_slot(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        slow = [await fallen_behind(bench) for _ in range(4)]
        late = [await bench.start("one") for _ in range(4)]
        assert bench.server.status().waiting > 0
        assert not any(answer.is_held for answer in slow)
        for answer in late:
            assert len(text_of(await read(answer))) == 16
        for answer in slow:
            assert len(text_of(await read(answer))) == LONG.max_tokens

    play(catalogue, scene, profile=real)


def test_a_model_that_is_to_leave_holds_nobody(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        slow = await fallen_behind(bench)
        await bench.server.wish("one", Wish.UNLOAD)
        await asyncio.sleep(AGES_S)
        assert bench.server.status().models[0].status == "unloaded"
        assert len(text_of(await read(slow))) == LONG.max_tokens

    play(catalogue, scene, profile=real)


def test_a_server_that_is_to_stop_holds_nobody(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        slow = await fallen_behind(bench)
        bench.driver.post(DrainAsked(bench.driver.now_ns()))
        await asyncio.sleep(AGES_S)
        assert bench.server.status().running == 0
        assert len(text_of(await read(slow))) == LONG.max_tokens

    play(catalogue, scene, profile=real)


def test_a_held_generation_ends_when_its_client_leaves(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        slow = await fallen_behind(bench)
        await slow.aclose()
        await asyncio.sleep(1)
        assert not bench.controller.state.requests
        await read(await bench.start("one"))

    play(catalogue, scene, profile=real)


def test_a_held_generation_is_lost_with_its_worker(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        slow = await fallen_behind(bench)
        await bench.lose_worker()
        with pytest.raises(WorkerGone):
            await read(slow)
        bench.start_worker()
        await read(await bench.start("one"))

    play(catalogue, scene, profile=real)


def test_a_worker_that_only_holds_has_nothing_to_do(catalogue: Catalogue) -> None:  # noqa: F811
    """It makes no progress, and its watch must not take that for being stuck."""

    async def scene(bench: Bench) -> None:
        server = bench.server
        assert server.longest_prediction_s() is None
        slow = await fallen_behind(bench)
        assert server.longest_prediction_s() is None
        other = await bench.start("one", LONG)
        pieces = aiter(other)
        await anext(pieces)
        assert server.longest_prediction_s() is not None
        async for _ in pieces:
            pass
        await asyncio.sleep(1)
        assert server.longest_prediction_s() is None
        slow.let_go()
        assert server.longest_prediction_s() is not None
        await read(slow)

    play(catalogue, scene, profile=real)


def test_an_answer_knows_whether_the_next_piece_is_there(
    catalogue: Catalogue,  # noqa: F811
) -> None:
    async def scene(bench: Bench) -> None:
        answer = await bench.start("one", replace(OPTIONS, max_tokens=3))
        assert not answer.has_more
        await asyncio.sleep(AGES_S)
        seen = [(answer.has_more, piece.finish is not None) async for piece in answer]
        assert seen == [(True, False)] * (len(seen) - 1) + [(False, True)]
        assert len(seen) > 1

    play(catalogue, scene)


def test_an_error_is_no_piece(catalogue: Catalogue) -> None:  # noqa: F811
    async def scene(bench: Bench) -> None:
        answer = await bench.start("one", replace(OPTIONS, max_tokens=3))
        answer.fail(WorkerGone("gone"))
        assert not answer.has_more
        with pytest.raises(WorkerGone):
            await read(answer)

    play(catalogue, scene)
