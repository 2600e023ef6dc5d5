"""A pure model of one worker: what a step and a transition take, under any clock.

The fake engine (asyncio) and the simulator (a heap) advance the same object, so that both see the
same durations and the same order.  Between two inputs it moves whole runs of equal decode steps
in closed form.  Inputs take effect between steps, as in a real worker.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush

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
from repertory.domain.fleets import Machine, Toll
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, NodeSpec, Placement
from repertory.engines.haulage import Haulage
from repertory.engines.lane import PREFILL_CHUNK, Job, Lane, Running
from repertory.engines.moves import BESIDE_STEPS, FREED_NS, IDLE_FREED_NS, Failure, Move, Warmth
from repertory.engines.step_loop import Output, StepLoop
from repertory.perf.bytes import kv_bytes, kv_needs, placed_footprint, rest_footprint, share_there
from repertory.perf.profiles import Profile
from repertory.policy.requests.share import entry_ns

__all__ = ["PREFILL_CHUNK", "Failure", "Job", "NodeModel", "Output", "TransitionEnd"]

_TWO_CORES = 2
"""Larger sets take turns (`engines.llamacpp.steps`)."""


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
        machine: Machine | None = None,
        pace: Callable[[Transition], float] = lambda _: 1.0,
        width: int | None = None,
    ) -> None:
        """`machine`: what loads share, and its toll; None: each move is alone in the world, and
        `HOST` is always there.  `pace`: how much longer a move takes than the law says.  `width`:
        how many replicas step at once on a set of two cores; None: as the machine says, or one.
        """
        self.node = node
        if width is None:
            width = machine.lanes if machine is not None else 1
        self._width = width
        self._fail = fail
        self._machine = machine
        self._toll = machine.toll if machine is not None else Toll()
        self._chunk_tokens = machine.chunk_tokens if machine is not None else PREFILL_CHUNK
        self._haulage = Haulage(node, profile, machine, pace)
        self._copies: dict[str, _Copy] = {}
        self.specs: dict[str, ModelSpec] = {}
        """By replica, from its latest transition."""
        self._loops: dict[str, StepLoop] = {}
        self._due: list[tuple[int, int, StepLoop]] = []
        """A heap: when which loop is to be looked at.  Holds only if the loop still says so."""
        self._where: dict[str, str] = {}
        """Generation -> replica."""
        self._moves = self._haulage.moves()
        self._resizing: dict[int, bool] = {}
        """Whose cells are still to be moved, by action; False: its old context is to be freed."""
        self._warmth = Warmth(self._toll.cold_s_per_byte)

    @property
    def next_at_ns(self) -> int | None:
        """When something happens next, if no input comes before."""
        due = self._due
        while due and due[0][2].booked_ns != due[0][0]:
            heappop(due)
        move_ns = self._moves.next_at_ns
        if not due:
            return move_ns
        return due[0][0] if move_ns is None or due[0][0] < move_ns else move_ns

    def advance(self, to_ns: int) -> list[Output | TransitionEnd]:
        """All that happens by `to_ns`, in order of time."""
        happened: list[Output | TransitionEnd] = []
        while (at_ns := self.next_at_ns) is not None and at_ns <= to_ns:
            outputs: list[Output] = []
            due = self._due
            while due and due[0][0] <= at_ns:
                _, _, loop = heappop(due)
                if loop.booked_ns == at_ns:
                    loop.booked_ns = None
                    loop.advance(at_ns, outputs)
                    self._book(loop)
            for output in outputs:
                if output.is_last:
                    self._where.pop(output.generation_id, None)
            happened += outputs
            if self._moves.next_at_ns == at_ns:
                happened += self._land(at_ns)
                self._crowd(at_ns)
        return happened

    def _await_steps(self, at_ns: int, transition: Transition, move: Move) -> None:
        """A load begins between two steps of its device; a resize between two of its replica's, and
        it is over between two of them again.  Only where the worker is known so well.
        """
        if any(loop.has_work for loop in self._loops.values()):
            move.fixed_ns = round(move.fixed_ns * BESIDE_STEPS)
        match transition:
            case Load(placement=placement):
                end_ns = self._step_end_ns(at_ns, placement.devices[0], None)
                move.wait_ns = end_ns - at_ns
            case Resize(replica_id=replica_id):
                self._resizing[transition.action_id] = True
                key = self._copies[replica_id].placement.devices[0]
                move.fixed_ns += self._step_end_ns(at_ns, key, replica_id) - at_ns
            case _:
                pass

    def _copied(self, at_ns: int, transition: Transition) -> int | None:
        """Cells that a resize takes along, where the worker is known so well."""
        if self._width == 1 or type(transition) is not Resize:
            return None
        loop = self._loop_of(transition.replica_id)
        loop.catch_up(at_ns)  # as many as there are now, not when it was last looked at
        return loop.lanes[transition.replica_id].cells

    def _held_ns(self, move: Move) -> int:
        """Cells are moved between two steps; then their old context is freed, beside steps."""
        transition, at_ns = move.transition, move.end_ns
        is_to_move = self._resizing.get(transition.action_id)
        if is_to_move is None:
            return 0
        key = self._copies[transition.replica_id].placement.devices[0]
        end_ns = self._step_end_ns(at_ns, key, transition.replica_id)
        if is_to_move:
            self._resizing[transition.action_id] = False
            if end_ns > at_ns:
                return end_ns
        del self._resizing[transition.action_id]
        return max(at_ns + IDLE_FREED_NS, min(end_ns, at_ns + FREED_NS))

    def _cool(self, at_ns: int, copy: _Copy) -> None:
        """Its cells are freed."""
        if copy.kv is not None:
            self._warmth.give(at_ns, kv_bytes(copy.spec, copy.kv))

    def _step_end_ns(self, at_ns: int, key: str, replica_id: str | None) -> int:
        """When the steps under way have ended, of one replica or of all."""
        loop = self._loops.get(key)
        if loop is None:
            return at_ns
        loop.catch_up(at_ns)
        return loop.step_end_ns(at_ns, replica_id)

    def _crowd(self, at_ns: int) -> None:
        """Steps on cores leave one to a mover that works."""
        if self._width > 1:
            for loop in self._loops.values():
                loop.crowd(at_ns, self._moves.is_busy)
                self._book(loop)

    def _book(self, loop: StepLoop) -> None:
        """A loop has changed: when is it to be looked at?"""
        at_ns = loop.next_at_ns
        if at_ns != loop.booked_ns:
            loop.booked_ns = at_ns
            if at_ns is not None:
                heappush(self._due, (at_ns, loop.number, loop))

    def catch_up(self, at_ns: int) -> None:
        """After `advance`: what generations have got by now.  Changes nothing that comes later."""
        for loop in self._loops.values():
            loop.catch_up(at_ns)

    def transit(self, at_ns: int, transition: Transition, spec: ModelSpec) -> None:
        """Start a transition; its end comes out of `advance`."""
        self.specs[transition.replica_id] = spec
        copy = self._copies.get(transition.replica_id)
        where, rung = (copy.placement, copy.rung) if copy is not None else (None, Rung.DISK)
        move = self._haulage.move(transition, spec, where, rung, self._copied(at_ns, transition))
        move.failure = self._fail(transition)
        if self._width > 1:
            self._await_steps(at_ns, transition, move)
        if isinstance(transition, (Activate, Resize)):
            move.fixed_ns += self._warmth.cold_ns(at_ns, kv_bytes(spec, transition.kv))
        self._moves.begin(at_ns, self._haulage.mover_of(transition), move)
        self._crowd(at_ns)

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
        loop.cut_short(at_ns)
        self._book(loop)

    def cancel(self, at_ns: int, generation_id: str) -> None:
        """Stop a generation; unknown or ended ones are no error."""
        replica_id = self._where.pop(generation_id, None)
        if replica_id is None:
            return
        loop = self._loop_of(replica_id)
        loop.catch_up(at_ns)  # it shared the steps so far
        loop.lanes[replica_id].take_out(generation_id)
        loop.cut_short(at_ns)
        self._book(loop)

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
        loop.cut_short(at_ns)
        self._book(loop)

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
        sizes = (job.prompt_tokens + job.output_tokens for job in lane.jobs)
        longest = max(sizes, default=0)
        return lane.size <= kv.sequences and longest <= kv.cells

    def step_seconds(self) -> dict[str, float]:
        """Device time per serving replica so far."""
        lanes = [lane for loop in self._loops.values() for lane in loop.lanes.values()]
        return {lane.replica_id: lane.total_ns / 1e9 for lane in lanes}

    def produced(self, generation_id: str) -> int:
        """Tokens of a running generation so far."""
        lane, running = self._running(generation_id)
        if running.prefill_left:
            return 0
        return running.job.output_tokens - lane.output_left(running)

    def share_ns(self, generation_id: str) -> int:
        """Device time that a running generation has had."""
        lane, running = self._running(generation_id)
        return lane.share_ns(running)

    def _running(self, generation_id: str) -> tuple[Lane, Running]:
        replica_id = self._where[generation_id]
        lane = self._loop_of(replica_id).lanes[replica_id]
        running = lane.find(generation_id)
        assert running is not None, f"{generation_id} is not on {replica_id}"
        return lane, running

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
        ends = []
        for move in self._moves.advance(at_ns, self._held_ns):
            measured = replace(move.measured, took_ns=move.end_ns - move.began_ns)
            end = TransitionEnd(move.end_ns, move.transition, move.failure, measured)
            ends.append(end)
            if end.failure is None:
                self._apply(end)
        return ends

    def _apply(self, end: TransitionEnd) -> None:
        transition = end.transition
        replica_id = transition.replica_id
        match transition:
            case Stage():
                self._haulage.read(self.specs[replica_id])
            case Load(placement=placement):
                spec = self.specs[replica_id]
                self._haulage.read(spec)
                self._copies[replica_id] = _Copy(spec, placement, Rung.DEVICE)
            case Activate(kv=kv):
                copy = self._copies[replica_id]
                copy.rung, copy.kv = Rung.SERVING, kv
                lane = Lane(
                    replica_id,
                    self._haulage.profile_at(copy.spec, copy.placement),
                    copy.placement.form,
                    share_there(copy.spec, copy.placement.layers),
                    kv,
                    chunk_tokens=self._chunk_tokens,
                )
                self._loop_of(replica_id).lanes[replica_id] = lane
            case Resize(kv=kv):
                self._cool(end.at_ns, self._copies[replica_id])
                self._copies[replica_id].kv = kv
                self._loop_of(replica_id).lanes[replica_id].kv = kv
            case Deactivate():
                self._cool(end.at_ns, self._copies[replica_id])
                self._copies[replica_id].rung = Rung.DEVICE
                self._copies[replica_id].kv = None
                lane = self._loop_of(replica_id).lanes.pop(replica_id)
                assert not lane.size, f"busy {replica_id} was deactivated"
            case Unload():
                self._copies[replica_id].rung = Rung.HOST
            case Drop():
                del self._copies[replica_id]

    def _loop_of(self, replica_id: str) -> StepLoop:
        """One per device, or one per replica of separate engines.  Of a machine that was described,
        one per device: separate engines take turns on its time, too.
        """
        key = replica_id
        if self.node.capabilities.step_sharing or self._machine is not None:
            key = self._copies[replica_id].placement.devices[0]
        loop = self._loops.get(key)
        if loop is None:
            loop = self._loops[key] = StepLoop(len(self._loops), self._width_of(key), self._toll)
        return loop

    def _width_of(self, key: str) -> int:
        cores = next((one.cores for one in self.node.devices if one.id == key), 0)
        return self._width if cores == _TWO_CORES else 1


def _enter(loop: StepLoop, lane: Lane) -> None:
    """A lane that becomes busy has no credit for its idling."""
    if not lane.has_work:
        lane.used_ns = entry_ns([one.used_ns for one in loop.lanes.values() if one.has_work])
