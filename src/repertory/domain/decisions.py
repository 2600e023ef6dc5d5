"""The decision record: one per step, machine-readable, the source of `why`, replay and reports."""

from dataclasses import dataclass
from enum import Enum

from repertory.domain.actions import Action
from repertory.domain.events import Event

__all__ = ["Cause", "Decision", "Option", "Verdict"]


class Cause(Enum):
    """What residency changes for.  The values are labels of the metrics."""

    DEMAND = "demand"
    """Requests wait."""
    OPERATOR = "operator"
    """A wish, a pin, a preload."""
    PREWARM = "prewarm"
    """Demand is expected."""
    ROOM = "room"
    """Another model gets the memory."""
    SLOTS = "slots"
    """It reopens with longer ones."""
    PLACEMENT = "placement"
    """It leaves for a place with more room."""
    BUDGET = "budget"
    """More memory was measured than is allowed."""
    TTL = "ttl"
    """Idle for its whole time to live."""
    REPLACED = "replaced"
    """Its file, or its layout, is another now."""
    REMOVED = "removed"
    """Nobody may ask for it any more."""


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that could have been done, with its price."""

    name: str
    harm_s: float
    """Predicted added seconds, weighted by importance (`policy.objective`)."""
    seconds: float
    bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A choice and why.  Options are listed where residency changes or a request is refused."""

    rule: str
    """The policy that spoke: load, evict, drain, prewarm, admit, ..."""
    subject: str
    choice: str
    why: str
    options: tuple[Option, ...] = ()
    action_ids: tuple[int, ...] = ()
    """Links to the measured values, which come with later events."""
    predicted_s: float | None = None
    predicted_bytes: int | None = None
    basis: str = ""
    """Where the prediction comes from: `prior`, `profile` or `measured`."""
    cause: Cause | None = None
    """Of every transition, and of a turn that is bounded; None: residency does not change."""
    measured_s: float | None = None
    """What came of the prediction, where it is said with hindsight: of computing, of going on, of
    stopping.  Moves have theirs in the event of their end."""
    error: float | None = None
    """How far off such predictions have been, relative; of a sum, that of its least certain part.
    None: it is no prediction, or of a log from before errors were said.
    """


@dataclass(frozen=True, slots=True)
class Decision:
    """One step of the brain: what it learned, what it wants done, and why."""

    step: int
    event: Event
    actions: tuple[Action, ...]
    verdicts: tuple[Verdict, ...]
