"""Perfect knowledge of the next hour: Belady's rule, with loads that are begun in time.

No rule that loads on demand loads less, where models are of one size, each device holds one or
several whole, and requests come one by one (Belady 1966).
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
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
    need_bytes,
)

__all__ = ["HORIZON_S", "Oracle"]

HORIZON_S = 3600.0

LoadSeconds = Callable[[ModelSpec, DeviceSpec, Rung], float]


class Oracle:
    """1. Who waits and is not up is next; then who will be asked for before it could be loaded.
    2. It goes where room is free, or where the idle that would have to go are needed latest.
    3. Ahead of time only what is needed later than the newcomer goes, and nothing waits for it.
    4. More wait than slots will be free: one more replica, where room is free.
    """

    name = "oracle"
    keeps_in_host = True
    minds_tokens = False

    def __init__(
        self, arrivals_ns: Mapping[str, Sequence[int]], load_s: LoadSeconds, slots: int
    ) -> None:
        """`arrivals_ns`: of each model, in order; `load_s`: until it is open."""
        self.arrivals_ns = arrivals_ns
        self.load_s = load_s
        self.slots = slots
        self._leads_ns: dict[str, float] = {}
        """By model, in the layout that they were reckoned for."""
        self._layout: int | None = None
        self._quiet_ns = -inf
        """Before then no load has to begin ahead of time, in that layout."""
        self._begin_ns: int | None = None
        """When the first of them has to."""

    def next_ns(self, model: str, at_ns: int) -> float:
        """When it is asked for next; infinite: not within the hour."""
        times = self.arrivals_ns.get(model, ())
        at = bisect_right(times, at_ns)
        if at == len(times) or times[at] > at_ns + HORIZON_S * 1e9:
            return inf
        return times[at]

    def moves(self, view: View, at_ns: int) -> list[Move]:
        for model in view.missing():  # 1
            found = self._bring(view, model, at_ns, at_ns)
            if found:
                return found
        for model in view.waiting_models():  # 4
            coming = sum(
                replica.kv.sequences
                for replica in model.replicas.values()
                if not replica.is_leaving and not replica.is_open
            )
            if model.is_up and len(model.waiting) > coming:
                group = self._free(view, model)
                if group is not None:
                    return [self._begin(model, group, "more wait than there are slots")]
        if view.layout == self._layout and at_ns < self._quiet_ns:
            return []
        for need_ns, model in self._soon(view, at_ns):
            found = self._bring(view, model, at_ns, need_ns)
            if found:
                return found
        return []

    def _soon(self, view: View, at_ns: int) -> list[tuple[float, ModelView]]:
        """Not up, and asked for before a load that began now would be over; soonest first."""
        found = [
            (self.next_ns(model.name, at_ns), model)
            for model in view.models.values()
            if not model.replicas and not model.waiting
        ]
        due = [one for one in found if one[0] <= at_ns + self._lead_ns(view, one[1])]
        return sorted(due, key=lambda one: (one[0], one[1].name))

    def _lead_ns(self, view: View, model: ModelView) -> float:
        if view.layout != self._layout:
            self._leads_ns.clear()
            self._layout, self._quiet_ns = view.layout, -inf
        lead = self._leads_ns.get(model.name)
        if lead is None:
            loads = (self._load_s(model, group) for group in view.groups(model.spec))
            lead = self._leads_ns[model.name] = min(loads, default=0.0) * 1e9
        return lead

    def _load_s(self, model: ModelView, group: Group) -> float:
        source = Rung.HOST if group.node_id in model.asleep else Rung.DISK
        return self.load_s(model.spec, group.members[0].spec, source)

    def _bring(self, view: View, model: ModelView, at_ns: int, need_ns: float) -> list[Move]:
        group = self._free(view, model)
        if group is not None:
            return [self._begin(model, group, "room is free")]
        ways = []
        for one in view.groups(model.spec):
            victims = self._victims(view, model, one, at_ns)
            if victims is None:
                continue
            if not victims:
                return []  # its room is on the way
            first_ns = min(self.next_ns(victim.model, at_ns) for victim in victims)
            if need_ns <= at_ns or first_ns > need_ns:  # 3
                ways.append((-first_ns, len(victims), one.id, victims))
        if not ways:
            return []
        _, _, _, victims = min(ways, key=lambda way: way[:3])  # 2
        return [Dismiss(one.id, f"needed later than {model.name}") for one in victims]

    def _begin(self, model: ModelView, group: Group, why: str) -> Bring:
        kv = full_slots(model.spec, self.slots, group.free_bytes)
        return Bring(model.name, group.devices, kv, why)

    def _free(self, view: View, model: ModelView) -> Group | None:
        """Room for all slots before room for one; the nearest weights first, then most room."""
        taken = {replica.placement.devices for replica in model.replicas.values()}
        for kv in (full_slots(model.spec, self.slots), full_slots(model.spec, 1)):
            need = need_bytes(model.spec, kv)
            fitting = [
                one
                for one in view.groups(model.spec)
                if one.devices not in taken and one.free_bytes >= need
            ]
            if fitting:
                return min(
                    fitting, key=lambda one: (self._load_s(model, one), -one.free_bytes, one.id)
                )
        return None

    def _victims(
        self, view: View, model: ModelView, group: Group, at_ns: int
    ) -> list[ReplicaView] | None:
        """The idle that would go, those needed latest first; none: room is on its way already;
        None: not even all of them are enough.
        """
        need = model.least_bytes
        held, room = view.on(group), group.free_bytes
        room += sum(replica.held_bytes for replica in held if replica.is_leaving)
        chosen: list[ReplicaView] = []
        idle = [
            replica
            for replica in held
            if replica.is_idle and not view.models[replica.model].waiting
        ]
        for replica in sorted(idle, key=lambda one: (-self.next_ns(one.model, at_ns), one.id)):
            if room >= need:
                break
            chosen.append(replica)
            room += replica.held_bytes
        return chosen if room >= need else None

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        """When the next load has to begin."""
        if view.layout == self._layout and at_ns < self._quiet_ns:
            return self._begin_ns
        begins = [
            self.next_ns(model.name, at_ns) - self._lead_ns(view, model)
            for model in view.models.values()
            if not model.replicas and not model.waiting
        ]
        first = min((one for one in begins if one > at_ns), default=inf)
        self._begin_ns = None if first == inf else ceil(first)
        if view.layout == self._layout and all(one > at_ns for one in begins):
            self._quiet_ns = min(first, at_ns + HORIZON_S / 2 * 1e9)  # who comes into sight then
        return self._begin_ns

    def refuses(self, view: View, request: Request) -> str | None:
        return None
