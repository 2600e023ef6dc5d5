"""The ways in which a model could be brought up: where, how large, at whose cost, at what harm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice

from repertory.core.moving import buffer_bytes, weights_bytes
from repertory.core.queueing import dues_of, first_of
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.core.victims import Supply, release_s
from repertory.domain.decisions import Option
from repertory.domain.ladder import Rung
from repertory.domain.specs import KvShape, ModelSpec, NodeSpec, Placement, WeightsForm
from repertory.perf.bytes import kv_bytes, shape_for
from repertory.policy.evict import Eviction, Victim, choose_victims
from repertory.policy.objective import MISS_PENALTY_S, aged_weight, missed_weight

__all__ = [
    "USUAL_CELLS",
    "Offer",
    "Site",
    "claims",
    "empty_rooms",
    "is_blocked",
    "need_bytes",
    "offers",
    "roomiest_bytes",
    "sites",
    "standing",
    "widening",
]

USUAL_CELLS = 2048
"""Slot length of a replica that is brought up before anybody asks."""
_LOOK_AHEAD = 64
"""How far into the queue lengths are looked at: bounds the work per event."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place for a model, and the rung on which its weights are there."""

    node: NodeSpec
    placement: Placement
    rung: Rung


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to place a model."""

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
        where = "+".join(self.site.placement.devices)
        form = self.site.placement.form.value
        ways = [f"{one.replica_id} ({one.release.value})" for one in self.evictions]
        how = f"evict {', '.join(ways)}" if ways else "free memory"
        name = f"{how} on {where}, {form}, {self.kv.sequences}x{self.kv.cells}"
        return Option(name, self.harm_s, self.switch_s, sum(self.need_bytes.values()))


def offers(
    state: State, step: Step, model: ModelState, supply: Supply, places: list[Site]
) -> Iterator[Offer]:
    """What could be begun now.

    Smaller KV memory than fits without an eviction is no offer; nor is what cannot beat another
    offer even if its evictions cost nothing; nor slots for the head alone, where longer ones fit.
    """
    weight = max(_aged(state, step, model), 1e-3)
    dues = dues_of(model, since_ns=step.at_ns)
    ahead = _ahead(state, step, model)
    least_s = math.inf
    classes: dict[str, list[list[KvShape]]] = {}
    for site in places:
        victims = _others(model, supply.victims(site.node.id))
        fixed_bytes, load_s = _fixed_bytes(state, model, site), _load_s(state, model, site)
        work_s = _work_s(state, step, model, site)
        found = False
        if site.node.id not in classes:
            classes[site.node.id] = _shapes(model, site.node, ahead)
        for shapes in classes[site.node.id]:
            if found:
                break
            too_long = _share_above(shapes[0].cells, ahead)
            for kv in shapes:
                size = fixed_bytes + kv_bytes(model.spec, kv)
                if any(supply.reach[device] < size for device in site.placement.devices):
                    continue
                bare_s = weight * (load_s + _small_s(state, model, site, kv, too_long)) + work_s
                if found and bare_s >= least_s:
                    continue
                need = dict.fromkeys(site.placement.devices, size)
                evictions = _evictions(state, need, victims)
                if evictions is None:
                    continue
                more_s = state.costs.activate_s(model.spec, site.placement, kv) + release_s(
                    state, evictions
                )
                harm_s = bare_s + weight * more_s + sum(one.loss_s for one in evictions)
                harm_s += missed_weight(dues, 0, load_s + more_s) * MISS_PENALTY_S
                least_s, found = min(least_s, harm_s), True
                yield Offer(site, kv, need, evictions, load_s + more_s, harm_s)
                if not evictions:
                    break


def claims(
    state: State, step: Step, model: ModelState, supply: Supply
) -> tuple[Eviction, ...] | None:
    """The replicas whose memory is cheapest to wait for; None: no turn's end helps."""
    head = model.oldest
    assert head is not None
    least = shape_for(model.spec, 1, head.request.cells)
    best: tuple[float, tuple[str, ...], tuple[Eviction, ...]] | None = None
    for site in (*sites(state, model), *sites(state, model, elsewhere=True)):
        node_id = site.node.id
        victims = _others(model, supply.victims(node_id) + supply.busy_victims(node_id))
        size = _fixed_bytes(state, model, site) + kv_bytes(model.spec, least)
        evictions = _evictions(state, dict.fromkeys(site.placement.devices, size), victims)
        if evictions is None:
            continue
        found = (sum(one.loss_s for one in evictions), site.placement.devices, evictions)
        if best is None or found[:2] < best[:2]:
            best = found
    return best[2] if best is not None else None


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
    victims = _others(model, supply.victims(replica.node_id))
    if not victims or not state.node_of(replica).capabilities.kv_resizable:
        return ()
    saved_s = _aged(state, step, model) * replica.running_ns / 1e9 / max(1, len(replica.running))
    for shape in _wider(model, replica, held, _ahead(state, step, model)):
        need = dict.fromkeys(replica.placement.devices, kv_bytes(replica.spec, shape))
        chosen = _evictions(state, need, victims)
        if chosen and sum(one.loss_s for one in chosen) < saved_s:
            return chosen
    return ()


def _wider(
    model: ModelState, replica: ReplicaState, held: KvShape, ahead: list[int]
) -> Iterator[KvShape]:
    """All that its queue lacks, or at least what its head does.

    A head that needs longer slots may have fewer of them: else it waits for all others' end.
    """
    taken, spec = len(replica.running), replica.spec
    all_of_it = shape_for(spec, taken + len(model.queue), max(ahead))
    head = shape_for(spec, taken + 1, ahead[0])
    is_too_long = ahead[0] > held.cells
    exact = min(taken + 1, spec.max_sequences)
    sequences = exact if is_too_long else max(head.sequences, held.sequences)
    shapes = (
        KvShape(max(all_of_it.sequences, held.sequences), all_of_it.cells),
        KvShape(sequences, head.cells),
    )
    for shape in dict.fromkeys(shapes):
        wider = KvShape(shape.sequences, max(shape.cells, held.cells))
        fails = model.failed_kv_tokens is not None and wider.tokens >= model.failed_kv_tokens
        if wider != held and not fails:
            yield wider


def standing(model: ModelState) -> ReplicaState | None:
    """The replica of a starved model that can go up again: the highest rung, then the name."""
    order = {Rung.DEVICE: 0, Rung.HOST: 1, Rung.DISK: 2}
    return min(
        (
            one
            for one in model.replicas.values()
            if one.rung in order and one.transition is None and one.retiring is None
        ),
        key=lambda one: (order[one.rung], one.id),
        default=None,
    )


def sites(state: State, model: ModelState, *, elsewhere: bool = False) -> list[Site]:
    """Where it could go up.  Weights that hold memory stay where they are, unless `elsewhere`."""
    replica = standing(model)
    if replica is not None and _is_bound(state, replica):
        if not elsewhere:
            return [Site(state.node_of(replica), replica.placement, replica.rung)]
    elif elsewhere:
        return []
    forms = tuple(WeightsForm) if model.spec.repacked_bytes else (WeightsForm.PLAIN,)
    here = replica.placement.devices if replica is not None else None
    return [
        Site(node, Placement(devices, form), _rung_at(node, replica))
        for node, devices in _device_sets(state, model.spec)
        if not (elsewhere and devices == here)
        for form in forms
    ]


def need_bytes(state: State, model: ModelState) -> int:
    """The least per device that serves its head from where its weights are.

    Kept until the head, the rung, or what is known of its bytes changes.
    """
    head = model.oldest
    head_id = head.request.id if head is not None else None
    if model.need_bytes is None or model.head_id != head_id:
        model.head_id = head_id
        model.need_bytes = _least_bytes(state, model, standing(model))
    return model.need_bytes


def is_blocked(state: State, model: ModelState) -> bool:
    """Whatever ends, its head finds no room: pinned models hold it, or no such device is up."""
    above = standing(model)
    from_below = _least_bytes(state, model, None)
    enough = 0
    for ledger in state.devices.values():
        pinned = sum(
            ledger.held_by(replica.id)
            for replica in state.on_devices.values()
            if state.models[replica.model].is_pinned and replica.model != model.spec.name
        )
        least = from_below
        if above is not None and above.rung is Rung.DEVICE and ledger.held_by(above.id):
            least = _least_bytes(state, model, above) + ledger.held_by(above.id)
        enough += ledger.budget_bytes - pinned >= least
    return enough < model.spec.devices_per_replica


def roomiest_bytes(state: State, spec: ModelSpec) -> int:
    """What an otherwise empty placement offers per device; 0: there is none."""
    return max(empty_rooms(state, spec).values(), default=0)


def empty_rooms(state: State, spec: ModelSpec) -> dict[str, int]:
    """Bytes per device of each placement that it could have to itself."""
    return {
        "+".join(devices): min(one.memory_bytes for one in node.devices if one.id in devices)
        for node, devices in _device_sets(state, spec)
    }


def _device_sets(state: State, spec: ModelSpec) -> Iterator[tuple[NodeSpec, tuple[str, ...]]]:
    for node in state.nodes.values():
        if spec.devices_per_replica <= node.capabilities.max_devices_per_replica:
            for devices in combinations(node.devices, spec.devices_per_replica):
                yield node, tuple(device.id for device in devices)


def _is_bound(state: State, replica: ReplicaState) -> bool:
    """Its weights hold memory where they are: on the devices, or asleep on the host."""
    page_cache = state.node_of(replica).capabilities.host_is_page_cache
    return replica.rung is Rung.DEVICE or (replica.rung is Rung.HOST and not page_cache)


def _rung_at(node: NodeSpec, replica: ReplicaState | None) -> Rung:
    """The page cache of a node serves all its devices."""
    is_cached = (
        replica is not None
        and replica.node_id == node.id
        and replica.rung is not Rung.DISK
        and node.capabilities.host_is_page_cache
    )
    return Rung.HOST if is_cached else Rung.DISK


def _work_s(state: State, step: Step, model: ModelState, site: Site) -> float:
    """Seconds that the work expected during a residency at that site takes.

    1. Repacked weights load slower and compute faster (worker.md, Memory): counting the work
       beside the switch lets the least harm choose.
    2. A device that others keep busy is shared: each second of work takes as many as there are
       replicas with work.
    3. What comes up before anybody asks, for an operator or by a forecast, comes up for somebody:
       one request, at least.
    Where there is nothing to choose between, the sum is spared.
    """
    spec = model.spec
    if not spec.repacked_bytes and len(state.devices) == 1:
        return 0.0
    soon_s = state.settings.use_soon_floor_s
    requests = max(1.0, len(model.queue) + model.rate.per_s(step.at_ns) * soon_s)
    head, prompt, output = model.oldest, 0, model.output.median_tokens
    if head is not None:
        prompt, output = head.request.prompt_tokens, min(output, head.request.max_tokens)
    work_s = requests * state.costs.work_s(spec, site.placement, prompt, output)
    devices = set(site.placement.devices)
    sharing = sum(
        1
        for one in state.on_devices.values()
        if one.running and one.model != spec.name and not devices.isdisjoint(one.placement.devices)
    )
    return work_s * (1 + sharing)


def _ahead(state: State, step: Step, model: ModelState) -> list[int]:
    """Cells of those who wait, who is next first."""
    first = first_of(state, model, step.at_ns)
    if first is None:
        return []
    others = (one for one in islice(model.queue.values(), _LOOK_AHEAD) if one is not first)
    return [first.request.cells, *(one.request.cells for one in others)]


def _shapes(model: ModelState, node: NodeSpec, ahead: list[int]) -> list[list[KvShape]]:
    """KV context classes by slot length; in each, from the wanted number of slots down to one.

    Slots for the longest request that waits, and slots for the head alone.  What can grow later is
    offered in fewer sizes.
    """
    spec = model.spec
    cells = max(ahead, default=min(USUAL_CELLS, spec.context_tokens, model.largest_cells))
    sequences, smaller = max(2, len(model.queue)), 4
    if not node.capabilities.kv_resizable:
        cells, sequences, smaller = max(cells, spec.context_tokens), spec.max_sequences, 2
    longest = shape_for(spec, sequences, cells)
    lengths = [longest.cells]
    if ahead:
        lengths += sorted({longest.cells, shape_for(spec, 1, ahead[0]).cells})[:-1]
    shapes = [_divided(longest.sequences, smaller, length) for length in lengths]
    if model.failed_kv_tokens is None:
        return shapes
    fitting = [[kv for kv in one if kv.tokens < model.failed_kv_tokens] for one in shapes]
    return [one for one in fitting if one] or [shapes[-1][-1:]]


def _divided(sequences: int, by: int, cells: int) -> list[KvShape]:
    shapes = []
    while sequences > 1:
        shapes.append(KvShape(sequences, cells))
        sequences //= by
    return [*shapes, KvShape(1, cells)]


def _fixed_bytes(state: State, model: ModelState, site: Site) -> int:
    """Per device, whatever the KV memory, on top of what its weights hold there already."""
    fixed = buffer_bytes(model)
    if site.rung is not Rung.DEVICE:
        resting, peak = weights_bytes(model, site.placement.form)
        fixed += resting + peak
    if site.rung is Rung.HOST:
        fixed -= site.node.capabilities.asleep_residue_bytes
    return fixed


def _least_bytes(state: State, model: ModelState, above: ReplicaState | None) -> int:
    head = model.oldest
    cells = head.request.cells if head is not None else min(USUAL_CELLS, model.largest_cells)
    least = buffer_bytes(model) + kv_bytes(model.spec, shape_for(model.spec, 1, cells))
    if above is not None and above.rung is Rung.DEVICE:
        return least
    forms = WeightsForm if model.spec.repacked_bytes else (WeightsForm.PLAIN,)
    least += min(sum(weights_bytes(model, form)) for form in forms)
    if above is not None and above.rung is Rung.HOST:
        least -= state.node_of(above).capabilities.asleep_residue_bytes
    return least


def _others(model: ModelState, victims: list[Victim]) -> list[Victim]:
    """No model makes room for itself."""
    own = model.replicas
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
    return state.costs.load_s(model.spec, site.placement, site.rung)


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


def _share_above(cells: int, ahead: list[int]) -> float:
    """How many of those who wait need longer slots."""
    if not ahead or max(ahead) <= cells:
        return 0.0
    return sum(one > cells for one in ahead) / len(ahead)


def _aged(state: State, step: Step, model: ModelState) -> float:
    now_s = step.at_ns / 1e9
    weighted_s = max(0.0, model.queued_weight * now_s - model.queued_weight_since)
    return aged_weight(model.queued_weight, weighted_s, state.settings.max_wait_s)
