"""Walking the ladder: reserve before a transition, emit it, correct the ledger after it."""

from typing import NamedTuple

from repertory.core.ledger import Charge
from repertory.core.places.tiers import buffer_needs, reserve_kv, weights_bytes, weights_needs
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Transition,
    Unload,
    edge_of,
)
from repertory.domain.decisions import Cause, Option, Verdict
from repertory.domain.ladder import Edge, Phase, Rung
from repertory.domain.specs import KvShape
from repertory.perf.bytes import kv_needs
from repertory.perf.costs import Prediction
from repertory.policy.places.evict import Release

__all__ = [
    "Reason",
    "begin_activate",
    "begin_load",
    "begin_release",
    "begin_resize",
    "cancel_intent",
    "drop_claim",
    "expect_release",
    "forget_replica",
    "give_up_better",
    "releasable_bytes",
    "release_replica",
    "reserve_serving",
]


class Reason(NamedTuple):
    """Why a replica moves: for the machine, and in words."""

    cause: Cause
    why: str


def begin_load(
    state: State,
    step: Step,
    replica: ReplicaState,
    reason: Reason,
    options: tuple[Option, ...] = (),
) -> None:
    """`DISK` or `HOST` to `DEVICE`.  KV memory for `replica.kv`, if any, is reserved along."""
    model = state.models[replica.model]
    replica.spec = model.spec
    _, peak = weights_bytes(model, replica.placement)
    resting = weights_needs(model, replica.placement)
    for pool, size in resting.items():
        ledger = state.devices[pool]
        ledger.release(replica.id, Charge.RESIDUE)
        ledger.reserve(replica.id, Charge.WEIGHTS, size)
        if pool != replica.placement.rest:
            ledger.reserve(replica.id, Charge.PEAK, peak)
    reserve_serving(state, replica)
    replica.was_crowded = state.is_crowded(replica.node_id)
    prediction = state.costs.load(
        model.spec, replica.placement, replica.rung, is_crowded=replica.was_crowded
    )
    action = Load(
        state.next_action_id(),
        replica.id,
        replica.model,
        replica.node_id,
        replica.placement,
        replica.rung,
    )
    size = sum(resting.values())  # what will be read back; the peak is over
    _begin(step, replica, action, Intention("load", reason, prediction, size, options))
    state.index(replica)


def reserve_serving(state: State, replica: ReplicaState) -> None:
    """Reserve KV memory and buffers for `replica.kv`, if it has one."""
    if replica.kv is None:
        return
    reserve_kv(state, replica, Charge.KV, replica.kv)
    for pool, size in buffer_needs(state.models[replica.model], replica.placement).items():
        state.devices[pool].reserve(replica.id, Charge.BUFFERS, size)


def begin_activate(
    state: State,
    step: Step,
    replica: ReplicaState,
    reason: Reason,
    options: tuple[Option, ...] = (),
) -> None:
    """`DEVICE` to `SERVING`; the memory for `replica.kv` is reserved already."""
    assert replica.kv is not None
    prediction = state.costs.activate(replica.spec, replica.placement, replica.kv)
    kv = kv_needs(replica.spec, replica.placement, replica.kv)
    buffers = buffer_needs(state.models[replica.model], replica.placement)
    action = Activate(
        state.next_action_id(), replica.id, replica.model, replica.node_id, replica.kv
    )
    size = sum(kv.values()) + sum(buffers.values())
    _begin(step, replica, action, Intention("activate", reason, prediction, size, options))


def begin_resize(state: State, step: Step, replica: ReplicaState, kv: KvShape, why: str) -> None:
    """`SERVING` with more KV memory; the ledger holds both until it is done."""
    assert replica.kv is not None
    spec = replica.spec
    reserve_kv(state, replica, Charge.PEAK, kv)
    moved = sum(record.request.prompt_tokens for record in replica.running.values())
    prediction = state.costs.resize(spec, replica.placement, kv, moved)
    action = Resize(state.next_action_id(), replica.id, replica.model, replica.node_id, kv)
    size = sum(kv_needs(spec, replica.placement, kv).values())
    _begin(step, replica, action, Intention("resize", Reason(Cause.DEMAND, why), prediction, size))


def begin_release(
    state: State,
    step: Step,
    replica: ReplicaState,
    why: str,
    options: tuple[Option, ...] = (),
) -> None:
    """One edge down, towards `replica.leaving`, for `replica.leaving_for`.  Only idle ones go."""
    assert replica.is_idle, f"busy {replica.id} is being evicted"
    assert replica.leaving_for is not None
    spec = replica.spec
    edge = _edge_down(state, replica)
    if edge is Edge.UNLOAD and not state.node_of(replica).capabilities.host_is_page_cache:
        host = state.hosts[replica.node_id]
        host.reserve(replica.id, Charge.WEIGHTS, spec.weights_bytes)
    freed = sum(ledger.held_by(replica.id) for ledger in state.ledgers_of(replica))
    action = _DOWN[edge](state.next_action_id(), replica.id, replica.model, replica.node_id)
    prediction = state.costs.free(spec, replica.placement, edge)
    _begin(
        step,
        replica,
        action,
        Intention("evict", Reason(replica.leaving_for, why), prediction, freed, options),
    )


_DOWN: dict[Edge, type[Deactivate] | type[Unload] | type[Drop]] = {
    Edge.DEACTIVATE: Deactivate,
    Edge.UNLOAD: Unload,
    Edge.DROP: Drop,
}


def _edge_down(state: State, replica: ReplicaState) -> Edge:
    """Down one rung.

    1. The page cache takes weights for nothing: never past it.
    2. Straight to `DISK` where nobody wants the host's copy, or its memory cannot take one.
    """
    if replica.rung is Rung.SERVING:
        return Edge.DEACTIVATE
    if replica.rung is Rung.HOST:
        return Edge.DROP
    capabilities = state.node_of(replica).capabilities
    if capabilities.host_is_page_cache or (Rung.DEVICE, Edge.DROP) not in capabilities.edges:
        return Edge.UNLOAD
    fits = state.hosts[replica.node_id].free_bytes >= replica.spec.weights_bytes
    return Edge.UNLOAD if fits and replica.leaving is not Release.GONE else Edge.DROP


def release_replica(
    state: State,
    step: Step,
    replica: ReplicaState,
    release: Release,
    reason: Reason,
    options: tuple[Option, ...] = (),
) -> None:
    """An idle replica starts down; what it frees may be counted on from now."""
    replica.leaving, replica.leaving_for = release, reason.cause
    replica.phase = Phase.DRAINING
    expect_release(state, replica)
    begin_release(state, step, replica, reason.why, options)


def expect_release(state: State, replica: ReplicaState) -> None:
    """Tell the ledgers what an idle victim will give back on its way to `replica.leaving`."""
    for device, freed in releasable_bytes(state, replica, replica.leaving).items():
        state.devices[device].expect(replica.id, freed)


def releasable_bytes(
    state: State, replica: ReplicaState, release: Release | None
) -> dict[str, int]:
    """By pool: what the replica frees by going down so far."""
    if release is None:
        return {}
    name, pools = replica.id, replica.placement.pools
    if release is Release.KV:
        ledgers = [state.devices[pool] for pool in pools]
        sizes = [one.of(name, Charge.KV) + one.of(name, Charge.BUFFERS) for one in ledgers]
        return dict(zip(pools, sizes, strict=True))
    residue = 0
    if release is Release.ALL and replica.rung is not Rung.HOST:
        residue = state.node_of(replica).capabilities.asleep_residue_bytes
    return {pool: max(0, state.devices[pool].held_by(name) - residue) for pool in pools}


def forget_replica(state: State, replica: ReplicaState) -> None:
    """It is gone from the state, from its pools and from the claims on it."""
    for ledger in (*state.ledgers_of(replica), state.hosts[replica.node_id]):
        ledger.release(replica.id)
        ledger.stop_expecting(replica.id)
    drop_claim(state, replica)
    state.models[replica.model].replicas.pop(replica.id, None)
    del state.replicas[replica.id]
    state.on_devices.pop(replica.id, None)
    state.busy.pop(replica.id, None)


def cancel_intent(state: State, step: Step, model_name: str) -> None:
    """Nobody wants this placement any more."""
    intent = state.intents.pop(model_name)
    give_up_better(state.models[model_name])
    for device in intent.need_bytes:
        state.devices[device].keep_promise(model_name)
    replica = state.replicas.get(intent.replica_id)
    if replica is not None:
        replica.kv = None
        if replica.rung is Rung.DISK:
            forget_replica(state, replica)
    step.touched[model_name] = None
    step.has_room = True


def give_up_better(model: ModelState) -> None:
    """On the way to a better place it serves elsewhere: that goes on."""
    if model.wanted_for is Cause.PLACEMENT:
        model.is_wanted, model.wanted_for = False, Cause.OPERATOR


def drop_claim(state: State, replica: ReplicaState) -> None:
    """Nobody waits for this replica's turn to end any more: it gave its memory, or is gone."""
    claimant = state.models.get(replica.claimed_by or "")
    if claimant is not None:
        claimant.claims.pop(replica.id, None)
    replica.claimed_by = None


class Intention:
    """What is said about a transition in the decision record."""

    __slots__ = ("options", "prediction", "reason", "rule", "size_bytes")

    def __init__(
        self,
        rule: str,
        reason: Reason,
        prediction: Prediction,
        size_bytes: int,
        options: tuple[Option, ...] = (),
    ) -> None:
        self.rule = rule
        self.reason = reason
        self.prediction = prediction
        self.size_bytes = size_bytes
        self.options = options


def _begin(step: Step, replica: ReplicaState, action: Transition, said: Intention) -> None:
    assert replica.transition is None, f"{replica.id} moves already: {replica.transition}"
    replica.transition = action
    step.actions.append(action)
    step.verdicts.append(
        Verdict(
            rule=said.rule,
            subject=replica.model,
            choice=f"{edge_of(action).value} {replica.id}",
            why=said.reason.why,
            options=said.options,
            action_ids=(action.action_id,),
            predicted_s=said.prediction.seconds,
            predicted_bytes=said.size_bytes,
            basis=said.prediction.basis,
            error=said.prediction.error,
            cause=said.reason.cause,
        )
    )
    step.touched[replica.model] = None
