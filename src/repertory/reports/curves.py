"""Profiles as pictures: how throughput falls with the share of a model on its device, what a
preemption is made of, what KV takes to copy, and what steps take.

The only module that imports matplotlib; whoever draws imports it.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from repertory.domain.readings import (
    CycleReading,
    DeviceReadings,
    Readings,
    StepReading,
    typical_s,
)
from repertory.domain.specs import WeightsForm
from repertory.reports.profiles import PARTS, page_of, part_s

__all__ = ["COLOURS", "DPI", "Axes", "Figure", "draw", "label", "legend", "sheet"]

_WIDE, _HIGH, DPI = 9.6, 4.0, 150
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#666666")
"""Okabe and Ito's, told apart by whoever sees colours in another way."""
_SHADES = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#c7b020")
"""In order, dark to light: for what grows along a scale (viridis)."""
_STYLES = {WeightsForm.PLAIN: "-", WeightsForm.REPACKED: "--"}
_HUES = {WeightsForm.PLAIN: COLOURS[0], WeightsForm.REPACKED: COLOURS[5]}


def draw(found: Sequence[Readings], folder: Path) -> list[Path]:
    """All pictures that these readings give, and the tables as a page; returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for readings in found:
        for device in readings.devices:
            title = f"{readings.model} on {device.device} ({readings.identity.machine})"
            stem = f"{readings.model}-{device.device}".replace("/", "_")
            for name, figure in _figures(device, title):
                path = folder / f"{stem}-{name}.png"
                figure.savefig(path, dpi=DPI)
                written.append(path)
    page = folder / "profiles.md"
    page.write_text(page_of(found))
    return [*written, page]


def _figures(device: DeviceReadings, title: str) -> Iterator[tuple[str, Figure]]:
    """Only of what was read."""
    kinds: tuple[tuple[str, Callable[[DeviceReadings, str], Figure | None]], ...] = (
        ("offload", _offload),
        ("preemption", _preemption),
        ("kv", _kv),
        ("decode", _decode),
        ("prefill", _prefill),
    )
    for name, figure_of in kinds:
        figure = figure_of(device, title)
        if figure is not None:
            yield name, figure


def sheet(title: str, panels: int = 2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDE, _HIGH), layout="constrained")
    figure.suptitle(title, fontsize=11)
    made = figure.subplots(1, panels, squeeze=False)
    axes: list[Axes] = list(made[0])
    for one in axes:
        one.grid(alpha=0.25, linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes


def label(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)


def legend(axes: Axes, title: str | None = None, columns: int = 1) -> None:
    axes.legend(
        fontsize=7,
        title=title,
        title_fontsize=7,
        frameon=False,
        ncols=columns,
        loc="best" if columns == 1 else "upper center",
    )


def _offload(device: DeviceReadings, title: str) -> Figure | None:
    """The paper's figure: throughput relative to the whole model there, against the share."""
    if not any(one.share < 1.0 for one in device.steps):
        return None
    figure, axes = sheet(title)
    for panel, decode, what in ((axes[0], True, "Decode"), (axes[1], False, "Prompt")):
        of_kind = [one for one in device.steps if one.decode is decode and one.batch == 1]
        of_kind = [one for one in of_kind if one.form is WeightsForm.PLAIN]
        lengths = sorted({_length(one) for one in of_kind if one.share < 1.0})
        panel.plot([0, 100], [0, 1], color="#999999", linewidth=1, linestyle=":", label="linear")
        for at, length in enumerate(lengths):
            points = sorted(
                (one.share, typical_s(one.seconds)) for one in of_kind if _length(one) == length
            )
            whole = [seconds for share, seconds in points if share >= 1.0]
            if whole:
                shares = [100 * share for share, _ in points]
                relative = [whole[0] / seconds for _, seconds in points]
                shade = _SHADES[min(at, len(_SHADES) - 1)]
                panel.plot(shares, relative, "o-", ms=3, lw=1.2, color=shade, label=f"{length}")
        label(
            panel,
            f"{what}: throughput, whole model on the device = 1",
            "share of the weights' bytes on the device, %",
            "relative throughput",
        )
        panel.set_ylim(0, 1.05)
        legend(panel, "tokens of context" if decode else "tokens of prompt")
    return figure


def _length(one: StepReading) -> int:
    """What was asked for: a decode step's context grew by half of the steps since."""
    return one.context_tokens if one.decode else one.tokens


def _preemption(device: DeviceReadings, title: str) -> Figure | None:
    """Table II as bars: what one preemption is made of, at each point."""
    groups: dict[tuple[str, bool], list[CycleReading]] = {}
    for one in device.cycles:
        groups.setdefault((one.claimant, one.stays), []).append(one)
    if not groups:
        return None
    keys = sorted(groups, key=lambda key: (groups[key][0].claimant_bytes, key))
    figure, axes = sheet(title, len(keys))
    figure.set_size_inches(max(_WIDE, 3.6 * len(keys)), _HIGH)
    for panel, (claimant, stays) in zip(axes, keys, strict=True):
        cycles = sorted(groups[claimant, stays], key=lambda one: one.point_tokens)
        places = range(len(cycles))
        below = [0.0] * len(cycles)
        for (part, words), colour in zip(PARTS.items(), COLOURS, strict=False):
            heights = [1000 * part_s(one, part) for one in cycles]
            panel.bar(places, heights, 0.7, bottom=below, color=colour, label=words)
            below = [low + more for low, more in zip(below, heights, strict=True)]
        panel.set_xticks(list(places), [str(one.point_tokens) for one in cycles])
        size = cycles[0].claimant_bytes / 2**20
        rests = ", weights stay" if stays else ""
        label(
            panel,
            f"for {claimant} ({size:,.0f} MiB){rests}",
            "tokens of KV when it was stopped",
            "milliseconds",
        )
    highest = max(panel.get_ylim()[1] for panel in axes)
    for panel in axes:
        panel.set_ylim(0, highest)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside right center", fontsize=7, frameon=False)
    return figure


def _kv(device: DeviceReadings, title: str) -> Figure | None:
    """Table III as curves."""
    whole = sorted((one for one in device.kv if one.layers is None), key=lambda one: one.tokens)
    if not whole:
        return None
    figure, (left, right) = sheet(title)
    tokens = [one.tokens for one in whole]
    ways = (
        ("out, to main memory", COLOURS[0], [one.out_s for one in whole]),
        ("back", COLOURS[1], [one.in_s for one in whole]),
    )
    for words, colour, seconds in ways:
        _with_range(left, tokens, [[1000 * s for s in some] for some in seconds], colour, words)
        sizes = [one.size_bytes / 1e9 for one in whole]
        paces = [size / typical_s(some) for size, some in zip(sizes, seconds, strict=True)]
        right.plot(tokens, paces, "o-", ms=3, lw=1.2, color=colour, label=words)
    label(left, "Copying one sequence's KV", "tokens", "milliseconds")
    label(right, "Bandwidth", "tokens", "GB/s")
    for one in device.links:
        if one.what == "memory copy":
            pace = one.size_bytes / 1e9 / typical_s(one.seconds)
            right.axhline(pace, color="#999999", lw=1, ls=":", label="memory copy, one core")
    for panel in (left, right):
        panel.set_ylim(bottom=0)
        legend(panel)
    return figure


def _decode(device: DeviceReadings, title: str) -> Figure | None:
    steps = [one for one in device.steps if one.decode and one.share >= 1.0]
    if not steps:
        return None
    figure, (left, right) = sheet(title)
    batches = sorted({one.batch for one in steps})
    forms = sorted({one.form for one in steps}, key=lambda form: form.value)
    for form in forms:
        of_form = [one for one in steps if one.form is form]
        for at, batch in enumerate(batches):
            line = sorted(
                (one for one in of_form if one.batch == batch), key=lambda one: one.context_tokens
            )
            shade = _SHADES[min(at, len(_SHADES) - 1)]
            words = f"{batch}" if form is forms[0] else None
            contexts = [one.context_tokens for one in line]
            milliseconds = [[1000 * s for s in one.seconds] for one in line]
            _with_range(left, contexts, milliseconds, shade, words, _STYLES[form])
        least = min(one.context_tokens for one in of_form)
        at_least = sorted(
            (one for one in of_form if one.context_tokens < least + 128), key=lambda one: one.batch
        )
        sizes = [one.batch for one in at_least]
        paces = [one.batch / typical_s(one.seconds) for one in at_least]
        right.plot(sizes, paces, "o", ls=_STYLES[form], ms=4, color=_HUES[form], label=form.value)
    label(left, "One decode step", "tokens of context, of each sequence", "milliseconds")
    label(right, "Decoding, shortest context", "sequences of a step", "tokens per second")
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    right.set_xticks(batches)
    legend(left, "sequences")
    legend(right)
    return figure


def _prefill(device: DeviceReadings, title: str) -> Figure | None:
    prompts = [one for one in device.steps if not one.decode and one.share >= 1.0]
    if not prompts:
        return None
    figure, (left, right) = sheet(title)
    for form in sorted({one.form for one in prompts}, key=lambda form: form.value):
        line = sorted((one for one in prompts if one.form is form), key=lambda one: one.tokens)
        lengths = [one.tokens for one in line]
        seconds = [list(one.seconds) for one in line]
        _with_range(left, lengths, seconds, _HUES[form], form.value, _STYLES[form])
        paces = [one.tokens / typical_s(one.seconds) for one in line]
        right.plot(lengths, paces, "o", ls=_STYLES[form], ms=4, color=_HUES[form], label=form.value)
    label(left, "Computing a prompt", "tokens of prompt", "seconds")
    label(right, "Pace", "tokens of prompt", "tokens per second")
    for panel in (left, right):
        panel.set_ylim(bottom=0)
        legend(panel)
    return figure


def _with_range(
    axes: Axes,
    across: Sequence[float],
    repeats: Sequence[Sequence[float]],
    colour: str,
    words: str | None,
    style: str = "-",
) -> None:
    """Medians, and how far the middle half of the repeats lies apart."""
    if not across:
        return
    medians = [typical_s(tuple(some)) for some in repeats]
    axes.plot(across, medians, "o", ls=style, ms=3, lw=1.2, color=colour, label=words)
    low = [sorted(some)[len(some) // 4] for some in repeats]
    high = [sorted(some)[-1 - len(some) // 4] for some in repeats]
    axes.vlines(across, low, high, color=colour, alpha=0.35, lw=3)
