"""What is asked of a system, and what came of it: the nouns of traces, runs and reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Arrival", "Ending", "Origin", "RequestRecord", "RunHeader"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a workload.  `traces` checks what it reads; here everything is valid."""

    at_s: float
    """Since the workload's beginning; never before the arrival ahead of it."""
    model: str
    prompt_tokens: int
    """At least 1."""
    output_tokens: int
    """What it comes to, at least 1.  No brain is told: it sees the most that it may make."""
    prefix_id: str = ""
    """Requests of the same one begin with the same `prefix_tokens` tokens; empty: with nobody's."""
    prefix_tokens: int = 0
    priority: str = ""
    """A name (`PRIORITIES`) or a number above 0; empty: the model's own."""
    deadline_s: float | None = None
    """Within which the first token is wanted, from `at_s`."""
    key: str = ""
    """Whose work it counts as."""


class Origin(Enum):
    """Where a run's times are from: the two never share a column unlabelled."""

    MEASURED = "measured"
    SIMULATED = "simulated"


class Ending(Enum):
    """How a request of a run ended, as its client saw it."""

    DONE = "done"
    REFUSED = "refused"
    """The system said no, with a reason."""
    FAILED = "failed"
    """An error, or a stream that broke off."""
    LOST = "lost"
    """No end was seen before the run's own."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What one request met.  Times are seconds since the run's beginning.

    Waiting is counted from `at_s`, when the request was due, not from when a busy client got round
    to sending it: else the slowest answers would hide those behind them.
    """

    request_id: str
    """The system's own, where it tells: it is found again in the system's log."""
    model: str
    at_s: float
    prompt_tokens: int
    output_tokens: int
    """Made, so far as the client saw."""
    ending: Ending
    sent_s: float | None = None
    """When a real client sent it."""
    started_s: float | None = None
    """When its prompt began to be computed, where the system tells."""
    first_token_s: float | None = None
    finished_s: float | None = None
    """When it had its last token, or heard that there is none; None: it never heard."""
    longest_gap_s: float | None = None
    """Between two pieces of its stream."""
    status: int | None = None
    """HTTP, where there is one."""
    message: str = ""
    priority: str = ""
    key: str = ""
    deadline_s: float | None = None
    """As the arrival's."""
    is_warmup: bool = False
    """Not to be counted."""

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.at_s

    @property
    def latency_s(self) -> float | None:
        return None if self.finished_s is None else self.finished_s - self.at_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None: there was no second."""
        if self.first_token_s is None or self.finished_s is None or self.output_tokens < 2:
            return None
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What a run was of: the first line of its file."""

    system: str
    """Ours, a policy's name, a peer's."""
    origin: Origin
    workload: str
    """Its name or file."""
    seed: int | None = None
    speed: float = 1.0
    """Times of the workload were divided by it."""
    fleet: str = ""
    """The devices, in words."""
    devices: int | None = None
    began: str = ""
    """Wall clock of a measured run: ISO 8601, UTC."""
    note: str = ""
    """Why it is only a part, where it is: interrupted, limited."""
    models: Mapping[str, str] = field(default_factory=dict)
    """What the system calls a model of the workload, where it is not the same."""
