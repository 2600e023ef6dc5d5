"""Whether running work makes way for work that waits (design.md §6; Yildiz 2026, feature 6).

The paper measures that stopping a model costs the same whenever it is done: one switch there and
one back.  So what counts is how long the victim would run on, and who pays with what weight.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from repertory.policy.objective import MISS_PENALTY_S, Due, at_risk

__all__ = [
    "Stake",
    "Stop",
    "expected_left",
    "grown_weight",
    "has_paid",
    "one_for_all",
    "worth_stopping",
]


def grown_weight(weight: float, unpaid_stops: int) -> float:
    """Each time that a generation was stopped before its run had paid doubles what it weighs: so
    nobody is stopped for ever, and a batch that was stopped four times in vain stands above what is
    interactive.
    """
    return weight * 2.0**unpaid_stops


def has_paid(begun_s: float, went_on_s: float) -> bool:
    """A run has paid if it went on for longer than it took to begin: a prompt, or a resume.

    Stops after such runs cost a generation no more than what it made, however many they are, and
    each of them leaves it nearer to its end.
    """
    return went_on_s > begun_s


class Stake(NamedTuple):
    """A running generation that would be stopped.

    A tuple, as `Stop`: a handful are made whenever a turn is bounded.
    """

    name: str
    weight: float
    """`grown_weight`."""
    left_s: float
    """What it would go on for, with what its replica takes in meanwhile."""
    resume_s: float
    """To compute again what its KV memory held, and what is computed before it."""
    due_s: float | None = None
    """Until its deadline, if that is ahead and its first token is not there; else None."""


class Stop(NamedTuple):
    """The sums of one comparison, for the record.  Seconds times weight."""

    saved: float
    """What those who wait need not wait."""
    lost: float
    """What those who are stopped wait for instead."""
    drain_s: float
    penalty_s: float
    error: float = 0.0
    """Relative: how far off the penalty may be, as the seconds of such switches have been."""

    @property
    def is_worth_it(self) -> bool:
        """It saves more than it costs, and what is stopped would go on for longer than the penalty
        even if that is as much larger as it may be: what is known badly stops less.
        """
        return self.saved > self.lost and self.drain_s > self.penalty_s * (1.0 + self.error)


def expected_left(usual: float | None, most: float, made: float) -> float:
    """What a generation goes on for that has made so much and may never make more than `most`.

    `usual`: what those that got so far usually came to.  None: none got so far, and it is taken to
    be in the middle of what is left to it.
    """
    if usual is None:
        return max(0.0, (most - made) / 2)
    return max(0.0, min(usual, most) - made)


def one_for_all(running: Sequence[Stake]) -> Stake:
    """What runs side by side, as one: the heaviest weight, until the last ends, or is resumed.

    To be held against who is of a class above all of them (`requests.line.band`): as in a queue,
    one of each class is compared, for however many lighter ones run at once, none of them waits
    longer than if it ran alone.
    """
    return Stake(
        min(one.name for one in running),
        max(one.weight for one in running),
        max(one.left_s for one in running),
        max(one.resume_s for one in running),
        min((one.due_s for one in running if one.due_s is not None), default=None),
    )


def worth_stopping(
    waiting_weight: float,
    running: Sequence[Stake],
    there_s: float,
    work_s: float,
    back_s: float,
    dues: Sequence[Due] = (),
) -> Stop | None:
    """Compare stopping all of `running` with waiting for its end; None: nothing runs.

    `there_s`: the switch to those who wait; `work_s`: their work; `back_s`: the switch back;
    `dues`: those of them with deadlines, whose times count from now.

    1. Saved: the weight of those who wait, for as long as the longest of the running goes on, and
       the penalty of each deadline that is met by stopping and missed by waiting.
    2. Lost: each of the running waits for the switch there, the work, the switch back and its own
       resume, and pays the penalty of a deadline that it misses by that.
    3. What goes on for less than the penalty (both switches and the longest resume) is let end.
    """
    if not running:
        return None
    away_s = there_s + work_s + back_s
    drain_s = longest_s = -math.inf
    lost = missed = 0.0
    for _, weight, left_s, resume_s, due_s in running:
        gone_s = away_s + resume_s
        lost += weight * gone_s
        if due_s is not None and due_s < gone_s:
            missed += weight
        drain_s, longest_s = max(drain_s, left_s), max(longest_s, resume_s)
    risked = at_risk(dues, 0, there_s, drain_s)
    return Stop(
        saved=waiting_weight * drain_s + risked * MISS_PENALTY_S,
        lost=lost + missed * MISS_PENALTY_S,
        drain_s=drain_s,
        penalty_s=there_s + back_s + longest_s,
    )
