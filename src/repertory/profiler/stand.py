"""A test stand: one engine, where each model stands on it, and what is heard of its generations.

Measurements say where a model is to stand; the stand takes the steps that are missing, and makes
room first.  Time is the running loop's, so that a virtual clock is as good as ours.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count

from repertory.domain.actions import Activate, Deactivate, Drop, Load, Resize, Unload
from repertory.domain.errors import EngineError, OutOfMemory, WorkerGone
from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.requests import FinishReason
from repertory.domain.specs import KvShape, ModelSpec, NodeSpec, Placement
from repertory.engines.contract import Engine, Frame, GenerationSpec, Sampling, TokenStep
from repertory.perf.bytes import kv_bytes, weights_footprint
from repertory.perf.needs import size_text
from repertory.profiler.subjects import Subject

__all__ = ["Heard", "Running", "Stand", "opened", "restored_by", "saved_by"]


@dataclass(slots=True)
class Heard:
    """What came of one generation so far."""

    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    is_stopped: bool = False
    first_at_s: float | None = None
    prefill_ns: int = 0
    decode_ns: int = 0
    reused_tokens: int = 0
    restored_bytes: int = 0
    restored_ns: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A generation that was asked for, and when."""

    spec: GenerationSpec
    replica: str
    asked_at_s: float


@dataclass(slots=True)
class _Standing:
    """A model, and where it stands."""

    subject: Subject
    rung: Rung = Rung.DISK
    placement: Placement | None = None
    kv: KvShape | None = None
    weights_bytes: int | None = None
    """As they were read back after the load."""
    loads: int = 0
    opens: int = 0


def saved_by(measured: Measured) -> tuple[int, int]:
    """Bytes and nanoseconds of KV that this move copied to main memory; (0, 0): it does not say."""
    return measured.kv_saved_bytes, measured.kv_saved_ns


def restored_by(step: TokenStep) -> tuple[int, int]:
    """Bytes and nanoseconds of KV that were copied back before this token; (0, 0): none."""
    return step.restored_bytes, step.restored_ns


class Stand:
    """Where measurements happen.  One at a time."""

    def __init__(self, engine: Engine, node: NodeSpec, rooms: dict[str, int]) -> None:
        """`rooms`: bytes that models may take, by device."""
        self.engine = engine
        self.node = node
        self.notes: list[str] = []
        """What a measurement has to say besides its readings; whoever runs it takes them."""
        self._rooms = rooms
        self._models: dict[str, _Standing] = {}
        self._actions = count(1)
        self._names = count(1)
        self._heard: dict[str, Heard] = {}
        self._news = asyncio.Event()
        self._is_gone = False

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    # Where models stand

    async def serve(self, subject: Subject, placement: Placement, kv: KvShape) -> Measured | None:
        """Bring a model up, alone on its device; the activation's or resize's measure, if any."""
        await self.hold(subject, placement)
        one = self._of(subject)
        if one.kv == kv:
            return None
        if one.rung is Rung.SERVING:
            await self.close(subject)
        return await self.open(subject, kv)

    async def hold(self, subject: Subject, placement: Placement) -> None:
        """A model's weights are on the device, alone there."""
        for other in list(self._models.values()):
            if other.subject.spec.digest != subject.spec.digest:
                await self.down(other.subject)
        one = self._of(subject)
        if one.placement is not None and one.placement != placement:
            await self.down(subject)
        if one.rung in (Rung.DISK, Rung.HOST):
            await self.load(subject, placement)

    async def load(self, subject: Subject, placement: Placement) -> Measured:
        """From where it stands; others stay."""
        one, spec = self._of(subject), subject.spec
        self._check_room(subject, placement, None)
        source = Rung.HOST if one.rung is Rung.HOST else Rung.DISK
        action = Load(*self._head(spec), placement=placement, source=source)
        measured = await self.engine.load(action, spec)
        one.rung, one.placement = Rung.DEVICE, placement
        one.weights_bytes = measured.weights_bytes
        one.loads += 1
        return measured

    def loads_of(self, subject: Subject) -> int:
        """How many of it this stand has seen."""
        return self._of(subject).loads

    def weights_of(self, subject: Subject) -> int | None:
        """What its latest load took, as it was read back."""
        return self._of(subject).weights_bytes

    def opens_of(self, subject: Subject) -> int:
        """How many contexts of it this stand has seen."""
        return self._of(subject).opens

    async def open(self, subject: Subject, kv: KvShape) -> Measured:
        """Give a loaded model its KV memory."""
        one = self._of(subject)
        assert one.placement is not None, "it is not loaded"
        self._check_room(subject, one.placement, kv)
        measured = await self.engine.activate(Activate(*self._head(subject.spec), kv=kv))
        one.rung, one.kv = Rung.SERVING, kv
        one.opens += 1
        return measured

    async def resize(self, subject: Subject, kv: KvShape) -> Measured:
        one = self._of(subject)
        assert one.placement is not None, "it is not loaded"
        self._check_room(subject, one.placement, kv)
        measured = await self.engine.resize(Resize(*self._head(subject.spec), kv=kv))
        one.kv = kv
        return measured

    async def close(self, subject: Subject) -> Measured:
        """Take a serving model's KV memory away; it must be idle."""
        measured = await self.engine.deactivate(Deactivate(*self._head(subject.spec)))
        one = self._of(subject)
        one.rung, one.kv = Rung.DEVICE, None
        return measured

    async def idle(self, subject: Subject) -> None:
        """Loaded, without KV memory."""
        if self._of(subject).rung is Rung.SERVING:
            await self.close(subject)

    async def unload(self, subject: Subject) -> Measured:
        measured = await self.engine.unload(Unload(*self._head(subject.spec)))
        one = self._of(subject)
        one.rung, one.placement = Rung.HOST, None
        return measured

    async def down(self, subject: Subject) -> None:
        """Off its device, from wherever it stands."""
        one = self._of(subject)
        if one.rung is Rung.SERVING:
            await self.close(subject)
        if one.rung is Rung.DEVICE:
            await self.unload(subject)

    async def drop(self, subject: Subject) -> None:
        """Off its device and out of main memory, as far as the system lets go of it."""
        one = self._of(subject)
        await self.down(subject)
        if one.rung is Rung.HOST:
            await self.engine.drop(Drop(*self._head(subject.spec)))
            one.rung = Rung.DISK

    async def clear(self) -> None:
        """Every model off its device."""
        for one in list(self._models.values()):
            await self.down(one.subject)

    async def held_bytes(self) -> int:
        """What the worker has of memory now, by its own account."""
        return (await self.engine.stats()).pss_bytes

    # Generations

    async def ask(
        self,
        subject: Subject,
        prompt: tuple[int, ...],
        max_tokens: int,
        emitted: tuple[int, ...] = (),
    ) -> Running:
        """Begin a generation that makes all of its tokens."""
        spec = GenerationSpec(
            id=f"g{next(self._names)}",
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=Sampling(temperature=0.0),
            ignore_eos=True,
            emitted=emitted,
        )
        self._heard[spec.id] = Heard()
        running = Running(spec, subject.spec.name, self.now_s)
        await self.engine.submit(running.replica, spec)
        return running

    async def first(self, one: Running) -> Heard:
        """Its first token is here."""
        return await self._until(one, lambda heard: bool(heard.tokens))

    async def reach(self, one: Running, tokens: int) -> Heard:
        return await self._until(one, lambda heard: len(heard.tokens) >= tokens)

    async def end(self, one: Running) -> Heard:
        """It has made all of its tokens; nothing of it is kept here."""
        heard = await self._until(one, lambda heard: heard.finish is not None)
        self._heard.pop(one.spec.id, None)
        return heard

    async def stop(self, one: Running) -> Heard:
        """Preempt it; its slot is free.  It may have ended by itself."""
        await self.engine.preempt(one.spec.id)
        heard = await self._until(one, lambda heard: heard.is_stopped or heard.finish is not None)
        self._heard.pop(one.spec.id, None)
        return heard

    def heard_of(self, one: Running) -> Heard:
        return self._heard[one.spec.id]

    async def listen(self) -> None:
        """Hear what the engine tells, until it is gone."""
        async for frame in self.engine.outputs():
            self._take(frame)
            self._news.set()
        self._is_gone = True
        self._news.set()

    def _take(self, frame: Frame) -> None:
        for step in frame.steps:
            heard = self._heard.get(step.generation_id)
            if heard is None:
                continue  # one that nobody waits for any more
            if step.tokens and heard.first_at_s is None:
                heard.first_at_s = self.now_s
                heard.reused_tokens = step.reused_tokens
                heard.restored_bytes, heard.restored_ns = restored_by(step)
            heard.tokens += step.tokens
            heard.is_stopped = step.is_preempted
            heard.error = step.error
            if step.finish is not None:
                heard.finish = step.finish
                heard.prefill_ns, heard.decode_ns = step.prefill_ns, step.decode_ns

    async def _until(self, one: Running, is_true: Callable[[Heard], bool]) -> Heard:
        heard = self._heard[one.spec.id]
        while not is_true(heard):
            if heard.error is not None:
                raise EngineError(f"a generation of {one.replica} failed: {heard.error}")
            if self._is_gone:
                raise WorkerGone("the worker died while it was measured")
            self._news.clear()
            await self._news.wait()
        return heard

    # What it rests on

    def _of(self, subject: Subject) -> _Standing:
        return self._models.setdefault(subject.spec.name, _Standing(subject))

    def _head(self, spec: ModelSpec) -> tuple[int, str, str, str]:
        return next(self._actions), spec.name, spec.name, self.node.id

    def _check_room(self, subject: Subject, placement: Placement, kv: KvShape | None) -> None:
        """Nothing is tried that exceeds what was given; `OutOfMemory` has the arithmetic."""
        (device,) = placement.devices
        spec = subject.spec
        terms = [_term(spec, placement, kv)]
        for other in self._models.values():
            is_there = other.placement is not None and other.placement.devices == (device,)
            if is_there and other.subject.spec.name != spec.name:
                assert other.placement is not None
                terms.append(_term(other.subject.spec, other.placement, other.kv))
        total = sum(size for size, _ in terms)
        if total > self._rooms[device]:
            words = " + ".join(text for _, text in terms)
            raise OutOfMemory(
                f"{words} = {size_text(total)}, but {device} has {size_text(self._rooms[device])}"
            )


def _term(spec: ModelSpec, placement: Placement, kv: KvShape | None) -> tuple[int, str]:
    foot = weights_footprint(spec, placement.form, placement.layers)
    size = foot.weights_bytes + foot.peak_bytes
    text = f"{size_text(size)} weights of {spec.name}"
    if kv is not None:
        rest = foot.buffers_bytes + kv_bytes(spec, kv)
        size, text = size + rest, f"{text} + {size_text(rest)} for {kv.sequences} x {kv.cells}"
    return size, text


@contextlib.asynccontextmanager
async def opened(engine: Engine, node: NodeSpec, rooms: dict[str, int]) -> AsyncIterator[Stand]:
    """A stand that listens; the engine stays its owner's."""
    stand = Stand(engine, node, rooms)
    listening = asyncio.get_running_loop().create_task(stand.listen())
    try:
        yield stand
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
