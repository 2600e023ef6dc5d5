"""ServerlessLLM's scheduler (OSDI'24, 2401.14351): start where it starts soonest, when asked.

Fast loading from the nearest tier; the server is the one of least estimated start time, which is
what is loading there already, and bytes by the bandwidth of the tier where the model lies.  What is
idle stays for as long as its load takes.  Not modelled: live migration of what runs away from the
server that holds the model; loads of one server do not overlap here either.
"""

from collections.abc import Callable, Iterator, Mapping
from math import ceil, inf

from repertory.domain.ladder import Rung
from repertory.domain.requests import Request
from repertory.domain.specs import DeviceSpec, ModelSpec
from repertory.policy.baselines.view import (
    Bring,
    Dismiss,
    Group,
    ModelView,
    Move,
    ReplicaView,
    View,
    full_slots,
)

__all__ = ["Reactive"]

LoadSeconds = Callable[[ModelSpec, DeviceSpec, Rung], float]


class Reactive:
    """1. A model needs one more replica when more wait than its replicas on their way up will have
       slots for.
    2. It starts where the estimated start is soonest, of equal places where most memory is free;
       where room lacks, idle replicas go there first, the least recently used first.  Busy ones
       never do.
    3. What was idle for as long as its load from the disk takes goes, but stays in host memory.
    """

    name = "reactive"
    keeps_in_host = True
    minds_tokens = False

    def __init__(self, load_s: LoadSeconds, slots: int) -> None:
        self.load_s = load_s
        self.slots = slots

    def moves(self, view: View, at_ns: int) -> list[Move]:
        for model in view.waiting_models():
            coming = sum(
                replica.kv.sequences
                for replica in model.replicas.values()
                if not replica.is_leaving and not replica.is_open
            )
            if len(model.waiting) > coming:  # 1
                found = self._start(view, model, at_ns)
                if found:
                    return found
        gone = (replica for replica in view.replicas if at_ns >= self._expires_ns(view, replica))
        return [Dismiss(replica.id, "idle for as long as its load takes") for replica in gone]  # 3

    def _start(self, view: View, model: ModelView, at_ns: int) -> list[Move]:
        taken = {replica.placement.devices for replica in model.replicas.values()}
        queues = self._queues_s(view)
        ways = [
            (self._start_s(view, model, group, queues), -group.free_bytes, group.id, group)
            for group in view.groups(model.spec)
            if group.devices not in taken
        ]
        for start_s, _, _, group in sorted(ways, key=lambda way: way[:3]):  # 2
            if start_s == inf:
                return []
            need = model.least_bytes
            if need <= group.free_bytes:
                kv = full_slots(model.spec, self.slots, group.free_bytes)
                why = f"starts soonest there: {start_s:.3g} s"
                return [Bring(model.name, group.devices, kv, why)]
            if any(replica.is_leaving for replica in view.on(group)):
                return []  # its room is on the way
            return [
                Dismiss(one.id, f"room for {model.name}")
                for one in self._victims(view, group, need)
            ]
        return []

    def _start_s(
        self, view: View, model: ModelView, group: Group, queues_s: Mapping[str, float]
    ) -> float:
        """Estimated; infinite where not even without the idle there is room."""
        room = group.free_bytes
        if model.least_bytes > room:
            room += sum(
                replica.held_bytes
                for replica in view.on(group)
                if replica.is_idle or replica.is_leaving
            )
        if model.least_bytes > room:
            return inf
        queued_s = queues_s.get(group.node_id, 0.0)
        source = Rung.HOST if group.node_id in model.asleep else Rung.DISK
        return queued_s + self.load_s(model.spec, group.members[0].spec, source)

    def _queues_s(self, view: View) -> dict[str, float]:
        """What is loading, by node."""
        found: dict[str, float] = {}
        for replica in view.replicas:
            if replica.is_moving and replica.rung in (Rung.DISK, Rung.HOST):
                found[replica.node_id] = found.get(replica.node_id, 0.0) + self._load_s(
                    view, replica
                )
        return found

    def _victims(self, view: View, group: Group, need: int) -> Iterator[ReplicaView]:
        room = group.free_bytes
        idle = (replica for replica in view.on(group) if replica.is_idle)
        for replica in sorted(idle, key=lambda one: (one.used_ns, one.id)):
            if room >= need:
                return
            room += replica.held_bytes
            yield replica

    def _load_s(self, view: View, replica: ReplicaView) -> float:
        device = view.devices[replica.placement.devices[0]]
        return self.load_s(view.models[replica.model].spec, device.spec, Rung.DISK)

    def _expires_ns(self, view: View, replica: ReplicaView) -> float:
        if not replica.is_idle:
            return inf
        return replica.used_ns + round(self._load_s(view, replica) * 1e9)

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        first = min((self._expires_ns(view, replica) for replica in view.replicas), default=inf)
        return None if first == inf else ceil(first)

    def refuses(self, view: View, request: Request) -> str | None:
        return None
