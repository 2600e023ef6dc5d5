"""Events: everything the brain ever learns.  A closed union with a total order.

Times are integer nanoseconds on the driver's clock.  Events of one instant are delivered in the
order `(at_ns, rank of the kind, subject)`: releases before claims, then by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from repertory.domain.ladder import Rung
from repertory.domain.plans import Plan
from repertory.domain.readings import DeviceReadings
from repertory.domain.requests import Fault, FinishReason, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import ModelSpec, NodeSpec

__all__ = [
    "EVENT_KINDS",
    "Arrived",
    "Cancelled",
    "DrainAsked",
    "Event",
    "Finished",
    "FirstToken",
    "GenerationFailed",
    "Measured",
    "ModelAdded",
    "ModelProfiled",
    "ModelRemoved",
    "OperatorAsked",
    "PlanReady",
    "Preempted",
    "SettingsChanged",
    "Timer",
    "TransitionDone",
    "TransitionFailed",
    "Wish",
    "WorkerLost",
    "WorkerUp",
    "order",
    "subject",
]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a transition really cost.  Bytes are totals after it; None: not read."""

    took_ns: int
    weights_bytes: int | None = None
    kv_bytes: int | None = None
    buffers_bytes: int | None = None
    source: Rung | None = None
    """For a load: where the bytes really came from (a belief in `HOST` may be wrong)."""
    kv_saved_bytes: int = 0
    """For a deactivate or a resize: KV that lost its slot by it and was copied out, to be copied
    back when somebody goes on with it."""
    kv_saved_ns: int = 0
    """The part of `took_ns` that this took."""
    rest_weights_bytes: int | None = None
    """The part of a replica on an accelerator that lies in main memory; not in the totals above."""
    rest_kv_bytes: int | None = None
    rest_buffers_bytes: int | None = None
    first_ns: int = 0
    """The part of `took_ns` that the next move of its kind will not take in this worker: for a load
    the file's vocabulary, which stays when the weights go; for an activation the few tokens that a
    model's first context computes."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation ended by itself.  The times are the compute it took part in."""

    at_ns: int
    request_id: str
    reason: FinishReason
    output_tokens: int
    prefill_ns: int
    decode_ns: int
    reused_tokens: int = 0
    """Prompt tokens that a prefix cache spared."""
    share_ns: int = 0
    """Device time that was its own, since it was last dispatched: of a step of n, an n-th."""


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The engine gave a generation up."""

    at_ns: int
    request_id: str
    message: str
    fault: Fault = Fault.ENGINE


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client left.  Other requests, and the loads they want, are not touched."""

    at_ns: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Preempted:
    """A generation stopped because the brain wanted it to; its slot is free."""

    at_ns: int
    request_id: str
    made_tokens: int = 0
    """All that it has made so far; it goes on after them."""
    share_ns: int = 0
    """As of `Finished`."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Prefill is over, or what a returned request had made is computed again: its first token
    since it was dispatched.
    """

    at_ns: int
    request_id: str
    reused_tokens: int = 0
    """Of all that came before it, tokens whose cells were still there, or were copied back."""
    restored_bytes: int = 0
    """KV that was copied back for it."""
    restored_ns: int = 0
    """What that took, reading it from the disk included."""
    restored_from: Rung | None = None
    """`HOST` or `DISK`; None: nothing was copied back."""
    displaced_bytes: int = 0
    """KV of another conversation that was copied out, for its slot was given to this one."""
    displaced_ns: int = 0
    """What that took."""


@dataclass(frozen=True, slots=True)
class TransitionDone:
    """The action of that id is done; its cost was measured."""

    at_ns: int
    action_id: int
    replica_id: str
    measured: Measured


@dataclass(frozen=True, slots=True)
class TransitionFailed:
    """The action of that id failed; the replica stands where it stood."""

    at_ns: int
    action_id: int
    replica_id: str
    message: str
    fault: Fault = Fault.ENGINE


@dataclass(frozen=True, slots=True)
class WorkerUp:
    """A node's worker is ready; everything on it is at `DISK`."""

    at_ns: int
    node: NodeSpec


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A node's worker died, and with it all its replicas; not their generations."""

    at_ns: int
    node_id: str
    message: str
    is_outage: bool = False
    """The whole machine went, so nothing that ran or was brought up there is blamed."""


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """A model may be asked for from now on; replaces the spec of the same name."""

    at_ns: int
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class ModelRemoved:
    """A model may no longer be asked for."""

    at_ns: int
    model: str


@dataclass(frozen=True, slots=True)
class ModelProfiled:
    """What was measured of a model's file on a device, before it was ever served there."""

    at_ns: int
    digest: str
    readings: DeviceReadings


class Wish(Enum):
    """What an operator can ask for."""

    LOAD = "load"
    UNLOAD = "unload"
    PIN = "pin"
    UNPIN = "unpin"


@dataclass(frozen=True, slots=True)
class OperatorAsked:
    """An operator's wish.  `UNLOAD` lets running work finish first."""

    at_ns: int
    model: str
    wish: Wish


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The operator turned a dial.  What was promised under the old settings is kept."""

    at_ns: int
    settings: Settings


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """No new requests from now on; what is in runs to its end."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class PlanReady:
    """A `Solve` came back."""

    at_ns: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Timer:
    """A `WakeAt` is due."""

    at_ns: int
    name: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request of a known model that fits its context."""

    at_ns: int
    request: Request


Event = (
    Finished
    | GenerationFailed
    | Cancelled
    | Preempted
    | FirstToken
    | TransitionDone
    | TransitionFailed
    | WorkerUp
    | WorkerLost
    | ModelProfiled
    | ModelAdded
    | ModelRemoved
    | SettingsChanged
    | OperatorAsked
    | DrainAsked
    | PlanReady
    | Timer
    | Arrived
)

EVENT_KINDS: tuple[type[Event], ...] = (
    Finished,
    GenerationFailed,
    Cancelled,
    Preempted,
    FirstToken,
    TransitionDone,
    TransitionFailed,
    WorkerUp,
    WorkerLost,
    ModelProfiled,
    ModelAdded,
    ModelRemoved,
    SettingsChanged,
    OperatorAsked,
    DrainAsked,
    PlanReady,
    Timer,
    Arrived,
)
"""In order of rank: releases before claims."""

_SUBJECT: dict[type[Event], Callable[[Any], str]] = {  # Any: each takes its own kind
    Finished: lambda event: event.request_id,
    GenerationFailed: lambda event: event.request_id,
    Cancelled: lambda event: event.request_id,
    Preempted: lambda event: event.request_id,
    FirstToken: lambda event: event.request_id,
    TransitionDone: lambda event: f"{event.replica_id}#{event.action_id:012d}",
    TransitionFailed: lambda event: f"{event.replica_id}#{event.action_id:012d}",
    WorkerUp: lambda event: event.node.id,
    WorkerLost: lambda event: event.node_id,
    ModelProfiled: lambda event: f"{event.digest}/{event.readings.device}",
    ModelAdded: lambda event: event.spec.name,
    ModelRemoved: lambda event: event.model,
    SettingsChanged: lambda _: "",
    OperatorAsked: lambda event: f"{event.model}#{event.wish.value}",
    DrainAsked: lambda _: "",
    PlanReady: lambda event: f"{event.plan.id:012d}",
    Timer: lambda event: event.name,
    Arrived: lambda event: event.request.id,
}

_RANK = {kind: rank for rank, kind in enumerate(EVENT_KINDS)}


def subject(event: Event) -> str:
    """The name that breaks ties between events of one kind and instant."""
    return _SUBJECT[type(event)](event)


def order(event: Event) -> tuple[int, int, str]:
    """The total order of events, and the key of every heap of events."""
    return (event.at_ns, _RANK[type(event)], subject(event))
