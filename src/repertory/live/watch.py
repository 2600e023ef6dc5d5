"""Is a worker alive and getting on?  A judgement from its beats; times are given to it."""

from repertory.engines.wire import Beat

__all__ = ["Watch"]

_SILENT_S = 10.0
"""A worker beats four times a second from a thread that computes nothing; machines that swap have
been seen to hold a process up for seconds."""
_START_S = 60.0
"""Until the first beat: a compute library on a slow disk."""
_STUCK_FLOOR_S = 5.0
_STUCK_FACTOR = 10.0
"""Stuck: no step or load progress for 10 x the prediction + 5 s (worker.md, Threads)."""
_LONGEST_LOOK_S = 2.0
"""A gap between two looks counts for no more: if we were held up ourselves, so was the worker."""


class Watch:
    """Look often; a verdict is the reason to kill the worker."""

    def __init__(self, now_s: float) -> None:
        self._looked_s = now_s
        self._beat_ns: int | None = None
        self._progress: int | None = None
        self._silent_s = 0.0
        self._stuck_s = 0.0

    def look(self, now_s: float, beat: Beat | None, predicted_s: float | None) -> str | None:
        """`predicted_s`: of the longest thing it was asked for; None if it is asked for nothing.

        1. It was just started: it has `_START_S` for its first beat.
        2. It is silent: no beat, whatever it is doing (stopped, or hung).
        3. It beats, and does not get on with what it was asked for.
        """
        passed_s = min(now_s - self._looked_s, _LONGEST_LOOK_S)
        self._looked_s = now_s
        beat_ns = beat.at_ns if beat is not None else None
        is_silent = beat_ns == self._beat_ns
        self._silent_s = self._silent_s + passed_s if is_silent else 0.0
        self._beat_ns = beat_ns
        if self._silent_s > (_SILENT_S if beat is not None else _START_S):
            return f"no sign of life for {self._silent_s:.0f} s"
        progress = beat.progress if beat is not None else None
        is_stuck = predicted_s is not None and progress == self._progress
        self._stuck_s = self._stuck_s + passed_s if is_stuck else 0.0
        self._progress = progress
        if predicted_s is None or beat is None:
            return None
        if self._stuck_s > _STUCK_FLOOR_S + _STUCK_FACTOR * predicted_s:
            return f"stuck: no progress for {self._stuck_s:.0f} s"
        return None
