"""Walking the ladder: reserve before a transition, emit it, correct the ledger after it."""

from typing import NamedTuple

from repertory.core.ledger import Charge
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
from repertory.domain.ladder import Edge, Rung
from repertory.domain.specs import KvShape, WeightsForm
from repertory.perf.bytes import kv_bytes, weights_footprint
from repertory.perf.costs import Prediction
from repertory.policy.evict import Release

__all__ = [
    "Reason",
    "begin_activate",
    "begin_load",
    "begin_release",
    "begin_resize",
    "buffer_bytes",
    "drop_claim",
    "expect_release",
    "forget_replica",
    "releasable_bytes",
    "reserve_serving",
    "weights_bytes",
]


def weights_bytes(model: ModelState, form: WeightsForm) -> tuple[int, int]:
    """Resting and peak bytes of the weights per device, by the best knowledge there is."""
    foot = weights_footprint(model.spec, form)
    measured = model.measured_weights_bytes.get(form)
    resting = foot.weights_bytes
    if measured is not None:
        resting = -(-measured // model.spec.devices_per_replica)
    return resting + model.extra_bytes, foot.peak_bytes


def buffer_bytes(model: ModelState) -> int:
    """Compute buffers per device of a serving replica; measured ones replace predicted."""
    buffers = model.measured_buffers_bytes or model.spec.buffers_bytes
    return -(-buffers // model.spec.devices_per_replica)


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
    resting, peak = weights_bytes(model, replica.placement.form)
    for ledger in state.ledgers_of(replica):
        ledger.release(replica.id, Charge.RESIDUE)
        ledger.reserve(replica.id, Charge.WEIGHTS, resting)
        ledger.reserve(replica.id, Charge.PEAK, peak)
    reserve_serving(state, replica)
    prediction = state.costs.load(model.spec, replica.placement, replica.rung)
    action = Load(
        state.next_action_id(),
        replica.id,
        replica.model,
        replica.node_id,
        replica.placement,
        replica.rung,
    )
    size = resting * len(replica.placement.devices)  # what will be read back; the peak is over
    _begin(step, replica, action, Intention("load", reason, prediction, size, options))
    state.index(replica)


def reserve_serving(state: State, replica: ReplicaState) -> None:
    """Reserve KV memory and buffers for `replica.kv`, if it has one."""
    if replica.kv is None:
        return
    model = state.models[replica.model]
    kv, buffers = kv_bytes(model.spec, replica.kv), buffer_bytes(model)
    for ledger in state.ledgers_of(replica):
        ledger.reserve(replica.id, Charge.KV, kv)
        ledger.reserve(replica.id, Charge.BUFFERS, buffers)


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
    kv = kv_bytes(replica.spec, replica.kv)
    buffers = buffer_bytes(state.models[replica.model])
    action = Activate(
        state.next_action_id(), replica.id, replica.model, replica.node_id, replica.kv
    )
    size = (kv + buffers) * len(replica.placement.devices)
    _begin(step, replica, action, Intention("activate", reason, prediction, size, options))


def begin_resize(state: State, step: Step, replica: ReplicaState, kv: KvShape, why: str) -> None:
    """`SERVING` with more KV memory; the ledger holds both until it is done."""
    assert replica.kv is not None
    spec = replica.spec
    for ledger in state.ledgers_of(replica):
        ledger.reserve(replica.id, Charge.PEAK, kv_bytes(spec, kv))
    moved = sum(record.request.prompt_tokens for record in replica.running.values())
    prediction = state.costs.resize(spec, replica.placement, kv, moved)
    action = Resize(state.next_action_id(), replica.id, replica.model, replica.node_id, kv)
    size = kv_bytes(spec, kv) * len(replica.placement.devices)
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


def expect_release(state: State, replica: ReplicaState) -> None:
    """Tell the ledgers what an idle victim will give back on its way to `replica.leaving`."""
    for device, freed in releasable_bytes(state, replica, replica.leaving).items():
        state.devices[device].expect(replica.id, freed)


def releasable_bytes(
    state: State, replica: ReplicaState, release: Release | None
) -> dict[str, int]:
    """Per device: what the replica frees by going down so far."""
    if release is None:
        return {}
    name, devices = replica.id, replica.placement.devices
    if release is Release.KV:
        ledgers = [state.devices[device] for device in devices]
        sizes = [one.of(name, Charge.KV) + one.of(name, Charge.BUFFERS) for one in ledgers]
        return dict(zip(devices, sizes, strict=True))
    residue = 0
    if release is Release.ALL and replica.rung is not Rung.HOST:
        residue = state.node_of(replica).capabilities.asleep_residue_bytes
    return {device: max(0, state.devices[device].held_by(name) - residue) for device in devices}


def forget_replica(state: State, replica: ReplicaState) -> None:
    """It is gone from the state, from its pools and from the claims on it."""
    for ledger in (*state.ledgers_of(replica), state.hosts[replica.node_id]):
        ledger.release(replica.id)
        ledger.stop_expecting(replica.id)
    drop_claim(state, replica)
    state.models[replica.model].replicas.pop(replica.id, None)
    del state.replicas[replica.id]
    state.on_devices.pop(replica.id, None)


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
            cause=said.reason.cause,
        )
    )
    step.touched[replica.model] = None
