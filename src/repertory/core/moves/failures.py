"""Transitions that fail: failure is an event like any other."""

from repertory.core.moves.landing import retreat
from repertory.core.moves.moving import forget_replica, give_up_better
from repertory.core.places.sites import roomiest_bytes
from repertory.core.requests.serving import settle, wake_at
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.actions import Activate, Load, Resize
from repertory.domain.decisions import Cause, Verdict
from repertory.domain.events import TransitionFailed
from repertory.domain.ladder import Rung
from repertory.domain.requests import Fault, Outcome, OutcomeKind
from repertory.domain.specs import WeightsForm
from repertory.perf.bytes import MIN_CELLS, kv_bytes, shape_for, weights_footprint

__all__ = ["fail_waiting", "take_transition_failed"]

_TRIES = 3
"""Failures in a row after which those who wait are told, instead of waiting for a fourth."""
_BACKOFF_S = 0.5
_MOST_BACKOFF_S = 30.0
_OUT_OF_MEMORY_BYTES = 64 << 20
"""What is added to a model's predicted bytes when an allocation fails (at least)."""


def take_transition_failed(state: State, step: Step, event: TransitionFailed) -> None:
    """The replica stands where it stood.  By what failed:

    1. A load: a permanent fault (the file) ends it; else the model tries again, later, and with
       more room if memory was short.
    2. An activation: with less KV memory if memory was short, else again, later.
    3. A resize: the old context serves on.
    4. A way down: again, later.
    """
    replica = state.replicas.get(event.replica_id)
    if replica is None or replica.transition is None:
        return
    if replica.transition.action_id != event.action_id:
        return
    model = state.models[replica.model]
    transition = retreat(state, step, replica)
    step.verdicts.append(
        Verdict(
            "fault",
            replica.model,
            f"{type(transition).__name__.lower()} {replica.id} failed",
            event.message,
            action_ids=(event.action_id,),
        )
    )
    if isinstance(transition, Load):
        _after_failed_load(state, step, model, replica, event)
    elif isinstance(transition, Activate):
        if event.fault is Fault.OUT_OF_MEMORY:
            model.failed_kv_tokens = transition.kv.tokens
        _try_later(state, step, model, event)
    elif isinstance(transition, Resize):
        if event.fault is Fault.OUT_OF_MEMORY:
            model.failed_kv_tokens = transition.kv.tokens
        else:
            _back_off(step, model)
    else:
        wake_at(state, step, step.at_ns + round(_BACKOFF_S * 1e9), f"down:{replica.id}")


def fail_waiting(
    state: State, step: Step, model: ModelState, message: str, fault: Fault = Fault.ENGINE
) -> None:
    """Those who wait for this model are told why they wait in vain."""
    for record in list(model.queue.values()):
        outcome = Outcome(record.request.id, OutcomeKind.FAILED, message, None, 503, fault)
        settle(state, step, record, outcome)
    model.is_wanted = False


def _after_failed_load(
    state: State, step: Step, model: ModelState, replica: ReplicaState, event: TransitionFailed
) -> None:
    if replica.rung is Rung.DISK:
        forget_replica(state, replica)
    if event.fault.is_permanent:
        model.fault, model.fault_kind = event.message, event.fault
        fail_waiting(state, step, model, event.message, event.fault)
        return
    if event.fault is Fault.OUT_OF_MEMORY:
        more = max(_OUT_OF_MEMORY_BYTES, model.spec.weights_bytes // 10)
        model.extra_bytes = min(model.extra_bytes + more, _spare_bytes(state, model))
        model.need_bytes = None
    _try_later(state, step, model, event)


def _spare_bytes(state: State, model: ModelState) -> int:
    """How much larger its weights may be taken to be until no device could hold its requests."""
    cells = max((one.request.cells for one in model.queue.values()), default=MIN_CELLS)
    kv = shape_for(model.spec, 1, cells)
    buffers = model.measured_buffers_bytes or model.spec.buffers_bytes
    room = roomiest_bytes(state, model.spec) - kv_bytes(model.spec, kv) - buffers
    foot = weights_footprint(model.spec, WeightsForm.PLAIN)
    return max(0, room - foot.weights_bytes - foot.peak_bytes)


def _try_later(state: State, step: Step, model: ModelState, event: TransitionFailed) -> None:
    if model.wanted_for is Cause.PLACEMENT:
        give_up_better(model)  # nobody waits for this: it serves elsewhere
    else:
        model.failures += 1
    if model.failures >= _TRIES and not any(one.is_open for one in model.replicas.values()):
        model.failures = model.extra_bytes = 0
        model.need_bytes = None
        fail_waiting(state, step, model, event.message, event.fault)
    _back_off(step, model)


def _back_off(step: Step, model: ModelState) -> None:
    backoff_s = min(_BACKOFF_S * 2.0**model.failures, _MOST_BACKOFF_S)
    model.not_before_ns = step.at_ns + round(backoff_s * 1e9)
