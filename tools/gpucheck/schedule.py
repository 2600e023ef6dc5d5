"""What is still to do, within a budget: work resumes per item, and nothing is tried for ever."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from gpucheck.costs.wanted import estimate_s
from gpucheck.result import Item, read, write

__all__ = [
    "LEAST_S",
    "WHOLE",
    "Budget",
    "Ended",
    "Outcome",
    "item_path",
    "measure_items",
    "missing",
]

LEAST_S = 15.0
"""With less left than this, an item is not begun; nor with less than its estimate, unless it has
a whole budget: what is cut off has to be begun anew."""
WHOLE = 0.9
"""What this share of a whole budget was not enough for will not end next time either."""


class Outcome(Enum):
    """How one item's process ended."""

    DONE = "done"
    OUT_OF_TIME = "out of time"
    FAILED = "failed"


class Budget(Protocol):
    """Seconds of this call."""

    @property
    def full_s(self) -> float: ...

    def left_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """An item's process, and its last words if it failed."""

    outcome: Outcome
    reason: str = ""


def item_path(results: Path, model: str, item: str) -> Path:
    return results / f"{model}.{item}.json"


def missing(results: Path, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(model, item) still to be measured, in order."""
    return [one for one in wanted if not item_path(results, *one).exists()]


def measure_items(
    results: Path,
    wanted: Iterable[tuple[str, str]],
    budget: Budget,
    run: Callable[[str, str, float], Ended],
) -> bool:
    """Measure what is missing; False if something is left for the next call.

    `run(model, item, seconds)` measures one item, and writes its result if it is done.
    1. Too little time is left: stop here.
    2. Done: the result is on disk.
    3. Failed: the failure is its result; it is not tried again.
    4. Out of time, though it had a whole budget: that is a failure too.  Else the next call
       begins it anew.
    """
    for model, item in missing(results, wanted):
        left_s = budget.left_s()
        least_s = max(LEAST_S, min(estimate_s(model, item), WHOLE * budget.full_s))
        if left_s < least_s:  # 1
            return False
        ended = run(model, item, left_s)
        reason = ended.reason
        match ended.outcome:
            case Outcome.DONE:  # 2
                assert read(item_path(results, model, item)) is not None, f"{item} left no result"
                continue
            case Outcome.OUT_OF_TIME:  # 4
                if left_s < WHOLE * budget.full_s:
                    return False
                reason = f"not done after {left_s:.0f} s: raise --budget-s"
            case Outcome.FAILED:  # 3
                pass
        write(item_path(results, model, item), Item(model, item, failure=reason))
    return True
