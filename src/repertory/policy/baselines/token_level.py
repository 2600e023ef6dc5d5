"""Aegaeon's scheduler (SOSP'25): models take turns on a device at the granularity of tokens.

A model with work has a home, the instance with least to do: as many devices as the widest model
spans, and a narrower one takes the first of them.  There, models decode in weighted round
robin: a turn lasts `q_i = c / (n_i (alpha - sum 1/n_k))`, with `n_i = d / t_i` (how many steps fit
into the time between two tokens that clients accept), `c` the cost of a switch, and `alpha =
max(c / (min n * q_max) + sum 1/n, 0.5)`, which keeps turns below `q_max`.  At the end of its turn
what runs is stopped, its weights go to host memory, and the next model's come up.

Not modelled: separate devices for prompts (a turn computes the prompts that wait, first come first
served, and then decodes), weights fetched ahead of a turn, KV carried over (it is computed again).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from repertory.domain.requests import Request
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec
from repertory.policy.baselines.stage import (
    Bring,
    Dismiss,
    Group,
    Move,
    Part,
    Stage,
    Stop,
    full_slots,
)

__all__ = ["TokenLevel", "turns_s"]

_MOST_TURN_S = 4.0
"""QMAX of the paper."""
_LEAST_ALPHA = 0.5

StepSeconds = Callable[[ModelSpec, DeviceSpec, int], float]
SwitchSeconds = Callable[[ModelSpec, DeviceSpec], float]


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

    def __init__(
        self, step_s: StepSeconds, switch_s: SwitchSeconds, slots: int, tpot_s: float = 0.1
    ) -> None:
        """`step_s`: of a batch of so many; `tpot_s`: what clients accept between two tokens."""
        self.step_s = step_s
        self.switch_s = switch_s
        self.slots = slots
        self.tpot_s = tpot_s
        self._rounds: dict[str, _Round] = {}
        self._homes: dict[str, str] = {}

    def moves(self, stage: Stage, at_ns: int) -> list[Move]:
        instances = _instances(stage)
        self._settle(stage, instances)
        found: list[Move] = []
        for name, group in instances.items():
            turns = self._rounds.get(name)
            move = self._turn(stage, group, turns, at_ns) if turns is not None else None
            if move is not None:
                found.append(move)
        return found

    def _settle(self, stage: Stage, instances: dict[str, Group]) -> None:  # 1
        for name in [name for name, home in self._homes.items() if home not in instances]:
            self._rounds.pop(self._homes.pop(name), None)  # its worker is gone
        for part in stage.parts.values():
            if _has_work(part):
                if part.name not in self._homes:
                    home = min(instances, key=lambda one: (len(self._round(one).order), one))
                    self._homes[part.name] = home
                    self._round(home).order.append(part.name)
            elif part.name in self._homes and not part.copies:
                self._rounds[self._homes.pop(part.name)].order.remove(part.name)

    def _round(self, instance: str) -> _Round:
        return self._rounds.setdefault(instance, _Round())

    def _turn(self, stage: Stage, group: Group, turns: _Round, at_ns: int) -> Move | None:
        held = stage.on(group)
        others = [name for name in turns.order if _has_work(stage.parts[name])]
        if not held:
            return self._next(stage, group, turns, others)
        copy = held[0]
        if len(held) > 1 or not copy.is_open:
            return None
        others = [name for name in others if name != copy.model]
        part = stage.parts[copy.model]
        if turns.ends_ns is None and copy.prompts:
            return None
        if turns.ends_ns is None:  # 3
            turns.ends_ns = at_ns + round(self._turn_s(stage, group, turns, copy.model) * 1e9)
        if not others or (_has_work(part) and at_ns < turns.ends_ns):
            return None
        turns.ends_ns = None  # 2
        if copy.model in turns.order:
            turns.order.remove(copy.model)
            turns.order.append(copy.model)
        if not copy.running:
            return Dismiss(copy.id, f"{others[0]} has work")
        return Stop(copy.id, f"its turn is over, {others[0]} has work")

    def _next(self, stage: Stage, group: Group, turns: _Round, others: list[str]) -> Move | None:
        if not others:
            return None
        spec = stage.parts[others[0]].spec
        turns.ends_ns = None
        devices = group.devices[: spec.devices_per_replica]
        return Bring(spec.name, devices, self._kv(spec, group), "its turn")

    def _kv(self, spec: ModelSpec, group: Group) -> KvShape:
        return full_slots(spec, self.slots, group.free_bytes)

    def _turn_s(self, stage: Stage, group: Group, turns: _Round, name: str) -> float:
        device = group.seats[0].spec
        names = [one for one in turns.order if _has_work(stage.parts[one]) or one == name]
        slacks = {
            one: self.tpot_s / self.step_s(stage.parts[one].spec, device, _batch(stage.parts[one]))
            for one in names
        }
        switch_s = sum(self.switch_s(stage.parts[one].spec, device) for one in names)
        return turns_s(switch_s, slacks)[name]

    def wake_ns(self, stage: Stage, at_ns: int) -> int | None:
        ends = [one.ends_ns for one in self._rounds.values() if one.ends_ns is not None]
        return min((one for one in ends if one > at_ns), default=None)

    def refuses(self, stage: Stage, request: Request) -> str | None:
        return None


def _instances(stage: Stage) -> dict[str, Group]:
    widest = max(stage.parts.values(), key=lambda part: part.spec.devices_per_replica)
    return {group.id: group for group in stage.groups(widest.spec)}


def _has_work(part: Part) -> bool:
    return bool(part.waiting) or any(copy.running for copy in part.copies.values())


def _batch(part: Part) -> int:
    running = sum(len(copy.running) for copy in part.copies.values())
    return max(1, min(part.spec.max_sequences, running + len(part.waiting)))
