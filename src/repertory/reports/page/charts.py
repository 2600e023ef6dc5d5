"""Curves as SVG that fits any width: places along are percents, letters keep their size.

Lines lie in an inner picture that is stretched; their strokes are not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repertory.reports.page.markup import Markup, el, join

__all__ = [
    "Axis",
    "Mark",
    "Shown",
    "area",
    "clock",
    "curve",
    "dots",
    "exact_seconds",
    "plot",
    "stairs",
    "time_row",
]

_FULL = 1000.0
"""The inner picture is so wide and so high, in units of its own."""
_TOP, _FOOT = 14.0, 20.0
"""Room for a label over the highest line, and for the names of places along."""
_STEPS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),
    *(60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200),
    *(86400, 172800, 345600, 604800),
)
_DAY_S, _HOUR_S, _MINUTE_S = 86400.0, 3600.0, 60.0


@dataclass(frozen=True, slots=True)
class Axis:
    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where it lies, from 0 to 1; what is beyond lies at the end."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-12))
        if high <= low:
            return 0.5
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self, most: int = 5) -> list[float]:
        """Round values, no more than `most` and one."""
        if self.is_log:
            return self._decades(most)
        rough = (self.high - self.low) / most
        if rough <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
        return _multiples(self.low, self.high, step)

    def moments(self, most: int = 5) -> list[float]:
        """Round times."""
        rough = (self.high - self.low) / most
        step = next((size for size in _STEPS_S if size >= rough), None)
        if step is None:
            return self.ticks(most)
        return _multiples(self.low, self.high, float(step))

    def _decades(self, most: int) -> list[float]:
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        every = max(1, math.ceil((last - first + 1) / most))
        return [10.0**power for power in range(first, last + 1, every)]


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]


def clock(at_s: float, span_s: float) -> str:
    """A moment of a run that is so long: 15 s, 40 min, 6 h, day 3."""
    if span_s >= 4 * _DAY_S:
        return f"day {at_s / _DAY_S:g}"
    if span_s >= 3 * _HOUR_S:
        return f"{at_s / _HOUR_S:g} h"
    if span_s >= 3 * _MINUTE_S:
        return f"{at_s / _MINUTE_S:g} min"
    return f"{at_s:g} s"


def exact_seconds(seconds: float) -> str:
    """For round ones: 2 s, 100 ms."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:,.6g} s"


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across, and its name."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a plot shows around its curves."""

    label: str
    """For those who cannot see it."""
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_marks: Sequence[Mark] = ()
    y_marks: Sequence[Mark] = ()
    height: float = 180.0


def plot(x: Axis, y: Axis, curves: Iterable[Markup], shown: Shown) -> Markup:
    high = shown.height - _TOP - _FOOT
    parts: list[Markup] = []
    for value, text in shown.y_ticks:
        at = _TOP + (1.0 - y.share(value)) * high
        parts.append(_across(at, "grid"))
        parts.append(el("text", text, class_="tick", x="0", y=at - 3))
    parts += [_upright(x.share(value), "grid", shown.height) for value, _ in shown.x_ticks]
    parts.append(
        el(
            "svg",
            *curves,
            y=_TOP,
            width="100%",
            height=high,
            viewBox=f"0 0 {_FULL:g} {_FULL:g}",
            preserveAspectRatio="none",
            class_="curves",
        )
    )
    for mark in shown.y_marks:
        at = _TOP + (1.0 - y.share(mark.at)) * high
        parts += [_across(at, "mark"), el("text", mark.text, class_="name end", x="100%", y=at - 4)]
    for mark in shown.x_marks:
        share = x.share(mark.at)
        parts.append(_upright(share, "mark", shown.height))
        place = _percent(share)
        side = "name end" if share > 0.5 else "name"
        shift = -4 if share > 0.5 else 4
        parts.append(el("text", mark.text, class_=side, x=place, dx=shift, y=_TOP - 3))
    parts += _names(x, shown.x_ticks, shown.height - 5)
    size = {"width": "100%", "height": f"{shown.height:g}"}
    return el("svg", *parts, class_="plot", role="img", aria_label=shown.label, **size)


def time_row(time: Axis) -> Markup:
    """The names of moments, under rows that share a time."""
    span_s = time.high - time.low
    ticks = [(at_s, clock(at_s, span_s)) for at_s in time.moments()]
    return el("svg", *_names(time, ticks, 13), class_="plot", width="100%", height="18")


def _across(at: float, kind: str) -> Markup:
    return el("line", class_=kind, x1="0", x2="100%", y1=at, y2=at)


def _upright(share: float, kind: str, height: float) -> Markup:
    place = _percent(share)
    return el("line", class_=kind, x1=place, x2=place, y1=_TOP, y2=height - _FOOT)


def _names(x: Axis, ticks: Sequence[tuple[float, str]], y: float) -> list[Markup]:
    """Those near an edge keep inside."""
    names = []
    for value, text in ticks:
        share = x.share(value)
        side = "tick" if share < 0.04 else "tick end" if share > 0.94 else "tick middle"
        names.append(el("text", text, class_=side, x=_percent(share), y=y))
    return names


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def curve(x: Axis, y: Axis, points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """Straight from point to point."""
    return _path(_line(x, y, points), kind)


def stairs(x: Axis, y: Axis, points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """From each point on at its height; a last one says where it ends."""
    return _path(_stairs(x, y, points), kind)


def area(x: Axis, y: Axis, points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """As stairs, filled down to the floor."""
    if not points:
        return join(())
    end = _unit(x.share(points[-1][0]))
    return _path(f"{_stairs(x, y, points)}H{end}V1000H{_unit(x.share(points[0][0]))}Z", kind)


def dots(x: Axis, y: Axis, points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """A line of no length with round ends is a dot, however the picture is stretched."""
    places = (f"M{_unit(x.share(one))} {_unit(1 - y.share(two))}h0" for one, two in points)
    return _path("".join(places), f"dots {kind}")


def _path(d: str, kind: str) -> Markup:
    return el("path", d=d, class_=kind) if d else join(())


def _line(x: Axis, y: Axis, points: Iterable[tuple[float, float]]) -> str:
    places = [f"{_unit(x.share(one))} {_unit(1 - y.share(two))}" for one, two in points]
    return f"M{'L'.join(places)}" if places else ""


def _stairs(x: Axis, y: Axis, points: Iterable[tuple[float, float]]) -> str:
    text, last, along = "", "", ""
    for one, two in points:
        along, down = _unit(x.share(one)), _unit(1 - y.share(two))
        if not text:
            text = f"M{along} {down}"
        elif down != last:
            text += f"H{along}V{down}"
        last = down
    return f"{text}H{along}" if text else ""


def _unit(share: float) -> str:
    """A thousandth of the picture is less than anybody sees."""
    return f"{share * _FULL:.1f}".removesuffix(".0")
