"""Requests and their one outcome."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

__all__ = ["PRIORITIES", "Fault", "FinishReason", "Outcome", "OutcomeKind", "Request"]

PRIORITIES: Mapping[str, float] = {"interactive": 1.0, "batch": 0.1}
"""Names of weights: a batch request may wait ten times as long for the same harm."""


class FinishReason(Enum):
    """Why a generation ended, in the words of the OpenAI API."""

    STOP = "stop"
    LENGTH = "length"


class Fault(Enum):
    """What failed, in the words of the API's error codes."""

    LOAD_FAILED = "load_failed"
    """The file cannot be read, or not as a model."""
    QUARANTINED = "quarantined"
    """The file killed a process that tried it."""
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_GONE = "worker_gone"
    """It died, or there is none."""
    ENGINE = "engine_failed"
    """Anything else."""

    @property
    def is_permanent(self) -> bool:
        """The file itself is at fault: trying again cannot help."""
        return self in (Fault.LOAD_FAILED, Fault.QUARANTINED)


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
    key: str = ""
    """Whose work it counts as: an opaque name; empty where there are no API keys."""
    deadline_ns: int | None = None
    """When its first token is wanted, at the latest; None: nobody said."""

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
    fault: Fault | None = None
    """For `REFUSED` and `FAILED`: what failed; None: nothing did, the request cannot be."""
