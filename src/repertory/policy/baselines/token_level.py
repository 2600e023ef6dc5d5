"""Aegaeon's scheduler (SOSP'25): models take turns on a device at the granularity of tokens.

A model with work has a home, the instance with least to do of those that are as wide as it is; the
devices are divided among widths by load.  There, models decode in weighted round robin: a turn
lasts `q_i = c / (n_i (alpha - sum 1/n_k))`, with `n_i = d / t_i` (how many steps fit into the time
between two tokens that clients accept), `c` the cost of a switch, and `alpha = max(c / (min n *
q_max) + sum 1/n, 0.5)`, which keeps turns below `q_max`.  At the end of its turn what runs is
stopped, its weights go to host memory, and the next model's come up.

Not modelled: several homes of one model, separate devices for prompts (a turn computes the prompts
that wait, first come first served, and then decodes), weights fetched ahead of a turn, KV carried
over (it is computed again).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from repertory.domain.requests import Request
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec
from repertory.policy.baselines.view import (
    Bring,
    Dismiss,
    Group,
    ModelView,
    Move,
    Stop,
    View,
    full_slots,
)

__all__ = ["TokenLevel", "turns_s"]

_MOST_TURN_S = 4.0
"""QMAX of the paper."""
_LEAST_ALPHA = 0.5

StepSeconds = Callable[[ModelSpec, DeviceSpec, int], float]
SwitchSeconds = Callable[[ModelSpec, DeviceSpec], float]
Load = Callable[[ModelSpec, DeviceSpec], float]


def turns_s(switch_s: float, slacks: dict[str, float]) -> dict[str, float]:
    """Seconds of a turn by model.  `slacks`: n_i, accepted seconds per token by those it takes."""
    inverse = sum(1 / one for one in slacks.values())
    alpha = max(switch_s / (min(slacks.values()) * _MOST_TURN_S) + inverse, _LEAST_ALPHA)
    # Where alpha is its least value it may be below the sum: then nothing bounds a turn but q_max.
    spare = alpha - inverse
    return {
        name: min(_MOST_TURN_S, switch_s / (slack * spare)) if spare > 0 else _MOST_TURN_S
        for name, slack in slacks.items()
    }


@dataclass(slots=True)
class _Round:
    """Of one group of devices."""

    order: list[str] = field(default_factory=list)
    """Models with work, whose turn is next first."""
    ends_ns: int | None = None
    """Of the turn under way."""


class TokenLevel:
    """1. Who has work and no home gets the one with the fewest models, then by name.
    2. A turn ends when its time is over, or its model has no work, if others wait there.
    3. A turn begins when the prompts are computed that waited for it; alone, a model goes on.
    """

    name = "token-level"
    keeps_in_host = True
    minds_tokens = True

    def __init__(
        self,
        step_s: StepSeconds,
        switch_s: SwitchSeconds,
        slots: int,
        load: Load = lambda spec, device: 1.0,
        tpot_s: float = 0.1,
    ) -> None:
        """`step_s`: of a batch of so many; `load`: devices that a model keeps busy, on average;
        `tpot_s`: what clients accept between two tokens.
        """
        self.step_s = step_s
        self.switch_s = switch_s
        self.slots = slots
        self.load = load
        self.tpot_s = tpot_s
        self._rounds: dict[str, _Round] = {}
        self._homes: dict[str, str] = {}
        self._house: tuple[list[Group], int] | None = None
        """What the instances were divided for."""
        self._instances: dict[str, Group] = {}
        self._by_width: dict[int, list[str]] = {}

    def moves(self, view: View, at_ns: int) -> list[Move]:
        self._divide(view)
        self._settle(view)
        found: list[Move] = []
        for name, turns in sorted(self._rounds.items()):
            if turns.order:
                move = self._turn(view, self._instances[name], turns, at_ns)
                if move is not None:
                    found.append(move)
        return found

    def _divide(self, view: View) -> None:
        """Into instances of every width, each width by its load, the widest first; a width for
        which nothing is left shares the instances of the next wider one.
        """
        if not view.devices:
            self._house, self._instances, self._by_width = None, {}, {}
            return
        widths = sorted({model.spec.devices_per_replica for model in view.models.values()})
        of_one = view.groups(min(view.models.values(), key=_width).spec)
        house = (of_one, len(view.models))
        if self._house is not None and self._house[0] is of_one and self._house[1] == house[1]:
            return
        self._house, self._instances, self._by_width = house, {}, {}
        loads = self._loads(view)
        taken: set[str] = set()
        for width in reversed(widths):
            spec = next(one.spec for one in view.models.values() if _width(one) == width)
            free = [one for one in view.groups(spec) if not taken & set(one.devices)]
            narrower = sum(loads[one] for one in widths if one < width)
            share = loads[width] / (loads[width] + narrower) if narrower else 1.0
            chosen = free[: max(1, round(share * len(free)))]
            self._by_width[width] = [one.id for one in chosen] or self._wider(width)
            for group in chosen:
                self._instances[group.id] = group
                taken.update(group.devices)

    def _wider(self, width: int) -> list[str]:
        wider = min((one for one in self._by_width if one > width), default=None)
        return [] if wider is None else self._by_width[wider]

    def _loads(self, view: View) -> dict[int, float]:
        """By width; none is nothing."""
        device = next(iter(view.devices.values())).spec
        found: dict[int, float] = {}
        for model in view.models.values():
            width = _width(model)
            found[width] = found.get(width, 1e-9) + self.load(model.spec, device)
        return found

    def _settle(self, view: View) -> None:  # 1
        for name in [name for name, home in self._homes.items() if home not in self._instances]:
            self._rounds.pop(self._homes.pop(name), None)  # its worker is gone
        for model in view.models.values():
            if _has_work(model):
                homes = self._by_width.get(_width(model))
                if model.name not in self._homes and homes:
                    home = min(homes, key=lambda one: (len(self._round(one).order), one))
                    self._homes[model.name] = home
                    self._round(home).order.append(model.name)
            elif model.name in self._homes and not model.replicas:
                self._rounds[self._homes.pop(model.name)].order.remove(model.name)

    def _round(self, instance: str) -> _Round:
        return self._rounds.setdefault(instance, _Round())

    def _turn(self, view: View, group: Group, turns: _Round, at_ns: int) -> Move | None:
        held = view.on(group)
        others = [name for name in turns.order if _has_work(view.models[name])]
        if not held:
            return self._next(view, group, turns, others)
        replica = held[0]
        if len(held) > 1 or not replica.is_open:
            return None
        others = [name for name in others if name != replica.model]
        model = view.models[replica.model]
        if turns.ends_ns is None and replica.prompts:
            return None
        if turns.ends_ns is None:  # 3
            turns.ends_ns = at_ns + round(self._turn_s(view, group, turns, replica.model) * 1e9)
        if not others or (_has_work(model) and at_ns < turns.ends_ns):
            return None
        turns.ends_ns = None  # 2
        if replica.model in turns.order:
            turns.order.remove(replica.model)
            turns.order.append(replica.model)
        if not replica.running:
            return Dismiss(replica.id, f"{others[0]} has work")
        return Stop(replica.id, f"its turn is over, {others[0]} has work")

    def _next(self, view: View, group: Group, turns: _Round, others: list[str]) -> Move | None:
        if not others:
            return None
        spec = view.models[others[0]].spec
        turns.ends_ns = None
        devices = group.devices[: spec.devices_per_replica]
        return Bring(spec.name, devices, self._kv(spec, group), "its turn")

    def _kv(self, spec: ModelSpec, group: Group) -> KvShape:
        return full_slots(spec, self.slots, group.free_bytes)

    def _turn_s(self, view: View, group: Group, turns: _Round, name: str) -> float:
        device = group.members[0].spec
        names = [one for one in turns.order if _has_work(view.models[one]) or one == name]
        slacks = {
            one: self.tpot_s / self.step_s(view.models[one].spec, device, _batch(view.models[one]))
            for one in names
        }
        switch_s = sum(self.switch_s(view.models[one].spec, device) for one in names)
        return turns_s(switch_s, slacks)[name]

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        ends = [one.ends_ns for one in self._rounds.values() if one.ends_ns is not None]
        return min((one for one in ends if one > at_ns), default=None)

    def refuses(self, view: View, request: Request) -> str | None:
        return None


def _width(model: ModelView) -> int:
    return model.spec.devices_per_replica


def _has_work(model: ModelView) -> bool:
    if model.waiting:
        return True
    return bool(model.replicas) and any(replica.running for replica in model.replicas.values())


def _batch(model: ModelView) -> int:
    running = sum(len(replica.running) for replica in model.replicas.values())
    return max(1, min(model.spec.max_sequences, running + len(model.waiting)))
