"""Admission: who is refused at the door, with a predicted second at which to come again."""

from typing import NamedTuple

from repertory.domain.decisions import Option, Verdict
from repertory.policy.objective import MISS_PENALTY_S

__all__ = ["Backlog", "admit", "in_time"]

_DOUBT = 2.0
"""How far off the prediction of a first token may be where little was measured.  A deadline between
half of it and all of it is tried, and may be missed."""


class Backlog(NamedTuple):
    """The queue in front of a new request, in predicted seconds of device time."""

    waiting: int
    wait_s: float
    """Drain time of the planned order until the new request would start."""


def admit(
    request_id: str, backlog: Backlog, max_waiting: int, max_queue_s: float
) -> Verdict | None:
    """None: come in.  Otherwise the refusal; its `predicted_s` is the `Retry-After`.

    1. More than `max_waiting` requests wait: refused until one request's share has drained.
    2. The predicted wait exceeds `max_queue_s`: refused until the excess has drained.
    """
    if backlog.waiting >= max_waiting:
        retry_s = backlog.wait_s * (backlog.waiting - max_waiting + 1) / backlog.waiting
        why = f"{backlog.waiting} requests wait, the limit is {max_waiting}"
        return _refusal(request_id, backlog, retry_s, why)
    if backlog.wait_s > max_queue_s:
        why = f"the predicted wait is {backlog.wait_s:.1f} s, the limit is {max_queue_s:.0f} s"
        return _refusal(request_id, backlog, backlog.wait_s - max_queue_s, why)
    return None


def in_time(request_id: str, left_s: float, first_s: float) -> Verdict | None:
    """None: its first token may come before its deadline, which is `left_s` away.  Otherwise the
    refusal, at once: a client that has no time left must not wait to learn it.

    `first_s` is the prediction under the best option there is, whatever others lose by it.

    1. The deadline has passed.
    2. Even half of the prediction is longer.
    """
    if left_s <= 0.0:
        why = (
            f"its deadline passed {-left_s:.3g} s before it came in; the first token would take "
            f"{first_s:.3g} s at best"
        )
    elif left_s * _DOUBT < first_s:
        why = (
            f"its first token is wanted within {left_s:.3g} s and is predicted after "
            f"{first_s:.3g} s at best"
        )
    else:
        return None
    return Verdict(
        rule="admit",
        subject=request_id,
        choice="refuse",
        why=why,
        options=(Option("before everybody else", first_s + MISS_PENALTY_S, first_s, 0),),
        predicted_s=first_s,
    )


def _refusal(request_id: str, backlog: Backlog, retry_s: float, why: str) -> Verdict:
    return Verdict(
        rule="admit",
        subject=request_id,
        choice="refuse",
        why=why,
        options=(Option("queue", backlog.wait_s, backlog.wait_s, 0),),
        predicted_s=max(1.0, retry_s),
    )
