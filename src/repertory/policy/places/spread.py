"""Whether another replica of a model that is served pays for itself.

A queue is taken for a fluid: it grows by what arrives, and shrinks by what its replicas finish.
What everybody waits, summed, is the area under it.  Another replica counts from when it serves.
"""

from dataclasses import dataclass

__all__ = ["Flow", "saved_s", "share_asked"]


@dataclass(frozen=True, slots=True)
class Flow:
    """What waits, comes and goes."""

    waiting: float
    arrivals_per_s: float
    served_per_s: float
    """By the replicas that there are, with all their slots taken."""


def saved_s(flow: Flow, more_per_s: float, from_s: float, until_s: float) -> float:
    """Seconds that those who wait, and those who come until `until_s`, wait less in sum, if from
    `from_s` on so many more are served per second.

    1. What drains before that saves nothing.
    2. Of a queue that only grows, no more is counted than until then: nobody knows further.
    """
    if from_s >= until_s:
        return 0.0
    slope = flow.arrivals_per_s - flow.served_per_s
    left = max(0.0, flow.waiting + slope * from_s)
    rest_s = until_s - from_s
    return _area(left, slope, rest_s) - _area(left, slope - more_per_s, rest_s)


def share_asked(arrivals_per_s: float, served_per_s: float) -> float:
    """Of the time of so many replicas; 1 where they cannot keep up.

    The chance that a request finds all of them taken is no more than this.
    """
    if served_per_s <= 0.0:
        return 1.0
    return min(1.0, arrivals_per_s / served_per_s)


def _area(waiting: float, slope: float, until_s: float) -> float:
    """Under a line that stops at zero."""
    if waiting <= 0.0 and slope <= 0.0:
        return 0.0
    if slope < 0.0 and waiting < -slope * until_s:
        return waiting * waiting / (-2.0 * slope)
    return waiting * until_s + slope * until_s * until_s / 2.0
