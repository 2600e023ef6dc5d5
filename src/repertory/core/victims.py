"""Who may give memory: idle replicas at once, busy ones at the end of their turn."""

from repertory.core.moving import releasable_bytes
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.decisions import Option
from repertory.domain.ladder import Edge, Phase, Rung
from repertory.policy.batching import HandoverLimits, kept_until_ns
from repertory.policy.evict import Eviction, Release, Victim
from repertory.policy.objective import Starving, probability_of_use

__all__ = ["Supply", "eviction_options", "idle_victims", "release_s"]

_MOST_OPTIONS = 4
"""On a record: what was done, and the three that would have lost least of those that were not."""


class Supply:
    """What could be given to a model now; a picture of the state that ages with every step."""

    __slots__ = (
        "_busy_victims",
        "_claimable",
        "_reachable",
        "_state",
        "_step",
        "_victims",
        "busy",
        "idle",
        "reach",
        "ripe",
    )

    def __init__(self, state: State, step: Step) -> None:
        self._state, self._step = state, step
        self._victims: dict[str, list[Victim]] | None = None
        self._busy_victims: dict[str, list[Victim]] | None = None
        self.idle: list[ReplicaState] = []
        self.busy: list[ReplicaState] = []
        """Serving, not idle victims, nobody's yet: their turns may be bounded."""
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
            for device in replica.placement.devices:
                rooms[device] += state.devices[device].held_by(replica.id)
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
        if model.is_pinned or replica.leaving is not None or replica.retiring is not None:
            return
        if replica.is_idle and replica.model not in state.intents:
            young_until_ns = _young_until_ns(state, model, replica, self._step.at_ns)
            if young_until_ns is not None and young_until_ns <= self._step.at_ns:
                self.idle.append(replica)
                for device in replica.placement.devices:
                    rooms[device] += state.devices[device].held_by(replica.id)
                return
            if young_until_ns is not None and (self.ripe is None or young_until_ns < self.ripe):
                self.ripe = young_until_ns
        if replica.rung is Rung.SERVING and replica.claimed_by is None:
            self.busy.append(replica)


def idle_victims(state: State, step: Step) -> list[Victim]:
    """All replicas that may be evicted at once."""
    supply = Supply(state, step)
    return [victim for node_id in state.nodes for victim in supply.victims(node_id)]


def release_s(state: State, evictions: tuple[Eviction, ...]) -> float:
    """What it takes to carry them out."""
    seconds = 0.0
    for one in evictions:
        gone = state.replicas[one.replica_id]
        seconds += state.costs.free(gone.spec, gone.placement, Edge.DEACTIVATE).seconds
        if one.release is not Release.KV:
            seconds += state.costs.free(gone.spec, gone.placement, Edge.UNLOAD).seconds
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


def _young_until_ns(
    state: State, model: ModelState, replica: ReplicaState, at_ns: int
) -> int | None:
    """From when an idle replica may be given up; None: not while requests wait for it."""
    if replica.rung is not Rung.SERVING or replica.phase is not Phase.OPEN:
        return 0
    if model.queue:
        return None
    settings = state.settings
    return kept_until_ns(
        replica.opened_at_ns,
        model.rate.gap_s(at_ns),
        replica.activate_s + replica.reload_s,
        HandoverLimits(settings.min_residency_s, settings.switches_per_turn, settings.max_wait_s),
    )


def _victim(state: State, step: Step, replica: ReplicaState, drain_s: float) -> Victim:
    """1. Requests that wait for it now use it soon for certain.
    2. Where sleepers keep device bytes, they can be made to go for good.
    """
    model, name = state.models[replica.model], replica.id
    activate_s = drain_s + replica.activate_s
    reload_s = activate_s + replica.reload_s
    soon = 1.0
    if not model.queue:
        floor_s = state.settings.use_soon_floor_s
        soon = probability_of_use(model.rate.per_s(step.at_ns), reload_s, floor_s)
    ways: list[Eviction] = []
    if replica.rung is Rung.SERVING:
        freed = releasable_bytes(state, replica, Release.KV)
        ways.append(Eviction(name, Release.KV, soon * activate_s, freed))
    if replica.rung is not Rung.HOST:
        freed = releasable_bytes(state, replica, Release.ALL)
        ways.append(Eviction(name, Release.ALL, soon * reload_s, freed))
    if state.node_of(replica).capabilities.asleep_residue_bytes:
        freed = releasable_bytes(state, replica, Release.GONE)
        cold_s = activate_s + replica.cold_s
        ways.append(Eviction(name, Release.GONE, soon * cold_s, freed))
    return Victim(name, tuple(ways))
