"""Another replica of a model that is served, where its slots do not keep up with its queue.

It is one more option beside waiting.  In predicted seconds: what the queue, and what is expected to
come, wait less with it (`policy.places.spread`), against its load and activation, what victims
lose, and what it takes from those who run where it comes up.

1. One at a time per model, never on a device that has one, nor where a starved model has bounded
   somebody's turn: that memory is on its way to who is served by nobody.
2. Free memory and idle replicas only: nobody drains for it.
3. With all layers, on the same kind of device as the one there is.
4. What came later is the *spare* one: it is given up for less, and first.
"""

import math
from dataclasses import dataclass, replace

from repertory.core.places.offers import Offer, offers
from repertory.core.places.sites import Site, is_faster_than_cores, sites, standing
from repertory.core.places.victims import Supply
from repertory.core.requests.pace import answers_per_s, sharers
from repertory.core.requests.queueing import first_of
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.decisions import Verdict
from repertory.domain.ladder import Rung
from repertory.policy.objective import aged_weight
from repertory.policy.places.spread import Flow, saved_s

__all__ = ["Spread", "another"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Another replica, and what it is worth."""

    offer: Offer
    saved_s: float
    """What its queue waits less."""
    cost_s: float

    @property
    def key(self) -> tuple[float, tuple[float, int, int, tuple[str, ...], str]]:
        return self.cost_s - self.saved_s, self.offer.key

    def verdict(self, model: ModelState) -> Verdict:
        waiting, option = len(model.queue), self.offer.option()
        return Verdict(
            rule="spread",
            subject=model.spec.name,
            choice=option.name,
            why=(
                f"{waiting} wait for slots; with another replica they and those to come wait "
                f"{self.saved_s:.3g} s less, which costs {self.cost_s:.3g} s"
            ),
            options=(option,),
            predicted_s=self.offer.switch_s,
        )


def another(state: State, step: Step, model: ModelState, supply: Supply) -> Spread | None:
    """The one that saves most; None: none saves more than it costs."""
    here = [one for one in model.replicas.values() if one.is_open]
    if not here or len(state.devices) < 2 * model.spec.devices_per_replica:
        return None  # there is no other place
    if not _may_spread(state, step, model):
        return None
    flow = _flow(state, step, model, here)
    if not _may_pay(state, step, model, here[0], flow):
        return None
    best: Spread | None = None
    for offer in _offers(state, step, model, supply, here):
        found = _weighed(state, step, model, offer, flow)
        if found.saved_s > found.cost_s and (best is None or found.key < best.key):
            best = found
    return best


def _may_spread(state: State, step: Step, model: ModelState) -> bool:
    """Requests wait for its slots, and nothing is under way for it."""
    if not model.queue or model.is_removed or model.is_wanted or step.at_ns < model.not_before_ns:
        return False
    if model.spec.name in state.intents:
        return False
    return all(_stands(one) for one in model.replicas.values())


def _stands(replica: ReplicaState) -> bool:
    """It serves, or rests below; a resize is no way to another rung."""
    if replica.leaving is not None or replica.retiring is not None:
        return False
    if replica.rung is Rung.SERVING:
        return True
    return replica.transition is None and replica.kv is None


def _flow(state: State, step: Step, model: ModelState, here: list[ReplicaState]) -> Flow:
    """Who is too long for the slots of a replica waits for all of its work, and its reopening."""
    head = first_of(state, model, step.at_ns)
    assert head is not None
    served = 0.0
    for one in here:
        pace = answers_per_s(state, model, one.placement, one.slots)
        if one.kv is not None and head.request.cells > one.kv.cells:
            pace = min(pace, 1.0 / max(1e-9, one.running_ns / 1e9 + one.activate_s))
        served += pace
    return Flow(len(model.queue), model.rate.of_late_per_s(step.at_ns), served)


def _may_pay(state: State, step: Step, model: ModelState, first: ReplicaState, flow: Flow) -> bool:
    """Even if the whole queue were served at once when weights are there.  Spares the search."""
    rests = standing(model)
    least_s = 0.0
    if rests is None or rests.rung is not Rung.DEVICE:
        least_s = state.costs.load_s(model.spec, first.placement, Rung.HOST)
    until_s = state.settings.use_soon_floor_s
    return saved_s(flow, math.inf, least_s, until_s) * _weight(state, step, model) > least_s


def _offers(
    state: State, step: Step, model: ModelState, supply: Supply, here: list[ReplicaState]
) -> list[Offer]:
    """Where weights of it rest on a device already, else wherever none of it is."""
    taken = {device for one in here for device in one.placement.devices}
    taken |= _awaited_by_starved(state)
    is_fast = any(is_faster_than_cores(state.node_of(one), one.placement.devices) for one in here)
    places = [
        _cached(state, model, one)
        for one in sites(state, model)
        if taken.isdisjoint(one.placement.devices)
        and is_faster_than_cores(one.node, one.placement.devices) == is_fast
    ]
    found = offers(state, step, model, supply, places)
    return [one for one in found if one.site.placement.layers is None]


def _awaited_by_starved(state: State) -> set[str]:
    """Devices on which somebody hands over to a model that nobody serves."""
    claimed = (name for starved in state.starved for name in state.models[starved].claims)
    return {device for name in claimed for device in state.replicas[name].placement.devices}


def _cached(state: State, model: ModelState, site: Site) -> Site:
    """The page cache of a node has what another replica there was loaded from."""
    is_there = any(one.node_id == site.node.id for one in model.replicas.values())
    if site.rung is Rung.DISK and is_there and site.node.capabilities.host_is_page_cache:
        return replace(site, rung=Rung.HOST)
    return site


def _weighed(state: State, step: Step, model: ModelState, offer: Offer, flow: Flow) -> Spread:
    where = offer.site.placement
    more = answers_per_s(state, model, where, offer.kv.sequences)
    horizon_s = state.settings.use_soon_floor_s
    saved = saved_s(flow, more, offer.switch_s, horizon_s) * _weight(state, step, model)
    cost_s = offer.switch_s + sum(one.loss_s for one in offer.evictions)
    # Who runs there takes turns with it, until its queue has drained or they have ended.
    shared_s = flow.waiting / (flow.served_per_s + more)
    for one in sharers(state, model, where):
        cost_s += len(one.running) * min(shared_s, one.running_ns / 2e9)
    return Spread(offer, saved, cost_s)


def _weight(state: State, step: Step, model: ModelState) -> float:
    """Of one that waits, on average, with what it has waited so far."""
    now_s = step.at_ns / 1e9
    weighted_s = max(0.0, model.queued_weight * now_s - model.queued_weight_since)
    aged = aged_weight(model.queued_weight, weighted_s, state.settings.max_wait_s)
    return aged / len(model.queue)
