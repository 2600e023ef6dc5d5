"""The live server with a fake worker under virtual time: answers, refusals, losses, accounts."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repertory.core.controller import Controller
from repertory.core.costbook import ProfileSource
from repertory.core.journal import encode, read_lines
from repertory.domain.actions import Load
from repertory.domain.decisions import Decision
from repertory.domain.errors import ContextExceeded, DeadlineMissed, Overloaded, UnknownModel
from repertory.domain.events import Arrived, Wish
from repertory.domain.requests import FinishReason
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, ModelSpec
from repertory.engines.contract import Sampling
from repertory.engines.fake import FakeEngine, llama_like
from repertory.engines.gguf.make import make_model
from repertory.live.catalogue import Catalogue
from repertory.live.driver import Driver
from repertory.live.facade import GenerationOptions, Piece
from repertory.live.generation import RunningAnswer
from repertory.live.options import ModelChoice
from repertory.live.server import Server
from repertory.perf.profiles import Curve, Profile, StepLaw, prior_profile
from repertory.reports.story import render
from repertory.reports.why import explain
from repertory.testing.clock import VirtualLoop, run_virtual
from worlds import GIB, MIB

OPTIONS = GenerationOptions(max_tokens=16, sampling=Sampling(seed=7))
PROMPT = tuple(range(1, 33))


class Bench:
    """A server, its driver and one fake worker."""

    def __init__(
        self,
        loop: VirtualLoop,
        catalogue: Catalogue,
        settings: Settings,
        profile: ProfileSource = prior_profile,
    ) -> None:
        self.profile = profile
        self.decisions: list[Decision] = []
        self.server = Server(catalogue, 4 * GIB, random.Random(1))
        self.controller = Controller(settings, self._record)
        self.driver = Driver(self.controller, self.server, when_quiet=loop.when_quiet)
        self.server.connect(self.controller, self.driver)
        self.node = llama_like([DeviceSpec("cpu0", 2 * GIB, cores=2)])
        self.engine = FakeEngine(self.node, self.profile)
        for event in catalogue.events(0, catalogue.refresh()):
            self.driver.post(event)

    def start_worker(self) -> None:
        self.engine = FakeEngine(self.node, self.profile)
        self.server.use(self.engine)
        self.driver.attach(self.engine, self.node)

    async def lose_worker(self) -> None:
        self.server.use(None)
        await self.engine.close()
        self.driver.detach("node0", "it was killed")

    async def start(self, name: str, options: GenerationOptions = OPTIONS) -> RunningAnswer:
        return await self.server.generate(self.server.resolve(name), PROMPT, options)

    def _record(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.server.decided(decision)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        make_model(folder / f"{name}.gguf", size="tiny", seed=seed)
    choices = (
        ModelChoice("one", folder / "one.gguf", aliases=("first",)),
        ModelChoice("two", folder / "two.gguf"),
        ModelChoice("again", folder / "one.gguf"),
    )
    return Catalogue(choices, ())


def play(
    catalogue: Catalogue,
    scene: Callable[[Bench], Awaitable[None]],
    settings: Settings | None = None,
    profile: ProfileSource = prior_profile,
) -> Bench:
    """Run a scene on a server with a worker; all invariants hold at its end."""
    fresh = Catalogue(catalogue._choices, ())
    kept: list[Bench] = []

    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, fresh, settings or Settings(), profile)
        kept.append(bench)
        bench.start_worker()
        await scene(bench)
        await bench.driver.close()
        await bench.engine.close()
        bench.controller.check()

    run_virtual(main)
    return kept[0]


async def read(answer: RunningAnswer) -> list[Piece]:
    return [piece async for piece in answer]


def test_an_answer_comes_in_pieces_and_ends_with_its_finish(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        answer = await bench.start("one")
        pieces = await read(answer)
        assert sum(len(piece.tokens) for piece in pieces) == 16
        assert [piece.finish for piece in pieces if piece.finish] == [FinishReason.LENGTH]
        await answer.aclose()
        await answer.aclose()
        await asyncio.sleep(1)

    bench = play(catalogue, scene)
    assert not bench.server._answers, "an ended answer is forgotten"


def test_equal_files_are_one_model_under_several_names(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        names = {bench.server.resolve(name).name for name in ("one", "first", "again")}
        assert names == {"one"}
        with pytest.raises(UnknownModel, match="Did you mean 'first'"):
            bench.server.resolve("frist")

    play(catalogue, scene)


def test_a_client_that_leaves_cancels_its_own_request_only(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        leaving, staying = await bench.start("one"), await bench.start("one")
        await leaving.aclose()
        assert len(await read(staying)) > 0
        assert bench.server.status().models[0].status == "loaded"

    play(catalogue, scene)


def test_a_client_that_leaves_before_it_is_let_in_leaves_nothing(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        asking = asyncio.ensure_future(bench.start("one"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(60)
        assert not bench.controller.state.requests
        assert not bench.server._answers

    play(catalogue, scene)


def test_too_long_for_the_context_is_refused_before_anything_loads(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        long = GenerationOptions(max_tokens=100_000, sampling=Sampling())
        with pytest.raises(ContextExceeded, match="32 prompt tokens"):
            await bench.start("one", long)
        assert bench.controller.state.replicas == {}

    play(catalogue, scene)


def test_without_max_tokens_an_answer_may_fill_the_context_up_to_4096(
    catalogue: Catalogue,
) -> None:
    async def scene(bench: Bench) -> None:
        answer = await bench.start("one", GenerationOptions(None, Sampling()))
        context = bench.server.resolve("one").context_tokens
        assert answer.spec.max_tokens == min(4096, context - len(PROMPT))
        await answer.aclose()

    play(catalogue, scene)


def test_a_full_queue_says_when_to_come_again(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        answers = [await bench.start("one") for _ in range(3)]
        answers += [await bench.start("one") for _ in range(4 - bench.controller.state.waiting)]
        with pytest.raises(Overloaded) as refused:
            await bench.start("one")
        assert refused.value.retry_after_s >= 1.0
        for answer in answers:
            await read(answer)

    play(catalogue, scene, Settings(max_waiting=4))


def test_after_a_workers_death_what_ran_goes_on_and_what_waits_is_served(
    catalogue: Catalogue,
) -> None:
    async def scene(bench: Bench) -> None:
        whole = "".join(piece.text for piece in await read(await bench.start("one")))
        running = await bench.start("one")
        pieces = aiter(running)
        text = (await anext(pieces)).text
        await bench.lose_worker()
        assert not bench.server.status().is_ready
        waiting = await bench.start("two")
        bench.start_worker()
        async for piece in pieces:
            text += piece.text
        assert text == whole
        assert running.reused_tokens == 0, "what a resume finds is no prefix of the prompt"
        assert sum(len(piece.tokens) for piece in await read(waiting)) == 16
        assert bench.server.status().is_ready

    play(catalogue, scene)


def test_status_tells_predicted_and_measured_bytes(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        await read(await bench.start("one"))
        one, two = bench.server.status().models
        assert (one.status, one.rung, two.status) == ("loaded", "serving", "unloaded")
        assert one.measured_bytes is not None
        assert abs(one.predicted_bytes - one.measured_bytes) <= 32 * MIB
        assert two.measured_bytes is None
        assert bench.server.status().tokens_per_s > 0
        await bench.server.wish("one", Wish.UNLOAD)
        await asyncio.sleep(5)
        assert bench.server.status().models[0].status == "unloaded"

    play(catalogue, scene)


def test_a_vanished_file_is_no_longer_on_offer(tmp_path: Path) -> None:
    make_model(tmp_path / "one.gguf", size="tiny", seed=1)
    make_model(tmp_path / "two.gguf", size="tiny", seed=2)
    catalogue = Catalogue((), (tmp_path,))
    assert [name for name, _ in catalogue.refresh()] == ["one", "two"]
    assert catalogue.refresh() == []
    (tmp_path / "two.gguf").unlink()
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    assert catalogue.refresh() == [("two", None)]
    with pytest.raises(UnknownModel, match="is not served"):
        catalogue.find("bad")
    make_model(tmp_path / "one.gguf", size="tiny", seed=3)
    assert [name for name, spec in catalogue.refresh() if spec is not None] == ["one"]


def due(after_s: float) -> GenerationOptions:
    return replace(OPTIONS, first_token_by_s=asyncio.get_running_loop().time() + after_s)


def test_a_deadline_that_has_passed_is_refused_at_once_with_the_reason(
    catalogue: Catalogue,
) -> None:
    async def scene(bench: Bench) -> None:
        for after_s in (0.0, -2.5):
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(DeadlineMissed, match=r"its deadline passed .* at best") as refused:
                await bench.start("one", due(after_s))
            assert asyncio.get_running_loop().time() == began_s
            assert refused.value.status == 504

    bench = play(catalogue, scene)
    assert not any(isinstance(one, Load) for each in bench.decisions for one in each.actions)
    (verdict, _) = [one for each in bench.decisions for one in each.verdicts]
    assert (verdict.rule, verdict.choice) == ("admit", "refuse")
    assert verdict.predicted_s is not None


def test_one_that_no_haste_can_meet_is_refused_with_the_prediction(catalogue: Catalogue) -> None:
    """Its model would have to be loaded first.  Once it serves, the same deadline is kept."""

    async def scene(bench: Bench) -> None:
        with pytest.raises(DeadlineMissed, match=r"within 0\.005 s and is predicted after 0\.\d+"):
            await bench.start("one", due(0.005))
        await read(await bench.start("one", due(5.0)))
        began_s = asyncio.get_running_loop().time()
        answer = await bench.start("one", due(0.005))
        await anext(aiter(answer))
        assert asyncio.get_running_loop().time() - began_s < 0.005
        await answer.aclose()

    play(catalogue, scene)


def test_one_that_is_missed_is_answered_all_the_same_and_told_by_why(catalogue: Catalogue) -> None:
    asked: list[str] = []

    async def scene(bench: Bench) -> None:
        answer = await bench.start("one", due(0.1))
        asked.append(answer.id)
        assert len(await read(answer)) > 0

    def slow(spec: ModelSpec, device: DeviceSpec) -> Profile:
        """Prompts take 100 ms longer than anybody expects."""
        prior = prior_profile(spec, device)
        late = StepLaw(Curve(((0.0, 0.1), (1.0, 0.1))))
        return replace(prior, prefill=dict.fromkeys(prior.prefill, late))

    bench = play(catalogue, scene, profile=slow)
    story = explain(read_lines([encode(one) for one in bench.decisions]), asked[0])
    assert story is not None
    told = "\n".join(render(story))
    assert "its first token is wanted within 0.1 s" in told
    assert "its deadline was missed by" in told


def test_the_brain_knows_a_caller_by_the_name_of_the_key_alone(catalogue: Catalogue) -> None:
    async def scene(bench: Bench) -> None:
        await read(await bench.start("one", replace(OPTIONS, key="ci")))

    bench = play(catalogue, scene)
    (event,) = [one.event for one in bench.decisions if isinstance(one.event, Arrived)]
    assert event.request.key == "ci"
