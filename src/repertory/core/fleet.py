"""Workers and models come and go; operators wish."""

from repertory.core.demand import ArrivalRate, OutputLength
from repertory.core.ledger import Ledger
from repertory.core.moves.failures import fail_waiting
from repertory.core.moves.moving import (
    Reason,
    cancel_intent,
    drop_claim,
    forget_replica,
    give_up_better,
    release_replica,
)
from repertory.core.places.sites import empty_rooms, empty_splits, roomiest_bytes
from repertory.core.requests.comparing import drop_pauses
from repertory.core.requests.queueing import charge_measured, requeue
from repertory.core.requests.serving import lose, reopen, settle
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.actions import Activate, Load
from repertory.domain.decisions import Cause, Verdict
from repertory.domain.events import (
    DrainAsked,
    ModelAdded,
    ModelProfiled,
    ModelRemoved,
    OperatorAsked,
    SettingsChanged,
    Wish,
    WorkerLost,
    WorkerUp,
)
from repertory.domain.ladder import Phase, RequestState, Rung
from repertory.domain.requests import Fault, Outcome, OutcomeKind
from repertory.domain.specs import KvShape, ModelSpec, WeightsForm
from repertory.perf.bytes import MIN_CELLS, kv_bytes, weights_footprint
from repertory.policy.places.evict import Release
from repertory.policy.places.fit import misfit, split_layers

__all__ = [
    "retire",
    "take_drain",
    "take_model_added",
    "take_model_removed",
    "take_profiled",
    "take_settings",
    "take_wish",
    "take_worker_lost",
    "take_worker_up",
]


_STRIKES = 2
"""Workers that die under one request while it is on trial, or under one model that comes up: once
may be somebody else's doing (the kernel, short of memory)."""


def take_worker_up(state: State, step: Step, event: WorkerUp) -> None:
    """Its devices are empty and ready."""
    node = event.node
    assert node.id not in state.nodes, f"worker {node.id} is up twice"
    state.nodes[node.id] = node
    for device in node.devices:
        assert device.id not in state.devices, f"two devices are called {device.id}"
        state.devices[device.id] = Ledger(device.id, device.memory_bytes)
        state.costs.add_device(device)
    state.hosts[node.id] = Ledger(f"{node.id}/host", node.host_memory_bytes)
    for model in state.models.values():
        model.is_wanted = model.is_wanted or model.is_pinned
        _refresh_limits(state, step, model)
        _fail_unfit(state, step, model)
    step.has_room = step.has_bytes = True


def take_worker_lost(state: State, step: Step, event: WorkerLost) -> None:
    """All replicas of the node are gone; what ran on them waits again, with all that it has made.

    1. Whatever ran may have been the cause: all of it is suspect, and tried one by one.
    2. Whoever was on trial gets a strike; with the second it fails, and says how workers died.
    3. A model that cannot be served any more leaves nothing to wait for, nor does a file that was
       replaced: no other one can go on with its tokens.
    4. A model that was being brought up at two deaths in a row is not brought up again.
    5. Of an outage nobody is suspect: it says nothing of requests, nor of files.
    """
    if event.node_id not in state.nodes:
        return
    drop_pauses(state, event.node_id)
    for name in [one.model for one in state.intents.values() if one.node_id == event.node_id]:
        cancel_intent(state, step, name)
    for replica in [one for one in state.replicas.values() if one.node_id == event.node_id]:
        _give_back_running(state, step, replica, event)
        _blame(state, step, replica, event)
        step.touched[replica.model] = None
        forget_replica(state, replica)
    state.trials.pop(event.node_id, None)
    for device in state.nodes.pop(event.node_id).devices:
        del state.devices[device.id]
    del state.hosts[event.node_id]
    step.has_room = step.has_bytes = True
    for model in state.models.values():
        give_up_better(model)
        model.is_wanted = model.is_wanted or model.is_pinned
        step.touched[model.spec.name] = None
    step.verdicts.append(Verdict("fault", event.node_id, "worker lost", event.message))


def _give_back_running(state: State, step: Step, replica: ReplicaState, event: WorkerLost) -> None:
    model, message = state.models[replica.model], event.message
    for record in list(replica.running.values()):
        if record.state is RequestState.DECODING:
            record.made_by = replica.spec.digest
        if state.trials.get(event.node_id) == record.request.id and not event.is_outage:
            record.strikes += (message,)
        if len(record.strikes) == _STRIKES:
            lose(state, step, record, f"it killed {_STRIKES} workers: {'; '.join(record.strikes)}")
        elif model.is_removed or model.fault is not None:
            lose(state, step, record, f"the worker died under this request: {message}")
    returned = list(replica.running.values())
    replica.running, replica.running_ns = {}, 0
    for record in returned:
        charge_measured(state, record, 0)  # what it had is made again
        record.is_returned = True
    requeue(state, step, model, returned)
    for record in returned:
        record.returns += 1
        record.is_suspect = record.is_suspect or not event.is_outage
    _fail_orphans(state, step, model, model.spec.digest)


def _blame(state: State, step: Step, replica: ReplicaState, event: WorkerLost) -> None:
    model = state.models[replica.model]
    is_on_its_way = isinstance(replica.transition, (Load, Activate))
    if not is_on_its_way or model.fault is not None or event.is_outage:
        return
    model.deaths += (event.message,)
    choice, name = f"{replica.id} died with its worker on its way up", replica.model
    step.verdicts.append(Verdict("fault", name, choice, event.message))
    if len(model.deaths) == _STRIKES:
        why = f"bringing it up killed {_STRIKES} workers: {'; '.join(model.deaths)}"
        model.fault, model.fault_kind, model.deaths = why, Fault.QUARANTINED, ()
        step.verdicts.append(Verdict("fault", name, f"{name} is given up", why))
        fail_waiting(state, step, model, f"{model.spec.name}: {why}", Fault.QUARANTINED)


def _fail_orphans(state: State, step: Step, model: ModelState, digest: str) -> None:
    """Those who wait with tokens of another file."""
    for record in list(model.queue.values()):
        if record.made_by not in (None, digest):
            why = f"the worker died under this request, and the file of {model.spec.name} changed"
            lose(state, step, record, why)


def take_model_added(state: State, step: Step, event: ModelAdded) -> None:
    """A new model, or a new spec for a known one; replicas of another file are retired."""
    spec = event.spec
    model = state.models.get(spec.name)
    if model is None:
        model = ModelState(
            spec,
            ArrivalRate(state.settings.rate_half_life_s, step.at_ns),
            OutputLength(state.settings.output_prior_tokens),
        )
        model.is_pinned = spec.is_pinned
        state.models[spec.name] = model
    is_back = model.is_removed or _layout(model.spec) != _layout(spec)
    if model.spec is not spec:
        _change_spec(state, step, model, spec)
    if model.spec.is_pinned != spec.is_pinned or model.is_removed:
        model.is_pinned = spec.is_pinned  # else an operator's pin outlives the announcement
        step.has_room = True
    model.spec = spec
    model.fault, model.failures, model.not_before_ns = None, 0, 0
    was_wanted = model.is_wanted and not model.is_removed  # else a new alias forgets a preload
    model.is_removed = False
    if is_back:
        _keep(model)
    model.is_wanted = (was_wanted or model.is_pinned) and not _is_coming(model)
    state.costs.add(spec)
    take_held(state, model)
    if model.is_pinned:
        _spare(state, step, model)
    _refresh_limits(state, step, model)
    _fail_unfit(state, step, model)


def take_profiled(state: State, step: Step, event: ModelProfiled) -> None:
    """From now on its costs are what was measured.  What waits was reckoned by what was known."""
    state.costs.add_readings(event.digest, event.readings)
    for model in state.models.values():
        if model.spec.digest == event.digest:
            take_held(state, model)


def take_held(state: State, model: ModelState) -> None:
    """Bytes that were read before it was ever brought up here are reserved as if it had been; what
    was read of it since, by this server, stands.
    """
    model.stretches.clear()
    held = state.costs.held(model.spec)
    if held is None or model.spec.devices_per_replica > 1:
        return
    for form, size in held.weights_bytes.items():
        model.measured_weights_bytes.setdefault((form, None, False), size)
    model.measured_buffers_bytes = model.measured_buffers_bytes or held.buffers_bytes
    model.need_bytes = None


def _change_spec(state: State, step: Step, model: ModelState, spec: ModelSpec) -> None:
    """1. A placement that waits for room was reckoned with the old spec: reckon anew.
    2. Replicas of other bytes, or laid out otherwise, go; nothing measured on them holds.
    """
    if model.spec.name in state.intents:
        cancel_intent(state, step, model.spec.name)
    if _layout(model.spec) == _layout(spec):
        return
    _fail_orphans(state, step, model, spec.digest)
    model.measured_weights_bytes.clear()
    model.measured_rest_bytes.clear()
    model.measured_buffers_bytes = model.measured_rest_buffers_bytes = model.extra_bytes = 0
    model.failed_kv_tokens = model.measured_at = None
    state.costs.forget(spec.name)
    for replica in model.replicas.values():
        replica.retire(Release.GONE, Cause.REPLACED)


def _layout(spec: ModelSpec) -> tuple[str, tuple[int, ...]]:
    """What a replica's bytes depend on."""
    sizes = (
        spec.weights_bytes,
        spec.handle_bytes,
        spec.repacked_bytes,
        spec.layers,
        spec.kv_bytes_per_token,
        spec.buffers_bytes,
        spec.devices_per_replica,
        spec.head_bytes,
        spec.kept_bytes,
        spec.layers_bytes,
    )
    return (spec.digest, sizes)


def take_model_removed(state: State, step: Step, event: ModelRemoved) -> None:
    """Nobody may ask for it any more; what runs, runs to its end."""
    model = state.models.get(event.model)
    if model is None:
        return
    model.is_removed = True
    model.is_pinned = False
    for replica in model.replicas.values():
        replica.retire(Release.GONE, Cause.REMOVED)
    fail_waiting(state, step, model, f"the model {event.model!r} was removed")
    if event.model in state.intents:
        cancel_intent(state, step, event.model)
    step.touched[event.model] = None


def take_wish(state: State, step: Step, event: OperatorAsked) -> None:
    """1. Load: bring it up, and forget its faults.  2. Unload: down, once it is idle.
    3. Pin: never evict, and bring it up.  4. Unpin.
    """
    model = state.models.get(event.model)
    if model is None or model.is_removed:
        return
    match event.wish:
        case Wish.LOAD:
            model.fault, model.failures, model.not_before_ns = None, 0, 0
            _keep(model)
            model.is_wanted = not _is_coming(model)
        case Wish.UNLOAD:
            model.is_wanted = False
            for replica in model.replicas.values():
                _send_down(state, replica)
        case Wish.PIN:
            model.is_pinned = True
            _keep(model)
            _spare(state, step, model)
            model.is_wanted = not _is_coming(model)
        case Wish.UNPIN:
            model.is_pinned = False
            step.has_room = True
    step.verdicts.append(
        Verdict("operator", event.model, event.wish.value, "asked for by the operator")
    )
    step.touched[event.model] = None


def _is_coming(model: ModelState) -> bool:
    """It serves, or is on its way to, and nothing takes it down again."""
    return any(
        one.leaving is None
        and one.retiring is None
        and one.phase is Phase.OPEN
        and (one.rung is Rung.SERVING or (one.transition is not None and one.kv is not None))
        for one in model.replicas.values()
    )


def _keep(model: ModelState) -> None:
    """Take an unload back that has not begun; replicas of another file go all the same."""
    for replica in model.replicas.values():
        if _layout(replica.spec) == _layout(model.spec) and replica.leaving is None:
            replica.retiring = None
            if replica.claimed_by is None:
                replica.phase = Phase.OPEN


def _spare(state: State, step: Step, model: ModelState) -> None:
    """Others wait in vain for the memory of a model that is pinned now."""
    for replica in model.replicas.values():
        if replica.claimed_by not in (None, model.spec.name):
            drop_claim(state, replica)
            reopen(state, step, replica)
            step.has_room = True


def _send_down(state: State, replica: ReplicaState) -> None:
    """An operator's unload gives all memory back, a sleeper's too; the page cache costs none."""
    if state.node_of(replica).capabilities.host_is_page_cache:
        if replica.rung is Rung.HOST and replica.transition is None:
            return
        replica.retire(Release.ALL, Cause.OPERATOR)
    else:
        replica.retire(Release.GONE, Cause.OPERATOR)
    if replica.rung is Rung.SERVING:
        replica.phase = Phase.DRAINING


def take_settings(state: State, step: Step, event: SettingsChanged) -> None:
    """From now on; turns that are under way, and their timers, keep the length they were given."""
    old, state.settings = state.settings, event.settings
    step.has_room = True
    choice = f"favour {event.settings.favour.value}"
    why = f"was {old.favour.value}; the operator's configuration changed"
    step.verdicts.append(Verdict("settings", "server", choice, why))


def take_drain(state: State, step: Step, event: DrainAsked) -> None:
    """No new requests; what waits and runs goes on to its end."""
    state.is_draining = True


def retire(state: State, step: Step, replica: ReplicaState) -> None:
    """An idle replica that is not wanted again goes down; at the bottom it is forgotten."""
    if replica.model in state.intents:
        cancel_intent(state, step, replica.model)
        if replica.id not in state.replicas:
            return
    release = replica.retiring
    assert release is not None
    assert replica.retiring_for is not None
    is_asleep = replica.rung is Rung.HOST
    holds_host = is_asleep and not state.node_of(replica).capabilities.host_is_page_cache
    if replica.rung in (Rung.DEVICE, Rung.SERVING) or (holds_host and release is Release.GONE):
        reason = Reason(replica.retiring_for, "is no longer wanted")
        release_replica(state, step, replica, release, reason)
        step.has_room = True
    elif release is Release.GONE:
        forget_replica(state, replica)
    else:
        replica.retiring = None


def _refresh_limits(state: State, step: Step, model: ModelState) -> None:
    """The longest request that a model can take on the workers that are up, if any."""
    model.largest_cells = _largest_cells(state, model.spec)
    model.misfit = None
    if state.nodes:
        rooms, splits = empty_rooms(state, model.spec), empty_splits(state, model.spec)
        model.misfit = misfit(model.spec, rooms, splits)
    model.need_bytes = None
    step.touched[model.spec.name] = None


def _fail_unfit(state: State, step: Step, model: ModelState) -> None:
    """Requests that came under an older spec, or before the worker, and find no room are told."""
    name, longest = model.spec.name, model.spec.context_tokens
    if state.nodes:
        longest = min(longest, model.largest_cells)
    for record in list(model.queue.values()):
        cells = record.request.cells
        if cells > longest:
            why = f"{cells} tokens exceed the {longest} that {name!r} can hold here"
            if model.misfit is not None:
                why = f"{name} {model.misfit}"
            is_memory = cells <= model.spec.context_tokens
            fault = Fault.OUT_OF_MEMORY if is_memory else Fault.ENGINE
            outcome = Outcome(record.request.id, OutcomeKind.FAILED, why, None, 503, fault)
            settle(state, step, record, outcome)


def _largest_cells(state: State, spec: ModelSpec) -> int:
    """The longest slot that fits beside the weights on the roomiest placement; 0: none."""
    foot = weights_footprint(spec, WeightsForm.PLAIN)
    room = roomiest_bytes(state, spec) - foot.resting_bytes - foot.peak_bytes
    cells = max(MIN_CELLS, spec.context_tokens)
    splits = empty_splits(state, spec)
    while cells >= MIN_CELLS:
        kv = KvShape(1, cells)
        if kv_bytes(spec, kv) <= room or any(split_layers(spec, kv, one) for one in splits):
            return cells
        cells = 1 << (cells - 1).bit_length() - 1
    return 0
