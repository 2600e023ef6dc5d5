"""A worker and its clients without time or order: the test decides what happens next.

`Play` feeds a controller, carries its actions out by the book, and keeps its own account of what
the engine holds.  Whatever the order of events, its assertions and the controller's hold.
"""

from dataclasses import dataclass, field, replace

from repertory.core.controller import Controller
from repertory.core.places.tiers import lies
from repertory.domain.actions import (
    Action,
    Activate,
    Cancel,
    Deactivate,
    Dispatch,
    Drop,
    Load,
    Preempt,
    Resize,
    Settle,
    Solve,
    Stage,
    Transition,
    Unload,
    WakeAt,
    edge_of,
)
from repertory.domain.decisions import Cause, Decision
from repertory.domain.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    FirstToken,
    Measured,
    ModelAdded,
    OperatorAsked,
    PlanReady,
    Preempted,
    Timer,
    TransitionDone,
    TransitionFailed,
    Wish,
    WorkerLost,
    WorkerUp,
)
from repertory.domain.ladder import Rung, destination
from repertory.domain.plans import Problem
from repertory.domain.requests import Fault, FinishReason, Outcome, Request
from repertory.domain.specs import Footprint, KvShape, ModelSpec, Placement
from repertory.perf.bytes import kv_needs, placed_footprint, rest_footprint
from repertory.policy.places.prewarm import solve
from worlds import World

__all__ = ["Copy", "Play"]

MANY_EVENTS = 6000
"""More than any play of 60 steps needs to come to its end, if nobody starves."""

UPWARD = {Cause.DEMAND, Cause.OPERATOR, Cause.PREWARM}
"""What models come up for."""


@dataclass
class Copy:
    """A replica as the engine has it."""

    model: str
    spec: ModelSpec
    rung: Rung = Rung.DISK
    placement: Placement | None = None
    kv: KvShape | None = None
    moving: Transition | None = None
    running: set[str] = field(default_factory=set)


class Play:
    """One controller, one worker, many clients."""

    def __init__(self, world: World, stretch: dict[str, float] | None = None) -> None:
        self.world = world
        self.decisions: list[Decision] = []
        self.controller = Controller(world.settings, self.decisions.append)
        self.state = self.controller.state
        self.now_ns = 0
        self.is_up = False
        self.stretch = stretch or {}
        """By digest: how weights measure up to their prediction."""
        self.specs: dict[str, ModelSpec] = {}
        self.requests: dict[str, Request] = {}
        self.started: set[str] = set()
        self.where: dict[str, str] = {}
        self.stopping: dict[str, None] = {}
        """The brain wants them preempted."""
        self.outcomes: dict[str, Outcome] = {}
        self.copies: dict[str, Copy] = {}
        self.pending: dict[int, Transition] = {}
        self.lost: list[Transition] = []
        """Under way when their worker died: their ends may still come."""
        self.timers: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.asked: list[Action] = []
        """Everything the brain ever wanted."""
        self.up()
        for spec in world.models:
            self.add(spec)

    # What happens.

    def send(self, event: Event) -> list[Action]:
        leaving = {one.id for one in self.state.replicas.values() if one.leaving is not None}
        actions = self.controller.handle(event)
        self.asked += actions
        for action in actions:
            self._carry_out(action, event, leaving)
        self.controller.check()
        self._check_host()
        return actions

    def up(self) -> None:
        self.is_up = True
        self.send(WorkerUp(self.now_ns, self.world.node))

    def die(self, *, is_outage: bool = False) -> None:
        self.is_up = False
        self.lost += self.pending.values()
        self.pending.clear()
        self.copies.clear()
        self.where.clear()
        self.stopping.clear()
        self.started.clear()
        self.send(WorkerLost(self.now_ns, self.world.node.id, "killed by the test", is_outage))

    def add(self, spec: ModelSpec) -> None:
        self.specs[spec.name] = spec
        self.send(ModelAdded(self.now_ns, spec))

    def arrive(self, request: Request) -> None:
        self.requests[request.id] = request
        self.send(Arrived(self.now_ns, request))

    def ask(
        self, model: str, prompt: int = 100, output: int = 16, weight: float = 1.0, key: str = ""
    ) -> str:
        """A request with the next free name."""
        return self.want(Request("", model, prompt, output, weight, key))

    def want(self, request: Request, due_s: float | None = None) -> str:
        """The same, with a deadline that is so far away."""
        name = f"r{len(self.requests):05d}"
        deadline_ns = None if due_s is None else self.now_ns + round(due_s * 1e9)
        self.arrive(replace(request, id=name, deadline_ns=deadline_ns))
        return name

    def preempted(self, request_id: str, made_tokens: int = 0) -> None:
        """Its slot is free."""
        self._leave(request_id)
        self.send(Preempted(self.now_ns, request_id, made_tokens))

    def first_token(self, request_id: str, reused_tokens: int = 0) -> None:
        self.started.add(request_id)
        self.send(FirstToken(self.now_ns, request_id, reused_tokens))

    def finish(self, request_id: str, prefill_ns: int = 10_000_000, reused_tokens: int = 0) -> None:
        if request_id not in self.started:
            self.first_token(request_id)
        self._leave(request_id)
        tokens = self.requests[request_id].max_tokens
        length, decode_ns = FinishReason.LENGTH, tokens * 5_000_000
        times = {"prefill_ns": prefill_ns, "decode_ns": decode_ns, "share_ns": decode_ns // 2}
        done = Finished(self.now_ns, request_id, length, tokens, **times)
        self.send(replace(done, reused_tokens=reused_tokens))

    def complete(self, action_id: int) -> None:
        """A transition ends well; its bytes are read back."""
        action = self.pending.pop(action_id)
        copy = self.copies[action.replica_id]
        copy.moving = None
        copy.rung = destination(copy.rung, edge_of(action))
        match action:
            case Load(placement=placement):
                copy.placement = placement
            case Activate(kv=kv) | Resize(kv=kv):
                copy.kv = kv
            case Deactivate():
                copy.kv = None
            case Drop():
                del self.copies[action.replica_id]
            case Unload() | Stage():
                pass
        self.send(
            TransitionDone(
                self.now_ns, action_id, action.replica_id, self._measured(action.replica_id, copy)
            )
        )

    def fail(self, action_id: int, *, memory: bool = False, permanent: bool = False) -> None:
        action = self.pending.pop(action_id)
        copy = self.copies[action.replica_id]
        copy.moving = None
        if copy.rung is Rung.DISK:
            del self.copies[action.replica_id]
        why = "drawn by the test"
        fault = Fault.LOAD_FAILED if permanent else Fault.OUT_OF_MEMORY if memory else Fault.ENGINE
        self.send(TransitionFailed(self.now_ns, action_id, action.replica_id, why, fault))

    def late(self) -> None:
        """A transition of a dead worker ends all the same."""
        action = self.lost.pop()
        measured = Measured(1, 1 << 40, 1 << 40, 1 << 40)
        self.send(TransitionDone(self.now_ns, action.action_id, action.replica_id, measured))

    def answer(self) -> None:
        """The oldest `Solve` comes back."""
        self.send(PlanReady(self.now_ns, solve(self.problems.pop(0))))

    def fire(self) -> None:
        """The next timer, when it is due."""
        name = min(self.timers, key=lambda one: (self.timers[one], one))
        self.now_ns = max(self.now_ns, self.timers.pop(name))
        self.send(Timer(self.now_ns, name))

    def pass_s(self, seconds: float) -> None:
        """Time goes on, and timers fire when they are due."""
        end_ns = self.now_ns + round(seconds * 1e9)
        while self.timers and min(self.timers.values()) <= end_ns:
            self.fire()
        self.now_ns = end_ns

    def send_cancel(self, request_id: str) -> None:
        self.send(Cancelled(self.now_ns, request_id))

    # How it ends.

    def settle(self, *, timers: bool = False) -> None:
        """Everything under way is done, oldest first, at this instant."""
        for _ in range(MANY_EVENTS):
            if self.pending:
                self.complete(next(iter(self.pending)))
            elif self.stopping:
                self.preempted(next(iter(self.stopping)))
            elif self.where:
                self.finish(next(iter(self.where)))
            elif self.problems:
                self.answer()
            elif timers and self.timers:
                self.fire()
            else:
                return
        raise AssertionError(f"no end; waiting: {self.waiting()}")

    def load_all(self) -> None:
        """Transitions under way, and those that follow from them, are done."""
        while self.pending:
            self.complete(next(iter(self.pending)))

    def end(self) -> None:
        """Fairly to the end: everybody has an outcome, and no memory is lost."""
        if not self.is_up:
            self.up()
        self.settle(timers=True)
        assert not self.waiting(), "starved"
        assert sorted(self.outcomes) == sorted(self.requests)
        self._check_recovered()
        for _ in range(3):
            for name in sorted(self.specs):
                self.send(OperatorAsked(self.now_ns, name, Wish.UNPIN))
                self.send(OperatorAsked(self.now_ns, name, Wish.UNLOAD))
            self.settle(timers=True)
        for ledger in (*self.state.devices.values(), *self.state.hosts.values()):
            assert ledger.charged == 0, f"{ledger.pool} lost {ledger.charged} bytes"
            assert ledger.available_bytes == ledger.budget_bytes

    def waiting(self) -> list[str]:
        return sorted(self.requests.keys() - self.outcomes.keys())

    def settled_by(self, *names: str) -> list[str]:
        return [self.outcomes[name].kind.value for name in names if name in self.outcomes]

    # What the engine makes of it.

    def _carry_out(self, action: Action, event: Event, leaving: set[str]) -> None:
        match action:
            case Dispatch(request_id, replica_id, _):
                self._dispatch(request_id, replica_id)
            case Cancel(request_id, replica_id, _):
                assert self.where.get(request_id) == replica_id
                self._leave(request_id)
            case Preempt(request_id, replica_id, _):
                assert self.where.get(request_id) == replica_id
                assert request_id not in self.stopping, "preempted twice"
                self.stopping[request_id] = None
            case Settle(outcome):
                name = outcome.request_id
                assert name in self.requests, f"{name} never came"
                assert name not in self.outcomes, f"{name} has two outcomes"
                self.outcomes[name] = outcome
                self._leave(name)
            case WakeAt(at_ns, name):
                assert at_ns >= self.now_ns, f"{name} is due in the past"
                self.timers[name] = at_ns
            case Solve(problem):
                self.problems.append(problem)
            case _:
                self._begin(action, event, leaving)

    def _dispatch(self, request_id: str, replica_id: str) -> None:
        copy, request = self.copies[replica_id], self.requests[request_id]
        assert copy.rung is Rung.SERVING
        assert copy.kv is not None
        assert copy.moving is None or isinstance(copy.moving, Resize), "dispatch to a mover"
        assert request_id not in self.where
        assert request_id not in self.outcomes
        assert len(copy.running) < copy.kv.sequences, "no free slot"
        assert request.cells <= copy.kv.cells, "the slot is too short"
        copy.running.add(request_id)
        self.where[request_id] = replica_id

    def _leave(self, request_id: str) -> None:
        replica_id = self.where.pop(request_id, None)
        self.started.discard(request_id)
        self.stopping.pop(request_id, None)
        if replica_id is not None:
            self.copies[replica_id].running.discard(request_id)

    def _begin(self, action: Transition, event: Event, leaving: set[str]) -> None:
        assert self.is_up, "nobody is there to do it"
        name = action.replica_id
        copy = self.copies.setdefault(name, Copy(action.model, self.specs[action.model]))
        assert copy.moving is None, f"{name} moves already"
        edge = edge_of(action)
        assert (copy.rung, edge) in self.world.node.capabilities.edges, f"{edge} from {copy.rung}"
        destination(copy.rung, edge)
        if isinstance(action, (Deactivate, Unload, Drop)):
            assert not copy.running, f"busy {name} is evicted"
            self._check_pin(action, leaving)
            assert self._cause(action) not in UPWARD - {Cause.OPERATOR}, action
        else:
            assert self._cause(action) in UPWARD | {Cause.PLACEMENT}, action
        if isinstance(action, Load):
            copy.spec, copy.placement = self.specs[action.model], action.placement
        copy.moving = action
        self.pending[action.action_id] = action
        if isinstance(action, (Load, Activate, Resize)):
            assert copy.placement is not None
            for device in copy.placement.pools:
                self._check_device(device, f"{action} after {event}")

    def _check_pin(self, action: Transition, leaving: set[str]) -> None:
        """A pinned model's memory is given to nobody; it may change its own, and a spare replica
        is not what was pinned.
        """
        model = self.state.models[action.model]
        if not model.is_pinned or action.replica_id in leaving:
            return
        replica = self.state.replicas[action.replica_id]
        cause = self._cause(action)
        own = (Cause.SLOTS, Cause.PLACEMENT)
        if any(one is not replica and one.rung is Rung.SERVING for one in model.replicas.values()):
            return
        assert replica.retiring is not None or cause in own, f"pinned {action} is evicted: {cause}"

    def _cause(self, action: Transition) -> Cause:
        """Of one that was just begun; every one has one."""
        causes = [
            verdict.cause
            for verdict in self.decisions[-1].verdicts
            if action.action_id in verdict.action_ids
        ]
        assert len(causes) == 1
        assert causes[0] is not None, action
        return causes[0]

    def _check_device(self, device: str, story: str) -> None:
        """What the engine is known to hold, and what it was just told to, fits."""
        budget = next(one.memory_bytes for one in self.world.node.devices if one.id == device)
        held = sum(self._held(copy, device) for copy in self.copies.values())
        assert held <= budget, f"{device} holds {held} of {budget} bytes: {story}"

    def _held(self, copy: Copy, device: str) -> int:
        if copy.placement is None or device not in copy.placement.pools:
            return 0
        foot = self._foot(copy, device)
        held = 0
        if copy.rung in (Rung.DEVICE, Rung.SERVING):
            held += self._weights(copy, device)
        elif isinstance(copy.moving, Load):
            held += self._weights(copy, device) if self._is_known(copy) else foot.weights_bytes
        elif copy.rung is Rung.HOST:
            held += self.world.node.capabilities.asleep_residue_bytes
        if isinstance(copy.moving, Load):
            held += foot.peak_bytes
        for shape in (copy.kv, getattr(copy.moving, "kv", None)):
            if shape is not None:
                held += kv_needs(copy.spec, copy.placement, shape)[device]
        if copy.kv is not None or isinstance(copy.moving, Activate):
            held += foot.buffers_bytes
        return held

    def _is_known(self, copy: Copy) -> bool:
        """The brain was told how large these weights really are, and has not forgotten it."""
        model = self.state.models.get(copy.model)
        is_same = model is not None and model.spec.digest == copy.spec.digest
        assert copy.placement is not None
        return is_same and lies(copy.placement) in model.measured_weights_bytes

    def _foot(self, copy: Copy, pool: str) -> Footprint:
        assert copy.placement is not None
        if pool == copy.placement.rest:
            return rest_footprint(copy.spec, copy.placement)
        return placed_footprint(copy.spec, copy.placement)

    def _weights(self, copy: Copy, pool: str) -> int:
        """In a pool, as they really are."""
        stretch = self.stretch.get(copy.spec.digest, 1.0)
        return round(self._foot(copy, pool).weights_bytes * stretch)

    def _measured(self, replica_id: str, copy: Copy) -> Measured:
        if copy.rung not in (Rung.DEVICE, Rung.SERVING) or copy.placement is None:
            return Measured(3_000_000, 0, 0, 0)
        devices, rest = copy.placement.devices, copy.placement.rest
        kv, buffers = dict.fromkeys(copy.placement.pools, 0), dict.fromkeys(copy.placement.pools, 0)
        if copy.kv is not None:
            kv = kv_needs(copy.spec, copy.placement, copy.kv)
            buffers = {pool: self._foot(copy, pool).buffers_bytes for pool in kv}
        return Measured(
            50_000_000,
            sum(self._weights(copy, device) for device in devices),
            sum(kv[device] for device in devices),
            sum(buffers[device] for device in devices),
            rest_weights_bytes=None if rest is None else self._weights(copy, rest),
            rest_kv_bytes=None if rest is None else kv[rest],
            rest_buffers_bytes=None if rest is None else buffers[rest],
        )

    def _check_host(self) -> None:
        node = self.world.node
        if node.capabilities.host_is_page_cache:
            return
        asleep = sum(
            copy.spec.weights_bytes
            for copy in self.copies.values()
            if copy.rung is Rung.HOST or isinstance(copy.moving, Unload)
        )
        assert asleep <= node.host_memory_bytes, "the host is over budget"

    def _check_recovered(self) -> None:
        for name, ledger in self.state.devices.items():
            pinned = any(
                self.state.models[one.model].is_pinned and name in one.placement.pools
                for one in self.state.replicas.values()
            )
            assert pinned or not ledger.is_overrun, f"{name} stays over budget"


def other_file(spec: ModelSpec, version: int) -> ModelSpec:
    """The same name with other bytes."""
    return replace(spec, digest=f"{spec.digest.partition('#')[0]}#{version}")
