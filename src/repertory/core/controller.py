"""The one door of the brain: `Controller.handle(event) -> list[Action]`.

It never learns who drives it, and asks nobody for the time, the environment or luck.  One step:
1. take the event in, which touches some models;
2. walk on what stands between two edges of the ladder;
3. dispatch what waits to open replicas, and stop lighter work where slots lack;
4. place models that have demand and no replica;
5. record one `Decision`.
"""

from collections.abc import Callable
from typing import Any

from repertory.core.costbook import CostBook
from repertory.core.fleet import (
    retire,
    take_drain,
    take_model_added,
    take_model_removed,
    take_profiled,
    take_settings,
    take_wish,
    take_worker_lost,
    take_worker_up,
)
from repertory.core.invariants import check
from repertory.core.ledger import Charge
from repertory.core.moves.failures import take_transition_failed
from repertory.core.moves.landing import land
from repertory.core.moves.moving import (
    Reason,
    begin_activate,
    begin_release,
    drop_claim,
    release_replica,
)
from repertory.core.places.claiming import unclaim
from repertory.core.places.placing import place, refresh_starved, watch_blocked
from repertory.core.places.sites import is_blocked
from repertory.core.places.splits import has_accelerators
from repertory.core.requests.arrivals import (
    take_arrived,
    take_cancelled,
    take_finished,
    take_first_token,
    take_generation_failed,
)
from repertory.core.requests.preempting import press, press_own, take_preempted
from repertory.core.requests.serving import close_if_due, serve, settle, wake_at
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.core.window import arm_window, open_window, take_plan
from repertory.domain.actions import Action
from repertory.domain.decisions import Cause, Decision
from repertory.domain.events import (
    Arrived,
    Cancelled,
    DrainAsked,
    Event,
    Finished,
    FirstToken,
    GenerationFailed,
    ModelAdded,
    ModelProfiled,
    ModelRemoved,
    OperatorAsked,
    PlanReady,
    Preempted,
    SettingsChanged,
    Timer,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
    WorkerUp,
)
from repertory.domain.ladder import Phase, Rung
from repertory.domain.requests import Fault, Outcome, OutcomeKind
from repertory.domain.settings import Settings
from repertory.policy.places.evict import Release
from repertory.policy.places.offload import Rule, by_harm

__all__ = ["Controller"]

_MOST_ROUNDS = 64
"""Placing a model touches others (victims, spared replicas); each round settles what the last one
touched.  Two are usual.  More than so many would be two rules that undo each other: our bug."""


class Controller:
    """Many models on few devices.  Mutated through `handle` only.

    `record` gets every `Decision`; `check` asserts all invariants.  Another rule for `offload` than
    ours is for comparison only.
    """

    def __init__(
        self,
        settings: Settings,
        record: Callable[[Decision], None],
        costs: CostBook | None = None,
        offload: Rule = by_harm,
    ) -> None:
        self.state = State(settings, costs if costs is not None else CostBook(), offload)
        self._record = record
        self._steps = 0

    def handle(self, event: Event) -> list[Action]:
        """Take one event in; return what is to be done now."""
        state = self.state
        step = Step(event.at_ns)
        state.heads.clear()
        _TAKERS[type(event)](state, step, event)
        rounds = 0
        while step.touched or step.has_room or step.has_bytes:
            assert rounds < _MOST_ROUNDS, f"{event} has no end: {step.touched}"
            place(state, step, _settle_touched(state, step))
            rounds += 1
        self._steps += 1
        self._record(Decision(self._steps, event, tuple(step.actions), tuple(step.verdicts)))
        return step.actions

    def check(self) -> None:
        """All invariants; the fixture of every test calls this at its end."""
        check(self.state)


def _settle_touched(state: State, step: Step) -> list[str]:
    """Steps 2 and 3 for every touched model; returns those that newly need to be placed."""
    names = list(step.touched)
    step.touched = {}
    for name in names:
        model = state.models.get(name)
        if model is None:
            continue
        for replica in list(model.replicas.values()):
            if replica.transition is None and not replica.running:
                _walk_on(state, step, model, replica)
        if model.is_removed and not model.replicas:
            unclaim(state, step, model)
            step.has_room = True
            del state.models[name]
            state.costs.forget(name)
            continue
        serve(state, step, model)
        if model.queue:
            press_own(state, step, model)
    return refresh_starved(state, step, names)


def _walk_on(state: State, step: Step, model: ModelState, replica: ReplicaState) -> None:
    """What an idle replica does next.

    1. On its way down: on, unless the room turned out unneeded.
    2. To be gone for good: down as soon as it is idle.
    3. Loaded with KV memory reserved: up, or back to prewarmed if nobody waits any more.
    4. Drained for its own longer slots: its KV memory goes, and it is placed anew.
    5. Idle: its time to live runs.
    """
    if replica.leaving is not None:
        _walk_down(state, step, replica)
    elif replica.retiring is not None:
        retire(state, step, replica)
    elif replica.rung is Rung.DEVICE and replica.kv is not None:
        if model.spec.name not in state.intents:
            _walk_up(state, step, model, replica)
    elif _is_reopening(replica):
        reason = Reason(Cause.SLOTS, "reopens with longer slots")
        release_replica(state, step, replica, Release.KV, reason)
        step.has_room = True
    if model.spec.ttl_s is not None and not model.is_pinned and replica.id in state.replicas:
        _arm_ttl(state, step, replica, model.spec.ttl_s)


def _is_reopening(replica: ReplicaState) -> bool:
    is_drained = replica.rung is Rung.SERVING and replica.phase is Phase.DRAINING
    return is_drained and replica.claimed_by == replica.model


def _walk_down(state: State, step: Step, replica: ReplicaState) -> None:
    """One edge further down, unless it failed a moment ago, or the room turned out unneeded."""
    ledgers = state.ledgers_of(replica)
    is_unneeded = all(
        ledger.available_bytes >= ledger.expected_from(replica.id) for ledger in ledgers
    )
    if replica.rung is Rung.DEVICE and is_unneeded and replica.retiring is None:
        replica.leaving = None
        replica.phase = Phase.OPEN
        drop_claim(state, replica)
        step.has_room = True
        for ledger in ledgers:
            ledger.stop_expecting(replica.id)
        return
    if f"down:{replica.id}" not in state.timers:
        begin_release(state, step, replica, "goes on down")


def _walk_up(state: State, step: Step, model: ModelState, replica: ReplicaState) -> None:
    """Up if somebody waits, unless the weights turned out to have eaten the KV memory."""
    fits = not any(ledger.is_overrun for ledger in state.ledgers_of(replica))
    if fits and (model.queue or model.is_wanted):
        cause = Cause.DEMAND if model.queue else Cause.OPERATOR
        begin_activate(state, step, replica, Reason(cause, f"{len(model.queue)} wait"))
        return
    replica.kv = None
    for ledger in state.ledgers_of(replica):
        ledger.release(replica.id, Charge.KV, Charge.BUFFERS)
    step.has_room = step.has_bytes = True


def _arm_ttl(state: State, step: Step, replica: ReplicaState, ttl_s: float) -> None:
    is_up = replica.rung in (Rung.DEVICE, Rung.SERVING)
    if is_up and replica.is_idle and replica.leaving is None and replica.retiring is None:
        ttl_ns = max(1, round(ttl_s * 1e9))
        due_ns = replica.idle_since_ns + ttl_ns
        if due_ns <= step.at_ns:
            due_ns = step.at_ns + ttl_ns
        wake_at(state, step, due_ns, f"ttl:{replica.id}")


def _take_transition_done(state: State, step: Step, event: TransitionDone) -> None:
    """A transition of a replica that is still there; others are of a worker that died since."""
    replica = state.replicas.get(event.replica_id)
    if replica is None or replica.transition is None:
        return
    if replica.transition.action_id == event.action_id:
        land(state, step, replica, event.measured)


def _take_timer(state: State, step: Step, event: Timer) -> None:
    """A timer that was not replaced by a later one."""
    due_ns = state.timers.get(event.name)
    if due_ns is None or due_ns > event.at_ns:
        return
    del state.timers[event.name]
    kind, _, name = event.name.partition(":")
    _TIMERS[kind](state, step, name)


def _window(state: State, step: Step, _: str) -> None:
    open_window(state, step)
    if has_accelerators(state):
        step.has_room = True  # demand may have grown: some are better off elsewhere by now
    if state.requests:
        arm_window(state, step)


def _handover(state: State, step: Step, replica_id: str) -> None:
    """A turn ends, unless the claim it was set for made way for a later one."""
    replica = state.replicas.get(replica_id)
    if replica is not None and replica.claimed_by is not None:
        is_open = not close_if_due(state, step, replica) and replica.phase is Phase.OPEN
        if is_open and replica.handover_at_ns > step.at_ns:
            wake_at(state, step, replica.handover_at_ns, f"handover:{replica_id}")
        step.touched[replica.model] = None
        press(state, step, state.models[replica.claimed_by])


def _room(state: State, step: Step, _: str) -> None:
    step.has_room = True


def _retry(state: State, step: Step, name: str) -> None:
    """After a failure it was left alone for a while; that is over."""
    step.touched[name] = None
    step.has_room = True


def _down(state: State, step: Step, replica_id: str) -> None:
    replica = state.replicas.get(replica_id)
    if replica is not None:
        step.touched[replica.model] = None


def _ttl(state: State, step: Step, replica_id: str) -> None:
    """Idle for its whole time to live: gone for good; else the clock runs on."""
    replica = state.replicas.get(replica_id)
    if replica is None or not replica.is_idle:
        return
    model = state.models[replica.model]
    ttl_s = model.spec.ttl_s
    is_up = replica.rung in (Rung.DEVICE, Rung.SERVING)
    is_spare = is_up and not model.is_pinned and not model.queue
    if ttl_s is not None and is_spare and step.at_ns >= replica.idle_since_ns + round(ttl_s * 1e9):
        replica.retire(Release.ALL, Cause.TTL)
    step.touched[replica.model] = None


def _blocked(state: State, step: Step, name: str) -> None:
    """Those who have waited longer than anybody should, for what cannot come, are told so."""
    model = state.models.get(name)
    if model is None or name not in state.starved or not model.queue:
        return
    step.touched[name] = None
    watch_blocked(state, step, model)
    if not is_blocked(state, model):
        return
    why, fault = "no worker is running; see the server's log", Fault.WORKER_GONE
    if state.nodes:
        why = "pinned models hold the memory it needs, or its devices are gone"
        fault = Fault.OUT_OF_MEMORY
    oldest_ns = step.at_ns - round(state.settings.max_queue_s * 1e9)
    for record in list(model.queue.values()):
        if record.since_ns > oldest_ns:
            continue
        outcome = Outcome(record.request.id, OutcomeKind.FAILED, f"{name}: {why}", None, 503, fault)
        settle(state, step, record, outcome)


_TIMERS: dict[str, Callable[[State, Step, str], None]] = {
    "window": _window,
    "handover": _handover,
    "room": _room,
    "retry": _retry,
    "down": _down,
    "ttl": _ttl,
    "blocked": _blocked,
}

_TAKERS: dict[type[Event], Callable[[State, Step, Any], None]] = {  # Any: each takes its own kind
    Arrived: take_arrived,
    Cancelled: take_cancelled,
    DrainAsked: take_drain,
    Finished: take_finished,
    FirstToken: take_first_token,
    GenerationFailed: take_generation_failed,
    ModelAdded: take_model_added,
    ModelProfiled: take_profiled,
    ModelRemoved: take_model_removed,
    OperatorAsked: take_wish,
    PlanReady: take_plan,
    Preempted: take_preempted,
    SettingsChanged: take_settings,
    Timer: _take_timer,
    TransitionDone: _take_transition_done,
    TransitionFailed: take_transition_failed,
    WorkerLost: take_worker_lost,
    WorkerUp: take_worker_up,
}
