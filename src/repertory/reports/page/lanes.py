"""What is drawn over time, in bounded memory: long stories lose what no eye could see."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Lane", "Level", "Span", "State"]

_MOST = 1200
_SLOTS = 500
"""Coarsened to about so many moments; no screen tells more apart."""


class State(Enum):
    """What a model is to a device."""

    HOST = "in main memory"
    DEVICE = "loaded"
    SERVING = "serving"
    MOVING = "moving"


@dataclass(frozen=True, slots=True)
class Span:
    begin_s: float
    end_s: float
    state: State


class Lane:
    """One model on one device."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self.present_s = 0.0
        """On the device, or on its way."""

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(self._spans)

    def add(self, span: Span) -> None:
        if span.state is not State.HOST:
            self.present_s += span.end_s - span.begin_s
        last = self._spans[-1] if self._spans else None
        if last is not None and last.state is span.state and last.end_s >= span.begin_s:
            self._spans[-1] = Span(last.begin_s, max(last.end_s, span.end_s), span.state)
            return
        self._spans.append(span)
        if len(self._spans) > _MOST:
            self._coarsen()

    def _coarsen(self) -> None:
        """Short ones of one slot become one, of what took the most of it."""
        slot_s = (self._spans[-1].end_s - self._spans[0].begin_s) / _SLOTS
        kept: list[Span] = []
        waiting: list[Span] = []
        for span in self._spans:
            is_long = span.end_s - span.begin_s >= slot_s
            if waiting and (is_long or span.end_s - waiting[0].begin_s > slot_s):
                kept.append(_most_of(waiting))
                waiting = []
            if is_long:
                kept.append(span)
            else:
                waiting.append(span)
        if waiting:
            kept.append(_most_of(waiting))
        self._spans = kept


def _most_of(spans: list[Span]) -> Span:
    seconds = dict.fromkeys(State, 0.0)
    for span in spans:
        seconds[span.state] += span.end_s - span.begin_s
    state = max(State, key=lambda one: seconds[one])
    return Span(min(one.begin_s for one in spans), max(one.end_s for one in spans), state)


class Level:
    """A number that changes now and then."""

    def __init__(self) -> None:
        self.value = 0
        self.peak = 0
        self._points: list[tuple[float, int]] = []

    @property
    def points(self) -> tuple[tuple[float, int], ...]:
        return tuple(self._points)

    def set(self, at_s: float, value: int) -> None:
        self.value, self.peak = value, max(self.peak, value)
        if self._points and self._points[-1][0] == at_s:
            self._points[-1] = (at_s, value)
            return
        self._points.append((at_s, value))
        if len(self._points) > _MOST:
            self._coarsen()

    def _coarsen(self) -> None:
        """Of each slot the highest, and what it ended with."""
        slot_s = (self._points[-1][0] - self._points[0][0]) / _SLOTS
        kept: list[tuple[float, int]] = []
        slot: list[tuple[float, int]] = []
        for point in self._points:
            if slot and point[0] - slot[0][0] > slot_s:
                kept += _extremes(slot)
                slot = []
            slot.append(point)
        self._points = kept + _extremes(slot)


def _extremes(slot: list[tuple[float, int]]) -> list[tuple[float, int]]:
    highest = max(slot, key=lambda point: (point[1], -point[0]))
    return [highest] if highest == slot[-1] else [highest, slot[-1]]
