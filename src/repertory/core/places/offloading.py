"""A part of a model beside others now, or all of it when they have gone: what harms less.

1. Of what could be begun now, and of waiting for busy replicas and then coming up with all layers
   on a device, the rule of `policy.places.offload` says what is weighed.  The least harm is chosen.
2. A model that came up with few layers, or on cores, is loaded once more where all of them, or
   more, find room, if what its work is expected to save there exceeds the switch and what others
   lose for it; then the first replica goes.
"""

from dataclasses import dataclass

from repertory.core.places.expected import Expected
from repertory.core.places.offers import Awaited, Offer, awaited, offers
from repertory.core.places.sites import Site, fits_whole, is_faster_than_cores, sites
from repertory.core.places.splits import has_accelerators
from repertory.core.places.victims import Supply
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.ladder import Rung
from repertory.perf.bytes import share_there
from repertory.policy.places.offload import Way

__all__ = ["Move", "admitted", "admitted_sites", "better_place", "better_wait"]


@dataclass(frozen=True, slots=True)
class Move:
    """A better place for a model that serves already."""

    offer: Offer
    gain_s: float
    """What its expected work takes less there."""
    cost_s: float

    @property
    def saved_s(self) -> float:
        return self.gain_s - self.cost_s

    @property
    def key(self) -> tuple[float, tuple[str, ...]]:
        return -self.saved_s, self.offer.site.placement.devices


def admitted(state: State, model: ModelState, here: list[Offer]) -> list[Offer]:
    """Those that may be chosen; in their order."""
    if not here or not has_accelerators(state):
        return here
    ways = [Way(_share(model, one.site), bool(one.evictions)) for one in here]
    return [here[at] for at in state.offload(ways, fits_whole(state, model))]


def admitted_sites(state: State, model: ModelState, places: list[Site]) -> list[Site]:
    """Those that may be waited for."""
    if not places or not has_accelerators(state):
        return places
    ways = [Way(_share(model, one), True) for one in places]
    return [places[at] for at in state.offload(ways, fits_whole(state, model))]


def better_wait(
    state: State, step: Step, model: ModelState, supply: Supply, best: Offer
) -> Awaited | None:
    """What harms less than the best that could be begun now; None: nothing."""
    if not model.queue or not has_accelerators(state):
        return None
    found = awaited(state, step, model, supply, best.kv)
    if found is None or found.harm_s >= best.harm_s:
        return None
    ways = [
        Way(_share(model, best.site), bool(best.evictions)),
        Way(_share(model, found.site), True),
    ]
    return found if 1 in state.offload(ways, fits_whole(state, model)) else None


def better_place(
    state: State, step: Step, model: ModelState, replica: ReplicaState, supply: Supply
) -> Move | None:
    """Where a model that serves with few layers, or on cores, saves more than its way there costs:
    its load, and what others lose that give their memory.  None: nowhere.

    Its first replica serves until the next one does: nothing moves.
    """
    if not _may_move(state, model, replica):
        return None
    there = [
        one for one in sites(state, model) if is_faster_than_cores(one.node, one.placement.devices)
    ]
    here = Site(state.node_of(replica), replica.placement, replica.rung)
    expected = Expected(state, step, model)
    now_s = expected.seconds(here)
    best: Move | None = None
    is_for_all = fits_whole(state, model)  # then a part is no better place: it cannot be left again
    for offer in admitted(state, model, list(offers(state, step, model, supply, there))):
        if offer.site.placement.layers is not None and (is_for_all or offer.evictions):
            continue  # a part is worth a load into free memory, and nobody's place
        gone = frozenset(one.replica_id for one in offer.evictions)
        gain_s = now_s - expected.seconds(offer.site, gone)
        cost_s = offer.switch_s + sum(one.loss_s for one in offer.evictions)
        move = Move(offer, gain_s, cost_s)
        if move.saved_s > 0.0 and (best is None or move.key < best.key):
            best = move
    return best


def _may_move(state: State, model: ModelState, replica: ReplicaState) -> bool:
    """It serves, not all of it on an accelerator, and nothing else is under way for its model."""
    where = replica.placement
    is_slow = where.layers is not None or not is_faster_than_cores(
        state.node_of(replica), where.devices
    )
    return (
        is_slow
        and replica.is_open
        and replica.transition is None
        and not model.is_removed
        and not model.is_wanted
        and model.fault is None
        and model.spec.name not in state.intents
        and len([one for one in model.replicas.values() if one.rung is not Rung.HOST]) == 1
    )


def _share(model: ModelState, site: Site) -> float:
    """Of what a step reads, on accelerators."""
    if not is_faster_than_cores(site.node, site.placement.devices):
        return 0.0
    return share_there(model.spec, site.placement.layers)
