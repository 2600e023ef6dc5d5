"""Measures our engine worker as the server uses it: its own process, asked through the contract."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gpucheck.measure import Taken, Wrong, spec_of
from gpucheck.shapes import Shape
from repertory.domain.actions import Activate, Deactivate, Load, Unload
from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, Placement
from repertory.engines.contract import Frame, GenerationSpec, Sampling
from repertory.engines.llamacpp.client import LlamaCppEngine

__all__ = ["Where", "measure_worker"]

_REPLICA = "r1"


@dataclass(frozen=True, slots=True)
class Where:
    """The worker's device."""

    backend: str
    rpc: str | None = None
    """HOST:PORT of the server behind it."""


def measure_worker(path: Path, shape: Shape, where: Where, log: Path) -> Taken:
    """Load, activate, generate alone and in company, deactivate, unload."""
    return asyncio.run(_measure(path, shape, where, log))


async def _measure(path: Path, shape: Shape, where: Where, log: Path) -> Taken:
    taken = Taken()
    spec = spec_of(path)
    started_s = time.perf_counter()
    async with _worker(where, log) as engine:
        chosen = _chosen((await engine.probe()).devices, where.backend)
        taken.note("start_worker", time.perf_counter() - started_s)
        head = (_REPLICA, spec.name, "local")
        started_s = time.perf_counter()
        load = Load(1, *head, placement=Placement((chosen.id,)), source=Rung.DISK)
        loaded = await engine.load(load, spec)
        taken.note("load_with_trial", time.perf_counter() - started_s)
        _note(taken, "load", loaded, loaded.weights_bytes)
        kv = KvShape(shape.sequences, shape.cells)
        active = await engine.activate(Activate(2, *head, kv=kv))
        _note(taken, "activate", active, active.kv_bytes)
        frames = engine.outputs()
        await _generate(engine, frames, spec, shape, 1, taken)
        await _generate(engine, frames, spec, shape, shape.sequences, taken)
        _note(taken, "deactivate", await engine.deactivate(Deactivate(3, *head)), None)
        _note(taken, "unload", await engine.unload(Unload(4, *head)), None)
    return taken


def _note(taken: Taken, name: str, measured: Measured, moved_bytes: int | None) -> None:
    """By the worker's own clock."""
    taken.note(name, measured.took_ns / 1e9, moved_bytes)


def _chosen(devices: Iterable[DeviceSpec], backend: str) -> DeviceSpec:
    for one in devices:
        if one.backend == backend:
            return one
    raise Wrong(f"the worker has no {backend} device")


async def _generate(
    engine: LlamaCppEngine,
    frames: AsyncIterator[Frame],
    spec: ModelSpec,
    shape: Shape,
    count: int,
    taken: Taken,
) -> None:
    """`count` generations at once, greedy; each has a prompt of its own, so nothing is reused."""
    name = "alone" if count == 1 else "company"
    left = set()
    first_s: float | None = None
    started_s = time.perf_counter()
    for number in range(count):
        first = count + 7 * number
        prompt = tuple((first + place) % 251 for place in range(shape.prompt_tokens))
        generation = GenerationSpec(
            f"{name}-{number}",
            prompt,
            shape.decode_tokens,
            Sampling(temperature=0.0),
            ignore_eos=True,
        )
        await engine.submit(_REPLICA, generation)
        left.add(generation.id)
    while left:
        for step in (await anext(frames)).steps:
            first_s = first_s or time.perf_counter() - started_s
            if step.error is not None:
                raise Wrong(f"a generation failed: {step.error}")
            if step.finish is not None:
                left.discard(step.generation_id)
    assert first_s is not None
    taken.note(f"first_token_{name}", first_s)
    took_s = time.perf_counter() - started_s
    taken.note(f"generate_{name}", took_s, tokens=count * shape.decode_tokens)


@asynccontextmanager
async def _worker(where: Where, log: Path) -> AsyncIterator[LlamaCppEngine]:
    """A worker process and its client; both are gone afterwards."""
    ours, theirs = socket.socketpair()
    process = _spawn(theirs, where, log)
    theirs.close()
    engine = LlamaCppEngine(*await asyncio.open_unix_connection(sock=ours))
    try:
        yield engine
    finally:
        await engine.close()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def _spawn(theirs: socket.socket, where: Where, log: Path) -> "subprocess.Popen[bytes]":
    """GPUs come by themselves; a set of cores has to be asked for."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    cores = [{"id": "cpu0", "memory_bytes": memory_bytes}] if where.backend == "cpu" else []
    command = [sys.executable, "-m", "repertory.engines.llamacpp.worker"]
    command += ["--socket", str(theirs.fileno()), "--log-file", str(log)]
    command += ["--devices", json.dumps(cores)]
    command += ["--rpc", where.rpc] if where.rpc else []
    return subprocess.Popen(command, pass_fds=[theirs.fileno()])
