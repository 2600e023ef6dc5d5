"""Requests come, move on and end."""

from dataclasses import replace

from repertory.core.costbook import RESUME_KEYS
from repertory.core.moves.copies import KvCopy, learn_copy
from repertory.core.moves.landing import say_drift
from repertory.core.requests.comparing import compare_generation, compare_resume, take_up
from repertory.core.requests.queueing import ahead_share, enqueue
from repertory.core.requests.serving import end_trial, settle
from repertory.core.state import ModelState, RequestRecord, State, Step
from repertory.core.window import arm_window
from repertory.domain.actions import Cancel, Settle
from repertory.domain.decisions import Verdict
from repertory.domain.events import Arrived, Cancelled, Finished, FirstToken, GenerationFailed
from repertory.domain.ladder import RequestStep, Rung
from repertory.domain.requests import Fault, Outcome, OutcomeKind, Request
from repertory.domain.specs import Placement, WeightsForm
from repertory.perf.bytes import shape_for
from repertory.perf.costs import Estimated, Grounds, Observed, weakest
from repertory.perf.profiles import ACTIVATE, DECODE_KEYS, KV_IN, KV_OUT, LOAD_KEYS, PREFILL_KEYS
from repertory.policy.requests.admit import Backlog, admit, in_time

__all__ = [
    "take_arrived",
    "take_cancelled",
    "take_finished",
    "take_first_token",
    "take_generation_failed",
]

_NEWEST = 0.2
"""Of a prompt's length in what is usual: some five requests are remembered."""


def take_arrived(state: State, step: Step, event: Arrived) -> None:
    """A request comes in, or is refused.

    1. Its model is unknown, at fault, or the server drains.
    2. It does not fit the context, or no device could ever hold it.
    3. Its first token cannot come by its deadline, whatever is done for it.
    4. The queue is too long (`policy.requests.admit`).
    5. It waits; a free slot takes it later in this very step.
    """
    request = event.request
    assert request.id not in state.requests, f"request {request.id} arrived twice"
    model = state.models.get(request.model)
    refusal = _unservable(state, model, request)
    if refusal is not None or model is None:
        step.actions.append(Settle(refusal or _refused(request, 404, "unknown model")))
        return
    verdict = _too_late(state, step, model, request)
    if verdict is not None:
        step.verdicts.append(_resting_on(_first_grounds(state, model), verdict))
        step.actions.append(Settle(_refused(request, 504, verdict.why)))
        return
    if model.queue or not any(one.is_open for one in model.replicas.values()):
        share = ahead_share(state, request)
        backlog = Backlog(state.waiting, share * _predicted_wait_s(state, model))
        settings = state.settings
        verdict = admit(request.id, backlog, settings.max_waiting, settings.max_queue_s)
        if verdict is not None:
            step.verdicts.append(_resting_on(_wait_grounds(state, model), verdict))
            step.actions.append(Settle(_refused(request, 429, verdict.why, verdict.predicted_s)))
            return
    model.rate.count(step.at_ns)
    weight = _NEWEST if model.usual_prompt_tokens else 1.0
    model.usual_prompt_tokens += weight * (request.prompt_tokens - model.usual_prompt_tokens)
    work_ns, begin_ns = _work_ns(state, model, request), _begin_ns(state, model, request)
    record = RequestRecord(request, step.at_ns, work_ns, begin_ns=begin_ns)
    state.requests[request.id] = record
    if not model.queue:
        _refresh_switch(state, model, request.cells)
    enqueue(state, model, record)
    step.touched[request.model] = None
    arm_window(state, step)


def take_first_token(state: State, step: Step, event: FirstToken) -> None:
    """Prefill is over; whoever was on trial has proven itself."""
    record = state.requests.get(event.request_id)
    if record is not None:
        if record.made_tokens:
            _learn_resume(state, step, record, event.reused_tokens)
        if event.restored_bytes or event.displaced_bytes:
            _learn_copies(state, step, record, event)
        record.walk(RequestStep.FIRST_TOKEN)
        record.taken_up_ns = step.at_ns
        if state.pauses:
            take_up(state, step, record)
        if record.is_suspect:
            end_trial(state, step, record)


def _learn_copies(state: State, step: Step, record: RequestRecord, event: FirstToken) -> None:
    """Cells that came back for it, and those that made way.  From the disk it takes what the disk
    takes, of which the law of copies knows nothing.
    """
    assert record.replica_id is not None
    replica = state.replicas[record.replica_id]
    if replica.spec.digest != state.models[replica.model].spec.digest:
        return  # it was another file
    copies = [KvCopy(KV_OUT, event.displaced_bytes, event.displaced_ns)]
    if event.restored_from is Rung.HOST:
        copies.append(KvCopy(KV_IN, event.restored_bytes, event.restored_ns))
    for copy in copies:
        if copy.size_bytes:
            learned = learn_copy(state, step, replica, copy, record.request.id)
            say_drift(step, replica.model, "kv", learned)


def _learn_resume(state: State, step: Step, record: RequestRecord, reused: int) -> None:
    """How long a stopped generation took to go on, whichever way its cells came back."""
    assert record.replica_id is not None
    replica = state.replicas[record.replica_id]
    spec, where, costs = replica.spec, replica.placement, state.costs
    tokens = record.request.prompt_tokens, record.made_tokens
    one_by_one = state.node_of(replica).capabilities.exact_resume
    if spec.digest == state.models[replica.model].spec.digest:
        predicted_s = costs.resume_s(
            spec, where, *tokens, one_by_one=one_by_one, ahead_s=record.ahead_s
        )
        grounds = costs.grounds(spec, where, RESUME_KEYS[where.form])
        compare_resume(step, record, predicted_s, grounds, reused)
        took_s = (step.at_ns - record.dispatched_ns) / 1e9
        learned = costs.observe_resume(
            spec, where, tokens, took_s, one_by_one=one_by_one, ahead_s=record.ahead_s
        )
        say_drift(step, replica.model, "a resume", learned)


def take_finished(state: State, step: Step, event: Finished) -> None:
    """A generation ended by itself; its length is learned, and its costs, unless a part of it was
    computed twice.
    """
    record = state.requests.get(event.request_id)
    if record is None or record.replica_id is None:
        return
    model = state.models[record.request.model]
    replica = state.replicas[record.replica_id]
    if not record.returns and not record.preemptions:
        compare_generation(state, step, record, replica, event)
        computed = record.request.prompt_tokens - event.reused_tokens
        learned = state.costs.observe_generation(
            model.spec,
            replica.placement,
            (computed, event.prefill_ns / 1e9),
            (event.output_tokens - 1, event.decode_ns / 1e9),
            (record.company + len(replica.running)) / 2,
        )
        for one in learned:
            say_drift(step, model.spec.name, "computing", one)
    if event.output_tokens:  # an embedding is no short answer
        model.output.count(event.output_tokens)
    settle(state, step, record, Outcome(event.request_id, OutcomeKind.DONE), event.share_ns)


def take_generation_failed(state: State, step: Step, event: GenerationFailed) -> None:
    """The engine gave a generation up; its slot is free."""
    record = state.requests.get(event.request_id)
    if record is not None:
        outcome = Outcome(
            event.request_id, OutcomeKind.FAILED, event.message, None, 500, event.fault
        )
        settle(state, step, record, outcome)


def take_cancelled(state: State, step: Step, event: Cancelled) -> None:
    """The client left: its request ends, and nothing that others want."""
    record = state.requests.get(event.request_id)
    if record is None:
        return
    if record.replica_id is not None:
        replica = state.replicas[record.replica_id]
        step.actions.append(Cancel(event.request_id, replica.id, replica.node_id))
    settle(state, step, record, Outcome(event.request_id, OutcomeKind.CANCELLED))


def _refresh_switch(state: State, model: ModelState, cells: int) -> None:
    """Predict anew what bringing this model up would take; weights that are there need no load."""
    spec = model.spec
    source = Rung.HOST if model.replicas else Rung.DISK
    where = usual_placement(state, model)
    if where.layers is not None or where.form is not WeightsForm.PLAIN:
        where = Placement(where.devices)  # it may come up anywhere: reckoned whole, and as it is
    is_prewarmed = any(one.rung is Rung.DEVICE for one in model.replicas.values())
    load = 0.0 if is_prewarmed else state.costs.load_s(spec, where, source)
    activate = state.costs.activate_s(spec, where, shape_for(spec, 2, cells))
    model.switch_ns = round((load + activate) * 1e9)


def _unservable(state: State, model: ModelState | None, request: Request) -> Outcome | None:
    if model is None or model.is_removed:
        return _refused(request, 404, f"there is no model {request.model!r}")
    if state.is_draining:
        return _refused(request, 503, "the server is shutting down", fault=Fault.WORKER_GONE)
    if model.fault is not None:
        return _refused(request, 503, model.fault, fault=model.fault_kind)
    if model.misfit is not None:
        why = f"{request.model} {model.misfit}"
        return _refused(request, 503, why, fault=Fault.OUT_OF_MEMORY)
    context = model.spec.context_tokens
    cells = request.cells
    if cells > context:
        return _refused(
            request,
            400,
            f"{request.prompt_tokens} prompt tokens + {request.max_tokens} new tokens exceed "
            f"the context of {context} tokens",
        )
    if state.nodes and cells > model.largest_cells:
        return _refused(
            request,
            503,
            f"{model.spec.weights_bytes} bytes of weights and {cells} tokens of KV memory "
            f"at {model.spec.kv_bytes_per_token} bytes each fit no device",
            fault=Fault.OUT_OF_MEMORY,
        )
    return None


def _refused(
    request: Request,
    status: int,
    message: str,
    retry_after_s: float | None = None,
    fault: Fault | None = None,
) -> Outcome:
    return Outcome(request.id, OutcomeKind.REFUSED, message, retry_after_s, status, fault)


def _work_ns(state: State, model: ModelState, request: Request) -> int:
    """Reckoned in the form that its weights are in, or last were: it is what was learned about."""
    output = min(model.output.median_tokens, request.max_tokens)
    where = usual_placement(state, model)
    work_s = state.costs.work_s(model.spec, where, request.prompt_tokens, output)
    return round(work_s * 1e9)


def usual_placement(state: State, model: ModelState) -> Placement:
    """Where it is, or last was, or else the first device there is: costs are asked of there."""
    replicas = model.replicas
    if replicas:
        first = next(iter(replicas.values()))
        if len(replicas) > 1:
            first = min(replicas.values(), key=lambda one: (not one.is_open, one.id))
        return first.placement
    return Placement((min(state.devices, default=""),))


def _prompt_s(state: State, model: ModelState, request: Request) -> float:
    where = usual_placement(state, model)
    return state.costs.work_s(model.spec, where, request.prompt_tokens, 0)


def _begin_ns(state: State, model: ModelState, request: Request) -> int | None:
    """By when its prompt must begin for its deadline."""
    if request.deadline_ns is None:
        return None
    return request.deadline_ns - round(_prompt_s(state, model, request) * 1e9)


def _too_late(state: State, step: Step, model: ModelState, request: Request) -> Verdict | None:
    if request.deadline_ns is None:
        return None
    if not model.queue:
        _refresh_switch(state, model, request.cells)
    left_s = (request.deadline_ns - step.at_ns) / 1e9
    return in_time(request.id, left_s, _first_token_s(state, model, request))


def _first_token_s(state: State, model: ModelState, request: Request) -> float:
    """Until its first token if everybody else made way for it at once: its model's way up, as far
    as it has not been walked, and its prompt.
    """
    prompt_s = _prompt_s(state, model, request)
    if any(one.rung is Rung.SERVING for one in model.replicas.values()):
        return prompt_s
    if any(
        one.transition is not None or one.rung is Rung.DEVICE for one in model.replicas.values()
    ):
        shape = shape_for(model.spec, 1, request.cells)
        return prompt_s + state.costs.activate_s(model.spec, usual_placement(state, model), shape)
    return prompt_s + model.switch_ns / 1e9


def _first_grounds(state: State, model: ModelState) -> Grounds:
    """Of `_first_token_s`: of its prompt, and of the way up that there still is."""
    spec, where, costs = model.spec, usual_placement(state, model), state.costs
    found = [costs.grounds(spec, where, PREFILL_KEYS[where.form])]
    if not any(one.rung is Rung.SERVING for one in model.replicas.values()):
        found.append(costs.grounds(spec, where, ACTIVATE))
        is_under_way = any(
            one.transition is not None or one.rung is Rung.DEVICE for one in model.replicas.values()
        )
        if not is_under_way:
            source = Rung.HOST if model.replicas else Rung.DISK
            found.append(costs.grounds(spec, where, LOAD_KEYS[where.form, source]))
    return weakest(*found)


def _resting_on(grounds: Grounds, verdict: Verdict) -> Verdict:
    return replace(verdict, basis=grounds.basis, error=grounds.error)


def _wait_grounds(state: State, model: ModelState) -> Grounds:
    """Of `_predicted_wait_s`: the decode steps of all that waits, which are most of it.  Where all
    were measured, the error is that of the model's own.
    """
    waiting = [one for one in state.models.values() if one.queue] or [model]
    costs = state.costs
    found: Grounds | None = None
    for one in waiting:
        where = usual_placement(state, one)
        if where is one.measured_at:
            continue
        grounds = costs.grounds(one.spec, where, DECODE_KEYS[where.form])
        if grounds.basis == Observed.basis:
            one.measured_at = where
            continue
        found = grounds if found is None else weakest(found, grounds)
        if found.basis == Estimated.basis:
            break
    if found is None:
        where = usual_placement(state, model)
        own = costs.grounds(model.spec, where, DECODE_KEYS[where.form])
        found = Grounds(Observed.basis, own.error)
    return found


def _predicted_wait_s(state: State, model: ModelState) -> float:
    """Drain time of the planned order in front of a new request of this model.

    A serving model works off its own queue at its share of the device; any other waits for the
    work and the switches of all models in front of it, and for its own switch.
    """
    devices = max(1, len(state.devices))
    here = sum([one.is_open for one in model.replicas.values()])
    if here:
        own_ns = model.queued_ns * max(1, len(state.busy) // devices) // here
        return min(own_ns, state.queued_ns) / 1e9
    return (state.queued_ns + state.starved_ns) / devices / 1e9 + model.switch_ns / 1e9
