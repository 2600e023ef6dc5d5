"""What each key has used of its rate and its places.  Pure: times are given to it, in seconds."""

from collections.abc import Collection
from dataclasses import dataclass, field

from repertory.gateway.doors.keys import Key, Rate

__all__ = ["Allowances", "Refusal", "Ticket"]

_SMOOTHING = 0.2
"""Of the mean duration of a key's requests: the last five weigh most."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A limit is reached; after so many seconds there is room again."""

    limit: str
    """`rate` or `concurrent`."""
    retry_after_s: float


@dataclass(slots=True)
class _Use:
    """One key's."""

    tokens: float
    at_s: float
    """When `tokens` was true."""
    began_s: dict[int, float] = field(default_factory=dict)
    """Requests under way, by ticket, the oldest first."""
    mean_s: float = 0.0
    """How long a request took lately."""


class Ticket:
    """A place among a key's requests.  `release` gives it back once, however often it is called."""

    __slots__ = ("_number", "_use")

    def __init__(self, use: _Use, number: int) -> None:
        self._use = use
        self._number = number

    def release(self, now_s: float) -> None:
        began_s = self._use.began_s.pop(self._number, None)
        if began_s is None:
            return
        took_s, mean_s = now_s - began_s, self._use.mean_s
        self._use.mean_s = mean_s + _SMOOTHING * (took_s - mean_s) if mean_s else took_s


class Allowances:
    """All keys' use, by key id.  A key that is made anew begins anew."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self._rates: dict[str, Rate] = {}
        self._count = 0

    def take(self, key: Key, now_s: float) -> Ticket | Refusal:
        """A place and a token of the rate, or neither.

        1. All places are taken: one is free when the oldest request has taken its usual time.
        2. The bucket is empty: it fills evenly, up to the rate's count.
        """
        use = self._uses.get(key.id)
        rate = self._rate(key)
        if use is None:
            use = self._uses[key.id] = _Use(rate.count if rate is not None else 0.0, now_s)
        if key.concurrent is not None and len(use.began_s) >= key.concurrent:
            oldest_s = now_s - next(iter(use.began_s.values()))
            return Refusal("concurrent", max(1.0, use.mean_s - oldest_s))
        if rate is not None:
            refill = (now_s - use.at_s) * rate.count / rate.per_s
            use.tokens, use.at_s = min(float(rate.count), use.tokens + refill), now_s
            if use.tokens < 1.0:
                return Refusal("rate", (1.0 - use.tokens) * rate.per_s / rate.count)
            use.tokens -= 1.0
        self._count += 1
        use.began_s[self._count] = now_s
        return Ticket(use, self._count)

    def running(self, key_id: str) -> int:
        use = self._uses.get(key_id)
        return 0 if use is None else len(use.began_s)

    def keep_only(self, key_ids: Collection[str]) -> None:
        """The keys were read again: forget those that are gone, and the rates, which may be others.

        Requests under way of a key that is gone end by themselves.
        """
        for known in self._uses.keys() - set(key_ids):
            del self._uses[known]
        self._rates.clear()

    def _rate(self, key: Key) -> Rate | None:
        if key.rate is None:
            return None
        rate = self._rates.get(key.id)
        if rate is None:
            rate = self._rates[key.id] = Rate.parse(key.rate)
        return rate
