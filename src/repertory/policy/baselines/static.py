"""A fixed set of models, chosen once by how often each is asked for; the others are turned away.

What most teams run: one server per model on its own devices, and a list of what is offered.
"""

from collections.abc import Mapping

from repertory.domain.requests import Request
from repertory.policy.baselines.view import Bring, Group, ModelView, Move, View, full_slots

__all__ = ["Static"]


class Static:
    """1. Who is asked for most is first, on the devices with most memory free.
    2. When each has one that fits, what is left goes to further replicas, to whoever has most
       requests per replica.
    3. Nothing is ever taken down, and who has no replica is not offered.
    """

    name = "static"
    keeps_in_host = False
    minds_tokens = False

    def __init__(self, rates_per_s: Mapping[str, float], slots: int) -> None:
        self.rates_per_s = rates_per_s
        self.slots = slots
        self._settled: int | None = None
        """The layout to which nothing is to be added."""

    def moves(self, view: View, at_ns: int) -> list[Move]:
        if view.layout == self._settled:
            return []
        ranked = sorted(view.models.values(), key=self._rank)
        for model in ranked:  # 1, 2
            group = self._room(view, model)
            if group is not None:
                kv = full_slots(model.spec, self.slots, group.free_bytes)
                share = self.rates_per_s.get(model.name, 0.0)
                return [
                    Bring(model.name, group.devices, kv, f"asked for {share:.3g} times a second")
                ]
        self._settled = view.layout
        return []

    def _rank(self, model: ModelView) -> tuple[bool, float, str]:
        rate = self.rates_per_s.get(model.name, 0.0)
        return (bool(model.replicas), -rate / (len(model.replicas) + 1), model.name)

    def _room(self, view: View, model: ModelView) -> Group | None:
        """Devices with room and none of it yet.  A second one only for who is asked for."""
        if model.replicas and not self.rates_per_s.get(model.name, 0.0):
            return None
        taken = {replica.placement.devices for replica in model.replicas.values()}
        need = model.least_bytes
        fitting = [
            group
            for group in view.groups(model.spec)
            if group.devices not in taken and need <= group.free_bytes
        ]
        return min(fitting, key=lambda one: (-one.free_bytes, one.id), default=None)

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        return None

    def refuses(self, view: View, request: Request) -> str | None:
        if view.models[request.model].replicas:
            return None
        return f"{request.model} is not among the models that are offered"  # 3
