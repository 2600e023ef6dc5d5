"""The asymmetric pair: a worker with a slow library on one core, and a fast RPC device on another.

`bench/pair.sh` builds the slow half; the device is the native library in a process of its own.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from repertory.domain.actions import Activate, Deactivate, Load, Unload
from repertory.domain.ladder import Rung
from repertory.domain.specs import KvShape, ModelSpec, Placement
from repertory.engines.contract import GenerationSpec, Sampling
from repertory.engines.llamacpp.client import LlamaCppEngine

__all__ = ["Pair", "running_pair"]

_DEVICE = "repertory.testing.rpc_device"
_PROMPT_TOKEN = 300


@dataclass
class Pair:
    """What runs of it."""

    engine: LlamaCppEngine
    remote: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def answer(
        self, spec: ModelSpec, layers: int | None, prompt: int, output: int, repeats: int
    ) -> list[tuple[float, float]]:
        """Prefill and decode seconds of as many answers; 0 layers: none is on the device."""
        name = f"r{next(self._numbers)}"
        device = "cpu0" if layers == 0 else self.remote
        place = Placement((device,), layers=layers or None)
        ids = itertools.count(1)
        await self.engine.load(Load(next(ids), name, spec.name, "local", place, Rung.DISK), spec)
        shape = KvShape(1, 1024)
        await self.engine.activate(Activate(next(ids), name, spec.name, "local", shape))
        found = [await self._one(name, prompt + at, output) for at in range(repeats + 1)]
        await self.engine.deactivate(Deactivate(next(ids), name, spec.name, "local"))
        await self.engine.unload(Unload(next(ids), name, spec.name, "local"))
        return found[1:]  # the first one faults pages in

    async def _one(self, replica: str, prompt: int, output: int) -> tuple[float, float]:
        name = f"g{next(self._numbers)}"
        tokens = tuple(_PROMPT_TOKEN + (at * 7 + prompt) % 1000 for at in range(prompt))
        wish = GenerationSpec(name, tokens, output, Sampling(temperature=0.0), ignore_eos=True)
        await self.engine.submit(replica, wish)
        async for frame in self.engine.outputs():
            for step in frame.steps:
                if step.generation_id == name and step.finish is not None:
                    return step.prefill_ns / 1e9, step.decode_ns / 1e9 / (output - 1)
        raise RuntimeError("the worker is gone")


@asynccontextmanager
async def running_pair(library: Path) -> AsyncIterator[Pair]:
    """Both on a core of their own; gone afterwards."""
    with _device() as endpoint:
        ours, theirs = socket.socketpair()
        devices = [{"id": "cpu0", "memory_bytes": 4 << 30, "cores": [0]}]
        command = ["taskset", "-c", "0", sys.executable, "-m", "repertory.engines.llamacpp.worker"]
        command += ["--socket", str(theirs.fileno()), "--exact", "--rpc", endpoint]
        command += ["--devices", json.dumps(devices)]
        slow = {**os.environ, "LLAMA_CPP_LIB_PATH": str(library)}
        worker = _spawn(command, theirs.fileno(), slow)
        theirs.close()
        engine = LlamaCppEngine(*await asyncio.open_unix_connection(sock=ours))
        try:
            devices_there = (await engine.probe()).devices
            (remote,) = (one.id for one in devices_there if one.backend == "rpc")
            yield Pair(engine, remote)
        finally:
            await engine.close()
            worker.kill()
            worker.wait()


def _spawn(command: list[str], kept: int, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, pass_fds=[kept], stderr=subprocess.DEVNULL, env=environment)


@contextlib.contextmanager
def _device() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["taskset", "-c", "1", sys.executable, "-m", _DEVICE, endpoint]
    device = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while device.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(endpoint.split(":")[1]))).close()
                break
        yield endpoint
    finally:
        device.kill()
        device.wait()
