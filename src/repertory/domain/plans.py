"""The slow clock's question and answer: a copy of what matters, and what to prewarm."""

from dataclasses import dataclass

from repertory.domain.specs import Placement

__all__ = ["Candidate", "Plan", "Prewarm", "Problem"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model below `DEVICE` and one place for it; a model may have several candidates."""

    model: str
    arrivals_per_s: float
    load_s: float
    placement: Placement
    bytes_per_device: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A copy of the state for one `Solve`.  Free bytes are what no replica has or was promised."""

    id: int
    at_ns: int
    horizon_s: float
    free_bytes: tuple[tuple[str, int], ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Prewarm:
    """Bring this model's weights to `DEVICE` if the memory is still free."""

    model: str
    placement: Placement
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer to the `Problem` of the same id; re-checked against the state of its arrival."""

    id: int
    prewarms: tuple[Prewarm, ...]
