"""A fleet to simulate: machines whose parts are known from datasheets, and what may befall them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from repertory.domain.readings import DeviceReadings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec

__all__ = ["Fleet", "Gpu", "Machine", "Outage", "Toll"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """What its maker says of a GPU.  Rates are one way, and of dense 16-bit numbers."""

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: float
    bus_bytes_per_s: float
    """To and from main memory."""
    usd_per_h: float | None = None
    """What renting one costs, where somebody said so; nobody has to."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A machine is gone for a while, with all that was on it."""

    at_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Toll:
    """What a server and its clients take of the cores that compute: most of it by what they have to
    do, whatever the size of the model.
    """

    pace: float = 1.0
    """All steps take so many times as long."""
    step_s: float = 0.0
    """More for a decode step: what its worker does between two of them."""
    prompt_s: float = 0.0
    """More for a prompt, on however many cores: its request comes in, its first token goes out."""
    request_s: float = 0.0
    """More for a step after a request has ended beside others: who serves it and who reads it do so
    on cores that compute."""
    cold_s_per_byte: float = 0.0
    """More for memory for cells that is not warm (`engines.moves.Warmth`)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node of a fleet, and the ways by which bytes come to its devices."""

    node: NodeSpec
    gpus: Mapping[str, Gpu]
    """By device; a device that is not here is a set of cores."""
    disk_bytes_per_s: float
    """Of all loads together."""
    bus_bytes_per_s: float
    """From main memory to all devices together; each has its own link besides."""
    cache_bytes: int
    """Main memory for the pages of files that were read, where `HOST` is the page cache."""
    chunk_tokens: int
    """Prompt tokens per step."""
    engine_start_s: float = 0.0
    """Of a load from the disk, on top of what its bytes take: a process starts, kernels are made
    ready."""
    lanes: int = 1
    """How many models step at once on a device of two cores: 2 in our own worker."""
    is_warm: bool = False
    """All files are in the page cache when the run begins."""
    read: Mapping[tuple[str, str], DeviceReadings] = field(default_factory=dict)
    """What was measured of models on its devices, by digest and device: what they hold, too."""
    toll: Toll = Toll()
    outages: tuple[Outage, ...] = ()
    mtbf_s: float | None = None
    """Mean time between failures, drawn by the run's seed; None: only what is in `outages`."""
    repair_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Fleet:
    name: str
    machines: tuple[Machine, ...]
    models: tuple[ModelSpec, ...] = field(default=())
    """That it is to serve."""
    lag_s: float = 0.0
    """Between server and worker, there and back."""
    front_s: float = 0.0
    """Between a client and the brain, there and back."""

    @property
    def devices(self) -> tuple[DeviceSpec, ...]:
        return tuple(one for machine in self.machines for one in machine.node.devices)

    @property
    def words(self) -> str:
        """`8x h100_sxm, 8x l40s`: the kinds of devices in the order in which they come."""
        counts: dict[str, int] = {}
        for machine in self.machines:
            for device in machine.node.devices:
                gpu = machine.gpus.get(device.id)
                kind = gpu.name if gpu is not None else f"{device.cores} cores"
                counts[kind] = counts.get(kind, 0) + 1
        return ", ".join(f"{count}x {kind}" for kind, count in counts.items())
