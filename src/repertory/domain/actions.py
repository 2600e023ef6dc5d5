"""Actions: what the brain wants done.  A closed union; drivers `match` it to the end.

An action with an `action_id` is answered by exactly one `TransitionDone` or `TransitionFailed`
that carries the same id.
"""

from dataclasses import dataclass

from repertory.domain.ladder import Edge, Rung
from repertory.domain.plans import Problem
from repertory.domain.requests import Outcome
from repertory.domain.specs import KvShape, Placement

__all__ = [
    "Action",
    "Activate",
    "Cancel",
    "Deactivate",
    "Dispatch",
    "Drop",
    "Load",
    "Preempt",
    "Resize",
    "Settle",
    "Solve",
    "Stage",
    "Transition",
    "Unload",
    "WakeAt",
    "edge_of",
]


@dataclass(frozen=True, slots=True)
class Stage:
    """Bring the bytes into host memory."""

    action_id: int
    replica_id: str
    model: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Load:
    """Bring the weights onto the devices of `placement`."""

    action_id: int
    replica_id: str
    model: str
    node_id: str
    placement: Placement
    source: Rung


@dataclass(frozen=True, slots=True)
class Activate:
    """Allocate KV memory and open the replica."""

    action_id: int
    replica_id: str
    model: str
    node_id: str
    kv: KvShape


@dataclass(frozen=True, slots=True)
class Resize:
    """Change the KV memory of a serving replica; running sequences move along."""

    action_id: int
    replica_id: str
    model: str
    node_id: str
    kv: KvShape


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Free the KV memory of an idle replica; its weights stay."""

    action_id: int
    replica_id: str
    model: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Free the device's weights; the bytes stay in host memory."""

    action_id: int
    replica_id: str
    model: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Free the host's bytes too."""

    action_id: int
    replica_id: str
    model: str
    node_id: str


Transition = Stage | Load | Activate | Resize | Deactivate | Unload | Drop

_EDGES: dict[type[Transition], Edge] = {
    Stage: Edge.STAGE,
    Load: Edge.LOAD,
    Activate: Edge.ACTIVATE,
    Resize: Edge.RESIZE,
    Deactivate: Edge.DEACTIVATE,
    Unload: Edge.UNLOAD,
    Drop: Edge.DROP,
}


def edge_of(transition: Transition) -> Edge:
    """The edge of the ladder that a transition walks."""
    return _EDGES[type(transition)]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Start the generation of a request on a serving replica."""

    request_id: str
    replica_id: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a running generation; it takes effect at the next step."""

    request_id: str
    replica_id: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Preempt:
    """Stop a running generation at the next step, for it to go on later; answered by `Preempted`,
    unless it ends before."""

    request_id: str
    replica_id: str
    node_id: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Tell the request's owner its one outcome."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Timer(at_ns, name)`; a later WakeAt of the same name replaces this one."""

    at_ns: int
    name: str


@dataclass(frozen=True, slots=True)
class Solve:
    """Think slowly about `problem`; answer with `PlanReady`."""

    problem: Problem


Action = Transition | Dispatch | Cancel | Preempt | Settle | WakeAt | Solve
