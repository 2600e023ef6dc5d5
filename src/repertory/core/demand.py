"""What was asked for: a model's arrival rate, the usual length of its answers, and how long models
have waited of late until they served.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque

__all__ = ["Absence", "ArrivalRate", "OutputLength"]


_SILENCE_BEFORE_NS = 60_000_000_000
"""Taken for granted before anybody watched: the first request is no flood."""
_MOST_BURST = 4.0
"""A burst is no rate: four requests within a tenth of a second are not twelve thousand until a
horizon.  So many times the usual are believed."""
_NEWEST = 0.1
"""What the last wait counts among those before it: some ten of them are `of late`."""
_LATEST = 4
"""Arrivals whose gaps tell of a burst: two of them may be a pair, and no more."""


class ArrivalRate:
    """Requests per second, exponentially weighted with a half-life.

    Over the time that was watched: five requests in the first half minute are ten per minute, not
    five per half-life.
    """

    __slots__ = ("_at_ns", "_count", "_decay_per_ns", "_latest_ns", "_since_ns")

    def __init__(self, half_life_s: float, since_ns: int) -> None:
        """Watched from `since_ns` on."""
        self._decay_per_ns = math.log(2.0) / (half_life_s * 1e9)
        self._count = 0.0
        """Arrivals, each by its weight now."""
        self._at_ns = since_ns
        self._since_ns = since_ns - _SILENCE_BEFORE_NS
        self._latest_ns: deque[int] = deque(maxlen=_LATEST)

    def count(self, at_ns: int) -> None:
        self._count = self._decayed(at_ns) + 1.0
        self._at_ns = at_ns
        self._latest_ns.append(at_ns)

    def per_s(self, at_ns: int) -> float:
        watched = -math.expm1((self._since_ns - at_ns) * self._decay_per_ns)
        return self._decayed(at_ns) * self._decay_per_ns * 1e9 / watched

    def of_late_per_s(self, at_ns: int) -> float:
        """What has come of late, if that is more than usual."""
        usual = self.per_s(at_ns)
        return max(usual, min(1.0 / max(self.gap_s(at_ns), 1e-9), _MOST_BURST * usual))

    def _decayed(self, at_ns: int) -> float:
        return self._count * math.exp((self._at_ns - at_ns) * self._decay_per_ns)

    def gap_s(self, at_ns: int) -> float:
        """Mean of the last gaps between arrivals, the one that runs now included.

        Infinite while too few have arrived.  A half-life of minutes cannot see a burst.
        """
        if len(self._latest_ns) < _LATEST:
            return math.inf
        return (at_ns - self._latest_ns[0]) / _LATEST / 1e9


class Absence:
    """How long models waited of late until they served: who gives its memory now is away for about
    as long.

    Half of it is forgotten in every half-life: first loads of a cold start say nothing of an hour
    later.
    """

    __slots__ = ("_at_ns", "_seconds")

    def __init__(self) -> None:
        self._seconds, self._at_ns = 0.0, 0

    def count(self, at_ns: int, waited_s: float, half_life_s: float) -> None:
        known_s = self.seconds(at_ns, half_life_s)
        self._seconds, self._at_ns = known_s + _NEWEST * (waited_s - known_s), at_ns

    def seconds(self, at_ns: int, half_life_s: float) -> float:
        past_s = (at_ns - self._at_ns) / 1e9
        return self._seconds * math.pow(0.5, past_s / half_life_s)


class OutputLength:
    """Running median of the last 31 answers; a stated prior before the first one."""

    __slots__ = ("_latest", "_prior_tokens", "_sorted")

    def __init__(self, prior_tokens: int) -> None:
        self._prior_tokens = prior_tokens
        self._latest: deque[int] = deque()
        self._sorted: list[int] = []

    def count(self, tokens: int) -> None:
        self._latest.append(tokens)
        insort(self._sorted, tokens)
        if len(self._latest) > 31:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def beyond(self, made: int) -> int | None:
        """The median of the answers that were longer than `made` tokens; None: none was."""
        if not self._sorted:
            return self._prior_tokens if self._prior_tokens > made else None
        first = bisect_right(self._sorted, made)
        longer = len(self._sorted) - first
        return self._sorted[first + longer // 2] if longer else None

    @property
    def median_tokens(self) -> int:
        if not self._sorted:
            return self._prior_tokens
        return self._sorted[len(self._sorted) // 2]
