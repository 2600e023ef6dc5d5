"""A real worker process: what it serves, what it refuses, and how it ends."""

import asyncio
import os
import signal
from collections.abc import Awaitable

import pytest
from running import Listener, Walk, generation, running_engine, running_worker, spec_of

from repertory.domain.errors import BadRequest, EngineError, LoadFailed, WorkerGone
from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.requests import FinishReason
from repertory.domain.specs import WeightsForm
from repertory.engines.contract import Sampling

MIB = 1 << 20


def test_it_answers_for_a_cold_model(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        location = str(model_file())
        async with running_engine() as engine:
            facts = await engine.describe(location)
            assert facts.vocabulary_tokens == 1024
            plain = await engine.tokenize(location, "hello there")
            chat = await engine.render(location, [{"role": "user", "content": "hello there"}])
            assert plain == chat[chat.index(plain[0]) :][: len(plain)]
            assert (await engine.stats()).step_seconds == {}

    asyncio.run(run())


def test_a_template_that_refuses_names_the_field(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            for messages in ([{"role": "user"}], [{"role": "user", "content": 7}]):
                with pytest.raises(BadRequest) as caught:
                    await engine.render(str(model_file()), messages)
                assert caught.value.field == "messages"
            with pytest.raises(LoadFailed):
                await engine.describe("/nowhere/model.gguf")
            with pytest.raises(LoadFailed):
                await engine.tokenize("/nowhere/model.gguf", "hello")

    asyncio.run(run())


def test_a_stop_string_ends_the_text_before_it(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 512)
            listener = Listener(engine)
            await engine.submit("r1", generation("free", range(300, 320), 60))
            (free,) = await listener.finish(["free"])
            stop = free.text[20:24]
            await engine.submit("r1", generation("cut", range(300, 320), 60, stop=(stop,)))
            (cut,) = await listener.finish(["cut"])
            assert free.finish is FinishReason.LENGTH
            assert cut.finish is FinishReason.STOP
            assert cut.text == free.text[: free.text.index(stop)]
            assert cut.tokens == free.tokens[: len(cut.tokens)]

    asyncio.run(run())


def test_an_end_token_stops_and_is_no_text(model_file):  # type: ignore[no-untyped-def]
    """A random model draws its end token some time, at a high temperature."""

    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(8, 2048)
            listener = Listener(engine)
            names = [f"g{seed}" for seed in range(8)]
            for seed, name in enumerate(names):
                sampling = Sampling(temperature=50.0, seed=seed)
                spec = generation(
                    name, [5, 6], 1000, sampling=sampling, ignore_eos=False, trace_logits=False
                )
                await engine.submit("r1", spec)
            answers = await listener.finish(names)
            stopped = [one for one in answers if one.finish is FinishReason.STOP]
            assert stopped
            assert all("<|im_end|>" not in one.text for one in stopped)

    asyncio.run(run())


def test_finish_tells_the_compute_it_took_part_in(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 1024)
            listener = Listener(engine)
            await engine.submit("r1", generation("long", [9] * 600, 20))
            (answer,) = await listener.finish(["long"])
            last = answer.steps[-1]
            assert last.prefill_ns > 0
            assert last.decode_ns > 0
            assert all(step.prefill_ns == step.decode_ns == 0 for step in answer.steps[:-1])
            seconds = (await engine.stats()).step_seconds["r1"]
            assert seconds == pytest.approx((last.prefill_ns + last.decode_ns) / 1e9, rel=0.01)

    asyncio.run(run())


def test_more_generations_than_slots_wait_for_one(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(2, 256)
            listener = Listener(engine)
            names = [f"g{n}" for n in range(6)]
            for name in names:
                await engine.submit("r1", generation(name, range(100, 120), 30))
            answers = await listener.finish(names)
            assert [len(one.tokens) for one in answers] == [30] * 6

    asyncio.run(run())


def test_two_models_take_turns(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            one = Walk(engine, spec_of(model_file(size="50m"), "one"), "r1")
            other = Walk(engine, spec_of(model_file(size="50m", seed=1), "other"), "r2")
            await one.serve(1, 512)
            await other.serve(1, 512)
            listener = Listener(engine)
            await engine.submit("r1", generation("a", range(100, 120), 120))
            await engine.submit("r2", generation("b", range(100, 120), 120))
            await listener.finish(["a", "b"])
            first, last = listener.order.index("b"), len(listener.order) - 1
            turns = sum(
                left != right
                for left, right in zip(listener.order, listener.order[1:], strict=False)
            )
            assert first < last / 2
            assert turns >= 6
            seconds = (await engine.stats()).step_seconds
            assert 0.5 < seconds["r1"] / seconds["r2"] < 2

    asyncio.run(run())


def test_equal_files_are_loaded_once_and_memory_comes_back(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = model_file(size="50m", weights="q4_0")
        async with running_engine() as engine:
            first, second = Walk(engine, spec_of(path), "r1"), Walk(engine, spec_of(path), "r2")
            before = (await engine.stats()).pss_bytes
            loaded = await first.load(WeightsForm.REPACKED)
            one = (await engine.stats()).pss_bytes
            await second.load(WeightsForm.REPACKED)
            both = (await engine.stats()).pss_bytes
            serving = await first.activate(4, 1024)
            assert loaded.weights_bytes is not None
            assert loaded.weights_bytes > 20 * MIB
            assert both - one < 4 * MIB
            assert serving.kv_bytes == 4 * 1024 * first.spec.kv_bytes_per_token
            assert serving.buffers_bytes is not None
            assert serving.buffers_bytes <= first.spec.buffers_bytes
            await first.deactivate()
            await first.unload()
            held = (await engine.stats()).pss_bytes
            assert held - before > 20 * MIB
            await second.unload()
            assert (await engine.stats()).pss_bytes - before < 16 * MIB

    asyncio.run(run())


def test_a_load_tells_where_the_bytes_really_came_from(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            walk = Walk(engine, spec_of(model_file(size="50m", seed=3)))
            await walk.stage()
            assert (await walk.load()).source is Rung.HOST
            await walk.unload()
            await walk.drop()
            assert (await walk.load()).source is Rung.DISK

    asyncio.run(run())


def test_a_file_that_changed_since_it_was_described_is_not_mapped(model_file, tmp_path):  # type: ignore[no-untyped-def]
    async def run() -> None:
        path = tmp_path / "changing.gguf"
        path.write_bytes(model_file().read_bytes())
        spec = spec_of(path)
        path.write_bytes(model_file(seed=5).read_bytes())
        async with running_engine() as engine:
            walk = Walk(engine, spec)
            with pytest.raises(LoadFailed, match="not the file it was"):
                await walk.load()

    asyncio.run(run())


def test_core_sets_are_devices(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        left, right = sorted(os.sched_getaffinity(0))[:2]
        devices = [
            {"id": "left", "memory_bytes": 1 << 30, "cores": [left]},
            {"id": "right", "memory_bytes": 1 << 30, "cores": [right]},
        ]
        async with running_engine(devices=devices) as engine:
            node = await engine.probe()
            assert [one.id for one in node.devices] == ["left", "right"]
            assert [one.cores for one in node.devices] == [1, 1]
            for number, device in enumerate(("left", "right")):
                await Walk(engine, spec_of(model_file()), f"r{number}", device).serve(2, 512)
            listener = Listener(engine)
            for number in range(2):
                await engine.submit(f"r{number}", generation(f"g{number}", [3, 4], 20))
            one, other = await listener.finish(["g0", "g1"])
            assert one.tokens == other.tokens
            assert (await engine.stats()).compute_threads == 2

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    asyncio.run(run())


def test_a_killed_worker_ends_its_outputs_and_its_calls(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_worker() as worker:
            walk = Walk(worker.engine, spec_of(model_file(size="50m")))
            await walk.serve(2, 2048)
            listener = Listener(worker.engine)
            await worker.engine.submit("r1", generation("g", range(40), 2000))
            await listener.reach("g", 2)
            pending = asyncio.create_task(walk.resize(4, 2048))
            await asyncio.sleep(0)
            worker.process.send_signal(signal.SIGKILL)
            await listener.drain()
            with pytest.raises(WorkerGone):
                await pending
            with pytest.raises(WorkerGone):
                await worker.engine.probe()

    asyncio.run(run())


def test_a_worker_ends_when_its_server_does():  # type: ignore[no-untyped-def]
    async def run() -> int:
        async with running_worker() as worker:
            await worker.engine.probe()
            await worker.engine.close()
            return worker.process.wait(10)

    assert asyncio.run(run()) == 0


def test_a_resize_that_cannot_be_leaves_the_replica_serving(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            walk = Walk(engine, spec_of(model_file()))
            await walk.serve(2, 512)
            with pytest.raises(EngineError):
                await walk.resize(512, 512)  # the library knows 256 slots at most
            listener = Listener(engine)
            await engine.submit("r1", generation("g", [3, 4], 5))
            assert len((await listener.finish(["g"]))[0].tokens) == 5

    asyncio.run(run())


def test_it_beats_and_the_beat_shows_progress(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine() as engine:
            await engine.probe()
            first = engine.last_beat
            assert first is not None
            await Walk(engine, spec_of(model_file())).load()
            while engine.last_beat.progress == first.progress:  # type: ignore[union-attr]
                await engine.stats()

    asyncio.run(run())


@pytest.mark.parametrize("flags", [(), ("--exact",)], ids=["default", "exact"])
def test_full_slots_take_no_more_than_was_read_back_at_activation(model_file, flags):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine(*flags) as engine:
            walk = Walk(engine, spec_of(model_file(size="50m")))
            await walk.serve(1, 256)
            listener = Listener(engine)
            await engine.submit("r1", generation("first", range(40), 4))
            await listener.finish(["first"])
            await walk.deactivate()
            before = (await engine.stats()).anonymous_bytes
            serving = await walk.activate(4, 1024)
            names = [f"g{n}" for n in range(4)]
            for name in names:
                prompt = [300 + n % 600 for n in range(1000)]
                await engine.submit("r1", generation(name, prompt, 20, trace_logits=False))
            await listener.finish(names)
            taken = (await engine.stats()).anonymous_bytes - before
            assert serving.kv_bytes is not None
            assert serving.buffers_bytes is not None
            assert taken <= serving.kv_bytes + serving.buffers_bytes + 4 * MIB

    asyncio.run(run())


def test_a_load_that_copies_lets_short_moves_in(model_file):  # type: ignore[no-untyped-def]
    """They come to their end first, and are no part of what it took or holds."""

    async def play() -> None:
        async with running_engine() as engine:
            large = Walk(engine, spec_of(model_file(size="50m", weights="q4_0"), "large"), "large")
            small = Walk(engine, spec_of(model_file(), "small"), "small")
            await small.load()
            await small.unload()
            await large.load(WeightsForm.REPACKED)  # both files are proven now
            await large.unload()
            alone = await large.load(WeightsForm.REPACKED)
            await large.unload()
            ended: list[str] = []
            measured: dict[str, Measured] = {}

            async def move(name: str, moving: Awaitable[Measured]) -> None:
                measured[name] = await moving
                ended.append(name)

            await asyncio.gather(
                move("large", large.load(WeightsForm.REPACKED)),
                move("small", small.load()),
            )
            assert ended == ["small", "large"]
            beside = measured["large"].weights_bytes
            assert beside == pytest.approx(alone.weights_bytes, rel=0.03)

    asyncio.run(play())


def test_copied_weights_take_the_same_each_time_and_leave_nothing(model_file):  # type: ignore[no-untyped-def]
    """What a heap keeps would be missed by the next load's measurement."""

    async def play() -> None:
        async with running_engine() as engine:
            walk = Walk(engine, spec_of(model_file(size="50m", weights="q4_0")))
            taken: list[int] = []
            left: list[int] = []
            for _ in range(6):
                measured = await walk.load(WeightsForm.REPACKED)
                taken.append(measured.weights_bytes)
                await walk.unload()
                left.append((await engine.stats()).anonymous_bytes)
            assert max(taken[1:]) - min(taken[1:]) < MIB
            assert max(left) - min(left) < 2 * MIB

    asyncio.run(play())
