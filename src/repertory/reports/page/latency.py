"""How long first tokens and further ones took, and what load came through."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from repertory.reports.figures import percent_text, rate_text, seconds_text
from repertory.reports.page.charts import Axis, Mark, Shown, curve, dots, exact_seconds, plot
from repertory.reports.page.groups import Estimate, Group, Setting
from repertory.reports.page.markup import Markup, el, join
from repertory.reports.page.runs import RunDigest, Spread
from repertory.reports.page.tables import badge
from repertory.traces.summary import Slo

__all__ = ["distributions", "loads"]

_LINES = 7
"""Colours that are told apart, each with its own dashes."""
_POINTS = 150
_LEAST_S = 1e-4
_SHARES = ((0.0, "0 %"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %"))


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    points: tuple[tuple[float, float], ...]
    """Seconds, and the share of requests that took no longer."""


def distributions(groups: Sequence[Group], slo: Slo) -> Markup:
    """A pair of pictures for each setting; one system alone is shown by its models, too."""
    settings = list(dict.fromkeys(one.setting for one in groups))
    return join(
        _of_setting(setting, [one for one in groups if one.setting == setting], slo)
        for setting in settings
    )


def _of_setting(setting: Setting, groups: Sequence[Group], slo: Slo) -> Markup:
    first = [_pooled(_name(one, groups), [run.ttft for run in one.runs]) for one in groups]
    rest = [_pooled(_name(one, groups), [run.tpot for run in one.runs]) for one in groups]
    if len(groups) == 1:
        first += _by_model(groups[0].runs)
    hidden = max(0, len(groups) - _LINES)
    note = f"{hidden} more groups are in the table only." if hidden else None
    return el(
        "div",
        el("h3", setting.words, " ", badge(setting.origin)),
        el(
            "div",
            _picture("Time to first token", first[:_LINES], slo.ttft_s, slo.ttft_share),
            _picture("Time per further token", rest[:_LINES], slo.tpot_s, slo.tpot_share),
            class_="pair",
        ),
        el("p", note, class_="note") if note else None,
        class_="block",
    )


def _name(group: Group, groups: Sequence[Group]) -> str:
    several = sum(one.system == group.system for one in groups) > 1
    return f"{group.system} at {rate_text(group.offered_per_s)}" if several else group.system


def _by_model(runs: Sequence[RunDigest]) -> list[_Line]:
    spreads: dict[str, list[Spread]] = {}
    for run in runs:
        for course in run.courses:
            spreads.setdefault(course.name, []).append(course.ttft)
    if len(spreads) < 2:
        return []
    busiest = sorted(spreads, key=lambda name: (-sum(one.count for one in spreads[name]), name))
    return [_pooled(name, spreads[name]) for name in busiest[: _LINES - 1]]


def _pooled(name: str, spreads: Sequence[Spread]) -> _Line:
    weighed = sorted((value, one.share_each) for one in spreads for value in one.values)
    total = sum(weight for _, weight in weighed)
    points: list[tuple[float, float]] = []
    below = 0.0
    for value, weight in weighed:
        below += weight
        if math.isinf(value):
            break
        points.append((max(value, _LEAST_S), below / total))
    every = max(1, len(points) // _POINTS)
    kept = points[::every]
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return _Line(name, tuple(kept))


def _picture(title: str, lines: Sequence[_Line], limit_s: float | None, share: float) -> Markup:
    places = [at_s for line in lines for at_s, _ in line.points]
    heading = el("h4", title)
    if not places:
        return el("figure", heading, el("p", "No request got there.", class_="empty"))
    if limit_s is not None:
        places.append(limit_s)
    low, high = _half_decade(min(places), above=False), _half_decade(max(places), above=True)
    x, y = Axis(low, high, is_log=True), Axis(0.0, 1.0)
    marks = [] if limit_s is None else [Mark(limit_s, f"SLO {exact_seconds(limit_s)}")]
    shown = Shown(
        f"{title}: the share of requests that took no longer",
        [(tick, exact_seconds(tick)) for tick in x.ticks()],
        _SHARES,
        marks,
        height=220,
    )
    curves = [curve(x, y, line.points, f"line s{at}") for at, line in enumerate(lines)]
    rows = [_row(at, line, limit_s, share) for at, line in enumerate(lines)]
    head = el("tr", *(el("th", one) for one in ("", "p50", "p99", _under(limit_s))))
    keys = el("table", el("thead", head), el("tbody", *rows), class_="keys")
    return el("figure", heading, plot(x, y, reversed(curves), shown), keys)


def _under(limit_s: float | None) -> str:
    return "" if limit_s is None else f"< {exact_seconds(limit_s)}"


def _row(at: int, line: _Line, limit_s: float | None, share: float) -> Markup:
    within = ""
    kind = None
    if limit_s is not None:
        reached = _reached(line, limit_s)
        within, kind = percent_text(reached), "met" if reached >= share else "missed"
    return el(
        "tr",
        el("th", _named(at, line.name), scope="row"),
        el("td", _at(line, 0.5)),
        el("td", _at(line, 0.99)),
        el("td", within, class_=kind),
    )


def _named(at: int, name: str) -> Markup:
    """A curve's stroke and name, side by side however narrow the column."""
    stroke = el("path", d="M0 5H22", class_=f"line s{at}")
    swatch = el("svg", stroke, width="22", height="10", aria_hidden="true")
    return el("span", swatch, el("span", name), class_="named")


def _at(line: _Line, share: float) -> str:
    at = bisect.bisect_left([one for _, one in line.points], share - 1e-9)
    return seconds_text(line.points[at][0]) if at < len(line.points) else "∞"


def _reached(line: _Line, limit_s: float) -> float:
    at = bisect.bisect_left([one for one, _ in line.points], limit_s)
    return line.points[at - 1][1] if at else 0.0


def _half_decade(seconds: float, *, above: bool) -> float:
    halves = math.floor(math.log10(seconds) * 2) + above
    return float(10.0 ** (halves / 2))


def loads(groups: Sequence[Group]) -> Markup:
    """Goodput against load, where a system was run at several."""
    settings = list(dict.fromkeys(one.setting for one in groups))
    parts = []
    for setting in settings:
        mine = [one for one in groups if one.setting == setting]
        if len({one.level for one in mine}) > 1:
            parts.append(_load_picture(setting, mine))
    if not parts:
        words = (
            "All runs of a system have one load; runs at several rates are drawn here as a curve."
        )
        return el("p", words, class_="empty")
    return join(parts)


def _load_picture(setting: Setting, groups: Sequence[Group]) -> Markup:
    systems = list(dict.fromkeys(one.system for one in groups))[:_LINES]
    most = max(one.offered_per_s for one in groups) * 1.05
    x, y = Axis(0.0, most), Axis(0.0, most)
    layers = [curve(x, y, [(0.0, 0.0), (most, most)], "ideal")]
    rows = []
    for at, system in enumerate(systems):
        mine = sorted(
            (one for one in groups if one.system == system), key=lambda one: one.offered_per_s
        )
        found = [(one.offered_per_s, one.estimate(lambda each: each.goodput_per_s)) for one in mine]
        layers += _with_intervals(x, y, found, at)
        rows.append(_load_row(at, system, found))
    shown = Shown(
        f"goodput against load, {setting.words}",
        [(tick, rate_text(tick) if tick else "0") for tick in x.ticks()],
        [(tick, rate_text(tick) if tick else "0") for tick in y.ticks(4)],
        height=260,
    )
    return el(
        "figure",
        el("h3", setting.words, " ", badge(setting.origin)),
        plot(x, y, layers, shown),
        el("table", el("tbody", *rows), class_="keys"),
        el(
            "p",
            "Across: requests offered. Up: requests within the SLO. Dashed grey: all of them.",
            class_="note",
        ),
        class_="block",
    )


def _with_intervals(
    x: Axis, y: Axis, found: Sequence[tuple[float, Estimate]], at: int
) -> list[Markup]:
    points = [(load, one.mean) for load, one in found if one.mean is not None]
    layers = [curve(x, y, points, f"line s{at}"), dots(x, y, points, f"s{at}")]
    for load, one in found:
        if one.mean is not None and one.half is not None:
            ends = [(load, max(0.0, one.mean - one.half)), (load, one.mean + one.half)]
            layers.append(curve(x, y, ends, f"line thin s{at}"))
    return layers


def _load_row(at: int, system: str, found: Sequence[tuple[float, Estimate]]) -> Markup:
    best = max((one.mean or 0.0 for _, one in found), default=0.0)
    return el(
        "tr",
        el("th", _named(at, system), scope="row"),
        el("td", f"at most {rate_text(best)} within the SLO"),
    )
