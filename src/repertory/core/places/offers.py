"""The ways in which a model could be brought up: where, how large, at whose cost, at what harm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from repertory.core.places.expected import Expected
from repertory.core.places.shapes import cells_ahead, shapes_for, share_above, wider_shapes
from repertory.core.places.sites import Site, sites, standing
from repertory.core.places.splits import Room, can_divide, divisions
from repertory.core.places.tiers import fixed_needs
from repertory.core.places.victims import Gift, Supply, release_s
from repertory.core.requests.queueing import dues_of
from repertory.core.state import ModelState, State, Step
from repertory.domain.decisions import Option
from repertory.domain.ladder import Rung
from repertory.domain.specs import KvShape
from repertory.perf.bytes import kv_needs, shape_for
from repertory.policy.objective import MISS_PENALTY_S, aged_weight, missed_weight
from repertory.policy.places.evict import Eviction, Victim, choose_victims

__all__ = ["Awaited", "Offer", "awaited", "claims", "offers", "widening"]


class Offer(NamedTuple):
    """One way to place a model.  A tuple: each is made twice, before and after it is weighed."""

    site: Site
    kv: KvShape
    need_bytes: dict[str, int]
    evictions: tuple[Eviction, ...]
    switch_s: float
    harm_s: float

    @property
    def key(self) -> tuple[float, int, int, tuple[str, ...], str]:
        """Least harm first, then the larger KV memory; ties end in names."""
        where = self.site.placement
        return (
            self.harm_s,
            -self.kv.sequences,
            -self.kv.cells,
            where.devices,
            where.form.value,
        )

    def option(self) -> Option:
        ways = [f"{one.replica_id} ({one.release.value})" for one in self.evictions]
        how = f"evict {', '.join(ways)}" if ways else "free memory"
        name = f"{how} on {_where(self.site)}, {self.kv.sequences}x{self.kv.cells}"
        return Option(name, self.harm_s, self.switch_s, sum(self.need_bytes.values()))


@dataclass(frozen=True, slots=True)
class Awaited:
    """A place that busy replicas will give."""

    site: Site
    evictions: tuple[Eviction, ...]
    wait_s: float
    seconds: float
    """The wait, and the switch after it."""
    harm_s: float

    @property
    def key(self) -> tuple[float, tuple[str, ...], str]:
        where = self.site.placement
        return self.harm_s, where.devices, where.form.value

    def option(self) -> Option:
        names = ", ".join(one.replica_id for one in self.evictions)
        return Option(f"wait for {names} on {_where(self.site)}", self.harm_s, self.seconds, 0)


def _where(site: Site) -> str:
    where = site.placement
    name = f"{'+'.join(where.devices)}, {where.form.value}"
    return name if where.layers is None else f"{name}, {where.layers} layers"


def offers(
    state: State, step: Step, model: ModelState, supply: Supply, places: list[Site]
) -> Iterator[Offer]:
    """What could be begun now.

    Smaller KV memory than fits without an eviction is no offer; nor is what cannot beat another
    offer even if its evictions cost nothing; nor slots for the head alone, where longer ones fit;
    nor a part of the layers on an accelerator that all of them go on without an eviction.
    """
    weighing = _Weighing(state, step, model, supply)
    classes: dict[str, list[list[KvShape]]] = {}
    for site in places:
        node = site.node
        if node.id not in classes:
            classes[node.id] = shapes_for(model, node, weighing.ahead)
        found = False
        is_free = False
        for shapes in classes[node.id]:
            if found:
                break
            for offer in weighing.whole(site, shapes):
                found, is_free = True, is_free or not offer.evictions
                yield offer
        if not is_free and site.rung is not Rung.DEVICE and can_divide(node, site.placement):
            for shapes in classes[node.id]:
                yield from weighing.divided(site, shapes)


class _Weighing:
    """The harm of what one model could be offered."""

    __slots__ = (
        "_dues",
        "_expected",
        "_least_s",
        "_model",
        "_state",
        "_supply",
        "_weight",
        "ahead",
    )

    def __init__(self, state: State, step: Step, model: ModelState, supply: Supply) -> None:
        self._state, self._model, self._supply = state, model, supply
        self._expected = Expected(state, step, model)
        self._weight = max(_aged(state, step, model), 1e-3)
        self._dues = dues_of(model, since_ns=step.at_ns)
        self._least_s = math.inf
        self.ahead = cells_ahead(state, step, model)

    def whole(self, site: Site, shapes: list[KvShape]) -> Iterator[Offer]:
        """With the layers that the site says, from the most slots on."""
        state, model = self._state, self._model
        victims, reach = self._given(site)
        fixed, load_s = _fixed_needs(model, site), _load_s(state, model, site)
        floor_s = self._expected.alone_s(site)
        too_long = share_above(shapes[0].cells, self.ahead)
        found = False
        for kv in shapes:
            need = _with_kv(model, site, fixed, kv)
            if any(reach[pool] < size for pool, size in need.items()):
                continue
            bare_s = self._weight * (load_s + _small_s(state, model, site, kv, too_long))
            if found and bare_s + floor_s >= self._least_s:
                continue
            evictions = _evictions(state, need, victims)
            if evictions is None:
                continue
            found = True
            yield self._offer(Offer(site, kv, need, evictions, load_s, bare_s))
            if not evictions:
                return

    def divided(self, site: Site, shapes: list[KvShape]) -> Iterator[Offer]:
        """With some of the layers there: less KV memory leaves room for more of them."""
        state, model = self._state, self._model
        victims, reach = self._given(site)
        room = Room(reach, partial(_evictions, state, victims=victims))
        too_long = share_above(shapes[0].cells, self.ahead)
        for kv in shapes:
            for one in divisions(state, model, site.placement, kv, room):
                there = replace(site, placement=one.placement)
                load_s = _load_s(state, model, there)
                small_s = _small_s(state, model, there, kv, too_long)
                floor_s = self._expected.alone_s(there)
                bare_s = self._weight * (load_s + small_s)
                if bare_s + floor_s < self._least_s:
                    yield self._offer(
                        Offer(there, kv, one.need_bytes, one.evictions, load_s, bare_s)
                    )

    def _given(self, site: Site) -> Gift:
        above = standing(self._model)
        leaves = above is not None and above.rung is Rung.DEVICE and site.rung is not Rung.DEVICE
        return self._supply.to(site.node.id, self._model, above if leaves else None)

    def _offer(self, bare: Offer) -> Offer:
        """With what its KV memory, its evictions and its expected work cost besides."""
        state, where = self._state, bare.site.placement
        more_s = state.costs.activate_s(self._model.spec, where, bare.kv)
        more_s += release_s(state, bare.evictions)
        lost_s = sum(one.loss_s for one in bare.evictions)
        gone = frozenset(one.replica_id for one in bare.evictions)
        work_s = self._expected.seconds(bare.site, gone)
        harm_s = bare.harm_s + self._weight * more_s + lost_s + work_s
        harm_s += missed_weight(self._dues, 0, bare.switch_s + more_s) * MISS_PENALTY_S
        self._least_s = min(self._least_s, harm_s)
        return bare._replace(switch_s=bare.switch_s + more_s, harm_s=harm_s)


def awaited(
    state: State, step: Step, model: ModelState, supply: Supply, kv: KvShape
) -> Awaited | None:
    """The least harm of waiting for busy replicas, and then coming up with all layers in a place;
    None: no turn's end helps.
    """
    weight = max(_aged(state, step, model), 1e-3)
    dues = dues_of(model, since_ns=step.at_ns)
    expected = Expected(state, step, model)
    best: Awaited | None = None
    drains: dict[str, list[Victim]] = {}
    for site in sites(state, model):
        if site.placement.layers is not None:
            continue
        node_id = site.node.id
        if node_id not in drains:
            drains[node_id] = supply.drained(node_id, model)
        drained = drains[node_id]
        victims = _others(model, site, supply.victims(node_id) + drained)
        need = _with_kv(model, site, _fixed_needs(model, site), kv)
        evictions = _evictions(state, need, victims)
        busy = {one.replica_id for one in drained}
        if not evictions or busy.isdisjoint(one.replica_id for one in evictions):
            continue  # nobody needs to be waited for
        wait_s = max(supply.ready_s(one.replica_id, model) for one in evictions)
        switch_s = _load_s(state, model, site) + release_s(state, evictions)
        switch_s += state.costs.activate_s(model.spec, site.placement, kv)
        harm_s = weight * (wait_s + switch_s + _small_s(state, model, site, kv, 0.0))
        gone = frozenset(one.replica_id for one in evictions)
        harm_s += expected.seconds(site, gone)
        harm_s += sum(one.loss_s for one in evictions)
        harm_s += missed_weight(dues, 0, wait_s + switch_s) * MISS_PENALTY_S
        found = Awaited(site, evictions, wait_s, wait_s + switch_s, harm_s)
        if best is None or found.key < best.key:
            best = found
    return best


def claims(
    state: State, model: ModelState, supply: Supply, places: list[Site]
) -> tuple[Eviction, ...] | None:
    """The replicas whose memory is cheapest to wait for; None: no turn's end helps.

    For all layers on some devices; if these could not even then be there, for as many as could.
    """
    head = model.oldest
    assert head is not None
    least = shape_for(model.spec, 1, head.request.cells)
    best: tuple[float, tuple[str, ...], tuple[Eviction, ...]] | None = None
    for is_whole in (True, False):
        for site in places:
            node_id, devices = site.node.id, site.placement.devices
            victims = supply.victims(node_id) + supply.busy_victims(node_id)
            victims = _others(model, site, victims)
            room = Room(supply.claimable, partial(_evictions, state, victims=victims))
            if is_whole:
                need = _with_kv(model, site, _fixed_needs(model, site), least)
                ways: list[tuple[Eviction, ...] | None] = [room.evict(need)]
            elif can_divide(site.node, site.placement) and site.rung is not Rung.DEVICE:
                parts = divisions(state, model, site.placement, least, room)
                ways = [one.evictions for one in list(parts)[-1:]]
            else:
                continue
            for evictions in ways:
                if evictions is not None:
                    found = (sum(one.loss_s for one in evictions), devices, evictions)
                    best = found if best is None or found[:2] < best[:2] else best
        if best is not None:
            return best[2]
    return None


def widening(state: State, step: Step, model: ModelState, supply: Supply) -> tuple[Eviction, ...]:
    """Idle replicas whose memory would give a served model the slots that it lacks, if giving them
    up loses less than what its queue waits until one is free.
    """
    replica = min(
        (one for one in model.replicas.values() if one.is_open),
        key=lambda one: (one.running_ns, one.id),
        default=None,
    )
    if replica is None or replica.transition is not None or replica.kv is None:
        return ()
    held = replica.kv
    own = model.replicas
    victims = [one for one in supply.victims(replica.node_id) if one.replica_id not in own]
    if not victims or not state.node_of(replica).capabilities.kv_resizable:
        return ()
    saved_s = _aged(state, step, model) * replica.running_ns / 1e9 / max(1, len(replica.running))
    for shape in wider_shapes(model, replica, held, cells_ahead(state, step, model)):
        need = kv_needs(replica.spec, replica.placement, shape)
        chosen = _evictions(state, need, victims)
        if chosen and sum(one.loss_s for one in chosen) < saved_s:
            return chosen
    return ()


def _fixed_needs(model: ModelState, site: Site) -> dict[str, int]:
    """By pool, whatever the KV memory, on top of what its weights hold there already."""
    needs = fixed_needs(model, site.placement, loads=site.rung is not Rung.DEVICE)
    if site.rung is Rung.HOST:
        for device in site.placement.devices:
            needs[device] -= site.node.capabilities.asleep_residue_bytes
    return needs


def _with_kv(model: ModelState, site: Site, fixed: dict[str, int], kv: KvShape) -> dict[str, int]:
    needs = kv_needs(model.spec, site.placement, kv)
    return {pool: size + needs[pool] for pool, size in fixed.items()}


def _others(model: ModelState, site: Site, victims: list[Victim]) -> list[Victim]:
    """No model makes room for itself; but its weights may leave for another place."""
    own = model.replicas if site.rung is Rung.DEVICE else {}
    return [one for one in victims if one.replica_id not in own]


def _evictions(
    state: State, need: dict[str, int], victims: list[Victim]
) -> tuple[Eviction, ...] | None:
    """What must go for `need`: nothing (an empty tuple), some victims, or None: impossible."""
    missing = {}
    for device, size in need.items():
        short = size - state.devices[device].available_bytes
        if short > 0:
            missing[device] = short
    return choose_victims(victims, missing) if missing else ()


def _load_s(state: State, model: ModelState, site: Site) -> float:
    if site.rung is Rung.DEVICE:
        return 0.0
    is_crowded = state.is_crowded(site.node.id)
    return state.costs.load_s(model.spec, site.placement, site.rung, is_crowded=is_crowded)


def _small_s(state: State, model: ModelState, site: Site, kv: KvShape, too_long: float) -> float:
    """What KV memory smaller than wanted costs: thinner batches, and a reopening for the longest.

    The queue's work was reckoned at a typical batch; fewer slots share a step among fewer.
    """
    if not model.queue:
        return 0.0
    queued_s = model.queued_ns / 1e9
    batch = min(kv.sequences, len(model.queue))
    slower = state.costs.batch_factor(model.spec, site.placement, batch)
    return queued_s * slower + too_long * (queued_s + model.switch_ns / 1e9)


def _aged(state: State, step: Step, model: ModelState) -> float:
    now_s = step.at_ns / 1e9
    weighted_s = max(0.0, model.queued_weight * now_s - model.queued_weight_since)
    return aged_weight(model.queued_weight, weighted_s, state.settings.max_wait_s)
