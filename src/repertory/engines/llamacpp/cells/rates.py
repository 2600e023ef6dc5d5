"""What copying and computing cells really takes in this worker, read from each copy and step."""

import threading
from enum import Enum

from repertory.engines.llamacpp.cells.computed import Weights
from repertory.perf.profiles import Law
from repertory.perf.running import RunningLaw
from repertory.policy.requests.regain import Pace

__all__ = ["Copy", "Rates"]


class Copy(Enum):
    """A way that cells go."""

    OUT = "from a slot into main memory"
    BACK = "from main memory into a slot"
    READ = "from the disk into main memory"


class Rates:
    """Laws of copies by bytes, and of each model's steps by place.  From any thread."""

    def __init__(self) -> None:
        self._copies: dict[tuple[Copy, Weights | None], RunningLaw] = {}
        """By model, and of all of them."""
        self._chunks: dict[Weights, RunningLaw] = {}
        self._steps: dict[Weights, RunningLaw] = {}
        self._lock = threading.Lock()

    def note_copy(self, way: Copy, weights: Weights, size_bytes: int, took_ns: int) -> None:
        with self._lock:
            for of in (weights, None):
                known = self._copies.setdefault((way, of), RunningLaw(begins_at_zero=True))
                known.note(size_bytes, max(1, took_ns) / 1e9)

    def note_chunk(self, weights: Weights, place: float, token_s: float) -> None:
        """A token of a chunk whose middle is at that place."""
        with self._lock:
            law = self._chunks.setdefault(weights, RunningLaw(begins_at_zero=False))
            law.note(place, token_s)

    def note_step(self, weights: Weights, place: float, step_s: float) -> None:
        """A step of one token each, of sequences that are so long."""
        with self._lock:
            law = self._steps.setdefault(weights, RunningLaw(begins_at_zero=False))
            law.note(place, step_s)

    def copying(self, way: Copy, weights: Weights) -> Law | None:
        """Of this model if it was ever copied so, else of all; None: nothing was."""
        with self._lock:
            known = self._copies.get((way, weights)) or self._copies.get((way, None))
            return None if known is None else known.law

    def pace(self, weights: Weights) -> Pace | None:
        """None until it is known.  Steps count in mode `exact` only: by default all that comes
        again comes in chunks.
        """
        with self._lock:
            chunks, steps = self._chunks.get(weights), self._steps.get(weights)
            chunk = None if chunks is None else chunks.law
            step = None if steps is None else steps.law
        if chunk is None or (step is None and weights.is_exact):
            return None
        return Pace(chunk, step or Law(0.0, 0.0))
