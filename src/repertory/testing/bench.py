"""A worker under test and a listener on its outputs: what the checks of `conformance` stand on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from repertory.domain.actions import Activate, Deactivate, Drop, Load, Resize, Stage, Unload
from repertory.domain.errors import RepertoryError
from repertory.domain.events import Measured
from repertory.domain.ladder import Edge, IllegalTransition, Rung
from repertory.domain.requests import FinishReason
from repertory.domain.specs import KvShape, ModelSpec, NodeSpec, Placement
from repertory.engines.contract import Engine, Frame, GenerationSpec, Sampling, TokenLogprob

__all__ = [
    "LARGE",
    "PATIENCE_S",
    "PROMPT",
    "SMALL",
    "Bench",
    "Heard",
    "NotConforming",
    "opened",
    "refused",
    "require",
]

SMALL = KvShape(sequences=4, cells=256)
LARGE = KvShape(sequences=8, cells=512)
_LONG_CELLS = 2048
PROMPT = tuple(range(40, 52))
PATIENCE_S = 120.0


class NotConforming(AssertionError):
    """The engine does not keep the contract; the message says where."""


@dataclass(slots=True)
class Heard:
    """What came of one generation."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    embedding: tuple[float, ...] = ()
    finish: FinishReason | None = None
    ends: int = 0
    error: str | None = None
    compute_ns: int = 0
    is_preempted: bool = False
    restored: list[tuple[int, int, Rung | None, int]] = field(default_factory=list)
    """Per step with tokens: bytes, ns and source of what was copied back, and tokens reused."""


@dataclass(slots=True)
class Bench:
    """An engine under test, and a listener on its outputs."""

    engine: Engine
    node: NodeSpec
    spec: ModelSpec
    other_spec: ModelSpec | None
    heard: dict[str, Heard] = field(default_factory=dict)
    last_at_ns: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    actions: int = 0

    def can(self, rung: Rung, edge: Edge) -> bool:
        return (rung, edge) in self.node.capabilities.edges

    def take(self, frame: Frame) -> None:
        require(frame.at_ns >= self.last_at_ns, "frames go back in time")
        self.last_at_ns = frame.at_ns
        for step in frame.steps:
            heard = self.heard.setdefault(step.generation_id, Heard())
            require(heard.ends == 0, f"{step.generation_id} goes on after its end")
            heard.tokens += step.tokens
            heard.text += step.text
            heard.logprobs += step.logprobs
            heard.embedding += step.embedding
            heard.finish = step.finish
            heard.compute_ns += step.prefill_ns + step.decode_ns
            heard.error = step.error
            heard.is_preempted = heard.is_preempted or step.is_preempted
            if step.tokens:
                copied = (step.restored_bytes, step.restored_ns, step.restored_from)
                heard.restored.append((*copied, step.reused_tokens))
            if step.finish is not None or step.error is not None:
                heard.ends += 1
        self.news.set()

    @property
    def roomy(self) -> KvShape:
        """Slots so long that a generation that fills one still runs when the next call arrives."""
        return KvShape(SMALL.sequences, min(self.spec.context_tokens, _LONG_CELLS))

    @property
    def long_tokens(self) -> int:
        return self.roomy.cells - len(PROMPT)

    async def until(self, is_true: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not is_true():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise NotConforming(f"waited {PATIENCE_S} s in vain for {what}") from None

    async def reach(self, name: str, tokens: int) -> None:
        heard = self.heard.setdefault(name, Heard())
        await self.until(lambda: len(heard.tokens) >= tokens, f"{tokens} tokens of {name}")

    async def end_of(self, name: str) -> Heard:
        heard = self.heard.setdefault(name, Heard())
        await self.until(lambda: heard.ends == 1, f"the end of {name}")
        require(heard.error is None, f"{name} failed: {heard.error}")
        return heard

    async def walk(self, edge: Edge, replica: str, kv: KvShape = SMALL) -> Measured:
        """Ask for one transition of a replica of `spec`."""
        measured = await self._walk(edge, replica, kv, self.spec)
        require(measured.took_ns >= 0, f"{edge.value} took negative time")
        return measured

    async def serve(self, replica: str, kv: KvShape = SMALL, spec: ModelSpec | None = None) -> None:
        await self._walk(Edge.LOAD, replica, kv, spec or self.spec)
        await self._walk(Edge.ACTIVATE, replica, kv, spec or self.spec)

    async def run(self, replica: str, name: str, max_tokens: int = 12, seed: int = 1) -> list[int]:
        await self.submit(replica, name, max_tokens, seed)
        return (await self.end_of(name)).tokens

    async def submit(
        self,
        replica: str,
        name: str,
        max_tokens: int,
        seed: int = 1,
        emitted: tuple[int, ...] = (),
    ) -> None:
        sampling = Sampling(temperature=1.0, seed=seed)
        spec = GenerationSpec(name, PROMPT, max_tokens, sampling, ignore_eos=True, emitted=emitted)
        await self.engine.submit(replica, spec)

    async def wish(self, name: str, max_tokens: int, **wishes: Any) -> Heard:
        """A greedy generation on `r1` with fields of `GenerationSpec` and `Sampling`."""
        of_sampling = {key: wishes.pop(key) for key in ("logit_bias", "grammar") if key in wishes}
        sampling = Sampling(temperature=0.0, **of_sampling)
        spec = GenerationSpec(name, wishes.pop("prompt", PROMPT), max_tokens, sampling, **wishes)
        await self.engine.submit("r1", spec)
        return await self.end_of(name)

    async def _walk(self, edge: Edge, replica: str, kv: KvShape, spec: ModelSpec) -> Measured:
        self.actions += 1
        head = (self.actions, replica, spec.name, self.node.id)
        devices = tuple(one.id for one in self.node.devices)[: spec.devices_per_replica]
        asks: dict[Edge, Callable[[], Awaitable[Measured]]] = {
            Edge.STAGE: lambda: self.engine.stage(Stage(*head), spec),
            Edge.LOAD: lambda: self.engine.load(Load(*head, Placement(devices), Rung.DISK), spec),
            Edge.ACTIVATE: lambda: self.engine.activate(Activate(*head, kv)),
            Edge.RESIZE: lambda: self.engine.resize(Resize(*head, kv)),
            Edge.DEACTIVATE: lambda: self.engine.deactivate(Deactivate(*head)),
            Edge.UNLOAD: lambda: self.engine.unload(Unload(*head)),
            Edge.DROP: lambda: self.engine.drop(Drop(*head)),
        }
        return await asks[edge]()


@contextlib.asynccontextmanager
async def opened(
    engine: Engine, spec: ModelSpec, other_spec: ModelSpec | None
) -> AsyncIterator[Bench]:
    bench = Bench(engine, await engine.probe(), spec, other_spec)

    async def listen() -> None:
        async for frame in engine.outputs():
            bench.take(frame)

    listening = asyncio.create_task(listen())
    try:
        yield bench
    finally:
        await engine.close()
        await listening


def require(is_true: bool, message: str) -> None:
    if not is_true:
        raise NotConforming(message)


async def refused(asked: Awaitable[object], what: str) -> None:
    """It must raise, and say so in our words; an illegal edge may also be called our bug."""
    try:
        await asked
    except (RepertoryError, IllegalTransition):
        return
    raise NotConforming(f"{what} was not refused")
