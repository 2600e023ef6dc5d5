"""The slow clock: each window a `Solve`; its answer is re-checked, then applied."""

from itertools import combinations

from repertory.core.moves.moving import Reason, begin_load
from repertory.core.places.sites import place_on, standing
from repertory.core.places.tiers import weights_bytes, weights_needs
from repertory.core.requests.serving import wake_at
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.actions import Solve
from repertory.domain.decisions import Cause, Verdict
from repertory.domain.events import PlanReady
from repertory.domain.ladder import Rung
from repertory.domain.plans import Candidate, Prewarm, Problem
from repertory.domain.specs import Placement, WeightsForm

__all__ = ["arm_window", "open_window", "take_plan"]

_TIMER = "window"
_HEADROOM = 0.1
"""Share of a device that prewarming leaves free: room for KV memory to grow without an eviction."""


def arm_window(state: State, step: Step) -> None:
    """Think again one window after something happened; an idle server does not think."""
    if state.settings.prewarm and _TIMER not in state.timers:
        wake_at(state, step, step.at_ns + round(state.settings.window_s * 1e9), _TIMER)


def open_window(state: State, step: Step) -> None:
    """Copy what matters into a `Problem`; nothing is asked while an answer is under way."""
    if state.open_problem is not None or not state.nodes:
        return
    candidates = [
        candidate
        for model in state.models.values()
        if _may_prewarm(state, model)
        for candidate in _candidates(state, step, model)
    ]
    if not candidates:
        return
    state.problem_count += 1
    state.open_problem = state.problem_count
    free = tuple(
        (name, max(0, ledger.available_bytes - round(_HEADROOM * ledger.budget_bytes)))
        for name, ledger in sorted(state.devices.items())
    )
    horizon_s = max(state.settings.use_soon_floor_s, state.settings.window_s)
    step.actions.append(
        Solve(Problem(state.open_problem, step.at_ns, horizon_s, free, tuple(candidates)))
    )


def take_plan(state: State, step: Step, event: PlanReady) -> None:
    """Apply what is still right: the state has moved on since the problem was copied.

    1. An answer to another problem is stale.
    2. A model that came up, fell ill or vanished meanwhile is passed over.
    3. So is one whose memory is no longer free, or that a waiting request needs.
    """
    if state.open_problem != event.plan.id:
        return
    state.open_problem = None
    for prewarm in event.plan.prewarms:
        refusal = _refusal(state, prewarm)
        if refusal is not None:
            step.verdicts.append(Verdict("prewarm", prewarm.model, "pass over", refusal))
            continue
        replica = _replica_for(state, prewarm)
        begin_load(state, step, replica, Reason(Cause.PREWARM, f"prewarm: {prewarm.why}"))


def _may_prewarm(state: State, model: ModelState) -> bool:
    return (
        model.fault is None
        and not model.queue
        and not model.is_wanted
        and model.spec.name not in state.intents
        and not model.is_served()
        and not model.is_removed
        and all(one.rung is Rung.HOST for one in model.replicas.values())
    )


def _candidates(state: State, step: Step, model: ModelState) -> list[Candidate]:
    rate = model.rate.per_s(step.at_ns)
    if rate <= 0.0:
        return []
    spec, form = model.spec, WeightsForm.PLAIN
    source = Rung.HOST if model.replicas else Rung.DISK
    return [
        Candidate(
            spec.name,
            rate,
            state.costs.load_s(spec, placement, source),
            placement,
            sum(weights_bytes(model, placement)),
        )
        for placement in _places(state, model, form)
    ]


def _places(state: State, model: ModelState, form: WeightsForm) -> list[Placement]:
    asleep = [
        one.placement
        for one in model.replicas.values()
        if not state.node_of(one).capabilities.host_is_page_cache
    ]
    if asleep:
        return asleep
    width = model.spec.devices_per_replica
    return [
        place_on(state, node, tuple(device.id for device in devices), form)
        for node in state.nodes.values()
        if width <= node.capabilities.max_devices_per_replica
        for devices in combinations(node.devices, width)
    ]


def _refusal(state: State, prewarm: Prewarm) -> str | None:
    model = state.models.get(prewarm.model)
    if model is None or not _may_prewarm(state, model):
        return "it is no longer idle below the device"
    if any(pool not in state.devices for pool in prewarm.placement.pools):
        return "its device is gone"
    where = prewarm.placement.devices
    if all(one.devices != where for one in _places(state, model, prewarm.placement.form)):
        return "it sleeps elsewhere now"
    if any(state.models[name].queue for name in state.starved) or state.intents:
        return "waiting requests need the memory"
    needs = weights_needs(model, prewarm.placement)
    peak = weights_bytes(model, prewarm.placement)[1]
    for pool, size in needs.items():
        ledger, least = state.devices[pool], size if pool == prewarm.placement.rest else size + peak
        room = min(ledger.available_bytes, ledger.free_bytes)
        if room < least:
            return f"{pool} has {room} free bytes, {least} are needed"
    return None


def _replica_for(state: State, prewarm: Prewarm) -> ReplicaState:
    model = state.models[prewarm.model]
    node_id = next(
        node.id
        for node in state.nodes.values()
        if any(device.id == prewarm.placement.devices[0] for device in node.devices)
    )
    replica = standing(model)
    if replica is not None and replica.node_id == node_id:
        replica.placement = prewarm.placement
        return replica
    return state.new_replica(prewarm.model, node_id, prewarm.placement)
