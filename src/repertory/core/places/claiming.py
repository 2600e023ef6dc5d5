"""Busy replicas that are to hand over: who claims them, when, and who is spared after all."""

from repertory.core.places.offers import claims
from repertory.core.places.offloading import admitted_sites
from repertory.core.places.sites import sites
from repertory.core.places.victims import Supply, lost_s
from repertory.core.requests.preempting import considered, press
from repertory.core.requests.queueing import dues_of
from repertory.core.requests.serving import claim, reopen, wake_at
from repertory.core.state import ModelState, State, Step
from repertory.domain.ladder import Phase
from repertory.policy.objective import MISS_PENALTY_S, at_risk
from repertory.policy.places.batching import is_worth_claiming
from repertory.policy.places.evict import Eviction

__all__ = ["claim_all", "claim_busy", "unclaim"]


def claim_busy(state: State, step: Step, model: ModelState, supply: Supply) -> bool:
    """No idle memory suffices: bound the turns of the busy replicas that are cheapest to wait for.

    What drained for it in vain opens again.
    """
    if _is_claiming(state, model):
        return False
    places = [*sites(state, model), *sites(state, model, elsewhere=True)]
    found = claims(state, model, supply, admitted_sites(state, model, places))
    if found is None or not _is_worth_claiming(state, step, model, found):
        step.has_room = step.has_room or bool(model.claims)
        unclaim(state, step, model)
        return False
    claim_all(state, step, model, supply, found)
    press(state, step, model)
    return True


def _is_claiming(state: State, model: ModelState) -> bool:
    """Claims under way are kept until their replicas have drained, and no resize that began before
    is on its way any more: memory that still moves can be given by nobody.
    """
    claimed = [state.replicas[one] for one in model.claims]
    return any(not one.is_idle or one.phase is Phase.OPEN for one in claimed)


def _is_worth_claiming(
    state: State, step: Step, model: ModelState, found: tuple[Eviction, ...]
) -> bool:
    """Looked at again when its oldest request is overdue, whenever its queue has doubled, and when
    room is made.
    """
    head = model.oldest
    assert head is not None
    overdue_ns = head.since_ns + round(state.settings.max_wait_s * 1e9)
    left_s = (overdue_ns - step.at_ns) / 1e9
    risked = at_risk(dues_of(model), step.at_ns, model.switch_ns / 1e9, left_s)
    loss_s = sum(lost_s(state, step, one) for one in found)
    if is_worth_claiming(model.queued_weight, risked * MISS_PENALTY_S, left_s, loss_s):
        return True
    wake_at(state, step, overdue_ns, "room")
    return False


def claim_all(
    state: State, step: Step, model: ModelState, supply: Supply, found: tuple[Eviction, ...]
) -> bool:
    """Bound the turns of those that are busy and nobody's yet; false: there are none."""
    busy = {replica.id for replica in supply.busy}
    claimed = [one.replica_id for one in found if one.replica_id in busy]
    for name in claimed:
        why, replica = f"{model.spec.name} waits for its memory", state.replicas[name]
        claim(state, step, replica, model, why, considered(state, step, model, replica))
    return bool(claimed)


def unclaim(state: State, step: Step, model: ModelState) -> None:
    """It no longer waits for the replicas it claimed: they are spared, for others to claim."""
    for replica_id in list(model.claims):
        del model.claims[replica_id]
        replica = state.replicas.get(replica_id)
        if replica is not None and replica.claimed_by == model.spec.name:
            reopen(state, step, replica)
