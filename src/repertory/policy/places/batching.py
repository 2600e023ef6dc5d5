"""Batching by model: how long a replica goes on while another model waits for its memory."""

from typing import NamedTuple

__all__ = ["HandoverLimits", "handover_at_ns", "is_worth_claiming", "kept_until_ns"]


_KEPT_SWITCHES = 5.0
"""With two, the pattern ABAACABC on room for one switched 497 times instead of 189
(`python tests/sim/test_thrash.py`, a request every 0.3 s)."""


class HandoverLimits(NamedTuple):
    """The settings that bound a turn; `switches` is the one dial (latency 2 … throughput 20).

    A tuple: made anew for every turn that is looked at, so that it needs no upkeep.
    """

    min_residency_s: float
    switches: float
    max_wait_s: float


def handover_at_ns(
    wanted_since_ns: int, opened_at_ns: int, switch_s: float, limits: HandoverLimits
) -> int:
    """When a replica stops admitting its own requests.

    1. It goes on for at most max(min_residency, a · switch seconds) after the other model's
       oldest request began to wait for its memory, so that a switch always pays for itself.
    2. Nobody waits for memory of a replica that has not opened: however long the other waited
       before, the replica has its service batch.  Else an overload, where everybody is overdue,
       would switch after every request.
    3. Never longer than `max_wait`: then the waiting request is overdue.
    """
    turn_s = min(max(limits.min_residency_s, limits.switches * switch_s), limits.max_wait_s)
    turn_s = max(turn_s, limits.min_residency_s)
    return max(wanted_since_ns, opened_at_ns) + round(turn_s * 1e9)


def kept_until_ns(
    opened_at_ns: int, own_gap_s: float, switch_s: float, limits: HandoverLimits
) -> int:
    """Until when an idle replica keeps its memory although another model waits for it.

    1. For the minimum residency, where its own next request is expected within five switches, or
       `a` if that is more: it would have to come back at once.
    2. Else not at all: the other would wait for nobody.
    """
    is_coming = own_gap_s <= max(_KEPT_SWITCHES, limits.switches) * switch_s
    return opened_at_ns + round(limits.min_residency_s * 1e9 if is_coming else 0.0)


def is_worth_claiming(weight: float, risked_s: float, left_s: float, loss_s: float) -> bool:
    """Whether busy replicas are to hand over to a model that waits for memory.

    `weight`: of those who wait; `risked_s`: the penalties of deadlines that they miss by waiting;
    `left_s`: until the oldest of them is overdue; `loss_s`: what the busy ones lose.

    1. Who is overdue is next, whatever that costs.
    2. Before that, if waiting until then would lose them more than it costs the others.
    """
    return left_s <= 0.0 or weight * left_s + risked_s >= loss_s
