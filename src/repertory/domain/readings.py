"""What a meter read of one model on one machine: facts, before any law is put to them.

`repertory profile` writes them, `perf.fit` makes laws of them.  Seconds are tuples: one for each
repeat, in the order in which they were read.  Shares are of the *bytes* that a step reads
(`perf.divided`).
"""

from dataclasses import dataclass
from enum import Enum
from statistics import median

from repertory.domain.ladder import Rung
from repertory.domain.specs import WeightsForm

__all__ = [
    "ContentionReading",
    "Crowd",
    "CycleReading",
    "DeviceReadings",
    "Identity",
    "KvReading",
    "LinkReading",
    "LoadReading",
    "MemoryReading",
    "OpenReading",
    "Readings",
    "StepReading",
    "spread",
    "typical_s",
]


def typical_s(seconds: tuple[float, ...]) -> float:
    """The median: barrier stalls give outliers of up to seven times (facts.md)."""
    return median(seconds)


def spread(seconds: tuple[float, ...]) -> float:
    """How far repeats lie apart: half the range, relative to the median; 0 for one."""
    return (max(seconds) - min(seconds)) / 2.0 / median(seconds)


@dataclass(frozen=True, slots=True)
class Identity:
    """What readings hold for.  Where one of these is another, they are stale."""

    digest: str
    """Of the model's file (worker.md, Identity)."""
    engine_build: str
    machine: str
    """The processor's name, its count of cores, and the size of main memory."""
    driver: str = ""
    """Of the accelerator; empty for a CPU."""
    is_exact: bool = False
    """Mode `exact` computes otherwise, and at other speeds."""


@dataclass(frozen=True, slots=True)
class LoadReading:
    """Opening the weights."""

    form: WeightsForm
    source: Rung
    """`DISK` only where the file had left the page cache."""
    layers: int | None
    """On the device; None: all."""
    share: float
    """Of the weights' bytes on the device; 1 where the device is a set of cores."""
    weights_bytes: int
    seconds: tuple[float, ...]
    unload_s: tuple[float, ...] = ()
    """Until the memory was read to be free again."""
    first_s: float | None = None
    """In a worker that had not opened the file before: with its vocabulary.  None: not seen."""


@dataclass(frozen=True, slots=True)
class OpenReading:
    """Making KV memory: by an activation, or by a resize that moves `moved_tokens` along."""

    sequences: int
    cells: int
    kv_bytes: int
    seconds: tuple[float, ...]
    moved_tokens: int = 0
    close_s: tuple[float, ...] = ()
    first_s: float | None = None
    """The model's first in a worker, which computes a few tokens to see what they take."""


@dataclass(frozen=True, slots=True)
class StepReading:
    """Computing: a whole prompt (`decode` false), or one token of each of `batch` sequences."""

    decode: bool
    form: WeightsForm
    layers: int | None
    share: float
    batch: int
    """Sequences of the step; 1 for a prompt."""
    tokens: int
    """Computed: of the prompt, or `batch`."""
    context_tokens: int
    """Of each sequence, before it."""
    seconds: tuple[float, ...]
    """Of the whole prompt, or of one step."""


@dataclass(frozen=True, slots=True)
class KvReading:
    """One sequence's KV to main memory and back."""

    tokens: int
    size_bytes: int
    layers: int | None
    out_s: tuple[float, ...]
    in_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CycleReading:
    """A generation of this model stopped for another model's, and gone on with (Yildiz, Table II).

    All timers but the claimant's own work, which is no part of the overhead.
    """

    claimant: str
    claimant_bytes: int
    point_tokens: int
    """Of KV, when it was stopped."""
    stays: bool
    """The victim's weights stayed on the device."""
    stop_s: tuple[float, ...]
    """Until its slot was free."""
    out_s: tuple[float, ...]
    unload_s: tuple[float, ...]
    """Until its memory was read to be free; with the closing of its context."""
    switch_s: tuple[float, ...]
    """The claimant up, until it served."""
    release_s: tuple[float, ...]
    """The claimant down again."""
    load_s: tuple[float, ...]
    """The victim up again, until it served."""
    in_s: tuple[float, ...]
    first_token_s: tuple[float, ...]
    """From its submission to its next token, what was restored or computed again included."""
    reused_tokens: int
    """Tokens that were not computed again."""


@dataclass(frozen=True, slots=True)
class LinkReading:
    """A way that bytes go."""

    what: str
    """disk read, memory copy, page cache read, device in, device out."""
    how: str
    """flat, per tensor, pinned, pageable, direct, buffered."""
    size_bytes: int
    seconds: tuple[float, ...]


class Crowd(Enum):
    """What goes on beside a load."""

    LOAD = "load"
    STEPS = "steps"


@dataclass(frozen=True, slots=True)
class ContentionReading:
    """The same thing alone, and while something else goes on."""

    what: str
    alone_s: tuple[float, ...]
    together_s: tuple[float, ...]
    load_beside: Crowd | None = None
    """It is a load, and this is what went on beside it; None: it is none."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes of a rung, as the ledger would have reserved them and as they were read."""

    rung: Rung
    form: WeightsForm
    layers: int | None
    sequences: int
    cells: int
    predicted_bytes: int
    measured_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceReadings:
    """All that was read on one device."""

    device: str
    backend: str
    cores: int
    loads: tuple[LoadReading, ...] = ()
    opens: tuple[OpenReading, ...] = ()
    steps: tuple[StepReading, ...] = ()
    kv: tuple[KvReading, ...] = ()
    cycles: tuple[CycleReading, ...] = ()
    links: tuple[LinkReading, ...] = ()
    contention: tuple[ContentionReading, ...] = ()
    memory: tuple[MemoryReading, ...] = ()


@dataclass(frozen=True, slots=True)
class Readings:
    """Of one model on one machine: what one profile file holds."""

    model: str
    identity: Identity
    layers: int
    weights_bytes: int
    repacked_bytes: int
    head_bytes: int
    """Of the output head, which goes to an accelerator before any layer."""
    kv_bytes_per_token: int
    devices: tuple[DeviceReadings, ...] = ()
    notes: tuple[str, ...] = ()
    """What could not be done, and why: a page cache that could not be dropped, say."""
