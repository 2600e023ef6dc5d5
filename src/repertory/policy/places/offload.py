"""Which ways of bringing a model up are weighed, where some of its layers may stay in main memory.

Ours weighs all of them by their harm.  The other two are what programs do that have no curve: they
stand here for comparison (`bench.costs`, `tests/sim/test_goodput.py`), and nobody can choose them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Rule", "Way", "by_harm", "evict_then_most", "fully_or_evict", "offload_always"]


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
    """A model must fit fully; others are evicted for it, or waited for.  What no accelerator could
    ever hold is computed by the cores.
    """
    if fits_whole:
        return [at for at, way in enumerate(ways) if way.share >= 1.0]
    on_cores = [at for at, way in enumerate(ways) if way.share == 0.0]
    return on_cores or range(len(ways))


def evict_then_most(ways: Sequence[Way], fits_whole: bool) -> Sequence[int]:
    """The same for what fits; of what never does, as many layers as others can make room for at
    once, whoever must go.  So does Ollama, whose layers llama.cpp's `--fit` counts.
    """
    if fits_whole:
        return fully_or_evict(ways, fits_whole)
    most = max((way.share for way in ways), default=0.0)
    return [at for at, way in enumerate(ways) if way.share == most]


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
