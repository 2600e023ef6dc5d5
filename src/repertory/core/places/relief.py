"""A budget that a measurement overran, or promises that exceed what will be free."""

from repertory.core.ledger import Ledger
from repertory.core.moves.moving import Reason, cancel_intent, release_replica
from repertory.core.places.victims import Supply, idle_victims
from repertory.core.state import State, Step
from repertory.domain.decisions import Cause
from repertory.domain.ladder import Phase
from repertory.policy.places.evict import Release, choose_victims

__all__ = ["relieve"]


def relieve(state: State, step: Step) -> None:
    """Measured bytes exceed a budget, or promises exceed what will be free: make it true again.

    1. Placements that have not begun are taken back, the latest first.
    2. Idle replicas go.
    3. If they do not suffice, busy ones stop admitting and go when they are idle.
    """
    for name, ledger in state.devices.items():
        if ledger.available_bytes >= 0:
            continue
        while ledger.available_bytes < 0:
            late = [intent.model for intent in state.intents.values() if name in intent.need_bytes]
            if not late:
                break
            cancel_intent(state, step, late[-1])
        if ledger.available_bytes >= 0:
            continue
        victims = idle_victims(state, step)
        missing = {name: -ledger.available_bytes}
        chosen = choose_victims(victims, missing)
        if chosen is None:
            freed = {name: max(1, sum(one.most_bytes(name) for one in victims))}
            chosen = choose_victims(victims, freed) or ()
        for one in chosen:
            why = f"{name} holds {ledger.charged} bytes of {ledger.budget_bytes}"
            replica = state.replicas[one.replica_id]
            release_replica(state, step, replica, one.release, Reason(Cause.BUDGET, why))
        if ledger.available_bytes < 0:
            _drain_overrun(state, step, ledger)


def _drain_overrun(state: State, step: Step, ledger: Ledger) -> None:
    """The least work that frees what is missing is let end; the pinned stay."""
    missing = -ledger.available_bytes
    missing -= sum(
        ledger.held_by(one.id) for one in state.on_devices.values() if one.retiring is not None
    )
    for replica in sorted(Supply(state, step).busy, key=lambda one: (one.running_ns, one.id)):
        held = ledger.held_by(replica.id)
        if missing <= 0:
            return
        if held:
            replica.retire(Release.ALL, Cause.BUDGET)
            replica.phase = Phase.DRAINING
            step.touched[replica.model] = None
            missing -= held
