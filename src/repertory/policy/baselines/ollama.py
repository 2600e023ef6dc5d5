"""Ollama's scheduler (`server/sched.go`, read in August 2026).

One pending request at a time holds up all others that need a load; those for loaded models go past.
A model is loaded beside others only where it fits whole into 80 % of a device's free memory.  Else
the runner of the shortest keep-alive goes: an idle one if there is one, or the first to be idle.
"""

from repertory.domain.requests import Request
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

__all__ = ["Ollama"]

_SHARE = 0.8
"""Of the free memory, that a prediction may take."""
_MODELS_PER_DEVICE = 3
_QUEUE = 512
"""Pending requests; more are told to come back later."""


class Ollama:
    """1. Only the oldest pending request counts, and one load is under way at a time.
    2. It fits whole into 80 % of what is free on a device that holds fewer than three: there.
    3. Else one runner goes, idle ones before busy ones, then by keep-alive, then by path; while it
       goes nobody else does.
    4. Nothing is left to go: it is loaded all the same, if it fits at all.
    5. What was idle for its keep-alive goes.
    """

    name = "ollama"
    keeps_in_host = False
    minds_tokens = False

    def __init__(self, keep_alive_s: float = 300.0, slots: int = 1) -> None:
        """Five minutes unless told; `slots`: `OLLAMA_NUM_PARALLEL`, 1 unless told."""
        self.keep_alive_s = keep_alive_s
        self.slots = slots

    def moves(self, view: View, at_ns: int) -> list[Move]:
        found: list[Move] = [
            Dismiss(replica.id, f"idle for {self.keep_alive_s:.0f} s")  # 5
            for replica in view.replicas
            if replica.is_idle and at_ns >= self._expires_ns(replica)
        ]
        if found:
            return found
        if any(one.is_leaving or (one.is_moving and not one.is_open) for one in view.replicas):
            return []  # 1, 3
        missing = view.missing()
        if not missing or not view.groups(missing[0].spec):
            return []
        return [self._next(view, missing[0])]

    def _next(self, view: View, model: ModelView) -> Move:
        group, kv = self._place(view, model), full_slots(model.spec, self.slots)
        if group is not None:  # 2
            return Bring(model.name, group.devices, kv, "fits into 80 % of what is free")
        victim = min(view.replicas, key=self._order, default=None)
        if victim is not None:  # 3
            return Dismiss(victim.id, "the shortest keep-alive of all")
        groups = view.groups(model.spec)
        group = min(groups, key=lambda one: (-one.free_bytes, one.id))
        kv = full_slots(model.spec, self.slots, group.free_bytes)
        return Bring(model.name, group.devices, kv, "nothing else is loaded")  # 4

    def _place(self, view: View, model: ModelView) -> Group | None:
        need = need_bytes(model.spec, full_slots(model.spec, self.slots))
        fitting = [
            group
            for group in view.groups(model.spec)
            if len(view.on(group)) < _MODELS_PER_DEVICE and need <= _SHARE * group.free_bytes
        ]
        return min(fitting, key=lambda one: (-one.free_bytes, one.id), default=None)

    def _order(self, replica: ReplicaView) -> tuple[bool, str]:
        """All keep-alives are the same here, so what decides among the idle is the path."""
        return (bool(replica.running), replica.model)

    def _expires_ns(self, replica: ReplicaView) -> int:
        return replica.used_ns + round(self.keep_alive_s * 1e9)

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        return min((self._expires_ns(one) for one in view.replicas if one.is_idle), default=None)

    def refuses(self, view: View, request: Request) -> str | None:
        if view.models[request.model].is_up:
            return None
        pending = sum(len(model.waiting) for model in view.missing())
        return "the queue is full" if pending >= _QUEUE else None
