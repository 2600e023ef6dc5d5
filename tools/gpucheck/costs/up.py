"""A model brought up to serve one sequence, and down again until its memory is free."""

import os
import time
from dataclasses import dataclass

from gpucheck.measure import TOLERANCE_BYTES, threads_for, timed
from repertory.domain.errors import OutOfMemory
from repertory.domain.specs import KvShape, ModelSpec, Placement
from repertory.engines.llamacpp.context import Context, ContextOptions
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.weights import Shelf, Shelved, taken_bytes

__all__ = ["Down", "Place", "Up"]

_WAIT_S = 2.0
"""A driver may free a moment later; what is not free by then has not come back."""


@dataclass(frozen=True, slots=True)
class Up:
    """A model that serves."""

    held: Shelved
    context: Context
    load_s: float
    context_s: float

    @property
    def vocabulary_tokens(self) -> int:
        return self.held.model.vocabulary_tokens


@dataclass(frozen=True, slots=True)
class Down:
    """How it went."""

    close_s: float
    unload_s: float
    """Until its memory was read to be free."""
    kept_bytes: int


class Place:
    """One device and what stands on it.  `layers` of each model go there; None: all."""

    def __init__(self, accelerator: Accelerator | None, layers: int | None = None) -> None:
        self._accelerator, self._layers = accelerator, layers
        self._shelf = Shelf()

    def taken_bytes(self) -> int:
        return taken_bytes(self._accelerator)

    @property
    def is_cpu(self) -> bool:
        return self._accelerator is None

    def up(self, spec: ModelSpec, cells: int) -> Up:
        placement = Placement(("device",), layers=self._layers)
        load_s, held = timed(lambda: self._shelf.take(spec, placement, self._accelerator))
        threads = threads_for(self._accelerator)
        if self._layers is not None:  # the cores compute the other layers
            threads = len(os.sched_getaffinity(0))
        options = ContextOptions(is_exact=False, threads=threads, is_on_cpu=self.is_cpu)
        try:
            context_s, context = timed(lambda: Context(held.model, KvShape(1, cells), options))
        except OutOfMemory:
            self._shelf.give_back(held)
            raise
        return Up(held, context, load_s, context_s)

    def down(self, up: Up, free_at_bytes: int) -> Down:
        """`free_at_bytes` were in use before it came."""
        close_s, _ = timed(up.context.free)

        def unload() -> int:
            self._shelf.give_back(up.held)
            ends_s = time.monotonic() + _WAIT_S
            while True:
                kept_bytes = self.taken_bytes() - free_at_bytes
                if kept_bytes <= TOLERANCE_BYTES or time.monotonic() > ends_s:
                    return kept_bytes

        unload_s, kept_bytes = timed(unload)
        return Down(close_s, unload_s, kept_bytes)
