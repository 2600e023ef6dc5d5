"""A workload as a picture: who asks when, and how long requests are."""

from pathlib import Path

import numpy as np

from repertory.reports.curves import COLOURS, DPI, Axes, label, legend, sheet
from repertory.traces.describe import Description

__all__ = ["draw_workload"]

_SHOWN = 7
"""Models with a colour of their own; the rest are one grey."""
_GREY = "#BBBBBB"
_UNITS = ((2 * 86_400.0, 86_400.0, "days"), (2 * 3_600.0, 3_600.0, "hours"), (0.0, 60.0, "minutes"))


def draw_workload(found: Description, title: str, path: Path) -> None:
    figure, (rates, lengths) = sheet(title)
    _rates(rates, found)
    _lengths(lengths, found)
    figure.savefig(path, dpi=DPI)


def _rates(axes: Axes, found: Description) -> None:
    """Stacked, the busiest at the bottom."""
    line = found.timeline
    slots = int(found.last_s // line.slot_s) + 1
    unit_s, unit = next((size, name) for least, size, name in _UNITS if found.last_s >= least)
    names = [one.name for one in found.models]
    colours = dict(zip(names, COLOURS, strict=False))
    widths_s = np.full(slots, line.slot_s)
    # The last slot is not over; a sliver of it would say nothing.
    widths_s[-1] = max(found.last_s - (slots - 1) * line.slot_s, line.slot_s / 4)
    below = np.zeros(slots)
    edges = np.arange(slots + 1) * line.slot_s / unit_s
    for name in names[:_SHOWN]:
        top = below + line.counts[name][:slots] / widths_s
        axes.stairs(top, edges, baseline=below, fill=True, color=colours[name], label=name)
        below = top
    if len(names) > _SHOWN:
        rest = np.sum([line.counts[name][:slots] for name in names[_SHOWN:]], axis=0)
        words = f"{len(names) - _SHOWN} others"
        top = below + rest / widths_s
        axes.stairs(top, edges, baseline=below, fill=True, color=_GREY, label=words)
        below = top
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, below.max() * 1.3)
    label(axes, f"{found.total.requests:,} requests", unit, "requests per second")
    legend(axes, columns=3)


def _lengths(axes: Axes, found: Description) -> None:
    for words, histogram, colour in (
        ("prompt", found.prompts, COLOURS[0]),
        ("answer", found.outputs, COLOURS[1]),
    ):
        ends, shares = histogram.shares()
        axes.step(ends, 100 * shares, where="post", color=colour, lw=1.4, label=words)
    axes.set_xscale("log")
    axes.set_ylim(0, 101)
    label(axes, "Lengths", "tokens", "percent of requests that are at most so long")
    legend(axes)
