"""The stand and what it hears: small rules that readings rest on."""

import asyncio
from typing import Any

import pytest
from measuring import CORES, NODE, ONE, TWO, known_profile

from repertory.domain.errors import EngineError, OutOfMemory, WorkerGone
from repertory.domain.events import Measured
from repertory.domain.specs import KvShape
from repertory.engines.contract import TokenStep
from repertory.engines.fake import FakeEngine
from repertory.profiler.stand import Heard, Running, Stand, opened, restored_by, saved_by
from repertory.profiler.steps import read_prefill
from repertory.profiler.subjects import KNOWN, Place, prompt_of, repeated
from repertory.testing.clock import VirtualLoop, run_virtual
from worlds import GIB, MIB

PLACE = Place(CORES)


def test_copies_of_kv_are_read_where_an_engine_tells_of_them() -> None:
    assert saved_by(Measured(1, kv_saved_bytes=8, kv_saved_ns=9)) == (8, 9)
    assert saved_by(Measured(1)) == (0, 0)
    assert restored_by(TokenStep("g1", (), "", restored_bytes=6, restored_ns=7)) == (6, 7)
    assert restored_by(TokenStep("g1", (), "")) == (0, 0)


def test_prompts_of_other_seeds_or_lengths_share_no_beginning() -> None:
    prompts = [prompt_of(ONE, length, seed) for length in (50, 51) for seed in (KNOWN, "other")]
    assert [len(one) for one in prompts] == [50, 50, 51, 51]
    assert len({one[:8] for one in prompts}) == 4
    assert all(0 < token < ONE.vocabulary_tokens for one in prompts for token in one)
    assert prompt_of(ONE, 50, KNOWN) == prompts[0]


def on_stand(work: Any, room_bytes: int = 8 * GIB) -> Any:
    async def main(loop: VirtualLoop) -> Any:
        engine = FakeEngine(NODE, known_profile)
        rooms = {device.id: room_bytes for device in NODE.devices}
        async with opened(engine, NODE, rooms) as stand:
            try:
                return await work(stand)
            finally:
                await engine.close()

    return run_virtual(main)


@pytest.mark.parametrize(("each_s", "times"), [(0.01, 7), (0.2, 5), (0.6, 3), (60.0, 3)])
def test_cheap_measurements_are_repeated_more_often(each_s: float, times: int) -> None:
    """At least three times; up to seven while a second is not spent."""

    async def work(stand: Stand) -> tuple[float, ...]:
        async def once() -> float:
            await asyncio.sleep(each_s)
            return each_s

        return await repeated(once)

    assert on_stand(work) == (each_s,) * times


def test_nothing_is_tried_that_exceeds_the_room() -> None:
    async def work(stand: Stand) -> None:
        await stand.load(ONE, PLACE.placement)
        with pytest.raises(OutOfMemory, match=r"one \+ .* weights of|weights of two \+ "):
            await stand.load(TWO, PLACE.placement)
        with pytest.raises(OutOfMemory, match="for 8 x 2048"):
            await stand.open(ONE, KvShape(8, 2048))
        await stand.open(ONE, KvShape(1, 256))

    on_stand(work, room_bytes=GIB + 128 * MIB)


def test_a_model_is_alone_on_the_stand_when_it_is_measured() -> None:
    async def work(stand: Stand) -> int:
        await stand.serve(TWO, PLACE.placement, KvShape(1, 256))
        await stand.serve(ONE, PLACE.placement, KvShape(1, 256))
        both = await stand.held_bytes()
        await stand.clear()
        assert await stand.held_bytes() == 0
        return both

    assert on_stand(work) < GIB + 100 * MIB


def test_a_worker_that_goes_ends_the_wait() -> None:
    async def work(stand: Stand) -> None:
        await stand.serve(ONE, PLACE.placement, KvShape(1, 2048))
        running = await stand.ask(ONE, prompt_of(ONE, 100, "long"), 1000)
        await stand.engine.close()
        with pytest.raises(WorkerGone):
            await stand.end(running)

    on_stand(work)


def test_a_prompt_that_was_there_already_is_no_reading() -> None:
    class Reusing(Stand):
        async def end(self, one: Running) -> Heard:
            heard = await super().end(one)
            heard.reused_tokens = 7
            return heard

    async def work(stand: Stand) -> None:
        reusing = Reusing(stand.engine, stand.node, {CORES.id: 8 * GIB})
        reusing._heard = stand._heard  # one listener hears for both
        reusing._news = stand._news
        with pytest.raises(EngineError, match="7 tokens of a new prompt"):
            await read_prefill(reusing, ONE, PLACE, 50, KvShape(1, 256))

    on_stand(work)
