"""One PNG of a report: `python3 -m gpucheck plot FILE.json -o FILE.png`; needs matplotlib.

matplotlib is imported when something is drawn: the bare GPU machine rarely has it, and the JSON
can be drawn anywhere else.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import msgspec

from gpucheck.costs.found import Cycle
from gpucheck.costs.summary import point_of
from gpucheck.result import Item, Report
from repertory.domain.readings import LinkReading, StepReading, typical_s
from repertory.perf.offload import OffloadLaw
from repertory.perf.profiles import Law

if TYPE_CHECKING:
    from gpucheck.costs.found import Curve

__all__ = ["Line", "Stack", "curve_lines", "draw", "link_stacks", "main", "preemption_stacks"]

_PARTS = {
    "KV out": ("out_s",),
    "unload (memory read to be free)": ("close_s", "unload_s"),
    "load weights": ("load_s",),
    "make context": ("context_s",),
    "KV in": ("in_s",),
    "first token": ("first_token_s",),
}
"""Of a bar -> the timers of a cycle."""
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#9c6b4e")
_DOTS_PER_INCH = 110


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="gpucheck plot")
    parser.add_argument("report", type=Path, help="gpu_check-DEVICE.json")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        report = msgspec.json.decode(options.report.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"{options.report} is no report of this tool: {error}", file=sys.stderr)
        return 1
    if not _has_matplotlib():
        print("matplotlib is not here: pip install matplotlib", file=sys.stderr)
        return 1
    print(draw(report, options.output))
    return 0


def _has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


def draw(report: Report, target: Path) -> str:
    """Draw what there is; says where it is, or why there is nothing."""
    if not _has_matplotlib():
        return "no PNG, as matplotlib is not here; draw the JSON elsewhere: gpucheck plot"
    if not (report.costs.curves or report.costs.interruptions):
        return "no PNG: nothing that it would show was measured yet"
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(19, 11), layout="constrained")
    try:
        figure.suptitle(_title(report), fontsize=13)
        for kind, pane in (("decode", axes[0][0]), ("prefill", axes[0][1])):
            _draw_curves(pane, kind, curve_lines(report, kind))
        _draw_lengths(axes[0][2], report)
        _draw_stacks(axes[1][0], preemption_stacks(report))
        _draw_points(axes[1][1], report)
        _draw_links(axes[1][2], link_stacks(report))
        figure.savefig(target, dpi=_DOTS_PER_INCH)
    finally:
        plt.close(figure)
    return f"drawn: {target}"


def _title(report: Report) -> str:
    machine = report.machine
    cores = f"{machine.cpu}, {machine.cores} core{'' if machine.cores == 1 else 's'}"
    match report.device:
        case "cuda":
            where = f"{machine.gpu} beside {cores}"
        case "rpc":
            where = f"REHEARSAL without a GPU: an RPC device on {cores}"
        case _:
            where = f"REHEARSAL without a GPU: {cores}, no layer ever moves"
    models = ", ".join(dict.fromkeys(one.model for one in report.items))
    part = "" if report.is_complete else " (not complete yet)"
    return f"{where}{part}\nrandom weights in the shapes of {models}"


@dataclass(frozen=True, slots=True)
class Line:
    """One model's curve: measured points, and the law through all its lengths."""

    model: str
    length: int
    shares: tuple[float, ...]
    speeds: tuple[float, ...]
    """Relative to all layers on the device."""
    least: tuple[float, ...]
    most: tuple[float, ...]
    """Of the repeats."""
    best_per_s: float
    """Tokens, with all layers on the device."""
    law: OffloadLaw | None
    residual: float


def curve_lines(report: Report, kind: str) -> list[Line]:
    """Of each model at the length in the middle; only where all layers were measured too."""
    found = []
    for model in dict.fromkeys(item.model for item in report.items):
        steps = _steps(report.items, model, kind)
        lengths = sorted({point_of(one).context_tokens for one in steps})
        if lengths:
            line = _line(report, model, kind, lengths[len(lengths) // 2])
            found += [] if line is None else [line]
    return found


def _line(report: Report, model: str, kind: str, length: int) -> Line | None:
    steps = [
        one for one in _steps(report.items, model, kind) if point_of(one).context_tokens == length
    ]
    steps.sort(key=lambda one: one.share)
    if not steps or steps[-1].share < 1.0:
        return None
    best_s = typical_s(steps[-1].seconds)
    curve = next(
        (one for one in report.costs.curves if (one.model, one.kind) == (model, kind)), None
    )
    return Line(
        model=model,
        length=length,
        shares=tuple(one.share for one in steps),
        speeds=tuple(best_s / typical_s(one.seconds) for one in steps),
        least=tuple(best_s / max(one.seconds) for one in steps),
        most=tuple(best_s / min(one.seconds) for one in steps),
        best_per_s=steps[-1].tokens / best_s,
        law=None if curve is None else _law(curve),
        residual=0.0 if curve is None else curve.residual,
    )


def _steps(items: Iterable[Item], model: str, kind: str) -> list[StepReading]:
    steps = [one for item in items if item.model == model for one in item.costs.steps]
    return [one for one in steps if one.decode is (kind == "decode")]


def _law(curve: "Curve") -> OffloadLaw:
    return OffloadLaw(
        Law(curve.device_fixed_s, curve.device_per_token_s),
        Law(curve.host_fixed_s, curve.host_per_token_s),
        curve.crossing_s,
    )


def _draw_curves(pane: Any, kind: str, lines: Sequence[Line]) -> None:  # Any: matplotlib's axes
    for line, colour in zip(lines, _colours(), strict=False):
        label = f"{line.model}, {line.length} tokens ({line.best_per_s:,.0f} tokens/s at 100 %"
        label += f"; law off by {line.residual:.1%})" if line.law else ")"
        _draw_line(pane, line, colour, label, kind)
    _draw_reference(pane)
    pane.set_ylabel("throughput / throughput with all on the device")
    pane.set_title("Decoding" if kind == "decode" else "Prompts (to the first token)", loc="left")
    _finish(pane)


def _draw_line(pane: Any, line: Line, colour: str, label: str, kind: str) -> None:
    shares = [100 * share for share in line.shares]
    below = [middle - least for middle, least in zip(line.speeds, line.least, strict=True)]
    above = [most - middle for middle, most in zip(line.speeds, line.most, strict=True)]
    style: dict[str, Any] = {"fmt": "o", "markersize": 4.5, "capsize": 2.5, "elinewidth": 1}
    pane.errorbar(shares, line.speeds, (below, above), color=colour, label=label, **style)
    if line.law is None:
        return
    # Between the ends, where both compute: at the ends the law has a step.
    first = 0.0 if kind == "decode" else min(share for share in line.shares if share > 0.0)
    grid = [first + (1.0 - first) * (step + 0.5) / 400 for step in range(400)]
    speeds = [1.0 / line.law.seconds(share, line.length) / line.best_per_s for share in grid]
    pane.plot([100 * share for share in grid], speeds, "-", color=colour, linewidth=1.2, alpha=0.7)


def _draw_reference(pane: Any) -> None:
    pane.plot([0, 100], [0, 1], "--", color="grey", linewidth=1, label="linear")
    pane.set_xlabel("share of the bytes on the device, %")
    pane.set_xlim(-2, 102)
    pane.set_ylim(0, None)


def _draw_lengths(pane: Any, report: Report) -> None:
    """The first model's decoding, at every length."""
    model = next((one.model for one in report.costs.curves if one.kind == "decode"), None)
    if model is not None:
        steps = _steps(report.items, model, "decode")
        lengths = sorted({one.context_tokens for one in steps})
        lines = [_line(report, model, "decode", length) for length in lengths]
        for line, colour in zip((one for one in lines if one), _colours(), strict=False):
            label = f"{line.length} tokens ({line.best_per_s:,.0f} tokens/s at 100 %)"
            _draw_line(pane, line, colour, label, "decode")
    _draw_reference(pane)
    pane.set_ylabel("throughput / throughput with all on the device")
    pane.set_title(f"Decoding {model or ''} after contexts of", loc="left")
    _finish(pane)


@dataclass(frozen=True, slots=True)
class Stack:
    """A bar: what it is, and the height of each of its parts."""

    name: str
    parts: dict[str, float]


def preemption_stacks(report: Report) -> list[Stack]:
    """Mean seconds of a preemption of each pair, part by part."""
    found = []
    for item in report.items:
        cycles = [one for one in item.costs.cycles if not one.stays]
        if cycles:
            name = f"{item.model}\nfor {cycles[0].claimant}"
            parts = {part: _mean_s(cycles, timers) for part, timers in _PARTS.items()}
            found.append(Stack(name, parts))
    return found


def _mean_s(cycles: Sequence[Cycle], timers: tuple[str, ...]) -> float:
    return fmean(sum(float(getattr(one, timer)) for timer in timers) for one in cycles)


def _draw_stacks(pane: Any, stacks: Sequence[Stack]) -> None:
    bottoms = [0.0] * len(stacks)
    places = range(len(stacks))
    for part, colour in zip(_PARTS, _COLOURS, strict=True):
        heights = [stack.parts[part] for stack in stacks]
        pane.bar(places, heights, 0.6, bottom=bottoms, label=part, color=colour)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    for place, total in zip(places, bottoms, strict=True):
        pane.annotate(f"{total:.3g}", (place, total), ha="center", va="bottom", fontsize=8)
    pane.set_xticks(places, [stack.name for stack in stacks], fontsize=8)
    pane.set_ylim(0, 1.35 * max(bottoms, default=1.0))  # the legend lies above the bars
    pane.set_ylabel("seconds, mean of all points")
    pane.set_title("What an interruption costs the interrupted (with its next step)", loc="left")
    _finish(pane, "upper left", 2)


def _draw_points(pane: Any, report: Report) -> None:
    """Does the cost depend on the point?"""
    pairs = [item for item in report.items if item.costs.cycles]
    for item, colour in zip(pairs, _colours(), strict=False):
        moved = [one for one in item.costs.cycles if not one.stays]
        stays = [one for one in item.costs.cycles if one.stays]
        name = f"{item.model} for {item.costs.cycles[0].claimant}"
        pane.plot(*_by_point(moved), "o-", color=colour, label=name, markersize=4)
        pane.plot(*_by_point(stays), "x", color=colour, markersize=6)
    if pairs:
        pane.plot([], [], "x", color="grey", label="the interrupted model stays")
        pane.set_yscale("symlog", linthresh=1e-3)
    pane.set_ylim(0, None)
    pane.set_xlabel("tokens of context when interrupted")
    pane.set_ylabel("seconds beyond a step")
    pane.set_title("By point of interruption", loc="left")
    _finish(pane)


def _by_point(cycles: Sequence[Cycle]) -> tuple[list[int], list[float]]:
    return [one.point_tokens for one in cycles], [one.overhead_s for one in cycles]


def link_stacks(report: Report) -> list[Stack]:
    """GB/s of each way, in the middle of all models' readings."""
    links = [one for item in report.items for one in item.costs.links]
    names = dict.fromkeys(_link_name(one) for one in links)
    return [
        Stack(name, {"GB/s": median(_gb_per_s(one) for one in links if _link_name(one) == name)})
        for name in names
    ]


def _link_name(link: LinkReading) -> str:
    return f"{link.what}\n{link.how}" if link.what.startswith("device") else link.what


def _gb_per_s(link: LinkReading) -> float:
    return link.size_bytes / 1e9 / typical_s(link.seconds)


def _draw_links(pane: Any, stacks: Sequence[Stack]) -> None:
    places = range(len(stacks))
    speeds = [stack.parts["GB/s"] for stack in stacks]
    pane.barh(places, speeds, 0.65, color=_COLOURS[0])
    for place, speed in zip(places, speeds, strict=True):
        pane.annotate(f" {speed:.3g}", (speed, place), va="center", fontsize=8)
    pane.set_yticks(places, [stack.name.replace("\n", ": ") for stack in stacks], fontsize=8)
    pane.invert_yaxis()
    pane.margins(x=0.12)
    pane.set_xlabel("GB/s (10⁹ bytes)")
    pane.set_title("Ways that bytes go", loc="left")
    pane.grid(axis="x", alpha=0.3)


def _colours() -> Iterable[str]:
    return (*_COLOURS, "#6cc5b0", "#97bbf5", "#ff8ab7", "#444444")


def _finish(pane: Any, place: str = "best", columns: int = 1) -> None:
    pane.grid(alpha=0.3)
    handles, _ = pane.get_legend_handles_labels()
    if handles:
        pane.legend(fontsize=8, loc=place, ncols=columns)
