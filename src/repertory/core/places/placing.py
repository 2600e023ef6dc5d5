"""The fast clock's placement pass: who without a replica gets memory, and who gives it.

A model is *starved* when it has demand and nothing is under way for it.  For each, in the order of
`policy.objective.in_order`, the least harm of
1. its weights where they are (activate),
2. memory that nobody needs,
3. idle replicas given up,
wins; if none of these suffices where its weights are, they leave for a place where one does; else
busy replicas are claimed and hand over at the end of their turn, once that is worth it.
"""

from collections.abc import Iterator
from enum import Enum

from repertory.core.moves.moving import (
    Reason,
    begin_activate,
    begin_load,
    cancel_intent,
    forget_replica,
    release_replica,
    reserve_serving,
)
from repertory.core.places.claiming import claim_all, claim_busy, unclaim
from repertory.core.places.offers import Awaited, Offer, offers, widening
from repertory.core.places.offloading import admitted, better_place, better_wait
from repertory.core.places.relief import relieve
from repertory.core.places.sites import need_bytes, sites, standing
from repertory.core.places.splits import has_accelerators
from repertory.core.places.spreading import another
from repertory.core.places.victims import Supply, eviction_options
from repertory.core.requests.comparing import note_return
from repertory.core.requests.preempting import press
from repertory.core.requests.queueing import aged_since_ns, dues_of, heaviest
from repertory.core.requests.serving import wake_at
from repertory.core.state import Intent, ModelState, State, Step
from repertory.domain.decisions import Cause, Verdict
from repertory.domain.ladder import Rung
from repertory.policy.objective import Starving, in_order
from repertory.policy.places.evict import Release

__all__ = [
    "place",
    "refresh_starved",
    "watch_blocked",
]

_TRIES = 4
"""Models that one pass finds free memory for.  It bounds a pass's time, as does that a pass ends
with the first model that others make room for: whatever was begun leads to the next pass."""


def refresh_starved(state: State, step: Step, names: list[str]) -> list[str]:
    """Bring the set of starved models up to date; returns those with another head or need."""
    fresh: list[str] = []
    for name in names:
        model = state.models.get(name)
        known = state.starved.pop(name, None)
        if known is not None:
            state.starved_ns -= known.switch_ns
        if model is None:
            continue
        is_demanded = bool(model.queue) or model.is_wanted
        if not is_demanded and name in state.intents:
            cancel_intent(state, step, name)
        if is_demanded and name not in state.intents and not model.is_served():
            one = _starving(state, model)
            state.starved[name] = one
            state.starved_ns += one.switch_ns
            if known is None or _is_other(one, known) or _has_doubled(model, one, known):
                fresh.append(name)
                press(state, step, model)  # what it has claimed already, for whoever came since
                if model.queue:
                    watch_blocked(state, step, model)
        if model.claims and not model.queue:
            unclaim(state, step, model)
            step.has_room = True
    return fresh


def _is_other(one: Starving, known: Starving) -> bool:
    """It has another head or other deadlines, something heavier waits, or it needs less."""
    is_same = one.since_ns == known.since_ns and one.dues == known.dues
    return not is_same or one.heaviest > known.heaviest or one.need_bytes < known.need_bytes


def _has_doubled(model: ModelState, one: Starving, known: Starving) -> bool:
    """Its queue, since it was as long as a power of two."""
    return one.weight > known.weight and len(model.queue).bit_count() == 1


def _starving(state: State, model: ModelState) -> Starving:
    return Starving(
        model.spec.name,
        aged_since_ns(state, model),
        model.queued_weight,
        model.queued_weight_since,
        model.switch_ns + model.queued_ns,
        model.switch_ns,
        need_bytes(state, model),
        model.spec.devices_per_replica,
        heaviest(model),
        dues_of(model),
    )


def watch_blocked(state: State, step: Step, model: ModelState) -> None:
    """Look after its head when it has waited for longer than anybody should."""
    head = model.oldest
    assert head is not None
    due_ns = head.since_ns + round(state.settings.max_queue_s * 1e9)
    later_ns = step.at_ns + round(state.settings.max_wait_s * 1e9)
    wake_at(state, step, max(due_ns, later_ns), f"blocked:{model.spec.name}")


def place(state: State, step: Step, fresh: list[str]) -> None:
    """One pass; see the module's docstring.  Without new room only `fresh` models are tried."""
    if not (fresh or step.short or step.has_room or step.has_bytes):
        return
    if step.has_bytes:
        step.has_bytes = False
        _start_intents(state, step)
        step.touched |= state.short
    is_roomy = step.has_room
    if step.has_room:
        step.has_room = False
        relieve(state, step)
        starving = list(state.starved.values())
        short = list(state.short)
    else:
        starving = [state.starved[name] for name in fresh if name in state.starved]
        short = list(step.short)
    step.short = {}
    if not state.nodes:
        return
    if starving:
        _place_starving(state, step, starving)
    if step.touched:  # slots may be found without anybody's loss
        step.short |= dict.fromkeys(short)
    elif short:
        _widen(state, step, short)
    if is_roomy and not (step.touched or state.starved or state.intents):
        _move_up(state, step)


def _place_starving(state: State, step: Step, starving: list[Starving]) -> None:
    supply = Supply(state, step)
    rest = in_order(starving, step.at_ns, state.settings.max_wait_s)
    for _ in range(_TRIES):
        if _help_next(state, step, rest, supply) is not _Done.IN_FREE_MEMORY:
            break
        supply = Supply(state, step)
    if supply.ripe is not None:
        wake_at(state, step, supply.ripe, "room")


def _widen(state: State, step: Step, short: list[str]) -> None:
    """Idle replicas go for slots of a served model, where that loses less than the wait it saves.

    For one model at a time, the longest-waiting first: room that was made leads to the next pass.
    """
    waiting = [state.models[name] for name in short if name in state.short]
    waiting = [model for model in waiting if model.oldest is not None]
    supply = None
    for model in sorted(waiting, key=_waits_since)[:_TRIES]:
        supply = supply or Supply(state, step)
        chosen = widening(state, step, model, supply)
        for one in chosen:
            why = f"makes room for slots of {model.spec.name}: P(use soon) x reload = "
            reason = Reason(Cause.SLOTS, f"{why}{one.loss_s:.3g} s")
            release_replica(state, step, state.replicas[one.replica_id], one.release, reason)
        if chosen or _spread(state, step, model, supply):
            return
    if supply is not None and supply.ripe is not None:
        wake_at(state, step, supply.ripe, "room")


def _spread(state: State, step: Step, model: ModelState, supply: Supply) -> bool:
    """Another replica for a served model, if that is worth it."""
    found = another(state, step, model, supply)
    if found is None:
        return False
    step.verdicts.append(found.verdict(model))
    _commit(state, step, model, [found.offer], supply)
    return True


def _move_up(state: State, step: Step) -> None:
    """One model that serves with few layers, or on cores, may be better off elsewhere: load there,
    then unload here (`core.moves.landing`).
    """
    if not has_accelerators(state):
        return
    supply = None
    for replica in list(state.on_devices.values()):
        model = state.models[replica.model]
        supply = supply or Supply(state, step)
        move = better_place(state, step, model, replica, supply)
        if move is None:
            continue
        model.is_wanted, model.wanted_for = True, Cause.PLACEMENT
        step.verdicts.append(
            Verdict(
                rule="offload",
                subject=replica.model,
                choice=move.offer.option().name,
                why=(
                    f"its work is expected to take {move.gain_s:.3g} s less there than as "
                    f"{replica.id}; getting there costs {move.cost_s:.3g} s"
                ),
                options=(move.offer.option(),),
                predicted_s=move.offer.switch_s,
            )
        )
        _commit(state, step, model, [move.offer], supply)
        return


def _waits_since(model: ModelState) -> tuple[int, str]:
    head = model.oldest
    assert head is not None
    return head.since_ns, model.spec.name


class _Done(Enum):
    """What a try for one model came to."""

    NOTHING = "nothing"
    IN_FREE_MEMORY = "in free memory"
    AT_OTHERS_COST = "at others' cost"


def _help_next(state: State, step: Step, ordered: Iterator[Starving], supply: Supply) -> _Done:
    """Do something for the first for whom something can be done."""
    for one in ordered:
        if supply.may_help(one):
            done = _try(state, step, state.models[one.name], supply)
            if done is not _Done.NOTHING:
                return done
    return _Done.NOTHING


def _try(state: State, step: Step, model: ModelState, supply: Supply) -> _Done:
    if model.fault is not None or model.is_served():
        return _Done.NOTHING
    if step.at_ns < model.not_before_ns:
        wake_at(state, step, model.not_before_ns, f"retry:{model.spec.name}")
        return _Done.NOTHING
    if supply.may_place(state.starved[model.spec.name]):
        done = _try_place(state, step, model, supply)
        if done is not _Done.NOTHING:
            return done
    if model.queue and claim_busy(state, step, model, supply):
        return _Done.AT_OTHERS_COST
    press(state, step, model)
    return _Done.NOTHING


def _try_place(state: State, step: Step, model: ModelState, supply: Supply) -> _Done:
    here = sorted(offers(state, step, model, supply, sites(state, model)), key=lambda one: one.key)
    here = admitted(state, model, here)
    if here:
        wait = better_wait(state, step, model, supply, here[0])
        if wait is not None:
            return _hold_out(state, step, model, supply, wait, here)
        _commit(state, step, model, here, supply)
        return _Done.AT_OTHERS_COST if here[0].evictions else _Done.IN_FREE_MEMORY
    away = sites(state, model, elsewhere=True)
    if not away or next(offers(state, step, model, supply, away), None) is None:
        return _Done.NOTHING
    replica = standing(model)
    assert replica is not None
    page_cache = state.node_of(replica).capabilities.host_is_page_cache
    why = "its weights stand where it cannot get KV memory"
    release = Release.ALL if page_cache else Release.GONE
    release_replica(state, step, replica, release, Reason(Cause.PLACEMENT, why))
    step.has_room = True
    return _Done.AT_OTHERS_COST


def _hold_out(
    state: State, step: Step, model: ModelState, supply: Supply, wait: Awaited, here: list[Offer]
) -> _Done:
    """Something could be begun now, but it is worse than waiting for busy replicas to end."""
    claimed = claim_all(state, step, model, supply, wait.evictions)
    press(state, step, model)
    if not claimed:
        return _Done.NOTHING
    name = model.spec.name
    step.verdicts.append(
        Verdict(
            rule="offload",
            subject=name,
            choice=wait.option().name,
            why=f"{wait.wait_s:.3g} s until then; what is free now harms more",
            options=(wait.option(), *(offer.option() for offer in here[:4])),
            predicted_s=wait.seconds,
        )
    )
    return _Done.AT_OTHERS_COST


def _commit(
    state: State, step: Step, model: ModelState, found: list[Offer], supply: Supply
) -> None:
    best = found[0]
    name, node_id, placement = model.spec.name, best.site.node.id, best.site.placement
    replica = standing(model)
    if replica is not None and replica.node_id != node_id:
        forget_replica(state, replica)
        replica = None
    if replica is None:
        replica = state.new_replica(name, node_id, placement)
        replica.rung = best.site.rung if best.site.rung is Rung.HOST else Rung.DISK
    replica.placement, replica.kv = placement, best.kv
    others = [one for one in supply.victims(node_id) if one.replica_id not in model.replicas]
    for one in best.evictions:
        victim = state.replicas[one.replica_id]
        why = f"makes room for {name}: P(use soon) x reload = {one.loss_s:.3g} s"
        weighed = eviction_options(state, one, best.evictions, others)
        release_replica(state, step, victim, one.release, Reason(Cause.ROOM, why), weighed)
    unclaim(state, step, model)
    options = tuple(offer.option() for offer in found[:4])
    state.intents[name] = Intent(
        name, replica.id, node_id, placement, best.kv, best.need_bytes, options
    )
    for device, need in best.need_bytes.items():
        state.devices[device].promise(name, need)
    step.touched[name] = None
    _start_intents(state, step)


def _start_intents(state: State, step: Step) -> None:
    """Start every placement whose bytes are physically free now, in order of creation."""
    for name, intent in list(state.intents.items()):
        needs = intent.need_bytes
        if any(state.devices[device].free_bytes < size for device, size in needs.items()):
            continue
        del state.intents[name]
        for device in needs:
            state.devices[device].keep_promise(name)
        replica = state.replicas[intent.replica_id]
        model = state.models[name]
        note_return(state, step, name)
        reason = Reason(Cause.OPERATOR, "asked for by the operator")
        if model.wanted_for is Cause.PLACEMENT:
            reason = Reason(Cause.PLACEMENT, "up again in a better place")
        if model.queue:
            reason = Reason(Cause.DEMAND, f"{len(model.queue)} wait")
        if replica.rung is Rung.DEVICE:
            reserve_serving(state, replica)
            begin_activate(state, step, replica, reason, intent.options)
        else:
            begin_load(state, step, replica, reason, intent.options)
