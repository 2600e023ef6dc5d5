"""Where waiting requests stand: places in lines, and what each API key has had."""

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Alike", "KeyState", "Ticket"]


class Alike(NamedTuple):
    """What requests of a model have in common that wait in one line, first come first served.

    A tuple, as `Ticket`: both are hashed or compared several times per event.
    """

    weight: float
    key: str
    stopped: int
    began: bool
    is_returned: bool
    has_deadline: bool
    """These stand by their deadlines."""


class Ticket(NamedTuple):
    """A place in one of a model's lines."""

    begin_ns: int
    """By when it must begin for its deadline; 0 without one."""
    began_ns: int
    """When it had a slot before; 0: never."""
    since_ns: int
    name: str


@dataclass(slots=True)
class KeyState:
    """What one API key has had of the devices, and what waits for it."""

    used_ns: int = 0
    """As of `policy.requests.fairness`: measured, and predicted for what runs."""
    waiting: int = 0
    queued_ns: dict[int, int] = field(default_factory=dict)
    """Predicted work that waits, by class of weights (`policy.requests.line.band`)."""
    running: int = 0
