"""Another system's brain: the same door as `Controller`, decisions by a rule of `policy.baselines`.

It plays in simulations only, and takes the events that those send.  One step:
1. take the event in;
2. what runs nowhere any more goes down, edge by edge;
3. requests go to free slots, per model first come first served;
4. the rule is asked, and what it wants is begun; then again, until it wants nothing.  Most rules
   are not asked where there is nothing to mend: at a first token, and when a request found a slot.
A worker that dies takes what ran there with it, as it does in those systems.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

from repertory.core.rivals.holdings import Holdings
from repertory.domain.actions import (
    Action,
    Activate,
    Cancel,
    Deactivate,
    Dispatch,
    Drop,
    Load,
    Preempt,
    Settle,
    Transition,
    Unload,
    WakeAt,
)
from repertory.domain.decisions import Decision, Verdict
from repertory.domain.events import (
    Arrived,
    Cancelled,
    Event,
    Finished,
    FirstToken,
    GenerationFailed,
    ModelAdded,
    Preempted,
    Timer,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
    WorkerUp,
)
from repertory.domain.ladder import Rung
from repertory.domain.requests import Fault, Outcome, OutcomeKind, Request
from repertory.domain.specs import Placement
from repertory.policy.baselines.view import (
    Bring,
    Dismiss,
    ModelView,
    Move,
    ReplicaView,
    Rule,
    Stop,
    View,
    Waiting,
    full_slots,
    need_bytes,
)

__all__ = ["Rival"]

_MOST_ROUNDS = 1000
"""Moves at one event; more would be a rule that undoes itself: our bug."""
_WAKE = "rule"


class Rival:
    """`handle` is the only door.  `record` gets every `Decision`."""

    def __init__(self, rule: Rule, record: Callable[[Decision], None]) -> None:
        self.rule = rule
        self.view = View()
        self._record = record
        self._memory = Holdings(self.view, rule.keeps_in_host)
        self._requests: dict[str, tuple[Request, int]] = {}
        self._where: dict[str, ReplicaView] = {}
        self._moves: dict[int, Transition] = {}
        self._ids = count(1)
        self._steps = count(1)
        self._wake_ns: int | None = None
        self._actions: list[Action] = []
        self._verdicts: list[Verdict] = []

    def handle(self, event: Event) -> list[Action]:
        """Take one event in; return what is to be done now."""
        self._actions, self._verdicts = [], []
        at_ns = event.at_ns
        model = _TAKERS[type(event)](self, event)
        if model is not None:
            self._dispatch(model, at_ns)
        if isinstance(event, (WorkerUp, ModelAdded)):
            self._wake(at_ns, at_ns)  # a rule is not asked before all of an instant are known
        elif self.rule.minds_tokens or not _is_settled(event, model):
            self._ask(at_ns)
        self._record(
            Decision(next(self._steps), event, tuple(self._actions), tuple(self._verdicts))
        )
        return self._actions

    def check(self) -> None:
        """Memory is what replicas hold of it, and nothing runs twice."""
        self._memory.check()
        running = [name for replica in self.view.replicas for name in replica.running]
        assert sorted(running) == sorted(self._where)

    def _take_lost(self, event: WorkerLost) -> None:
        """Nobody gets a slot by it."""
        message = f"its worker died: {event.message}"
        for replica in self._memory.lose_node(event.node_id):
            for name in list(replica.running):
                self._end(event.at_ns, name, OutcomeKind.FAILED, message, Fault.WORKER_GONE)
        moves = self._moves.items()
        self._moves = {key: move for key, move in moves if move.node_id != event.node_id}

    def _fits(self, model: ModelView) -> bool:
        return any(model.least_bytes <= group.most_bytes for group in self.view.groups(model.spec))

    def _take_cancelled(self, event: Cancelled) -> ModelView | None:
        name = event.request_id
        found = self._requests.pop(name, None)
        if found is None:
            return None
        model = self.view.models[found[0].model]
        model.waiting.pop(name, None)
        replica = self._where.pop(name, None)
        if replica is not None:
            self._leave(replica, name)
            self._actions.append(Cancel(name, replica.id, replica.node_id))
            self._go_down(replica)
        self._settle(Outcome(name, OutcomeKind.CANCELLED))
        return model

    def _end(
        self,
        at_ns: int,
        name: str,
        kind: OutcomeKind,
        message: str = "",
        fault: Fault | None = None,
    ) -> ModelView | None:
        replica = self._where.pop(name, None)
        if replica is None:
            return None
        self._leave(replica, name)
        replica.used_ns = at_ns
        del self._requests[name]
        status = None if kind is OutcomeKind.DONE else 500
        self._settle(Outcome(name, kind, message, None, status, fault))
        self._go_down(replica)
        return self.view.models[replica.model]

    def _take_preempted(self, event: Preempted) -> ModelView | None:
        """It is first among those who wait for its model."""
        name = event.request_id
        replica = self._where.pop(name, None)
        if replica is None:
            return None
        self._leave(replica, name)
        replica.used_ns = event.at_ns
        request, since_ns = self._requests[name]
        model = self.view.models[request.model]
        model.waiting = {name: Waiting(request, since_ns)} | model.waiting
        self._go_down(replica)
        return model

    def _leave(self, replica: ReplicaView, name: str) -> None:
        del replica.running[name]
        replica.prompts.discard(name)

    def _settle(self, outcome: Outcome) -> None:
        self._actions.append(Settle(outcome))

    def _dispatch(self, model: ModelView, at_ns: int) -> None:
        while model.waiting:
            replica = min(
                (one for one in model.replicas.values() if one.free_slots > 0),
                key=lambda one: (len(one.running), one.id),
                default=None,
            )
            if replica is None:
                break
            name = next(iter(model.waiting))
            del model.waiting[name]
            replica.running[name] = at_ns
            replica.prompts.add(name)
            replica.used_ns = at_ns
            self._where[name] = replica
            self._actions.append(Dispatch(name, replica.id, replica.node_id))

    def _ask(self, at_ns: int) -> None:
        for _ in range(_MOST_ROUNDS):
            moves = self.rule.moves(self.view, at_ns)
            for move in moves:
                self._begin(at_ns, move)
            if not moves:
                break
        else:
            raise AssertionError(f"{self.rule.name} has no end at {at_ns}")
        wake_ns = self.rule.wake_ns(self.view, at_ns)
        if wake_ns is not None and wake_ns > at_ns:
            self._wake(at_ns, wake_ns)

    def _wake(self, at_ns: int, wake_ns: int) -> None:
        if self._wake_ns is None or wake_ns != self._wake_ns:
            self._wake_ns = wake_ns
            self._actions.append(WakeAt(max(at_ns, wake_ns), _WAKE))

    def _begin(self, at_ns: int, move: Move) -> None:
        match move:
            case Bring():
                self._bring(at_ns, move)
            case Dismiss(name, why) | Stop(name, why):
                replica = self._replica(name)
                assert not replica.is_leaving, f"{self.rule.name} dismisses {name} twice"
                replica.is_leaving = True
                self._say(replica.model, type(move).__name__.lower(), why)
                if isinstance(move, Stop):
                    self._actions += [
                        Preempt(one, replica.id, replica.node_id) for one in sorted(replica.running)
                    ]
                self._go_down(replica)

    def _bring(self, at_ns: int, move: Bring) -> None:
        model = self.view.models[move.model]
        node_id = self.view.devices[move.devices[0]].node_id
        sleeper = self._memory.wake(model, node_id)
        name = f"{model.name}@{move.devices[0]}#{next(self._ids)}"
        replica = ReplicaView(
            name if sleeper is None else sleeper.id,
            model.name,
            node_id,
            Placement(move.devices),
            move.kv,
            Rung.DISK if sleeper is None else Rung.HOST,
            at_ns,
            is_moving=True,
        )
        for one in self._memory.hold(replica, need_bytes(model.spec, move.kv)):
            self._actions.append(Drop(next(self._ids), one.id, one.model, one.node_id))
        model.replicas[replica.id] = replica
        self._say(model.name, "bring", move.why)
        self._do(
            Load(next(self._ids), replica.id, model.name, node_id, replica.placement, replica.rung)
        )

    def _say(self, model: str, choice: str, why: str) -> None:
        self._verdicts.append(Verdict(self.rule.name, model, choice, why))

    def _do(self, transition: Transition) -> None:
        self._moves[transition.action_id] = transition
        self._actions.append(transition)

    def _go_down(self, replica: ReplicaView) -> None:
        """One edge, if it is to go and nothing runs or moves."""
        if not replica.is_leaving or replica.is_moving or replica.running:
            return
        place = replica.id, replica.model, replica.node_id
        replica.is_moving = True
        if replica.rung is Rung.SERVING:
            self._do(Deactivate(next(self._ids), *place))
        elif replica.rung is Rung.DEVICE:
            keeps, dropped = self._memory.make_bed(replica)
            for one in dropped:
                self._actions.append(Drop(next(self._ids), one.id, one.model, one.node_id))
            self._do(Unload(next(self._ids), *place) if keeps else Drop(next(self._ids), *place))

    def _land(self, event: TransitionDone) -> ModelView | None:
        move = self._moves.pop(event.action_id, None)
        if move is None:
            return None
        model = self.view.models[move.model]
        replica = model.replicas.get(move.replica_id)
        if replica is None:
            return None  # a sleeper that was dropped
        replica.is_moving = False
        match move:
            case Load():
                replica.rung = Rung.DEVICE
                if not replica.is_leaving:
                    replica.is_moving = True
                    self._do(
                        Activate(
                            next(self._ids), replica.id, replica.model, replica.node_id, replica.kv
                        )
                    )
            case Activate():
                replica.rung, replica.used_ns = Rung.SERVING, event.at_ns
            case Deactivate():
                replica.rung = Rung.DEVICE
            case Unload() | Drop():
                self._memory.let_go(model, replica, is_asleep=isinstance(move, Unload))
        if replica.id in model.replicas:
            self._go_down(replica)
        return model

    def _take_failed(self, event: TransitionFailed) -> None:
        """Who waits for what cannot come up fails; what cannot go down is tried again.  Nobody
        gets a slot by either.
        """
        move = self._moves.pop(event.action_id, None)
        if move is None:
            return
        model = self.view.models[move.model]
        replica = model.replicas.get(move.replica_id)
        if replica is None:
            return
        replica.is_moving = False
        if isinstance(move, (Load, Activate)):
            replica.is_leaving = True
            for name in list(model.waiting):
                del model.waiting[name]
                del self._requests[name]
                failed = OutcomeKind.FAILED
                self._settle(Outcome(name, failed, event.message, None, 500, event.fault))
        if replica.rung in (Rung.DISK, Rung.HOST):
            self._memory.let_go(model, replica, is_asleep=False)
        else:
            self._go_down(replica)

    def _replica(self, name: str) -> ReplicaView:
        return next(replica for replica in self.view.replicas if replica.id == name)

    def _take_arrived(self, event: Arrived) -> ModelView | None:
        request = event.request
        model = self.view.models[request.model]
        kv = full_slots(model.spec, 1)
        refusal = self.rule.refuses(self.view, request)
        if refusal is None and request.cells > kv.cells:
            refusal = f"{request.cells} tokens, and the context is {kv.cells}"
        if refusal is None and not self._fits(model):
            refusal = f"no device can ever hold {request.model}"
        if refusal is not None:
            self._settle(Outcome(request.id, OutcomeKind.REFUSED, refusal, status=503))
            return None
        self._requests[request.id] = (request, event.at_ns)
        model.waiting[request.id] = Waiting(request, event.at_ns)
        return model

    def _take_timer(self, event: Timer) -> None:
        self._wake_ns = None

    def _take_first_token(self, event: FirstToken) -> None:
        replica = self._where.get(event.request_id)
        if replica is not None:
            replica.prompts.discard(event.request_id)

    def _take_finished(self, event: Finished) -> ModelView | None:
        return self._end(event.at_ns, event.request_id, OutcomeKind.DONE)

    def _take_generation_failed(self, event: GenerationFailed) -> ModelView | None:
        failed = OutcomeKind.FAILED
        return self._end(event.at_ns, event.request_id, failed, event.message, event.fault)

    def _take_node(self, event: WorkerUp) -> None:
        self._memory.add_node(event.node)

    def _take_model(self, event: ModelAdded) -> None:
        self.view.models[event.spec.name] = ModelView(event.spec)
        self.view.layout += 1


def _is_settled(event: Event, model: ModelView | None) -> bool:
    """Nothing that a rule could mend has come of it."""
    if isinstance(event, Arrived):
        return model is not None and not model.waiting
    return isinstance(event, FirstToken)


_TAKERS: dict[type[Event], Callable[[Rival, Any], ModelView | None]] = {
    Arrived: Rival._take_arrived,
    Cancelled: Rival._take_cancelled,
    Finished: Rival._take_finished,
    FirstToken: Rival._take_first_token,
    GenerationFailed: Rival._take_generation_failed,
    ModelAdded: Rival._take_model,
    Preempted: Rival._take_preempted,
    Timer: Rival._take_timer,
    TransitionDone: Rival._land,
    TransitionFailed: Rival._take_failed,
    WorkerLost: Rival._take_lost,
    WorkerUp: Rival._take_node,
}
"""What simulations send; no operator plays there.  Any: each takes its own kind, and returns the
model of which a request may have found a slot.
"""
