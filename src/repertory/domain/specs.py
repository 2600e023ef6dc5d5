"""What there is: nodes, devices, engines' capabilities, models, placements, KV shapes."""

from dataclasses import dataclass
from enum import Enum

from repertory.domain.ladder import Edge, Rung

__all__ = [
    "Capabilities",
    "DeviceSpec",
    "Footprint",
    "KvShape",
    "ModelSpec",
    "NodeSpec",
    "Placement",
    "WeightsForm",
]


class WeightsForm(Enum):
    """How weights lie on a device."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    PLAIN = "plain"
    """As in the file: mapped on a CPU, copied on a GPU."""
    REPACKED = "repacked"
    """Rewritten for the CPU's vector units: slower to load, faster to compute."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """Memory and compute that weights can live on: a GPU, or a CPU core set with a budget."""

    id: str
    memory_bytes: int
    """The budget that replicas may fill; own overhead is already taken off."""
    cores: int = 0
    """CPU cores of the set; 0 for an accelerator."""
    backend: str = "cpu"
    """The engine library's name of the backend: cpu, cuda, metal, vulkan, rpc, fake."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; planners read this and never assume an edge."""

    edges: frozenset[tuple[Rung, Edge]]
    partial_layers: bool
    """`load` may place k of n layers on the device."""
    kv_resizable: bool
    """KV memory may change while serving; otherwise it is fixed by `activate`."""
    max_devices_per_replica: int
    """1: no splits.  More: tensor parallel over that many devices."""
    step_sharing: bool
    """Several models may serve on one device, under one step loop."""
    host_is_page_cache: bool
    """`HOST` is a belief about the page cache (costs no budget) rather than bytes we hold."""
    asleep_residue_bytes: int
    """Device bytes that stay taken while a replica is on `HOST`."""
    exact_resume: bool
    """In mode `exact`, logits do not depend on the company, the threads or the context size."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A machine and its one worker."""

    id: str
    devices: tuple[DeviceSpec, ...]
    host_memory_bytes: int
    """The budget of the `HOST` rung (0 where the page cache plays that part)."""
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class KvShape:
    """A KV context class: each of `sequences` slots holds at most `cells` tokens."""

    sequences: int
    cells: int

    @property
    def tokens(self) -> int:
        return self.sequences * self.cells

    def holds(self, other: "KvShape") -> bool:
        return self.sequences >= other.sequences and self.cells >= other.cells


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An LLM that a user may ask for by name: its facts, and the operator's wishes for it."""

    name: str
    digest: str
    """Names the file's bytes; equal digests are one model under several names."""
    location: str
    """What the engine opens: a path."""
    weights_bytes: int
    layers: int
    kv_bytes_per_token: int
    context_tokens: int
    """The context offered to clients: configured, or min(trained, 8192)."""
    buffers_bytes: int
    """Predicted compute buffers of a serving replica (activations, logits)."""
    handle_bytes: int = 0
    """What a loaded model holds besides its tensors: the tokenizer's tables, mostly."""
    repacked_bytes: int = 0
    """Bytes of weights that a repacked load writes anew; 0 where repacking changes nothing."""
    max_sequences: int = 16
    devices_per_replica: int = 1
    """Tensor-parallel degree; 2 spans two devices."""
    is_pinned: bool = False
    ttl_s: float | None = None
    """Idle seconds after which the replica is unloaded; None: only for room."""
    aliases: tuple[str, ...] = ()
    head_bytes: int = 0
    """Of the output head, which an accelerator gets before any layer."""
    kept_bytes: int = 0
    """Of what stays in main memory whatever is on an accelerator: tables that rows are taken from.
    A head that is such a table (tied embeddings) is held twice, and counts in both."""
    layers_bytes: int = 0
    """Of all layers together; 0: of all that is neither head nor kept."""

    @property
    def all_layers_bytes(self) -> int:
        return self.layers_bytes or self.weights_bytes - self.head_bytes - self.kept_bytes


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a replica's weights lie.  Equal shares on each device."""

    devices: tuple[str, ...]
    form: WeightsForm = WeightsForm.PLAIN
    layers: int | None = None
    """How many of the model's layers are there, the rest on the node's CPU; None: all of them."""
    rest: str | None = None
    """On accelerators: the set of cores whose memory holds what is not there.  None: nothing is
    held elsewhere that anybody keeps account of."""

    @property
    def pools(self) -> tuple[str, ...]:
        """Every device whose memory the replica takes."""
        return self.devices if self.rest is None else (*self.devices, self.rest)

    def holding(self, layers: int | None) -> "Placement":
        """The same with so many of the layers there."""
        return Placement(self.devices, self.form, layers, self.rest)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one replica *per device* of its placement, resting and at the peak of a move."""

    weights_bytes: int
    kv_bytes: int
    buffers_bytes: int
    peak_bytes: int
    """Transient bytes on top while the transition runs."""

    @property
    def resting_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.buffers_bytes
