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
from functools import partial
from pathlib import Path

from repertory.domain.actions import Activate, Load
from repertory.domain.ladder import Rung
from repertory.domain.specs import KvShape, ModelSpec, Placement
from repertory.engines.contract import GenerationSpec, Sampling
from repertory.engines.llamacpp.client import LlamaCppEngine

__all__ = ["Pair", "baseline", "device_of", "running_pair"]

_DEVICE = "repertory.testing.rpc_device"
_PROMPT_TOKEN = 300


@dataclass
class Pair:
    """What runs of it."""

    engine: LlamaCppEngine
    remote: str
    _numbers: Iterator[int] = field(default_factory=partial(itertools.count, 1))

    async def serve(self, spec: ModelSpec, layers: int | None) -> str:
        """Bring it up with so many layers on the device, none for 0; the replica's name."""
        name = f"r{next(self._numbers)}"
        device = "cpu0" if layers == 0 else self.remote
        place = Placement((device,), layers=layers or None)
        load = Load(next(self._numbers), name, spec.name, "local", place, Rung.DISK)
        await self.engine.load(load, spec)
        shape = KvShape(1, 1024)
        await self.engine.activate(Activate(next(self._numbers), name, spec.name, "local", shape))
        return name

    async def answer(self, replica: str, prompt: int, output: int) -> tuple[float, float]:
        """Seconds of the prompt, and of one decode step."""
        name = f"g{next(self._numbers)}"
        first = next(self._numbers)  # no prompt begins like another: none is there already
        tokens = tuple(_PROMPT_TOKEN + (at * 7 + first * 131) % 1000 for at in range(prompt))
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
    with device_of(core=1) as endpoint:
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


def baseline(peers: Path) -> Path:
    """The slow library that `bash bench/pair.sh` built."""
    found = sorted(peers.glob("baseline-*"))
    if not found:
        raise SystemExit("no baseline library beside llama-server: run `bash bench/pair.sh`")
    return found[-1].resolve()


@contextlib.contextmanager
def device_of(core: int) -> Iterator[str]:
    """The fast device, on a core of its own; its endpoint."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["taskset", "-c", str(core), sys.executable, "-m", _DEVICE, endpoint]
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
