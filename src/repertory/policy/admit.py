"""Admission: who is refused at the door, with a predicted second at which to come again."""

from dataclasses import dataclass

from repertory.domain.decisions import Option, Verdict

__all__ = ["Backlog", "admit"]


@dataclass(frozen=True, slots=True)
class Backlog:
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


def _refusal(request_id: str, backlog: Backlog, retry_s: float, why: str) -> Verdict:
    return Verdict(
        rule="admit",
        subject=request_id,
        choice="refuse",
        why=why,
        options=(Option("queue", backlog.wait_s, backlog.wait_s, 0),),
        predicted_s=max(1.0, retry_s),
        basis="prior",
    )
