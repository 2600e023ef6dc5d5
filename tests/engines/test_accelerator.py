"""An accelerator is a device like any other.  A loopback RPC server stands in for a GPU."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from running import DEVICE, Listener, Walk, generation, running_engine, spec_of

from repertory.domain.errors import EngineError

SERVER = """
import ctypes, sys
from repertory.engines.llamacpp import library
library.start()
find = library.api._lib.ggml_backend_dev_by_name
find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
devices = (ctypes.c_void_p * 1)(find(b"CPU"))
serve = library.api._lib.ggml_backend_rpc_start_server
serve.restype = None
text, size = ctypes.c_char_p, ctypes.c_size_t
serve.argtypes = [text, text, size, size, ctypes.c_void_p]
serve(sys.argv[1].encode(), None, 1, 1, ctypes.cast(devices, ctypes.c_void_p))
"""


@contextlib.contextmanager
def rpc_server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, endpoint],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while server.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
        yield endpoint
    finally:
        server.kill()
        server.wait()


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

    with rpc_server() as endpoint:
        asyncio.run(run(endpoint))


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

    with rpc_server() as endpoint:
        asyncio.run(run(endpoint))
