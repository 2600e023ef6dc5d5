"""What a transition that ended leaves behind: the ledger corrected, its cost learned, its rung."""

from repertory.core.ledger import Charge
from repertory.core.moves.copies import KvCopy, learn_copy
from repertory.core.moves.moving import drop_claim, expect_release, forget_replica
from repertory.core.places.tiers import lies
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.actions import Activate, Load, Resize, Transition, Unload, edge_of
from repertory.domain.decisions import Cause, Verdict
from repertory.domain.events import Measured
from repertory.domain.ladder import Edge, Phase, Rung, destination
from repertory.perf.bytes import kv_needs
from repertory.perf.costs import Ratio
from repertory.perf.profiles import KV_OUT
from repertory.policy.places.evict import Release

__all__ = ["land", "retreat", "say_drift"]


def land(state: State, step: Step, replica: ReplicaState, measured: Measured) -> None:
    """A transition is done: correct the ledger, learn its cost, step on the new rung."""
    transition = replica.transition
    assert transition is not None
    replica.transition = None
    state.models[replica.model].need_bytes = None
    edge = edge_of(transition)
    ledgers = state.ledgers_of(replica)
    before = [ledger.available_bytes for ledger in ledgers]
    _learn(state, step, replica, transition, measured)
    replica.rung = destination(replica.rung, edge, transition)
    _AFTER[edge](_Landing(state, step, replica, transition, measured))
    if replica.id in state.replicas:
        state.index(replica)
    step.touched[replica.model] = None
    step.has_bytes = True
    if (
        _may_be_given_up(state, replica, edge)
        or any(ledger.available_bytes < 0 for ledger in ledgers)
        or any(ledger.available_bytes > old for ledger, old in zip(ledgers, before, strict=True))
    ):
        step.has_room = True


def _may_be_given_up(state: State, replica: ReplicaState, edge: Edge) -> bool:
    """After this edge the replica is something that others did not have to choose from before."""
    if replica.leaving is not None:
        return False
    match edge:
        case Edge.ACTIVATE | Edge.DEACTIVATE:
            return True
        case Edge.LOAD:
            return replica.kv is None
        case Edge.RESIZE:
            return not replica.running
        case Edge.UNLOAD:
            return state.node_of(replica).capabilities.asleep_residue_bytes > 0
        case Edge.STAGE | Edge.DROP:
            return False


def retreat(state: State, step: Step, replica: ReplicaState) -> Transition:
    """A transition failed: give back what was reserved for it; the rung stays."""
    transition = replica.transition
    assert transition is not None
    replica.transition = None
    state.models[replica.model].need_bytes = None
    for ledger in state.ledgers_of(replica):
        ledger.release(replica.id, Charge.PEAK)
        if isinstance(transition, Load):
            ledger.release(replica.id)
        elif isinstance(transition, Activate):
            ledger.release(replica.id, Charge.KV, Charge.BUFFERS)
    if isinstance(transition, (Load, Activate)):
        replica.kv = None
    if replica.rung is Rung.HOST:
        _keep_residue(state, replica)
    if isinstance(transition, Unload):
        state.hosts[replica.node_id].release(replica.id)
    state.index(replica)
    step.touched[replica.model] = None
    step.has_room = step.has_bytes = True
    return transition


def _learn(
    state: State, step: Step, replica: ReplicaState, transition: Transition, measured: Measured
) -> None:
    if replica.spec.digest != state.models[replica.model].spec.digest:
        return  # it was another file
    spec, where = replica.spec, replica.placement
    seconds, edge = (measured.took_ns - measured.first_ns) / 1e9, edge_of(transition)
    if isinstance(transition, Load):
        source = measured.source or transition.source
        if transition.source is Rung.HOST:
            state.costs.observe_source(spec, source)
        learned: Ratio | None = state.costs.observe_load(
            spec, where, source, seconds, is_crowded=replica.was_crowded
        )
    else:
        kv = transition.kv if isinstance(transition, (Activate, Resize)) else None
        learned = state.costs.observe(spec, where, edge, kv, seconds)
    if edge in (Edge.LOAD, Edge.ACTIVATE):
        state.costs.observe_first(spec, where, edge, measured.first_ns / 1e9)
    if learned is not None:
        say_drift(step, replica.model, edge.value, learned)
    if measured.kv_saved_bytes:
        copied = KvCopy(KV_OUT, measured.kv_saved_bytes, measured.kv_saved_ns)
        say_drift(step, replica.model, "kv", learn_copy(state, step, replica, copied))


def say_drift(step: Step, model: str, kind: str, learned: Ratio) -> None:
    """What was learned of a model's costs does not hold any more; `why` and the metrics hear it."""
    if learned.has_drifted:
        why = "several in a row deviate to one side by more than chance explains"
        choice = f"{kind} takes {learned.value:.3g} times what its law says from now on"
        step.verdicts.append(Verdict("drift", model, choice, why))


class _Landing:
    """A transition that is done, and where."""

    __slots__ = ("measured", "replica", "state", "step", "transition")

    def __init__(
        self,
        state: State,
        step: Step,
        replica: ReplicaState,
        transition: Transition,
        measured: Measured,
    ) -> None:
        self.state = state
        self.step = step
        self.replica = replica
        self.transition = transition
        self.measured = measured

    def correct(self, kind: Charge, total_bytes: int | None, rest_bytes: int | None) -> None:
        """What was read back replaces what was reserved, in equal shares; the rest by itself."""
        devices = self.replica.placement.devices
        if total_bytes is not None:
            each = max(1, -(-total_bytes // len(devices)))
            for device in devices:
                self.state.devices[device].correct(self.replica.id, kind, each)
        rest = self.state.rest_of(self.replica)
        if rest is not None and rest_bytes is not None:
            rest.correct(self.replica.id, kind, rest_bytes)

    def release(self, *kinds: Charge) -> None:
        for ledger in self.state.ledgers_of(self.replica):
            ledger.release(self.replica.id, *kinds)


def _after_stage(landing: _Landing) -> None:
    landing.replica.idle_since_ns = landing.step.at_ns


def _after_load(landing: _Landing) -> None:
    replica, measured = landing.replica, landing.measured
    model = landing.state.models[replica.model]
    if replica.spec.digest == model.spec.digest:
        model.failures = model.extra_bytes = 0
        if measured.weights_bytes is not None:
            model.measured_weights_bytes[lies(replica.placement)] = measured.weights_bytes
        if measured.rest_weights_bytes is not None:
            model.measured_rest_bytes[lies(replica.placement)] = measured.rest_weights_bytes
        model.stretches.clear()
    landing.release(Charge.PEAK)
    landing.correct(Charge.WEIGHTS, measured.weights_bytes, measured.rest_weights_bytes)
    landing.state.hosts[replica.node_id].release(replica.id)
    where, costs = replica.placement, landing.state.costs
    replica.reload_s = costs.load_s(replica.spec, where, Rung.HOST)
    replica.cold_s = costs.load_s(replica.spec, where, Rung.DISK)
    replica.idle_since_ns = landing.step.at_ns


def _after_activate(landing: _Landing) -> None:
    replica, measured = landing.replica, landing.measured
    model = landing.state.models[replica.model]
    if replica.spec.digest == model.spec.digest:
        seen, rest = measured.buffers_bytes or 0, measured.rest_buffers_bytes or 0
        model.measured_buffers_bytes = max(model.measured_buffers_bytes, seen)
        model.measured_rest_buffers_bytes = max(model.measured_rest_buffers_bytes, rest)
    landing.correct(Charge.KV, measured.kv_bytes, measured.rest_kv_bytes)
    landing.correct(Charge.BUFFERS, measured.buffers_bytes, measured.rest_buffers_bytes)
    assert replica.kv is not None
    replica.activate_s = landing.state.costs.activate_s(replica.spec, replica.placement, replica.kv)
    replica.phase = Phase.OPEN
    replica.opened_at_ns = replica.idle_since_ns = landing.step.at_ns
    _count_wait(landing, model)
    if model.wanted_for is Cause.PLACEMENT:
        _leave_behind(landing, model)
    model.is_wanted, model.wanted_for = False, Cause.OPERATOR
    model.failures, model.deaths = 0, ()


def _count_wait(landing: _Landing, model: ModelState) -> None:
    """How long its requests waited for it to serve: since it had one of them last, at the most.
    Not what waits for a slot, nor for a load that failed."""
    head = model.oldest
    others = (one for one in model.replicas.values() if one is not landing.replica)
    if head is None or model.failures or any(one.is_open for one in others):
        return
    since_ns = max([head.since_ns, *model.served_ns.values()])
    state, at_ns = landing.state, landing.step.at_ns
    state.absence.count(at_ns, (at_ns - since_ns) / 1e9, state.settings.use_soon_floor_s)


def _leave_behind(landing: _Landing, model: ModelState) -> None:
    """It was loaded in a better place: where it served so far it admits nothing more, and goes."""
    for one in model.replicas.values():
        if one is not landing.replica and one.rung is Rung.SERVING:
            one.retire(Release.GONE, Cause.PLACEMENT)
            one.phase = Phase.DRAINING


def _after_resize(landing: _Landing) -> None:
    replica, transition = landing.replica, landing.transition
    assert isinstance(transition, Resize)
    replica.kv = transition.kv
    placement, measured = replica.placement, landing.measured
    replica.activate_s = landing.state.costs.activate_s(replica.spec, placement, transition.kv)
    needs = kv_needs(replica.spec, placement, transition.kv)
    total, rest = measured.kv_bytes, measured.rest_kv_bytes
    if total is None:
        total = sum(needs[device] for device in placement.devices)
    if rest is None and placement.rest is not None:
        rest = needs[placement.rest]
    landing.release(Charge.PEAK)
    landing.correct(Charge.KV, total, rest)


def _after_deactivate(landing: _Landing) -> None:
    replica = landing.replica
    landing.release(Charge.KV, Charge.BUFFERS)
    replica.kv, replica.activate_s = None, 0.0
    replica.idle_since_ns = landing.step.at_ns
    if replica.leaving is Release.KV:
        _arrive_below(landing)
    else:
        expect_release(landing.state, replica)


def _after_unload(landing: _Landing) -> None:
    landing.release()
    _keep_residue(landing.state, landing.replica)
    landing.state.models[landing.replica.model].failed_kv_tokens = None
    if landing.replica.leaving is Release.GONE and not _is_at_bottom(landing):
        expect_release(landing.state, landing.replica)
    else:
        _arrive_below(landing)


def _is_at_bottom(landing: _Landing) -> bool:
    """Nothing that costs memory is left on `HOST`."""
    return landing.state.node_of(landing.replica).capabilities.host_is_page_cache


def _after_drop(landing: _Landing) -> None:
    landing.state.models[landing.replica.model].failed_kv_tokens = None
    forget_replica(landing.state, landing.replica)


def _arrive_below(landing: _Landing) -> None:
    replica = landing.replica
    replica.leaving = None
    if replica.retiring is None or (replica.retiring is Release.ALL and replica.rung is Rung.HOST):
        replica.retiring = None
        replica.phase = Phase.OPEN
    drop_claim(landing.state, replica)
    for ledger in landing.state.ledgers_of(replica):
        ledger.stop_expecting(replica.id)


def _keep_residue(state: State, replica: ReplicaState) -> None:
    residue = state.node_of(replica).capabilities.asleep_residue_bytes
    for device in replica.placement.devices:
        state.devices[device].correct(replica.id, Charge.RESIDUE, residue)


_AFTER = {
    Edge.STAGE: _after_stage,
    Edge.LOAD: _after_load,
    Edge.ACTIVATE: _after_activate,
    Edge.RESIZE: _after_resize,
    Edge.DEACTIVATE: _after_deactivate,
    Edge.UNLOAD: _after_unload,
    Edge.DROP: _after_drop,
}
