"""What a rule of another system sees, and what it may want.

Rules read; the rival's brain (`core.rivals.rival`) writes.  Memory is kept account of in bytes free
now: what is on its way down still holds its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from repertory.domain.ladder import Rung
from repertory.domain.requests import Request
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, Placement, WeightsForm
from repertory.perf.bytes import kv_bytes, shape_for, weights_footprint

__all__ = [
    "Bring",
    "DeviceView",
    "Dismiss",
    "Group",
    "ModelView",
    "Move",
    "ReplicaView",
    "Rule",
    "Stop",
    "View",
    "Waiting",
    "full_slots",
    "need_bytes",
]


@dataclass(slots=True)
class DeviceView:
    """A device."""

    spec: DeviceSpec
    node_id: str
    free_bytes: int

    @property
    def id(self) -> str:
        return self.spec.id


@dataclass(frozen=True, slots=True)
class Group:
    """Devices of one node that a replica may span: neighbours, as many as its model wants."""

    members: tuple[DeviceView, ...]

    @property
    def id(self) -> str:
        return "+".join(one.id for one in self.members)

    @property
    def node_id(self) -> str:
        return self.members[0].node_id

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(one.id for one in self.members)

    @property
    def free_bytes(self) -> int:
        """On each of them."""
        return min(one.free_bytes for one in self.members)

    @property
    def most_bytes(self) -> int:
        """If nothing else were there."""
        return min(one.spec.memory_bytes for one in self.members)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that has no slot yet."""

    request: Request
    since_ns: int


@dataclass(slots=True)
class ReplicaView:
    """A replica that is not on the disk only."""

    id: str
    model: str
    node_id: str
    placement: Placement
    kv: KvShape
    rung: Rung
    used_ns: int
    """When it last began or ended a request, or came up."""
    is_moving: bool = False
    is_leaving: bool = False
    """On its way down, or to go as soon as nothing runs."""
    running: dict[str, int] = field(default_factory=dict)
    """Requests, and when each began."""
    prompts: set[str] = field(default_factory=set)
    """Those of them that have no token yet, since they began there."""
    held_bytes: int = 0
    """On each of its devices."""

    @property
    def is_open(self) -> bool:
        """It takes requests."""
        return self.rung is Rung.SERVING and not self.is_moving and not self.is_leaving

    @property
    def is_idle(self) -> bool:
        return self.is_open and not self.running

    @property
    def free_slots(self) -> int:
        return self.kv.sequences - len(self.running) if self.is_open else 0


@dataclass(slots=True)
class ModelView:
    """A model, and who waits for it."""

    spec: ModelSpec
    waiting: dict[str, Waiting] = field(default_factory=dict)
    replicas: dict[str, ReplicaView] = field(default_factory=dict)
    """Up, on their way up, or on their way down; sleepers are not among them."""
    asleep: dict[str, ReplicaView] = field(default_factory=dict)
    """By node: weights in host memory, for free or from a budget."""
    least_bytes: int = field(init=False)
    """Per device, of a replica with one slot."""

    def __post_init__(self) -> None:
        self.least_bytes = need_bytes(self.spec, full_slots(self.spec, 1))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def oldest_ns(self) -> int | None:
        return next((one.since_ns for one in self.waiting.values()), None)

    @property
    def is_up(self) -> bool:
        """Somebody serves it, or will soon."""
        return any(not replica.is_leaving for replica in self.replicas.values())


@dataclass(slots=True)
class View:
    """Everything."""

    devices: dict[str, DeviceView] = field(default_factory=dict)
    models: dict[str, ModelView] = field(default_factory=dict)
    held: dict[str, dict[str, ReplicaView]] = field(default_factory=dict)
    """Replicas that hold memory of a device, by the device."""
    layout: int = 0
    """Another number whenever a device, a model, or who holds what has changed: what was found out
    about these need not be looked for again as long as it is the same.
    """
    _groups: dict[int, list[Group]] = field(default_factory=dict)
    """By width."""

    @property
    def replicas(self) -> Iterator[ReplicaView]:
        return (replica for model in self.models.values() for replica in model.replicas.values())

    def waiting_models(self) -> list[ModelView]:
        """Who waits longest first."""
        found = [model for model in self.models.values() if model.waiting]
        return sorted(found, key=lambda model: (model.oldest_ns or 0, model.name))

    def groups(self, spec: ModelSpec) -> list[Group]:
        """Where a replica could be: never overlapping others of the same width, by name."""
        width = spec.devices_per_replica
        found = self._groups.get(width)
        if found is None:
            found = self._groups[width] = self._divided(width)
        return found

    def _divided(self, width: int) -> list[Group]:
        by_node: dict[str, list[DeviceView]] = {}
        for device in self.devices.values():
            by_node.setdefault(device.node_id, []).append(device)
        return [
            Group(tuple(devices[at : at + width]))
            for _, devices in sorted(by_node.items())
            for at in range(0, len(devices) - width + 1, width)
        ]

    def rearranged(self) -> None:
        """A device has come or gone."""
        self._groups.clear()
        self.layout += 1

    def on(self, group: Group) -> list[ReplicaView]:
        """Replicas that hold memory of any of its devices, by name."""
        if len(group.members) == 1:
            found = self.held.get(group.members[0].id)
            return [found[name] for name in sorted(found)] if found else []
        replicas = {
            name: replica
            for device in group.members
            for name, replica in self.held.get(device.id, {}).items()
        }
        return [replicas[name] for name in sorted(replicas)]

    def missing(self) -> list[ModelView]:
        """Of those, the ones that nobody serves or is about to."""
        return [model for model in self.waiting_models() if not model.is_up]


@dataclass(frozen=True, slots=True)
class Bring:
    """Load and open a replica; the memory for it is free."""

    model: str
    devices: tuple[str, ...]
    kv: KvShape
    why: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Take a replica down.  What runs on it is let end first."""

    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Take a replica down now; what runs on it goes on later, elsewhere or there."""

    replica: str
    why: str


Move = Bring | Dismiss | Stop


class Rule(Protocol):
    """How another system decides.  Asked after every change; it may keep what it has in mind."""

    name: str
    keeps_in_host: bool
    """What goes down stays in host memory while there is room; else its process is gone."""
    minds_tokens: bool
    """It wants to be asked after first tokens too, and after requests that found a slot at once."""

    def moves(self, view: View, at_ns: int) -> list[Move]:
        """What is to be done now; asked again until there is nothing."""

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        """When to be asked though nothing happens; None: never."""

    def refuses(self, view: View, request: Request) -> str | None:
        """Why a request is turned away at the door; None: it is let in."""


def need_bytes(spec: ModelSpec, kv: KvShape) -> int:
    """Of a serving replica, per device, at the peak of its load."""
    foot = weights_footprint(spec, WeightsForm.PLAIN)
    return max(foot.resting_bytes + kv_bytes(spec, kv), foot.weights_bytes + foot.peak_bytes)


def full_slots(spec: ModelSpec, most: int, room_bytes: int | None = None) -> KvShape:
    """Slots of the model's whole context: `most` of them, or as many as there is room for (one at
    least, whether that fits or not).
    """
    sequences = min(most, spec.max_sequences)
    while sequences > 1 and room_bytes is not None:
        if need_bytes(spec, shape_for(spec, sequences, spec.context_tokens)) <= room_bytes:
            break
        sequences //= 2
    return KvShape(sequences, shape_for(spec, 1, spec.context_tokens).cells)
