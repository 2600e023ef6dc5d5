"""Who may give memory: idle replicas at once, busy ones at the end of their turn."""

from collections.abc import Mapping
from typing import NamedTuple

from repertory.core.moves.moving import releasable_bytes
from repertory.core.places.splits import has_accelerators
from repertory.core.requests.pace import own_pace
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.decisions import Option
from repertory.domain.ladder import Edge, Phase, Rung
from repertory.policy.objective import Starving, absence_s, probability_of_use
from repertory.policy.places.batching import HandoverLimits, handover_at_ns, kept_until_ns
from repertory.policy.places.evict import Eviction, Release, Victim
from repertory.policy.places.spread import share_asked

__all__ = [
    "Gift",
    "Supply",
    "eviction_options",
    "idle_victims",
    "lost_s",
    "release_s",
    "turn_end_ns",
]

_MOST_OPTIONS = 4
"""On a record: what was done, and the three that would have lost least of those that were not."""


class Supply:
    """What could be given to a model now; a picture of the state that ages with every step."""

    __slots__ = (
        "_busy_victims",
        "_claimable",
        "_limits",
        "_reachable",
        "_state",
        "_step",
        "_victims",
        "busy",
        "claimable",
        "coming",
        "idle",
        "reach",
        "ripe",
    )

    def __init__(self, state: State, step: Step) -> None:
        self._state, self._step, self._limits = state, step, _limits(state)
        self._victims: dict[str, list[Victim]] | None = None
        self._busy_victims: dict[str, list[Victim]] | None = None
        self.idle: list[ReplicaState] = []
        self.busy: list[ReplicaState] = []
        """Serving, not idle victims, nobody's yet: their turns may be bounded."""
        self.coming: list[ReplicaState] = []
        """On their way up, claimed by others, or let end before they go: who may be waited for."""
        self.ripe: int | None = None
        """When the next idle replica that is still too young may be given up."""
        rooms = {name: one.available_bytes for name, one in state.devices.items()}
        for replica in state.on_devices.values():
            self._sort_in(replica, rooms)
        self.reach = dict(rooms)
        """Per device: what could be free at once."""
        self._reachable = sorted(rooms.values(), reverse=True)
        """The n-th: every of n devices could have so much free."""
        for replica in self.busy:
            for pool in replica.placement.pools:
                rooms[pool] += state.devices[pool].held_by(replica.id)
        self.claimable = rooms
        """Per device: what could be free at the end of all turns."""
        self._claimable = sorted(rooms.values(), reverse=True)

    def may_place(self, one: Starving) -> bool:
        """Enough could be free at once on as many devices as it needs."""
        rooms = self._reachable
        return one.devices <= len(rooms) and one.need_bytes <= rooms[one.devices - 1]

    def may_help(self, one: Starving) -> bool:
        """It could be placed at once, or claim something.  Cheap; wrong only to say yes."""
        rooms = self._claimable
        return one.devices <= len(rooms) and one.need_bytes <= rooms[one.devices - 1]

    def victims(self, node_id: str) -> list[Victim]:
        """Idle replicas of a node, with what giving them up would lose."""
        if self._victims is None:
            self._victims = self._weigh(self.idle)
        return self._victims.get(node_id, [])

    def busy_victims(self, node_id: str) -> list[Victim]:
        """Busy replicas of a node; their work is waited for, which is part of the loss."""
        if self._busy_victims is None:
            self._busy_victims = self._weigh(self.busy)
        return self._busy_victims.get(node_id, [])

    def drained(self, node_id: str, model: ModelState) -> list[Victim]:
        """Busy replicas that a model may wait for, with what is lost once their work is done."""
        claimed = [self._state.replicas[name] for name in model.claims]
        mine = (one for one in claimed if one not in self.idle and one not in self.coming)
        busy = [*self.busy, *mine, *self.coming]
        found = [
            _victim(self._state, self._step, one, 0.0) for one in busy if one.node_id == node_id
        ]
        for intent in self._state.intents.values():
            if intent.node_id == node_id:  # its memory is promised, and it will serve there first
                replica = self._state.replicas[intent.replica_id]
                loss_s = replica.activate_s + replica.reload_s
                given = Eviction(replica.id, Release.ALL, loss_s, intent.need_bytes)
                found.append(Victim(replica.id, (given,)))
        return found

    def ready_s(self, replica_id: str, model: ModelState) -> float:
        """How long until a replica could give its memory to that model.

        At the end of its turn and of its work then; or before that, when it has nothing to do: with
        a share u of its time taken by new arrivals, work w lasts for w / (1 - u) (M/G/1).
        """
        replica, at_ns = self._state.replicas[replica_id], self._step.at_ns
        claimant = self._state.models.get(replica.claimed_by or "")
        if claimant is not None and claimant is not model:
            then_s = (claimant.switch_ns + claimant.queued_ns) / 1e9  # it will serve there first
            return replica.running_ns / 1e9 + then_s
        intent = self._state.intents.get(replica.model)
        if intent is not None and intent.replica_id == replica.id:
            return self._coming_s(replica) + self._state.models[replica.model].queued_ns / 1e9
        if replica.is_idle:
            owner = self._state.models[replica.model]
            young_ns = _young_until_ns(self._limits, owner, replica, at_ns)
            return max(0, (young_ns or at_ns) - at_ns) / 1e9
        if replica.rung is not Rung.SERVING:
            queued_s = self._state.models[replica.model].queued_ns / 1e9
            return self._coming_s(replica) + queued_s
        left_s = replica.running_ns / 1e9
        if replica.phase is not Phase.OPEN:
            return left_s
        turn_ns = replica.handover_at_ns
        if replica.claimed_by is None:
            turn_ns = turn_end_ns(self._state, replica, model)
        turn_s = max(0, turn_ns - at_ns) / 1e9 + left_s
        each_s = left_s / max(1, len(replica.running))
        taken = self._state.models[replica.model].rate.per_s(at_ns) * each_s
        return turn_s if taken >= 1.0 else min(turn_s, left_s / (1.0 - taken))

    def _coming_s(self, replica: ReplicaState) -> float:
        """At the most: when it began is not written down here."""
        costs, spec, where = self._state.costs, replica.spec, replica.placement
        if replica.kv is None:
            return 0.0
        load_s = costs.load_s(spec, where, Rung.HOST) if replica.rung is not Rung.DEVICE else 0.0
        return load_s + costs.activate_s(spec, where, replica.kv)

    def to(self, node_id: str, model: ModelState, own: ReplicaState | None) -> "Gift":
        """What a model could be given at once.

        No model makes room for itself, but if `own` is to leave for another place, then what it
        holds is there for that, pinned or not.
        """
        victims = [one for one in self.victims(node_id) if one.replica_id not in model.replicas]
        reach = self.reach
        if own is not None and own.node_id == node_id:
            victims.append(_victim(self._state, self._step, own, 0.0))
            if own not in self.idle:
                held = {name: self._state.devices[name].held_by(own.id) for name in reach}
                reach = {name: room + held[name] for name, room in reach.items()}
        return Gift(victims, reach)

    def _weigh(self, replicas: list[ReplicaState]) -> dict[str, list[Victim]]:
        groups: dict[str, list[Victim]] = {}
        for one in replicas:
            victim = _victim(self._state, self._step, one, one.running_ns / 1e9)
            groups.setdefault(one.node_id, []).append(victim)
        return groups

    def _sort_in(self, replica: ReplicaState, rooms: dict[str, int]) -> None:
        """1. Pinned, moving, leaving or promised memory is nobody's.
        2. Idle replicas give at once, if they are old enough.
        3. Serving ones give later, if nobody else waits for them.
        """
        state, model = self._state, self._state.models[replica.model]
        is_kept = model.is_pinned and not model.is_spare(replica)
        if is_kept or replica.leaving is not None or replica.retiring is not None:
            if replica.retiring is not None and replica.running:
                self.coming.append(replica)
            return
        if replica.is_idle and replica.model not in state.intents:
            young_until_ns = _young_until_ns(self._limits, model, replica, self._step.at_ns)
            if young_until_ns is not None and young_until_ns <= self._step.at_ns:
                self.idle.append(replica)
                for pool in replica.placement.pools:
                    rooms[pool] += state.devices[pool].held_by(replica.id)
                return
            if young_until_ns is not None and (self.ripe is None or young_until_ns < self.ripe):
                self.ripe = young_until_ns
        if replica.rung is Rung.SERVING and replica.claimed_by is None:
            self.busy.append(replica)
        elif replica.kv is not None and replica not in self.idle:
            self.coming.append(replica)


class Gift(NamedTuple):
    """Idle replicas that may be given up, and what could be free in each pool if all were."""

    victims: list[Victim]
    reach: Mapping[str, int]


def turn_end_ns(state: State, replica: ReplicaState, claimant: ModelState) -> int:
    """When a replica would stop admitting, were it claimed now for who waits for its memory.

    A spare one whose model has no queue has no turn to pay for: the minimum residency is enough.
    """
    head, switch_s = claimant.oldest, claimant.switch_ns / 1e9
    assert head is not None
    owner = state.models[replica.model]
    if owner is not claimant and not owner.queue and owner.is_spare(replica):
        switch_s = 0.0
    return handover_at_ns(head.since_ns, replica.opened_at_ns, switch_s, _limits(state))


def idle_victims(state: State, step: Step) -> list[Victim]:
    """All replicas that may be evicted at once."""
    supply = Supply(state, step)
    return [victim for node_id in state.nodes for victim in supply.victims(node_id)]


def _limits(state: State) -> HandoverLimits:
    settings = state.settings
    return HandoverLimits(settings.min_residency_s, settings.switches_per_turn, settings.max_wait_s)


def _young_until_ns(
    limits: HandoverLimits, model: ModelState, replica: ReplicaState, at_ns: int
) -> int | None:
    """From when an idle replica may be given up; None: not while requests wait for it."""
    if replica.rung is not Rung.SERVING or replica.phase is not Phase.OPEN:
        return 0
    if model.queue:
        return None
    switch_s = replica.activate_s + replica.reload_s
    return kept_until_ns(replica.opened_at_ns, model.rate.gap_s(at_ns), switch_s, limits)


def _victim(state: State, step: Step, replica: ReplicaState, drain_s: float) -> Victim:
    """1. Requests that wait for it now use it soon for certain.
    2. Where sleepers keep device bytes, they can be made to go for good.
    3. A spare one is used soon only if the others' slots are all taken then.
    4. Who comes while it is away waits for it, unless others of it serve on.  Where accelerators
       stand beside cores that is weighed with the place (`core.places.expected`).
    """
    model, name = state.models[replica.model], replica.id
    activate_s = drain_s + replica.activate_s
    reload_s = activate_s + replica.reload_s
    rate, others = model.rate.per_s(step.at_ns), 0.0
    if len(model.replicas) > 1:
        others = own_pace(state, model, but=replica)
    soon = 1.0
    if not model.queue:
        soon = probability_of_use(rate, reload_s, state.settings.use_soon_floor_s)
        if model.is_spare(replica):
            soon *= share_asked(rate, others)
    missed_s = 0.0
    if not has_accelerators(state):
        away_s = state.absence.seconds(step.at_ns, state.settings.use_soon_floor_s)
        missed_s = absence_s(model.rate.of_late_per_s(step.at_ns), away_s)
        missed_s *= share_asked(rate, others)
    ways: list[Eviction] = []
    if replica.rung is Rung.SERVING:
        freed = releasable_bytes(state, replica, Release.KV)
        ways.append(Eviction(name, Release.KV, soon * activate_s + missed_s, freed))
    if replica.rung is not Rung.HOST or replica.transition is not None:
        freed = releasable_bytes(state, replica, Release.ALL)
        ways.append(Eviction(name, Release.ALL, soon * reload_s + missed_s, freed))
    if state.node_of(replica).capabilities.asleep_residue_bytes:
        freed = releasable_bytes(state, replica, Release.GONE)
        cold_s = activate_s + replica.cold_s
        ways.append(Eviction(name, Release.GONE, soon * cold_s + missed_s, freed))
    return Victim(name, tuple(ways))


def lost_s(state: State, step: Step, given: Eviction) -> float:
    """What giving it up loses once its work is done, or stopped."""
    (found,) = (
        way.loss_s
        for way in _victim(state, step, state.replicas[given.replica_id], 0.0).ways
        if way.release is given.release
    )
    return found


def release_s(state: State, evictions: tuple[Eviction, ...]) -> float:
    """What it takes to carry them out."""
    seconds = 0.0
    for one in evictions:
        gone = state.replicas[one.replica_id]
        seconds += state.costs.free_s(gone.spec, gone.placement, Edge.DEACTIVATE)
        if one.release is not Release.KV:
            seconds += state.costs.free_s(gone.spec, gone.placement, Edge.UNLOAD)
    return seconds


def eviction_options(
    state: State, done: Eviction, chosen: tuple[Eviction, ...], victims: list[Victim]
) -> tuple[Option, ...]:
    """For the record of one eviction: what is done, then what was spared, the least loss first."""
    taken = {one.replica_id for one in chosen}
    spared = [
        way
        for victim in victims
        for way in victim.ways
        if victim.replica_id not in taken or (way.replica_id == done.replica_id and way != done)
    ]
    spared.sort(key=lambda one: (one.loss_s, one.replica_id, one.release.value))
    return tuple(
        Option(
            f"{one.replica_id} ({one.release.value})",
            one.loss_s,
            release_s(state, (one,)),
            sum(one.freed.values()),
        )
        for one in (done, *spared[: _MOST_OPTIONS - 1])
    )
