"""Requests and their one outcome."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["FinishReason", "Outcome", "OutcomeKind", "Request"]


class FinishReason(Enum):
    """Why a generation ended, in the words of the OpenAI API."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Request:
    """What the brain knows of a request: sizes and importance, never its text."""

    id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    """The most tokens it may generate; prompt + max_tokens cells are reserved for it."""
    weight: float = 1.0
    """Its share in `harm`; interactive work weighs 1."""

    @property
    def cells(self) -> int:
        return self.prompt_tokens + self.max_tokens


class OutcomeKind(Enum):
    """How a request ended.  Every request has exactly one."""

    DONE = "done"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one end of one request."""

    request_id: str
    kind: OutcomeKind
    message: str = ""
    retry_after_s: float | None = None
    """For `REFUSED`: the predicted seconds until the queue is short enough again."""
    status: int | None = None
    """For `REFUSED` and `FAILED`: the HTTP status that fits."""
