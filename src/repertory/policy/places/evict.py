"""Which idle replicas give way: the least predicted loss for the bytes that are missing."""

from collections.abc import Mapping, Sequence
from enum import Enum
from operator import itemgetter
from typing import NamedTuple

__all__ = ["Eviction", "Release", "Victim", "choose_victims"]


class Release(Enum):
    """How far down the ladder a victim goes."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    KV = "kv"
    """`SERVING` to `DEVICE`: its KV memory and buffers are freed, its weights stay."""
    ALL = "all"
    """Down to `HOST`."""
    GONE = "gone"
    """Down to `DISK`: a sleeper's residue on the device goes too."""


class Eviction(NamedTuple):
    """One replica's part in making room.

    A tuple, as `Victim`: several of both are made for every replica that is compared.
    """

    replica_id: str
    release: Release
    loss_s: float
    """P(use soon) x seconds to bring it back."""
    freed: Mapping[str, int]
    """Bytes per device."""


class Victim(NamedTuple):
    """A replica that may give memory: never pinned, moving, or younger than allowed."""

    replica_id: str
    ways: tuple[Eviction, ...]
    """From the shallowest release to the deepest."""

    def most_bytes(self, device: str) -> int:
        return max((way.freed.get(device, 0) for way in self.ways), default=0)


_DEPTH = {Release.KV: 0, Release.ALL: 1, Release.GONE: 2}


def choose_victims(
    victims: Sequence[Victim], missing: Mapping[str, int]
) -> tuple[Eviction, ...] | None:
    """Evictions that free at least `missing` bytes on every device, or None if none suffice.

    1. Every victim offers its releases; they are taken by least loss per useful byte.
    2. A deeper release replaces an earlier one of the same replica.
    3. Victims that turn out unneeded are spared, the dearest first.  Ties end in the name.
    """
    ranked = [
        (offer.loss_s / useful, _DEPTH[offer.release], offer.replica_id, offer)
        for victim in victims
        for offer in victim.ways
        if (useful := _useful(offer, missing))
    ]
    ranked.sort(key=itemgetter(0, 1, 2))
    chosen: dict[str, Eviction] = {}
    still = dict(missing)
    for *_, offer in ranked:
        held = chosen.get(offer.replica_id)
        if held is not None:
            if _DEPTH[held.release] >= _DEPTH[offer.release]:
                continue
            _count(still, held, 1)
        chosen[offer.replica_id] = offer
        _count(still, offer, -1)
        if max(still.values()) <= 0:
            return _spare(chosen, still)
    return None


def _spare(chosen: dict[str, Eviction], still: dict[str, int]) -> tuple[Eviction, ...]:
    """Without those whose bytes turn out not to be needed, the dearest of them first."""
    if len(chosen) > 1:
        for one in sorted(chosen.values(), key=lambda one: (-one.loss_s, one.replica_id)):
            _count(still, one, 1)
            if max(still.values()) <= 0:
                del chosen[one.replica_id]
            else:
                _count(still, one, -1)
    return tuple(chosen[name] for name in sorted(chosen))


def _count(still: dict[str, int], offer: Eviction, sign: int) -> None:
    """`still` is what is missing per device, less what the chosen ones free."""
    for device in still:
        still[device] += sign * offer.freed.get(device, 0)


def _useful(offer: Eviction, missing: Mapping[str, int]) -> int:
    """Freed bytes that count: not more than is missing on each device."""
    useful = 0
    for device, need in missing.items():
        freed = offer.freed.get(device, 0)
        useful += freed if freed < need else need
    return useful
