"""A profile as rows for people: what most decisions rest on."""

from collections.abc import Iterator, Sequence
from statistics import median

from repertory.domain.ladder import Rung
from repertory.domain.specs import WeightsForm
from repertory.perf.readings import CycleReading, DeviceReadings, Readings, StepReading, typical_s
from repertory.reports.figures import bytes_text, seconds_text

__all__ = ["COLUMNS", "overhead_s", "rows_of"]

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
_PROMPT = 300
"""First tokens are told of the prompt that is nearest to so many tokens."""


def rows_of(readings: Readings) -> Iterator[tuple[str, ...]]:
    """One for each form on each device, the whole model there."""
    for device in readings.devices:
        for form in sorted({one.form for one in device.loads}, key=lambda form: form.value):
            yield _row(readings, device, form)


def overhead_s(cycle: CycleReading) -> float:
    """All that a preemption costs besides the claimant's own work: the sum of the medians."""
    parts = (
        cycle.stop_s,
        cycle.out_s,
        cycle.unload_s,
        cycle.switch_s,
        cycle.release_s,
        cycle.load_s,
        cycle.first_token_s,
    )
    return sum(median(part) for part in parts if part)


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
