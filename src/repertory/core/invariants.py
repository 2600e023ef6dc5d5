"""What is true of the state between two events, whatever happened.  Runs after every test."""

from repertory.core.ledger import Charge, Ledger
from repertory.core.places.tiers import measured_stretch
from repertory.core.state import Intent, ModelState, ReplicaState, State
from repertory.domain.decisions import Cause
from repertory.domain.ladder import Phase, RequestState, Rung
from repertory.domain.specs import Placement
from repertory.policy.places.evict import Release

__all__ = ["check"]


def check(state: State) -> None:
    """Raises `AssertionError` with what is wrong."""
    _check_requests(state)
    for pause in state.pauses.values():
        assert pause.victims, f"a pause of {pause.model} is over"
        assert pause.victims.keys() <= state.requests.keys(), "a pause of what has its outcome"
    for model in state.models.values():
        _check_model(state, model)
    for replica in state.replicas.values():
        _check_replica(state, replica)
        _check_way_down(state, replica)
    busy = [one for one in state.replicas.values() if one.running]
    assert sorted(state.busy) == sorted(one.id for one in busy), "who is busy is not so"
    for model in state.models.values():
        _check_spread(state, model)
    for name in state.short:
        assert state.models[name].queue, f"{name} lacks slots for nobody"
        assert name not in state.starved, f"{name} lacks slots and is not served"
    for name, intent in state.intents.items():
        _check_intent(state, name, intent)
    for ledger in state.devices.values():
        _check_device(state, ledger)
    for ledger in state.hosts.values():
        ledger.check()
        assert ledger.charged <= ledger.budget_bytes, f"{ledger.pool} is over budget"
        assert ledger.owners() <= state.replicas.keys(), f"{ledger.pool}: lost memory"


def _check_device(state: State, ledger: Ledger) -> None:
    ledger.check()
    assert ledger.owners() <= state.replicas.keys(), f"{ledger.pool}: lost memory"
    assert ledger.claimants() <= state.intents.keys(), f"{ledger.pool}: lost promises"
    for name in sorted(ledger.leavers()):
        assert state.replicas[name].leaving is not None, f"{name} stays, its memory is expected"


def _check_requests(state: State) -> None:
    assert state.waiting == sum(len(model.queue) for model in state.models.values())
    assert state.queued_ns == sum(model.queued_ns for model in state.models.values())
    assert state.starved_ns == sum(one.switch_ns for one in state.starved.values())
    _check_keys(state)
    for request_id, record in state.requests.items():
        assert record.state is not RequestState.SETTLED
        if record.replica_id is None:
            assert request_id in state.models[record.request.model].queue
        else:
            assert request_id in state.replicas[record.replica_id].running


def _check_keys(state: State) -> None:
    """Accounts say what waits and runs; what is not told of is not waiting."""
    for name, key in state.keys.items():
        own = [one for one in state.requests.values() if one.request.key == name]
        waiting = [one for one in own if one.replica_id is None]
        assert key.waiting == len(waiting), f"key {name!r}: {key.waiting} waiting"
        assert key.running == len(own) - len(waiting), f"key {name!r}: {key.running} running"
        assert sum(key.queued_ns.values()) == sum(one.work_ns for one in waiting)
    assert all(one.request.key in state.keys for one in state.requests.values())


def _check_model(state: State, model: ModelState) -> None:
    name = model.spec.name
    assert state.models[name] is model
    assert model.queued_ns == sum(one.work_ns for one in model.queue.values())
    in_lines = [ticket.name for line in model.lines.values() for ticket in line]
    assert sorted(in_lines) == sorted(model.queue), f"{name}: lines and queue differ"
    assert all(line == sorted(line) for line in model.lines.values()), f"{name}: out of order"
    for (form, has_rest), known in model.stretches.items():
        where = Placement(("",), form, rest="" if has_rest else None)
        assert known == measured_stretch(model, where), f"{name} measures up otherwise"
    is_starved = (
        (bool(model.queue) or model.is_wanted)
        and name not in state.intents
        and not model.is_served()
    )
    assert (name in state.starved) == is_starved, f"{name} starves: {is_starved}"
    for replica_id in model.claims:
        assert state.replicas[replica_id].claimed_by == name, f"{name} claims {replica_id}"
        assert model.queue, f"{name} claims {replica_id} for nobody"
    if model.is_removed or model.fault is not None:
        assert not model.queue, f"{name} lets {len(model.queue)} wait in vain"


def _check_replica(state: State, replica: ReplicaState) -> None:
    assert state.models[replica.model].replicas[replica.id] is replica
    if replica.running:
        assert replica.rung is Rung.SERVING, f"{replica.id} runs on {replica.rung}"
        assert replica.leaving is None, f"busy {replica.id} is being evicted"
        assert replica.kv is not None
        assert len(replica.running) <= replica.kv.sequences
    assert replica.running_ns == sum(one.work_ns for one in replica.running.values())
    for record in replica.running.values():
        assert replica.kv is not None
        assert record.request.cells <= replica.kv.cells
    for device in replica.placement.devices:
        ledger = state.devices[device]
        if replica.rung in (Rung.DEVICE, Rung.SERVING):
            assert ledger.of(replica.id, Charge.WEIGHTS) > 0
        if replica.rung is Rung.SERVING:
            assert ledger.of(replica.id, Charge.KV) > 0
    _check_layers(state, replica)
    for ledger in state.ledgers_of(replica):
        if replica.transition is None:
            assert ledger.of(replica.id, Charge.PEAK) == 0, f"{replica.id} rests at its peak"
    if replica.rung is Rung.DISK:
        is_coming = replica.model in state.intents or replica.transition is not None
        assert is_coming, f"{replica.id} stands on the disk and waits for nothing"


def _check_layers(state: State, replica: ReplicaState) -> None:
    """k of n layers lie on one accelerator, the others in the memory of its own node's cores."""
    where, node = replica.placement, state.node_of(replica)
    if where.rest is not None:
        backends = {one.id: one.backend for one in node.devices}
        assert backends[where.rest] == "cpu", f"{replica.id} rests on {where.rest}"
        assert all(backends[device] != "cpu" for device in where.devices), f"{replica.id}: {where}"
    if where.layers is not None:
        assert 0 < where.layers < replica.spec.layers, f"{replica.id}: {where}"
        assert where.rest is not None, f"{replica.id} has layers nowhere"
        assert node.capabilities.partial_layers
        if replica.rung in (Rung.DEVICE, Rung.SERVING):
            rest = state.devices[where.rest]
            assert rest.of(replica.id, Charge.WEIGHTS) > 0, f"{replica.id}: lost layers"


def _check_spread(state: State, model: ModelState) -> None:
    """Never two replicas of a model on the same device, but on the way to a better place."""
    name = model.spec.name
    intent = state.intents.get(name)
    held: dict[str, str] = {}
    is_moving = model.wanted_for is Cause.PLACEMENT
    for one in model.replicas.values():
        is_coming = intent is not None and intent.replica_id == one.id
        is_leaving = one.retiring is not None
        is_asleep = one.rung is Rung.HOST and one.transition is None and not is_coming
        is_there = one.id in state.on_devices or is_coming
        if is_moving or is_leaving or is_asleep or not is_there:
            continue
        for device in one.placement.devices:
            assert device not in held, f"{name}: {held[device]} and {one.id} both on {device}"
            held[device] = one.id


def _check_way_down(state: State, replica: ReplicaState) -> None:
    if replica.claimed_by is not None:
        assert replica.id in state.models[replica.claimed_by].claims, f"{replica.id}: lost claim"
    if replica.phase is Phase.DRAINING:
        reasons = (replica.claimed_by, replica.leaving, replica.retiring)
        assert any(one is not None for one in reasons), f"{replica.id} drains for nobody"
    if replica.leaving is not None:
        is_on = replica.transition is not None or f"down:{replica.id}" in state.timers
        assert is_on, f"{replica.id} stands still on its way down"
        assert replica.leaving is Release.GONE or replica.rung is not Rung.DISK


def _check_intent(state: State, name: str, intent: Intent) -> None:
    assert intent.model == name
    assert intent.node_id in state.nodes
    replica = state.replicas[intent.replica_id]
    assert replica.transition is None, f"{replica.id} moves before its turn"
    for device, need in intent.need_bytes.items():
        assert state.devices[device].promised_to(name) == need
