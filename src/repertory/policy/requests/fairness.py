"""API keys and the device time that each has had: equal keys get equal measured work.

The Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024)
with seconds of the device in place of tokens: each key counts what it was served, whoever of those
that wait has had least is served next, and a key that begins to wait is lifted to the least of
those that wait already.  So idling earns nothing, and what a key took while nobody else wanted it
is not held against it.  Two keys that both keep waiting never differ by more than about two
requests' work; that bound is also why nobody starves.
"""

from collections.abc import Mapping

__all__ = ["ahead_ns", "jain", "lifted_ns"]


def lifted_ns(used_ns: int, waiting: Mapping[str, int], level_ns: int) -> int:
    """What a key is taken to have used when it begins to wait beside `waiting` keys (without it).

    1. As much as the one that has had least of those, or more if it had more.
    2. Where nobody waits: what the last one had that did (`level_ns`).
    """
    return max(used_ns, min(waiting.values(), default=level_ns))


def ahead_ns(key: str, queued: Mapping[str, int], used: Mapping[str, int]) -> int:
    """Of the work that waits, per key, what is done before a new request of `key` begins.

    Its own, and of each other key as much, and what that one is behind.
    """
    own_ns, own_used_ns = queued.get(key, 0), used.get(key, 0)
    return own_ns + sum(
        min(work_ns, own_ns + max(0, own_used_ns - used.get(name, 0)))
        for name, work_ns in queued.items()
        if name != key
    )


def jain(shares: Mapping[str, float]) -> float:
    """Jain's index of fairness: 1 where all shares are equal, 1/n where one has everything."""
    total = sum(shares.values())
    if not total:
        return 1.0
    return total * total / (len(shares) * sum(one * one for one in shares.values()))
