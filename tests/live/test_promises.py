"""What `live.facade` promises the gateway, kept by the live server under virtual time."""

import asyncio
from collections.abc import Sequence

import pytest
from test_server import OPTIONS, PROMPT, Bench, catalogue, play, read

from repertory.domain.actions import Load, Settle
from repertory.domain.errors import (
    BadRequest,
    Quarantined,
    RepertoryError,
    UnknownModel,
    WorkerGone,
)
from repertory.domain.events import Cancelled, Measured
from repertory.domain.requests import OutcomeKind
from repertory.domain.specs import DeviceSpec, ModelSpec
from repertory.engines.fake import FakeEngine, llama_like
from repertory.engines.wire import Beat
from repertory.live.catalogue import Catalogue
from repertory.live.server import TokenRate
from repertory.live.watch import Watch
from worlds import GIB

__all__ = ["catalogue"]


class FailingEngine(FakeEngine):
    """Dies over its first questions."""

    def __init__(self, deaths: int) -> None:
        super().__init__(llama_like([DeviceSpec("cpu0", 2 * GIB, cores=2)]))
        self.deaths = deaths

    async def tokenize(self, location: str, text: str) -> tuple[int, ...]:
        self.deaths -= 1
        if self.deaths >= 0:
            raise WorkerGone("the worker died during this call")
        return await super().tokenize(location, text)


class FellingEngine(FakeEngine):
    """Dies of a load: its connection ends before anybody has told its loss."""

    def __init__(self) -> None:
        super().__init__(llama_like([DeviceSpec("cpu0", 2 * GIB, cores=2)]))

    async def load(self, action: Load, spec: ModelSpec) -> Measured:
        raise WorkerGone("the worker died during this call")


def outcomes(bench: Bench) -> Sequence[OutcomeKind]:
    settled = [a for d in bench.decisions for a in d.actions if isinstance(a, Settle)]
    return [one.outcome.kind for one in settled]


@pytest.mark.parametrize("after", range(8))
def test_an_answer_may_be_cancelled_at_any_await(catalogue: Catalogue, after: int) -> None:
    async def scene(bench: Bench) -> None:
        async def whole() -> None:
            answer = await bench.start("one")
            try:
                await read(answer)
            finally:
                await answer.aclose()

        task = asyncio.ensure_future(whole())
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(60)
        assert not bench.controller.state.requests
        assert not bench.server._answers

    assert outcomes(play(catalogue, scene)) in ([], [OutcomeKind.CANCELLED])


def test_closing_after_the_end_or_twice_is_harmless(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        ended = await bench.start("one")
        await read(ended)
        for _ in range(2):
            await ended.aclose()
        left = await bench.start("one")
        for _ in range(2):
            await left.aclose()
        await asyncio.sleep(60)

    bench = play(catalogue, scene)
    cancelled = [d.event for d in bench.decisions if isinstance(d.event, Cancelled)]
    assert outcomes(bench) == [OutcomeKind.DONE, OutcomeKind.CANCELLED]
    assert len(cancelled) == 1


def test_closing_after_the_end_but_before_reading_it_is_harmless(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        unread = await bench.start("one")
        await asyncio.sleep(60)
        await unread.aclose()
        await asyncio.sleep(60)

    assert outcomes(play(catalogue, scene)) == [OutcomeKind.DONE]


@pytest.mark.parametrize("wrong", [-1, 1 << 40])
def test_ids_outside_of_the_vocabulary_name_the_field(catalogue: Catalogue, wrong: int) -> None:
    async def scene(bench: Bench) -> None:
        spec = bench.server.resolve("one")
        with pytest.raises(BadRequest, match=f"Token {wrong} is not in") as refused:
            await bench.server.generate(spec, (*PROMPT, wrong), OPTIONS)
        assert refused.value.field == "prompt"
        assert not bench.controller.state.replicas

    play(catalogue, scene)


def test_a_request_cancelled_in_the_turn_of_its_dispatch_breaks_nothing(
    catalogue: Catalogue,
) -> None:
    async def scene(bench: Bench) -> None:
        await read(await bench.start("one"))
        answer = await bench.start("one")  # it is dispatched in this very turn
        await answer.aclose()
        await asyncio.sleep(1)
        assert not bench.driver._failure.done()

    play(catalogue, scene)


def test_a_model_removed_between_its_name_and_its_prompt_is_unknown(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        spec = bench.server.resolve("one")
        bench.server.catalogue._choices = bench.server.catalogue._choices[1:2]
        for event in bench.server.catalogue.events(0, bench.server.catalogue.refresh()):
            bench.driver.post(event)
        with pytest.raises(UnknownModel):
            await bench.server.generate(spec, PROMPT, OPTIONS)

    play(catalogue, scene)


def test_a_stopping_server_tells_those_who_wait_and_those_who_read(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        reading = await bench.start("one")
        pieces = aiter(reading)
        await anext(pieces)
        await bench.lose_worker()
        waiting = await bench.start("two")
        asking = asyncio.ensure_future(bench.server.tokenize(bench.server.resolve("one"), "hi"))
        await asyncio.sleep(1)
        bench.server.close()
        for awaited in (read(waiting), asking):
            with pytest.raises(WorkerGone, match="shutting down"):
                await awaited
        await asyncio.sleep(1)
        assert not bench.controller.state.requests

    play(catalogue, scene)


def test_a_worker_that_is_starting_is_waited_for(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        spec = bench.server.resolve("one")
        await bench.lose_worker()
        asking = asyncio.ensure_future(bench.server.tokenize(spec, "hi"))
        await asyncio.sleep(30)
        assert not asking.done()
        bench.start_worker()
        assert await asking
        await bench.lose_worker()
        with pytest.raises(WorkerGone, match="does not start"):
            await bench.server.tokenize(spec, "hi")

    play(catalogue, scene)


@pytest.mark.parametrize(("deaths", "is_served"), [(1, True), (2, False)])
def test_a_worker_that_dies_over_a_question_is_asked_once_more(
    catalogue: Catalogue, deaths: int, is_served: bool
) -> None:
    async def scene(bench: Bench) -> None:
        first = FailingEngine(1)
        bench.server.use(first)
        asking = asyncio.ensure_future(bench.server.tokenize(bench.server.resolve("one"), "hi"))
        await asyncio.sleep(1)
        assert not asking.done(), "the dead one is not asked again, though its loss is not told yet"
        assert first.deaths == 0
        bench.server.use(None)
        bench.server.use(FailingEngine(deaths - 1))
        if is_served:
            assert await asking
            return
        with pytest.raises(RepertoryError):
            await asking

    play(catalogue, scene)


def test_what_is_kept_per_token_and_per_load_is_forgotten() -> None:
    account = TokenRate()
    for second in range(1000):
        account.count(second * 1_000_000_000, 3)
    assert len(account._seen) <= 6
    assert account.per_s(999_000_000_000) == 18 / 5


def beat(at_s: float, progress: int) -> Beat:
    return Beat(round(at_s * 1e9), progress)


def test_a_worker_without_beats_is_hung_whatever_it_was_asked() -> None:
    watch = Watch(0.0)
    verdicts = [watch.look(float(now), beat(0.0, 1), None) for now in range(1, 14)]
    assert [verdict is not None for verdict in verdicts] == [False] * 11 + [True] * 2


def test_a_worker_that_beats_but_makes_no_progress_is_stuck() -> None:
    watch = Watch(0.0)
    verdicts = [watch.look(float(now), beat(now, 1), 1.0) for now in range(1, 18)]
    assert verdicts[:15] == [None] * 15
    assert verdicts[-1] == "stuck: no progress for 16 s"


def test_a_worker_that_was_asked_for_nothing_may_rest() -> None:
    watch = Watch(0.0)
    assert {watch.look(float(now), beat(now, 1), None) for now in range(1000)} == {None}


def test_a_server_that_was_held_up_itself_does_not_blame_its_worker() -> None:
    watch = Watch(0.0)
    assert watch.look(1.0, beat(0.9, 1), 1.0) is None
    assert watch.look(3600.0, beat(0.9, 1), 1.0) is None


def test_a_worker_has_a_minute_for_its_first_beat() -> None:
    watch = Watch(0.0)
    verdicts = [watch.look(float(now), None, None) for now in range(1, 63)]
    assert verdicts[:60] == [None] * 60
    assert verdicts[-1] is not None


def test_a_load_that_kills_workers_is_blamed_although_its_call_ends_before_the_loss_is_told(
    catalogue: Catalogue,
) -> None:
    async def scene(bench: Bench) -> None:
        await bench.lose_worker()
        answer = await bench.start("one")
        for _ in range(2):
            engine = FellingEngine()
            bench.server.use(engine)
            bench.driver.attach(engine, bench.node)
            await asyncio.sleep(0.1)
            await engine.close()
            bench.driver.detach("node0", "killed by SIGKILL")
            await asyncio.sleep(0.1)
        with pytest.raises(Quarantined, match=r"up killed 2 workers.*SIGKILL.*SIGKILL"):
            await read(answer)
        bench.start_worker()
        other = await bench.start("two")
        assert await read(other)

    play(catalogue, scene)
