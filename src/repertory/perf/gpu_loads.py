"""What loading and waking take on GPU engines.

Loads: a fixed part, and bytes over a bandwidth; one law for each way that weights come (from a
disk, from the page cache, from pinned memory), each loader and each machine: between them lies a
factor of ten.

Sleeping and waking of vLLM: a power of the whole model's bytes.  Large models are copied faster,
for their tensors are larger and more GPUs copy side by side; how much faster is the same both ways,
and from a disk.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

__all__ = [
    "LAWS",
    "SLEEPS",
    "LoadLaw",
    "LoadReading",
    "SleepLaw",
    "Way",
    "fit_load",
    "fit_sleeps",
    "left_out",
]

_SLEEPS = frozenset({"sleep_L1", "wake_L1", "wake_L2"})
"""Level 1 keeps weights in main memory, level 2 reads them from the disk again."""


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """How weights get onto a GPU, and where."""

    machine: str
    loader: str
    operation: str


@dataclass(frozen=True, slots=True)
class LoadReading:
    """One published time, of one model."""

    way: Way
    model: str
    gpu_bytes: float
    """On each GPU: all of them load side by side."""
    seconds: float
    gpus: int = 1


@dataclass(frozen=True, slots=True)
class LoadLaw:
    fixed_s: float
    s_per_byte: float

    def seconds(self, gpu_bytes: float) -> float:
        return self.fixed_s + gpu_bytes * self.s_per_byte


def fit_load(readings: Sequence[LoadReading]) -> LoadLaw:
    """The line that errs least, relatively, with no negative part.

    Of one size nothing says what is fixed: then all is bandwidth.
    """
    assert readings, "a law needs a reading"
    scaled = [(1.0 / one.seconds, one.gpu_bytes / one.seconds) for one in readings]
    fixed2 = sum(a * a for a, _ in scaled)
    slope2 = sum(b * b for _, b in scaled)
    both = sum(a * b for a, b in scaled)
    fixed, slope = sum(a for a, _ in scaled), sum(b for _, b in scaled)
    if len({one.gpu_bytes for one in readings}) > 1:
        whole = fixed2 * slope2 - both * both
        line = LoadLaw(
            (fixed * slope2 - slope * both) / whole, (slope * fixed2 - fixed * both) / whole
        )
        if line.fixed_s >= 0.0 and line.s_per_byte >= 0.0:
            return line
        if line.s_per_byte < 0.0:
            return LoadLaw(fixed / fixed2, 0.0)
    return LoadLaw(0.0, slope / slope2)


@dataclass(frozen=True, slots=True)
class SleepLaw:
    gb_s: float
    """Of a gigabyte of weights."""
    power: float

    def seconds(self, whole_bytes: float) -> float:
        """Of a model with so many on all its GPUs."""
        return self.gb_s * math.pow(whole_bytes / 1e9, self.power)


def fit_sleeps(readings: Iterable[LoadReading]) -> dict[Way, SleepLaw]:
    """One power for all ways of a machine and its engine, and what each takes of a gigabyte: lines
    over logarithms that err least.  Empty where no two sizes of one way are known.
    """
    points: dict[Way, list[tuple[float, float]]] = {}
    for one in readings:
        whole_gb = one.gpu_bytes * one.gpus / 1e9
        points.setdefault(one.way, []).append((math.log(whole_gb), math.log(one.seconds)))
    middles = {
        way: (fmean(x for x, _ in at), fmean(y for _, y in at)) for way, at in points.items()
    }
    both = spread = 0.0
    for way, at in points.items():
        x0, y0 = middles[way]
        both += sum((x - x0) * (y - y0) for x, y in at)
        spread += sum((x - x0) ** 2 for x, _ in at)
    if not spread:
        return {}
    power = both / spread
    return {way: SleepLaw(math.exp(y0 - power * x0), power) for way, (x0, y0) in middles.items()}


def left_out(readings: Sequence[LoadReading]) -> dict[Way, dict[str, float]]:
    """By way and model: what the law of the other models errs by, relatively.  For sleeping and
    waking the model is left out of all ways.

    What nothing is left to predict from is not in it: a way of which one model is known.
    """
    found: dict[Way, dict[str, float]] = {}
    for one in sorted(readings, key=lambda one: (one.way, one.model)):
        seconds = _by_others(one, [other for other in readings if other.model != one.model])
        if seconds is not None:
            found.setdefault(one.way, {})[one.model] = abs(seconds / one.seconds - 1.0)
    return found


def _by_others(one: LoadReading, others: Sequence[LoadReading]) -> float | None:
    if one.way.operation in _SLEEPS:
        law = fit_sleeps(other for other in others if _is_kin(other.way, one.way)).get(one.way)
        return None if law is None else law.seconds(one.gpu_bytes * one.gpus)
    same = [other for other in others if other.way == one.way]
    return fit_load(same).seconds(one.gpu_bytes) if same else None


def _is_kin(one: Way, other: Way) -> bool:
    is_same = (one.machine, one.loader) == (other.machine, other.loader)
    return is_same and one.operation in _SLEEPS


_H100, _A100 = "H100 SXM + NVMe 29.4GB/s", "A100 vLLM 0.11.0"
_PLAIN, _FAST = "transformers+safetensors", "sllm-store"

LAWS: Mapping[Way, LoadLaw] = {
    Way(_H100, _FAST, "load_cached"): LoadLaw(0.0, 1.852e-11),
    Way(_H100, _FAST, "load_random"): LoadLaw(0.0, 4.636e-11),
    Way(_H100, _PLAIN, "load_cached"): LoadLaw(0.0, 1.693e-10),
    Way(_H100, _PLAIN, "load_random"): LoadLaw(0.0, 2.922e-10),
    Way(_A100, "vllm", "cold_start"): LoadLaw(42.5, 2.491e-10),
}
"""`fit_load` of all published times of a way (a test compares them).  The first four predict a
model that they have not seen within 23 %, the last does not: docs/decisions/gpu-engines.md."""

SLEEPS: Mapping[Way, SleepLaw] = {
    Way(_A100, "vllm", "sleep_L1"): SleepLaw(0.2217, 0.6066),
    Way(_A100, "vllm", "wake_L1"): SleepLaw(0.2154, 0.6066),
    Way(_A100, "vllm", "wake_L2"): SleepLaw(0.6891, 0.6066),
}
"""`fit_sleeps` of all published times (a test compares them)."""
