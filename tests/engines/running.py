"""Real workers for the engine tests: child processes, and what to ask of them."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from repertory.domain.actions import Activate, Deactivate, Drop, Load, Resize, Stage, Unload
from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.requests import FinishReason
from repertory.domain.specs import KvShape, ModelSpec, Placement, WeightsForm
from repertory.engines.contract import Frame, GenerationSpec, LogitsTrace, Sampling, TokenStep
from repertory.engines.gguf.files import describe_file
from repertory.engines.llamacpp.client import LlamaCppEngine

MEMORY_BYTES = 4 << 30
DEVICE = "cpu0"


@asynccontextmanager
async def running_engine(*flags: str, devices: object = None) -> AsyncIterator[LlamaCppEngine]:
    """A worker process and its client; both are gone afterwards."""
    async with running_worker(*flags, devices=devices) as worker:
        yield worker.engine


@dataclass
class RunningWorker:
    """The two ends of a worker."""

    engine: LlamaCppEngine
    process: "subprocess.Popen[bytes]"


@asynccontextmanager
async def running_worker(*flags: str, devices: object = None) -> AsyncIterator[RunningWorker]:
    ours, theirs = socket.socketpair()
    configured = devices or [{"id": DEVICE, "memory_bytes": MEMORY_BYTES}]
    process = _spawn(theirs, ["--devices", json.dumps(configured), *flags])
    theirs.close()
    engine = LlamaCppEngine(*await asyncio.open_unix_connection(sock=ours))
    try:
        yield RunningWorker(engine, process)
    finally:
        await engine.close()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()


def _spawn(theirs: socket.socket, flags: list[str]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "repertory.engines.llamacpp.worker"]
    command += ["--socket", str(theirs.fileno()), *flags]
    return subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)


def spec_of(path: Path, name: str = "model") -> ModelSpec:
    facts = describe_file(path)
    return ModelSpec(
        name=name,
        digest=facts.digest,
        location=str(path),
        weights_bytes=facts.weights_bytes,
        layers=facts.layers,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        context_tokens=facts.trained_context_tokens,
        buffers_bytes=facts.buffers_bytes,
        repacked_bytes=facts.repacked_bytes,
        head_bytes=facts.head_bytes,
        kept_bytes=facts.kept_bytes,
        layers_bytes=facts.layers_bytes,
    )


@dataclass
class Walk:
    """One replica's way along the ladder."""

    engine: LlamaCppEngine
    spec: ModelSpec
    id: str = "r1"
    device: str = DEVICE
    actions: int = 0

    async def stage(self) -> Measured:
        return await self.engine.stage(Stage(*self._head()), self.spec)

    async def load(
        self, form: WeightsForm = WeightsForm.PLAIN, layers: int | None = None
    ) -> Measured:
        placement = Placement((self.device,), form, layers)
        action = Load(*self._head(), placement=placement, source=Rung.DISK)
        return await self.engine.load(action, self.spec)

    async def activate(self, sequences: int, cells: int) -> Measured:
        return await self.engine.activate(Activate(*self._head(), kv=KvShape(sequences, cells)))

    async def resize(self, sequences: int, cells: int) -> Measured:
        return await self.engine.resize(Resize(*self._head(), kv=KvShape(sequences, cells)))

    async def deactivate(self) -> Measured:
        return await self.engine.deactivate(Deactivate(*self._head()))

    async def unload(self) -> Measured:
        return await self.engine.unload(Unload(*self._head()))

    async def drop(self) -> Measured:
        return await self.engine.drop(Drop(*self._head()))

    async def serve(
        self, sequences: int, cells: int, form: WeightsForm = WeightsForm.PLAIN
    ) -> None:
        await self.load(form)
        await self.activate(sequences, cells)

    def _head(self) -> tuple[int, str, str, str]:
        self.actions += 1
        return (self.actions, self.id, self.spec.name, "local")


@dataclass
class Answer:
    """All that came of one generation."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    traces: list[LogitsTrace] = field(default_factory=list)
    finish: FinishReason | None = None
    error: str | None = None
    steps: list[TokenStep] = field(default_factory=list)

    @property
    def is_preempted(self) -> bool:
        return any(step.is_preempted for step in self.steps)

    @property
    def is_over(self) -> bool:
        return self.finish is not None or self.error is not None

    @property
    def digests(self) -> list[str]:
        return [one.digest for one in self.traces]


class Listener:
    """Collects the frames of one engine; the one reader of its `outputs`."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        self.answers: dict[str, Answer] = {}
        self.order: list[str] = []
        """Whose step came when."""
        self._frames = engine.outputs()

    async def finish(self, names: Iterable[str]) -> list[Answer]:
        """Listen until all of these are over."""
        wanted = list(names)
        while not all(self.answer(name).is_over for name in wanted):
            await self.listen()
        return [self.answers[name] for name in wanted]

    async def reach(self, name: str, tokens: int) -> None:
        """Listen until a generation has made so many tokens."""
        while len(self.answer(name).tokens) < tokens:
            await self.listen()

    async def reach_or_end(self, name: str, tokens: int) -> None:
        """Listen until a generation has made so many tokens, or is over before."""
        while len(self.answer(name).tokens) < tokens and not self.answer(name).is_over:
            await self.listen()

    async def stopped(self, name: str) -> None:
        """Listen until a generation is preempted, or over."""
        while not (self.answer(name).is_over or self.answer(name).is_preempted):
            await self.listen()

    async def drain(self) -> None:
        """Listen until the worker is gone."""
        async for frame in self._frames:
            self._take(frame)

    async def listen(self) -> None:
        self._take(await anext(self._frames))

    def _take(self, frame: Frame) -> None:
        for step in frame.steps:
            self.order.append(step.generation_id)
            answer = self.answer(step.generation_id)
            assert not answer.is_over, f"{step.generation_id} goes on after its end"
            answer.tokens += step.tokens
            answer.text += step.text
            answer.traces += step.traces
            answer.finish, answer.error = step.finish, step.error
            answer.steps.append(step)

    def answer(self, name: str) -> Answer:
        return self.answers.setdefault(name, Answer())


def generation(
    name: str, prompt: Iterable[int], max_tokens: int, **wishes: object
) -> GenerationSpec:
    """Greedy, traced and never ending early, unless `wishes` say otherwise."""
    options: dict[str, object] = {
        "sampling": Sampling(temperature=0.0),
        "ignore_eos": True,
        "trace_logits": True,
        **wishes,
    }
    return GenerationSpec(name, tuple(prompt), max_tokens, **options)  # type: ignore[arg-type]
