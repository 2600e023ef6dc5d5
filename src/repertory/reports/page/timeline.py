"""What happened over time: where models were, what devices held, what was asked and waited."""

from collections.abc import Sequence
from dataclasses import dataclass

from repertory.reports.figures import bytes_text, percent_text, rate_text, seconds_text
from repertory.reports.page.charts import Axis, Mark, Shown, area, plot, stairs, time_row
from repertory.reports.page.groups import Group
from repertory.reports.page.lanes import Span, State
from repertory.reports.page.logs import DeviceCourse, LogDigest
from repertory.reports.page.markup import Markup, el, join
from repertory.reports.page.runs import ModelCourse, RunDigest
from repertory.reports.page.tables import badge

__all__ = ["HATCH", "Clipped", "demand", "residency"]

_LANES = 12
_OPEN = 4
"""Devices that are shown at once; further ones unfold."""
_DEVICES = 64
_RECTS = 500
_GROUPS = 8
_LANE_PX = 18
_NEAR = 0.2
"""Of a picture's height: two names there would lie on each other."""
_KINDS = {
    State.SERVING: "serving",
    State.DEVICE: "device",
    State.HOST: "host",
    State.MOVING: "moving",
}

HATCH = Markup(
    '<svg width="0" height="0" class="hidden" aria-hidden="true"><defs>'
    '<pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" class="hatch-ground"/>'
    '<rect width="3" height="6" class="hatch-line"/></pattern></defs></svg>'
)


@dataclass(frozen=True, slots=True)
class Clipped:
    """A log's times, on the clock of the run that it is of."""

    log: LogDigest
    offset_s: float
    time: Axis

    def at(self, at_s: float) -> float:
        return at_s - self.offset_s


def residency(clipped: Clipped) -> Markup:
    """A block for each device."""
    devices = clipped.log.devices
    if not devices:
        return el("p", "No worker is in this log, so nothing was anywhere.", class_="empty")
    blocks = [_device(clipped, one) for one in devices[:_DEVICES]]
    rest = blocks[_OPEN:]
    folded = None
    if rest:
        words = f"{len(rest)} more devices"
        if len(devices) > _DEVICES:
            words += f"; {len(devices) - _DEVICES} further ones are not shown"
        folded = el("details", el("summary", words), *rest)
    return join((_key(), *blocks[:_OPEN], folded))


def _key() -> Markup:
    def swatch(kind: str) -> Markup:
        return el("svg", _rect(0.0, 1.0, kind), width="22", height=_LANE_PX, aria_hidden="true")

    words = (
        ("serving", "serving"),
        ("device", "loaded, no room for text yet"),
        ("moving", "on its way up or down"),
        ("host", "in main memory only"),
    )
    return el("p", *(el("span", swatch(kind), " ", text) for kind, text in words), class_="legend")


def _device(clipped: Clipped, device: DeviceCourse) -> Markup:
    rows = [_lane(clipped, model, spans) for model, spans in device.lanes[:_LANES]]
    hidden = len(device.lanes) - len(rows)
    note = f"and {hidden} more models, each here for a shorter time" if hidden else None
    if not rows:
        note = "Nothing was ever loaded here."
    return el(
        "section",
        el("h4", device.name, " ", el("small", _budget(device))),
        *rows,
        el("div", el("span"), time_row(clipped.time), class_="row"),
        el("p", note, class_="note") if note else None,
        _memory(clipped, device),
        class_="device",
    )


def _budget(device: DeviceCourse) -> str:
    if not device.budget_bytes:
        return ""
    share = device.peak_bytes / device.budget_bytes
    return f"at most {bytes_text(device.peak_bytes)} of {bytes_text(device.budget_bytes)} held " + (
        f"({percent_text(share)})"
    )


def _lane(clipped: Clipped, model: str, spans: Sequence[Span]) -> Markup:
    time = clipped.time
    shown: list[Markup] = []
    serving_s = 0.0
    last = -1.0
    least = 1.0 / _RECTS / 4
    for span in spans:
        begin_s, end_s = clipped.at(span.begin_s), clipped.at(span.end_s)
        begin, end = time.share(begin_s), time.share(end_s)
        if span.state is State.SERVING:
            serving_s += max(0.0, min(end_s, time.high) - max(begin_s, time.low))
        if end_s <= time.low or begin_s >= time.high or end - max(begin, last) < least:
            continue
        last = end
        words = f"{model}: {span.state.value} for {seconds_text(span.end_s - span.begin_s)}"
        words += f", from {seconds_text(begin_s)}"
        shown.append(_rect(begin, end, _KINDS[span.state], words))
    share = serving_s / (time.high - time.low)
    gaps = [_gap(clipped, at_s, count) for at_s, count in clipped.log.gaps]
    lane = el(
        "svg",
        el("line", class_="grid", x1="0", x2="100%", y1="17.5", y2="17.5"),
        *shown,
        *gaps,
        width="100%",
        height=_LANE_PX,
        role="img",
        aria_label=f"{model}: serving {percent_text(share)} of the time",
    )
    name = el("span", el("span", model, class_="clip", title=model), class_="of")
    return el("div", name, lane, class_="row lane")


def _gap(clipped: Clipped, at_s: float, count: int) -> Markup:
    place = f"{100 * clipped.time.share(clipped.at(at_s)):.2f}%"
    title = el("title", f"{count:,} decisions are missing here")
    return el("line", title, class_="gap", x1=place, x2=place, y1="0", y2="100%")


def _rect(begin: float, end: float, kind: str, words: str = "") -> Markup:
    thin = kind == "host"
    return el(
        "rect",
        el("title", words) if words else None,
        class_=kind,
        x=f"{100 * begin:.2f}%",
        width=f"{100 * max(end - begin, 0.0005):.2f}%",
        y="11" if thin else "2",
        height="4" if thin else "14",
    )


def _memory(clipped: Clipped, device: DeviceCourse) -> Markup | None:
    """Measured after each move; while one goes on, more may be held."""
    time = clipped.time
    points = [(clipped.at(at_s), float(held)) for at_s, held in device.held]
    points = _within(points, time)
    most = max([device.budget_bytes, *(held for _, held in points)], default=0.0)
    if not points or not most:
        return None
    y = Axis(0.0, most * 1.08)
    marks = []
    if device.budget_bytes:
        marks.append(Mark(float(device.budget_bytes), f"budget {bytes_text(device.budget_bytes)}"))
    shown = Shown(
        f"memory held on {device.name} over time",
        [],
        [
            (tick, bytes_text(round(tick)))
            for tick in _binary_ticks(y.high)
            if abs(y.share(tick) - y.share(device.budget_bytes)) > _NEAR
        ],
        y_marks=marks,
        height=112,
    )
    curves = (area(time, y, points, "fill s0"), stairs(time, y, points, "line s0"))
    name = el("span", "memory", class_="of")
    return el("div", name, plot(time, y, curves, shown), class_="row")


def _binary_ticks(most_bytes: float) -> list[float]:
    """Round in the units that are shown: at 200 MiB, not at 209.7."""
    unit = 1.0
    while most_bytes / unit >= 1000:
        unit *= 1024
    return [tick * unit for tick in Axis(0.0, most_bytes / unit).ticks(2)]


def _within(points: Sequence[tuple[float, float]], time: Axis) -> list[tuple[float, float]]:
    """With what held when the time began, and until it ends."""
    before = [value for at_s, value in points if at_s <= time.low]
    inside = [point for point in points if time.low < point[0] < time.high]
    if before:
        inside.insert(0, (time.low, before[-1]))
    if inside:
        inside.append((time.high, inside[-1][1]))
    return inside


def demand(groups: Sequence[Group]) -> Markup:
    """Of each group, its first run; the first group is open."""
    parts = []
    for at, group in enumerate(groups[:_GROUPS]):
        run = group.runs[0]
        seed = "" if run.header.seed is None else f", seed {run.header.seed}"
        load = rate_text(group.offered_per_s)
        summary = el(
            "summary", f"{group.system}, {load} offered{seed} ", badge(group.setting.origin)
        )
        parts.append(el("details", summary, _courses(run), open="open" if not at else None))
    if len(groups) > _GROUPS:
        words = f"{len(groups) - _GROUPS} more groups are not drawn."
        parts.append(el("p", words, class_="note"))
    return join(parts)


def _courses(run: RunDigest) -> Markup:
    time = Axis(0.0, run.end_s)
    if not run.courses:
        return el("p", "No request is in this run.", class_="empty")
    rows = [_course(run, one, time) for one in run.courses]
    models = len(run.summary.models)
    more = models - len(run.courses)
    note = f"{more} models with fewer requests are not drawn." if more else None
    key = el(
        "p",
        el("span", el("b", "▇", class_="ink0 pale"), " requests that came, per second"),
        el("span", el("b", "━", class_="ink1"), " requests that waited"),
        class_="legend",
    )
    axis = el("div", el("span"), time_row(time), class_="row")
    return join((key, *rows, axis, el("p", note, class_="note") if note else None))


def _course(run: RunDigest, course: ModelCourse, time: Axis) -> Markup:
    demand_points = _slots(run, course.demand_per_s)
    waiting_points = _slots(run, course.waiting)
    peak, longest = max(course.demand_per_s), max(course.waiting)
    rate, queue = Axis(0.0, max(peak, 1e-9)), Axis(0.0, max(longest, 1.0))
    curves = (
        area(time, rate, demand_points, "fill s0"),
        stairs(time, queue, waiting_points, "line s1"),
    )
    words = f"up to {rate_text(peak)} asked, up to {_queue(longest)} waiting"
    title = f"{words}; {course.requests:,} requests in {seconds_text(run.end_s)}"
    picture = plot(time, rate, curves, Shown(f"{course.name}: {words}", [], [], height=66))
    name = el(
        "span",
        el("span", course.name, class_="clip"),
        el(
            "small",
            el("span", f"≤ {rate_text(peak)}", class_="ink0"),
            el("span", f"≤ {_queue(longest)} wait", class_="ink1"),
        ),
        class_="of",
        title=title,
    )
    return el("div", name, picture, class_="row course")


def _queue(waiting: float) -> str:
    """On average over a slot: less than one is something."""
    return f"{waiting:,.0f}" if waiting >= 10 else f"{waiting:.1f}"


def _slots(run: RunDigest, values: Sequence[float]) -> list[tuple[float, float]]:
    points = [(at * run.slot_s, value) for at, value in enumerate(values)]
    return [*points, (run.end_s, values[-1])]
