"""Which ways of bringing a model up are weighed, where some of its layers may stay in main memory.

Ours weighs all of them by their harm.  The other two are what programs do that have no curve: they
stand here for comparison (`bench.costs`, `tests/sim/test_offload.py`), and nobody can choose them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Rule", "Way", "by_harm", "fully_or_evict", "offload_always"]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of bringing a model up."""

    share: float
    """Of the bytes that a step reads, on accelerators."""
    displaces: bool
    """Others give their memory for it, or are waited for."""


Rule = Callable[[Sequence[Way], bool], Sequence[int]]
"""From the ways that there are, and whether an accelerator could hold the whole model if it were
empty, to those that may be chosen, by their places."""


def by_harm(ways: Sequence[Way], fits_whole: bool) -> Sequence[int]:
    """Whatever harms least."""
    del fits_whole
    return range(len(ways))


def fully_or_evict(ways: Sequence[Way], fits_whole: bool) -> Sequence[int]:
    """A model must fit fully; others are evicted for it, or waited for.  On cores only what no
    accelerator could ever hold.
    """
    if not fits_whole:
        return range(len(ways))
    return [at for at, way in enumerate(ways) if way.share >= 1.0]


def offload_always(ways: Sequence[Way], fits_whole: bool) -> Sequence[int]:
    """As many layers as fit beside what is there, and if none do, on cores: nobody is displaced
    while there is any room.
    """
    del fits_whole
    free = [at for at, way in enumerate(ways) if not way.displaces]
    if not free:
        return range(len(ways))
    most = max(ways[at].share for at in free)
    return [at for at in free if ways[at].share == most]
