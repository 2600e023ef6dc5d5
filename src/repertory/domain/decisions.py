"""The decision record: one per step, machine-readable, the source of `why`, replay and reports."""

from dataclasses import dataclass

from repertory.domain.actions import Action
from repertory.domain.events import Event

__all__ = ["Decision", "Option", "Verdict"]


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
    """Where the prediction comes from: `prior` or `measured`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One step of the brain: what it learned, what it wants done, and why."""

    step: int
    event: Event
    actions: tuple[Action, ...]
    verdicts: tuple[Verdict, ...]
