"""What the live server is told at its start, complete: every default is already filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repertory.domain.settings import Favour

__all__ = ["HOST_MEMORY_BEYOND", "HOST_MEMORY_PARTS", "DeviceChoice", "ModelChoice", "ServeConfig"]

HOST_MEMORY_PARTS = 32
HOST_MEMORY_BEYOND = 2 << 30
"""One part of what is beyond: of 16 GiB 448 MiB, 3,500 tokens of an 8B.  Where memory is short,
models want all of it: 42 of 1,331 MiB seemed to cost the mixture of `make bench-serve` more than
they can spare."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to serve, found in a folder or named by the operator."""

    name: str
    path: Path
    aliases: tuple[str, ...] = ()
    is_pinned: bool = False
    is_preloaded: bool = False
    """Wanted at the start already."""
    context_tokens: int | None = None
    """None: min(trained, 8192)."""
    ttl_s: float | None = None
    """Idle seconds after which it is unloaded; None: only for room."""
    weight: float = 1.0
    """`Request.weight` of its requests."""
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    """file:line:column of its keys, and of its name under ""; empty where no file names it."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device that the operator spelled out."""

    id: str
    memory_bytes: int | None
    """None: all that the engine finds."""
    cores: tuple[int, ...]
    """CPU cores of the set; empty for an accelerator."""


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """The whole of `repertory serve`."""

    models: tuple[ModelChoice, ...]
    folders: tuple[Path, ...]
    """Looked through again for new models; empty where models are named one by one."""
    devices: tuple[DeviceChoice, ...] | None
    """None: what the engine finds."""
    memory_bytes: int
    """For everything: the server, its workers, weights and KV."""
    memory_story: str
    """Where that number comes from, in a sentence for the operator."""
    host_memory_bytes: int | None
    favour: Favour
    host: str
    port: int
    state_dir: Path
    is_exact: bool
    saved_kv_disk_bytes: int = 0
    """Of the disk under `state_dir`, for more of what `saved_kv_bytes` is for."""
    rpc: tuple[str, ...] = ()
    """HOST:PORT of RPC servers whose devices are ours too."""

    @property
    def saved_kv_bytes(self) -> int:
        """Of the memory, for KV that lost its slot: what was asked for, else a little, unless
        somebody has given all that there is to devices.
        """
        if self.host_memory_bytes is not None:
            return self.host_memory_bytes
        is_given_away = any(one.cores and one.memory_bytes for one in self.devices or ())
        beyond_bytes = max(0, self.memory_bytes - HOST_MEMORY_BEYOND)
        return 0 if is_given_away else beyond_bytes // HOST_MEMORY_PARTS
