"""k of n layers on an accelerator: what is held there and in main memory, and what one may break.

A loopback RPC server is a real device of the library, in a process of its own: what that process
and the worker hold is read from the kernel, beside what the worker says and what was predicted.
"""

import asyncio
from pathlib import Path

import pytest
from running import DEVICE, Listener, Walk, generation, running_engine, running_worker, spec_of

from accelerating import rpc_server
from repertory.domain.errors import WorkerGone
from repertory.domain.events import Measured
from repertory.domain.specs import KvShape, Placement
from repertory.perf.bytes import kv_needs, placed_footprint, rest_footprint

MIB = 1 << 20
SLACK_BYTES = 12 * MIB
"""What processes take and give back meanwhile: buffers of sockets, pages of code."""


def anonymous_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


def test_both_tiers_hold_what_was_predicted_and_what_is_said(model_file) -> None:  # type: ignore[no-untyped-def]
    """For every k: the server's process, the worker's own reading, and the prediction agree."""

    async def run(endpoint: str, pid: int) -> None:
        async with running_engine("--exact", "--rpc", endpoint) as engine:
            (remote,) = {one.id for one in (await engine.probe()).devices} - {DEVICE}
            spec = spec_of(model_file(size="50m", weights="q8_0"))
            for layers in (1, 4, 7, None):
                walk = Walk(engine, spec, f"k{layers}", remote)
                place = Placement((remote,), layers=layers, rest=DEVICE)
                before = anonymous_bytes(pid)
                loaded = await walk.load(layers=layers)
                opened = await walk.activate(2, 512)
                taken = anonymous_bytes(pid) - before
                _check_predictions(spec, place, loaded, opened)
                there = (loaded.weights_bytes or 0) + (opened.kv_bytes or 0)
                held = there + (opened.buffers_bytes or 0)
                assert there - SLACK_BYTES <= taken <= held + SLACK_BYTES, f"{layers}: {taken}"
                await walk.deactivate()
                await walk.unload()
                assert anonymous_bytes(pid) - before <= SLACK_BYTES, f"{layers} left something"

    with rpc_server() as server:
        asyncio.run(run(server.endpoint, server.pid))


def _check_predictions(spec, place: Placement, loaded: Measured, opened: Measured) -> None:  # type: ignore[no-untyped-def]
    rest = rest_footprint(spec, place)
    predicted = placed_footprint(spec, place).weights_bytes
    assert loaded.weights_bytes == pytest.approx(predicted, rel=0.05)
    assert loaded.rest_weights_bytes is not None
    handle = 12 * MIB  # the tokenizer of 32k words, for which this spec reserves nothing
    assert loaded.rest_weights_bytes - handle <= rest.weights_bytes * 1.05
    kv = kv_needs(spec, place, KvShape(2, 512))
    assert opened.kv_bytes == kv[place.devices[0]]
    assert opened.rest_kv_bytes == kv[DEVICE]
    assert opened.buffers_bytes is not None
    assert opened.rest_buffers_bytes is not None
    assert 0 < opened.buffers_bytes <= spec.buffers_bytes
    assert 0 < opened.rest_buffers_bytes <= rest.buffers_bytes


def test_tokens_are_equal_for_every_number_of_layers(model_file) -> None:  # type: ignore[no-untyped-def]
    """One library computes both parts, so that logits are too."""

    async def run(endpoint: str) -> None:
        async with running_engine("--exact", "--rpc", endpoint) as engine:
            (remote,) = {one.id for one in (await engine.probe()).devices} - {DEVICE}
            listener, spec = Listener(engine), spec_of(model_file(size="50m", weights="q4_0"))
            walks = [Walk(engine, spec, "cores", DEVICE)]
            walks += [Walk(engine, spec, f"k{count}", remote) for count in range(1, spec.layers)]
            walks.append(Walk(engine, spec, "whole", remote))
            for walk in walks:
                count = int(walk.id[1:]) if walk.id[1:].isdigit() else None
                await walk.load(layers=count)
                await walk.activate(1, 512)
                await engine.submit(walk.id, generation(walk.id, range(100, 260), 6))
                await listener.finish([walk.id])
                await walk.deactivate()
                await walk.unload()
            answers = [listener.answer(walk.id).digests for walk in walks]
            assert all(one == answers[0] for one in answers)

    with rpc_server() as server:
        asyncio.run(run(server.endpoint))


def test_a_device_that_dies_takes_its_worker_along(model_file) -> None:  # type: ignore[no-untyped-def]
    """The library aborts; whoever waits for tokens hears at once that the worker is gone."""

    async def run() -> None:
        with rpc_server() as server:
            async with running_worker("--rpc", server.endpoint) as worker:
                engine = worker.engine
                (remote,) = {one.id for one in (await engine.probe()).devices} - {DEVICE}
                listener, spec = Listener(engine), spec_of(model_file())
                walk = Walk(engine, spec, "half", remote)
                await walk.load(layers=spec.layers // 2)
                await walk.activate(1, 2048)
                await engine.submit("half", generation("half", range(100, 200), 1900))
                await listener.reach("half", 3)
                server.kill()
                with pytest.raises((WorkerGone, StopAsyncIteration)):
                    await listener.finish(["half"])
                assert worker.process.wait(10) != 0

    asyncio.run(run())


def test_a_worker_starts_without_a_device_that_does_not_answer(model_file) -> None:  # type: ignore[no-untyped-def]
    """What is left serves."""

    async def run() -> None:
        with rpc_server() as server:
            endpoint = server.endpoint
        async with running_engine("--rpc", endpoint) as engine:
            assert [one.id for one in (await engine.probe()).devices] == [DEVICE]
            await Walk(engine, spec_of(model_file())).serve(1, 256)

    asyncio.run(run())
