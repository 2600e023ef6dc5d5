"""What weighs more among the steps of a real worker: its prompt first, and no other token."""

import asyncio

from running import Listener, Walk, generation, running_engine, spec_of

LONG = range(300, 1000)
SHORT = range(300, 320)


def test_a_heavy_prompt_goes_before_lighter_ones_that_came_first(model_file):  # type: ignore[no-untyped-def]
    """Those that have a slot, and those that wait for one."""

    async def run() -> None:
        async with running_engine("--exact") as engine:
            await Walk(engine, spec_of(model_file(size="50m"))).serve(3, 1024)
            listener = Listener(engine)
            for name in ("one", "two"):
                await engine.submit("r1", generation(name, LONG, 8, weight=0.1))
            await engine.submit("r1", generation("now", SHORT, 8))
            await listener.finish(["one", "two", "now"])
            assert listener.order[0] == "now"

    asyncio.run(run())


def test_a_weight_changes_no_token(model_file):  # type: ignore[no-untyped-def]
    async def run() -> None:
        async with running_engine("--exact") as engine:
            await Walk(engine, spec_of(model_file())).serve(3, 1024)
            listener = Listener(engine)
            await engine.submit("r1", generation("alone", LONG, 20))
            (alone,) = await listener.finish(["alone"])
            for name, weight in (("light", 0.1), ("heavy", 10.0)):
                await engine.submit("r1", generation(name, LONG, 20, weight=weight, deadline_ns=1))
            light, heavy = await listener.finish(["light", "heavy"])
            assert light.digests == heavy.digests == alone.digests

    asyncio.run(run())


def test_the_device_time_of_each_is_told_at_its_end_and_when_it_is_stopped(model_file):  # type: ignore[no-untyped-def]
    """Of a step of n an n-th: together they are what the replica has had."""

    async def run() -> None:
        async with running_engine() as engine:
            await Walk(engine, spec_of(model_file())).serve(4, 2048)
            listener = Listener(engine)
            names = ["a", "b", "c"]
            for name in names:
                await engine.submit("r1", generation(name, SHORT, 100))
            await engine.submit("r1", generation("long", SHORT, 2000))
            answers = await listener.finish(names)
            await engine.preempt("long")
            while not listener.answer("long").steps[-1].is_preempted:
                await listener.listen()
            told = [one.steps[-1] for one in (*answers, listener.answer("long"))]
            assert all(one.share_ns > 0 for one in told)
            for one in told[:3]:
                assert one.share_ns < one.prefill_ns + one.decode_ns
            spent_s = (await engine.stats()).step_seconds["r1"]
            assert abs(sum(one.share_ns for one in told) / 1e9 - spent_s) < 0.05 * spent_s

    asyncio.run(run())
