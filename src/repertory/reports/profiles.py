"""Profiles as tables, for the screen and for a page: what most decisions rest on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from repertory.domain.ladder import Rung
from repertory.domain.readings import (
    CycleReading,
    DeviceReadings,
    KvReading,
    LoadReading,
    Readings,
    StepReading,
    spread,
    typical_s,
)
from repertory.domain.specs import WeightsForm
from repertory.reports.figures import bytes_text, seconds_text

__all__ = ["COLUMNS", "PARTS", "overhead_s", "page_of", "part_s", "rows_of"]

COLUMNS = (
    "MODEL",
    "DEVICE",
    "FORM",
    "LOAD",
    "FROM DISK",
    "CONTEXT",
    "FIRST TOKEN",
    "TOKENS/S",
    "AT BATCH 8",
    "KV/1000",
    "PREEMPTION",
)
PARTS: Mapping[str, str] = {
    "stop_s": "stop",
    "out_s": "KV out",
    "unload_s": "context and weights away",
    "switch_s": "other model up",
    "release_s": "other model away",
    "load_s": "weights and context back",
    "in_s": "KV in",
    "first_token_s": "first token",
}
"""Of a preemption, in the order in which they happen."""
_PROMPT = 300
"""First tokens are told of the prompt that is nearest to so many tokens."""


def rows_of(readings: Readings) -> Iterator[tuple[str, ...]]:
    """One for each form on each device, the whole model there."""
    for device in readings.devices:
        for form in _forms(device):
            yield _row(readings, device, form)


def part_s(cycle: CycleReading, part: str) -> float:
    """The median of one timer.  KV comes in before the first token, and is no part of it here."""
    seconds: tuple[float, ...] = getattr(cycle, part)
    if part == "first_token_s" and cycle.in_s:
        pairs = zip(seconds, cycle.in_s, strict=True)
        seconds = tuple(max(0.0, first - back) for first, back in pairs)
    return median(seconds) if seconds else 0.0


def overhead_s(cycle: CycleReading) -> float:
    """All that a preemption costs besides the claimant's own work."""
    return sum(part_s(cycle, part) for part in PARTS)


def page_of(found: Sequence[Readings]) -> str:
    """All of it as Markdown: the summary, then the paper's tables II and III for this hardware."""
    lines = ["# What models cost here", ""]
    lines += [f"* {one}" for one in sorted({_told_of(each) for each in found})]
    lines += ["", "Medians. A range is half of what repeats lie apart, relative to the median.", ""]
    lines += _grid(COLUMNS, [r for one in found for r in rows_of(one)])
    for readings in found:
        for device in readings.devices:
            lines += _chapter(readings, device)
    return "\n".join(lines) + "\n"


def _told_of(readings: Readings) -> str:
    """For whom it holds."""
    identity = readings.identity
    mode = "mode `exact`" if identity.is_exact else "the default mode"
    driver = f", {identity.driver}" if identity.driver else ""
    return f"{identity.machine}; {identity.engine_build}{driver}; {mode}"


def _chapter(readings: Readings, device: DeviceReadings) -> list[str]:
    lines = ["", f"## {readings.model} on {device.device}", ""]
    if device.cycles:
        head = ["Stopped at", "For", "Weights", "Total", "KV", "Tokens kept", *PARTS.values()]
        lines += [
            "One preemption (Yildiz, Table II):",
            "",
            *_grid(head, map(_cycle, device.cycles)),
        ]
    if device.kv:
        head = ["Tokens", "Layers", "Size", "Out", "In", "Per token"]
        lines += ["", "KV of one sequence (Table III):", ""]
        lines += _grid(head, map(_kv, device.kv))
    if device.loads:
        head = ["Weights", "From", "Layers", "Load", "Range", "First in a worker", "Unload"]
        lines += ["", "Loads:", "", *_grid(head, map(_load_row, device.loads))]
    if device.links or device.contention:
        lines += ["", "Ways that bytes go, and what happens at once:", ""]
        lines += _grid(["What", "Alone", "Together"], _ways(device))
    return lines


def _cycle(one: CycleReading) -> tuple[str, ...]:
    total = overhead_s(one)
    kv = part_s(one, "out_s") + part_s(one, "in_s")
    return (
        f"{one.point_tokens}",
        f"{one.claimant} ({bytes_text(one.claimant_bytes)})",
        "stay" if one.stays else "leave",
        seconds_text(total),
        f"{100 * kv / total:.1f} %" if total else "-",
        f"{one.reused_tokens}",
        *(seconds_text(part_s(one, part)) for part in PARTS),
    )


def _kv(one: KvReading) -> tuple[str, ...]:
    return (
        f"{one.tokens}",
        "all" if one.layers is None else f"{one.layers}",
        bytes_text(one.size_bytes),
        seconds_text(typical_s(one.out_s)),
        seconds_text(typical_s(one.in_s)),
        bytes_text(round(one.size_bytes / one.tokens)),
    )


def _load_row(one: LoadReading) -> tuple[str, ...]:
    return (
        one.form.value,
        one.source.value,
        "all" if one.layers is None else f"{one.layers}",
        seconds_text(typical_s(one.seconds)),
        f"{spread(one.seconds):.0%}",
        seconds_text(one.first_s),
        seconds_text(typical_s(one.unload_s)) if one.unload_s else "-",
    )


def _ways(device: DeviceReadings) -> Iterator[tuple[str, ...]]:
    for link in device.links:
        pace = bytes_text(round(link.size_bytes / typical_s(link.seconds)))
        yield f"{link.what}, {link.how}", f"{pace}/s", ""
    for one in device.contention:
        yield (
            one.what,
            seconds_text(typical_s(one.alone_s)),
            seconds_text(typical_s(one.together_s)),
        )


def _grid(head: Sequence[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _row(readings: Readings, device: DeviceReadings, form: WeightsForm) -> tuple[str, ...]:
    whole = [one for one in device.steps if one.form is form and one.layers is None]
    prompts = [one for one in whole if not one.decode]
    near = min(prompts, key=lambda one: (abs(one.tokens - _PROMPT), one.tokens), default=None)
    first = "-" if near is None else f"{seconds_text(typical_s(near.seconds))} ({near.tokens})"
    cycles = [one for one in device.cycles if not one.stays]
    is_plain = form is WeightsForm.PLAIN
    return (
        readings.model,
        device.device,
        form.value,
        _load(device, form, Rung.HOST),
        _load(device, form, Rung.DISK),
        _context(device),
        first,
        _pace(whole, 1),
        _pace(whole, 8),
        bytes_text(1000 * readings.kv_bytes_per_token),
        seconds_text(median(map(overhead_s, cycles))) if cycles and is_plain else "-",
    )


def _forms(device: DeviceReadings) -> list[WeightsForm]:
    found = {one.form for one in device.loads} | {one.form for one in device.steps}
    return sorted(found, key=lambda form: form.value)


def _load(device: DeviceReadings, form: WeightsForm, source: Rung) -> str:
    found = [
        one for one in device.loads if (one.form, one.source, one.layers) == (form, source, None)
    ]
    return seconds_text(typical_s(found[0].seconds)) if found else "-"


def _context(device: DeviceReadings) -> str:
    """Of the smallest."""
    made = [one for one in device.opens if not one.moved_tokens]
    least = min(made, key=lambda one: (one.kv_bytes, one.sequences), default=None)
    return "-" if least is None else seconds_text(typical_s(least.seconds))


def _pace(steps: Sequence[StepReading], batch: int) -> str:
    """Tokens per second of all sequences together, at the shortest context."""
    found = [one for one in steps if one.decode and one.batch == batch]
    least = min(found, key=lambda one: one.context_tokens, default=None)
    return "-" if least is None else f"{batch / typical_s(least.seconds):.0f}"
