"""A pure model of one worker: what a step and a transition take, under any clock.

The fake engine (asyncio) and the simulator (a heap) advance the same object, so that both see the
same durations and the same order.  Between two inputs it moves whole runs of equal decode steps
in closed form.  Inputs take effect between steps, as in a real worker.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Stage,
    Transition,
    Unload,
)
from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.requests import Fault
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, NodeSpec, Placement
from repertory.engines.step_loop import PREFILL_CHUNK, Job, Lane, Output, Running, StepLoop
from repertory.perf.bytes import kv_needs, placed_footprint, rest_footprint, share_there
from repertory.perf.profiles import Profile
from repertory.policy.share import entry_ns

__all__ = ["PREFILL_CHUNK", "Failure", "Job", "NodeModel", "Output", "TransitionEnd"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transition of the model fails."""

    message: str
    fault: Fault = Fault.ENGINE


@dataclass(frozen=True, slots=True)
class TransitionEnd:
    """A transition is over."""

    at_ns: int
    transition: Transition
    failure: Failure | None
    measured: Measured
    """Sizes are totals over its placement, zero where it holds nothing."""

    @property
    def took_ns(self) -> int:
        return self.measured.took_ns


@dataclass(slots=True)
class _Copy:
    """What the worker knows of a replica."""

    spec: ModelSpec
    placement: Placement
    rung: Rung
    kv: KvShape | None = None


class NodeModel:
    """One worker.  `advance(to_ns)` first, then inputs at that time."""

    def __init__(
        self,
        node: NodeSpec,
        profile: Callable[[ModelSpec, DeviceSpec], Profile],
        fail: Callable[[Transition], Failure | None] = lambda _: None,
    ) -> None:
        self.node = node
        self._profile = profile
        self._fail = fail
        self._copies: dict[str, _Copy] = {}
        self.specs: dict[str, ModelSpec] = {}
        """By replica, from its latest transition."""
        self._placed: dict[str, Placement] = {}
        """By replica, from its latest load."""
        self._loops: dict[str, StepLoop] = {}
        self._where: dict[str, str] = {}
        """Generation -> replica."""
        self._moving: deque[TransitionEnd] = deque()
        self._free_ns: dict[str, int] = {}
        """When each mover is free: one per worker, or one per replica of separate engines."""

    @property
    def next_at_ns(self) -> int | None:
        """When something happens next, if no input comes before."""
        times = [loop.next_at_ns for loop in self._loops.values()]
        known = [at_ns for at_ns in times if at_ns is not None]
        known += [end.at_ns for end in self._moving]
        return min(known, default=None)

    def advance(self, to_ns: int) -> list[Output | TransitionEnd]:
        """All that happens by `to_ns`, in order of time."""
        happened: list[Output | TransitionEnd] = []
        while (at_ns := self.next_at_ns) is not None and at_ns <= to_ns:
            outputs: list[Output] = []
            for loop in self._loops.values():
                loop.advance(at_ns, outputs)
            for output in outputs:
                if output.is_last:
                    self._where.pop(output.generation_id, None)
            happened += outputs
            happened += self._land(at_ns)
        return happened

    def catch_up(self, at_ns: int) -> None:
        """After `advance`: what generations have got by now, though none of them has come to an
        end or to its first token.  Changes nothing that comes later.
        """
        for loop in self._loops.values():
            loop.catch_up(at_ns)

    def transit(self, at_ns: int, transition: Transition, spec: ModelSpec) -> None:
        """Start a transition; its end comes out of `advance`."""
        self.specs[transition.replica_id] = spec
        rung = self.rung_of(transition.replica_id)
        took_ns = self._took_ns(transition, spec, rung)
        mover = "" if self.node.capabilities.step_sharing else transition.replica_id
        end_ns = max(at_ns, self._free_ns.get(mover, 0)) + took_ns
        self._free_ns[mover] = end_ns
        self._moving.append(self._end(transition, spec, end_ns, took_ns))

    def submit(self, at_ns: int, replica_id: str, job: Job) -> None:
        """Start a generation on a serving replica."""
        loop = self._loop_of(replica_id)
        lane = loop.lanes[replica_id]
        assert lane.size < lane.kv.sequences, f"{replica_id} has no free sequence"
        assert job.prompt_tokens + job.output_tokens <= lane.kv.cells
        loop.catch_up(at_ns)  # the newcomer begins where the others are now, not when last seen
        _enter(loop, lane)
        lane.put(Running(job, job.prompt_tokens, job.output_tokens))
        self._where[job.id] = replica_id
        loop.interrupt(at_ns)

    def cancel(self, at_ns: int, generation_id: str) -> None:
        """Stop a generation; unknown or ended ones are no error."""
        replica_id = self._where.pop(generation_id, None)
        if replica_id is None:
            return
        loop = self._loop_of(replica_id)
        loop.catch_up(at_ns)  # it shared the steps so far
        loop.lanes[replica_id].take_out(generation_id)
        loop.interrupt(at_ns)

    def hold(self, at_ns: int, generation_id: str, is_held: bool) -> None:
        """Keep a generation out of the steps, or let it go on; unknown ones are no error."""
        replica_id = self._where.get(generation_id)
        if replica_id is None:
            return
        loop = self._loop_of(replica_id)
        lane = loop.lanes[replica_id]
        if is_held == (generation_id in lane.held):
            return
        loop.catch_up(at_ns)
        running = lane.take_out(generation_id)
        assert running is not None, f"{generation_id} is not on {replica_id}"
        if is_held:
            lane.held[generation_id] = running
        else:
            _enter(loop, lane)
            lane.put(running)
        loop.interrupt(at_ns)

    @property
    def generations(self) -> tuple[str, ...]:
        """What runs, or is held."""
        return tuple(self._where)

    def is_busy(self, replica_id: str) -> bool:
        """It has generations under way."""
        return replica_id in self._where.values()

    def has_slot(self, replica_id: str, job: Job) -> bool:
        """A serving replica has a free sequence that holds the job."""
        lane = self._loop_of(replica_id).lanes[replica_id]
        cells = job.prompt_tokens + job.output_tokens
        return lane.size < lane.kv.sequences and cells <= lane.kv.cells

    def fits(self, replica_id: str, kv: KvShape) -> bool:
        """All that runs on a serving replica would fit into that shape."""
        lane = self._loop_of(replica_id).lanes[replica_id]
        jobs = [one.job for one in lane.all]
        longest = max((job.prompt_tokens + job.output_tokens for job in jobs), default=0)
        return lane.size <= kv.sequences and longest <= kv.cells

    def step_seconds(self) -> dict[str, float]:
        """Device time per serving replica so far."""
        lanes = [lane for loop in self._loops.values() for lane in loop.lanes.values()]
        return {lane.replica_id: lane.total_ns / 1e9 for lane in lanes}

    def produced(self, generation_id: str) -> int:
        """Tokens of a running generation so far."""
        lane = self._loop_of(self._where[generation_id]).lanes[self._where[generation_id]]
        running = lane.decoding.get(generation_id) or lane.held.get(generation_id)
        return running.job.output_tokens - running.output_left if running is not None else 0

    def share_ns(self, generation_id: str) -> int:
        """Device time that a running generation has had."""
        lane = self._loop_of(self._where[generation_id]).lanes[self._where[generation_id]]
        return next(one.share_ns for one in lane.all if one.job.id == generation_id)

    def device_bytes(self, device_id: str) -> int:
        """What this worker holds on a device now, by its own account."""
        held = 0
        for copy in self._copies.values():
            if device_id not in copy.placement.pools:
                continue
            is_rest = device_id == copy.placement.rest
            foot = (rest_footprint if is_rest else placed_footprint)(copy.spec, copy.placement)
            if copy.rung in (Rung.DEVICE, Rung.SERVING):
                held += foot.weights_bytes
            elif copy.rung is Rung.HOST and not is_rest:
                held += self.node.capabilities.asleep_residue_bytes
            if copy.kv is not None:
                held += kv_needs(copy.spec, copy.placement, copy.kv)[device_id]
                held += foot.buffers_bytes
        return held

    def rung_of(self, replica_id: str) -> Rung:
        copy = self._copies.get(replica_id)
        return copy.rung if copy is not None else Rung.DISK

    def _land(self, at_ns: int) -> list[TransitionEnd]:
        due = sorted(
            (end for end in self._moving if end.at_ns <= at_ns),
            key=lambda end: (end.at_ns, end.transition.action_id),
        )
        for end in due:
            self._moving.remove(end)
            if end.failure is None:
                self._apply(end)
        return due

    def _apply(self, end: TransitionEnd) -> None:
        transition = end.transition
        replica_id = transition.replica_id
        match transition:
            case Stage():
                return
            case Load(placement=placement):
                spec = self.specs[replica_id]
                self._copies[replica_id] = _Copy(spec, placement, Rung.DEVICE)
            case Activate(kv=kv):
                copy = self._copies[replica_id]
                copy.rung, copy.kv = Rung.SERVING, kv
                lane = Lane(
                    replica_id,
                    self._profile_at(copy.spec, copy.placement),
                    copy.placement.form,
                    share_there(copy.spec, copy.placement.layers),
                    kv,
                    deque(),
                    {},
                )
                self._loop_of(replica_id).lanes[replica_id] = lane
            case Resize(kv=kv):
                self._copies[replica_id].kv = kv
                self._loop_of(replica_id).lanes[replica_id].kv = kv
            case Deactivate():
                self._copies[replica_id].rung = Rung.DEVICE
                self._copies[replica_id].kv = None
                lane = self._loop_of(replica_id).lanes.pop(replica_id)
                assert not lane.size, f"busy {replica_id} was deactivated"
            case Unload():
                self._copies[replica_id].rung = Rung.HOST
            case Drop():
                del self._copies[replica_id]

    def _took_ns(self, transition: Transition, spec: ModelSpec, rung: Rung) -> int:
        copy = self._copies.get(transition.replica_id)
        where = copy.placement if copy is not None else None
        if isinstance(transition, Load):
            where = transition.placement
        profile = self._profile_at(spec, where)
        match transition:
            case Stage():
                seconds = profile.stage.seconds(spec.weights_bytes)
            case Load(placement=placement):
                source = rung if rung is Rung.HOST else Rung.DISK
                share = share_there(spec, placement.layers)
                seconds = profile.load_s(placement.form, source, spec.weights_bytes, share)
            case Activate(kv=kv):
                seconds = profile.activate.seconds(kv.tokens * spec.kv_bytes_per_token)
            case Resize(kv=kv):
                size = kv.tokens * spec.kv_bytes_per_token
                seconds = profile.activate.seconds(size) + profile.move_kv.seconds(size)
            case Deactivate():
                seconds = profile.deactivate_s
            case Unload():
                seconds = profile.unload_s
            case Drop():
                seconds = profile.drop_s
        return max(1, round(seconds * 1e9))

    def _profile_at(self, spec: ModelSpec, where: Placement | None) -> Profile:
        """Of the first device of the placement; what is nowhere yet is read on the node's first."""
        devices = self.node.devices
        name = where.devices[0] if where is not None else devices[0].id
        return self._profile(spec, next(one for one in devices if one.id == name))

    def _end(
        self, transition: Transition, spec: ModelSpec, end_ns: int, took_ns: int
    ) -> TransitionEnd:
        measured = Measured(took_ns, 0, 0, 0)
        if isinstance(transition, Load):
            self._placed[transition.replica_id] = transition.placement
            measured = _loaded(took_ns, spec, transition.placement)
            measured = replace(measured, source=self.rung_of(transition.replica_id))
        elif isinstance(transition, (Activate, Resize)):
            placed = self._placed[transition.replica_id]
            measured = _opened(took_ns, spec, placed, transition.kv)
        return TransitionEnd(end_ns, transition, self._fail(transition), measured)

    def _loop_of(self, replica_id: str) -> StepLoop:
        key = replica_id
        if self.node.capabilities.step_sharing:
            key = self._copies[replica_id].placement.devices[0]
        return self._loops.setdefault(key, StepLoop())


def _loaded(took_ns: int, spec: ModelSpec, placement: Placement) -> Measured:
    weights = placed_footprint(spec, placement).weights_bytes * len(placement.devices)
    if placement.rest is None:
        return Measured(took_ns, weights, 0, 0)
    rest = rest_footprint(spec, placement).weights_bytes
    return Measured(took_ns, weights, 0, 0, rest_weights_bytes=rest)


def _opened(took_ns: int, spec: ModelSpec, placement: Placement, kv: KvShape) -> Measured:
    needs, width = kv_needs(spec, placement, kv), len(placement.devices)
    there = sum(needs[device] for device in placement.devices)
    buffers = placed_footprint(spec, placement).buffers_bytes * width
    if placement.rest is None:
        return Measured(took_ns, 0, there, buffers)
    return Measured(
        took_ns,
        0,
        there,
        buffers,
        rest_kv_bytes=needs[placement.rest],
        rest_buffers_bytes=rest_footprint(spec, placement).buffers_bytes,
    )


def _enter(loop: StepLoop, lane: Lane) -> None:
    """A lane that becomes busy has no credit for its idling."""
    if not lane.has_work:
        lane.used_ns = entry_ns([one.used_ns for one in loop.lanes.values() if one.has_work])
