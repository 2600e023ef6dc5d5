"""An accelerator is a device like any other.  A loopback RPC server stands in for a GPU."""

import asyncio

import pytest
from running import DEVICE, Listener, Walk, generation, running_engine, spec_of

from accelerating import rpc_server
from repertory.domain.errors import EngineError


def test_a_model_on_an_accelerator_gives_the_same_logits_as_on_the_cpu(model_file):  # type: ignore[no-untyped-def]
    async def run(endpoint: str) -> None:
        async with running_engine("--exact", "--rpc", endpoint) as engine:
            devices = {one.id: one for one in (await engine.probe()).devices}
            (remote,) = devices.keys() - {DEVICE}
            assert devices[remote].backend == "rpc"
            assert devices[remote].cores == 0
            listener = Listener(engine)
            for device in (DEVICE, remote):
                walk = Walk(engine, spec_of(model_file()), device, device)
                loaded = await walk.load()
                assert loaded.weights_bytes is not None
                # The library keeps the token embeddings, a fifth of this file, on the CPU.
                assert loaded.weights_bytes >= 0.75 * walk.spec.weights_bytes
                await walk.activate(2, 512)
                await engine.submit(device, generation(device, range(100, 300), 20))
            here, there = await listener.finish([DEVICE, remote])
            assert here.digests == there.digests

    with rpc_server() as server:
        asyncio.run(run(server.endpoint))


def test_some_layers_on_an_accelerator_and_the_rest_on_the_cpu(model_file):  # type: ignore[no-untyped-def]
    """k of n layers: fewer bytes there, equal logits (one library computes both parts)."""

    async def run(endpoint: str) -> None:
        async with running_engine("--exact", "--rpc", endpoint) as engine:
            node = await engine.probe()
            assert node.capabilities.partial_layers
            (remote,) = {one.id for one in node.devices} - {DEVICE}
            listener = Listener(engine)
            whole = Walk(engine, spec_of(model_file()), "whole", remote)
            half = Walk(engine, spec_of(model_file()), "half", remote)
            all_bytes = (await whole.load()).weights_bytes
            half_bytes = (await half.load(layers=half.spec.layers // 2)).weights_bytes
            assert all_bytes is not None
            assert half_bytes is not None
            assert 0 < half_bytes < all_bytes
            for walk in (whole, half):
                await walk.activate(2, 512)
                await engine.submit(walk.id, generation(walk.id, range(100, 300), 20))
            first, second = await listener.finish(["whole", "half"])
            assert first.digests == second.digests
            beyond = Walk(engine, spec_of(model_file()), "beyond", remote)
            with pytest.raises(EngineError, match="layers, not 99"):
                await beyond.load(layers=99)
            cores = Walk(engine, spec_of(model_file()), "cores", DEVICE)
            with pytest.raises(EngineError, match="holds whole models"):
                await cores.load(layers=1)

    with rpc_server() as server:
        asyncio.run(run(server.endpoint))
