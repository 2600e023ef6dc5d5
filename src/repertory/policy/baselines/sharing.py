"""MuxServe's placement (ICML'24): models share devices for good, by rate, with quotas of KV memory.

Models by rate times size, each to the device on which the estimated throughput grows most; the KV
memory of a device is divided by rate times what a token takes.  Who finds no room is not offered.
Not modelled: meshes of several widths for one model, blocks that move from the idle to the busy (at
most a tenth at a time), and shares of a GPU's processors.  Its published gains rest on a profiled
cost file and on such shares: none of its figures could be reproduced here, only its formulas are.
"""

from collections.abc import Callable, Mapping

from repertory.domain.requests import Request
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec
from repertory.perf.bytes import kv_bytes
from repertory.policy.baselines.view import Bring, Group, Move, View, full_slots, need_bytes

__all__ = ["Sharing"]

WorkSeconds = Callable[[ModelSpec, DeviceSpec], float]


class Sharing:
    """1. Planned once, when all devices and models are known: at the first request.
    2. By rate times size; each where the throughput of the device grows most, then where most
       memory is free.
    3. Every model has room for one slot; what is left of a device goes by rate and KV per token.
    4. Who was planned and lost its machine comes up again in its place, when that is back.
    """

    name = "sharing"
    keeps_in_host = False
    minds_tokens = False

    def __init__(self, rates_per_s: Mapping[str, float], work_s: WorkSeconds, slots: int) -> None:
        """`work_s`: seconds of a device per request, in a full batch."""
        self.rates_per_s = rates_per_s
        self.work_s = work_s
        self.slots = slots
        self._plan: dict[str, Bring] | None = None

    def moves(self, view: View, at_ns: int) -> list[Move]:
        return [
            one
            for name, one in self._planned(view).items()
            if not view.models[name].replicas
            and all(device in view.devices for device in one.devices)
        ]

    def _planned(self, view: View) -> dict[str, Bring]:  # 1
        if self._plan is None:
            self._plan = self._divided(view)
        return self._plan

    def _divided(self, view: View) -> dict[str, Bring]:
        placed = self._placed(view)
        held: dict[str, list[ModelSpec]] = {name: [] for name in view.devices}
        for name, group in placed.items():
            for device in group.devices:
                held[device].append(view.models[name].spec)
        found: dict[str, Bring] = {}
        for name, group in placed.items():
            spec = view.models[name].spec
            slots = min(self._quota(spec, held[one.id], one.free_bytes) for one in group.members)
            kv = KvShape(slots, full_slots(spec, 1).cells)
            beside = max(len(held[device]) for device in group.devices)
            found[name] = Bring(name, group.devices, kv, f"{beside} share it")
        return found

    def _placed(self, view: View) -> dict[str, Group]:  # 2
        held: dict[str, list[ModelSpec]] = {name: [] for name in view.devices}
        free = {name: one.free_bytes for name, one in view.devices.items()}
        placed: dict[str, Group] = {}
        for model in sorted(
            view.models.values(), key=lambda one: (-self._size(one.spec), one.name)
        ):
            spec = model.spec
            need = need_bytes(spec, full_slots(spec, 1))
            fitting = [
                group
                for group in view.groups(spec)
                if all(free[device] >= need for device in group.devices)
            ]
            if not fitting:
                continue
            group = min(
                fitting,
                key=lambda one: (
                    -self._gain(spec, [held[device] for device in one.devices], one),
                    -min(free[device] for device in one.devices),
                    one.id,
                ),
            )
            placed[model.name] = group
            for device in group.devices:
                held[device].append(spec)
                free[device] -= need
        return placed

    def _size(self, spec: ModelSpec) -> float:
        return self._rate(spec) * spec.weights_bytes

    def _rate(self, spec: ModelSpec) -> float:
        return self.rates_per_s.get(spec.name, 0.0)

    def _gain(self, spec: ModelSpec, held: list[list[ModelSpec]], group: Group) -> float:
        """Requests a second that the devices serve more with `spec` than without.

        Rounded: where nothing is full all gains are the same, whatever the order of the sums.
        """
        device = group.members[0].spec
        there = max(held, key=lambda specs: self._load(specs, device))
        more = self._served(*there, spec, device=device) - self._served(*there, device=device)
        return round(more, 9)

    def _served(self, *specs: ModelSpec, device: DeviceSpec) -> float:
        load = self._load(specs, device)
        return sum(self._rate(one) for one in specs) / max(1.0, load)

    def _load(self, specs: "list[ModelSpec] | tuple[ModelSpec, ...]", device: DeviceSpec) -> float:
        return sum(self._rate(one) * self.work_s(one, device) for one in specs)

    def _quota(self, spec: ModelSpec, specs: list[ModelSpec], free_bytes: int) -> int:  # 3
        left = free_bytes - sum(need_bytes(one, full_slots(one, 1)) for one in specs)
        models = {one.name: self._rate(one) * one.kv_bytes_per_token for one in specs}
        total = sum(models.values())
        share = models[spec.name] / total if total else 1 / len(specs)
        more = int(left * share / kv_bytes(spec, full_slots(spec, 1)))
        return min(1 + more, self.slots, spec.max_sequences)

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        return None

    def refuses(self, view: View, request: Request) -> str | None:
        if request.model in self._planned(view):
            return None
        return f"{request.model} has found no room beside the others"  # 2
