"""What loading and waking take on GPU engines: a fixed part, and bytes over a bandwidth.

One law for each way that weights come (from a disk, from the page cache, from pinned memory), each
loader and each machine: between them lies a factor of ten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LAWS", "LoadLaw", "LoadReading", "Way", "fit_load", "left_out"]


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


def left_out(readings: Sequence[LoadReading]) -> dict[Way, dict[str, float]]:
    """By way and model: what the law of the way's other models errs by, relatively.

    A way of which one model is known is not in it: nothing is left to predict it from.
    """
    found: dict[Way, dict[str, float]] = {}
    for way in sorted({one.way for one in readings}):
        same = [one for one in readings if one.way == way]
        for one in same:
            others = [other for other in same if other.model != one.model]
            if others:
                error = abs(fit_load(others).seconds(one.gpu_bytes) / one.seconds - 1.0)
                found.setdefault(way, {})[one.model] = error
    return found


_H100, _A100 = "H100 SXM + NVMe 29.4GB/s", "A100 vLLM 0.11.0"
_PLAIN, _FAST = "transformers+safetensors", "sllm-store"

LAWS: Mapping[Way, LoadLaw] = {
    Way(_H100, _FAST, "load_cached"): LoadLaw(0.0, 1.852e-11),
    Way(_H100, _FAST, "load_random"): LoadLaw(0.0, 4.636e-11),
    Way(_H100, _PLAIN, "load_cached"): LoadLaw(0.0, 1.693e-10),
    Way(_H100, _PLAIN, "load_random"): LoadLaw(0.0, 2.922e-10),
    Way(_A100, "vllm", "wake_L1"): LoadLaw(0.190, 5.617e-11),
    Way(_A100, "vllm", "cold_start"): LoadLaw(42.5, 2.491e-10),
}
"""`fit_load` of all published times of a way (a test compares them).  The first four predict a
model that they have not seen within 23 %, the last two do not: docs/decisions/gpu-engines.md."""
