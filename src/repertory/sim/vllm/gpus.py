"""Which GPUs a folder of profiles holds, under the names that people use."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from repertory.domain.errors import ConfigError

__all__ = ["Gpu", "find_gpu"]

_MEMORY_BYTES = {"rtx4090": 25250627584}
"""Of cards without a datasheet in the folder; as its driver told vLLM (`meta.json` of the run)."""
_FORMS = ("_sxm", "_server", "_pcie")
"""What a name may leave out."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int
    bytes_per_s: float = 0.0
    """What element-wise kernels get of the memory's bandwidth."""
    launch_s: float = 0.0
    kernels: Path | None = None
    """Single kernels, as Parquet."""
    layers: Path | None = None
    """Whole layers of certain models, as CSV."""
    is_linked: bool = field(default=True)
    """By NVLink; else over PCIe."""


def find_gpu(profiles: Path, name: str) -> Gpu:
    """Raises `ConfigError`, which lists the profiled ones."""
    found = _all(profiles)
    if not found:
        raise ConfigError(f"{profiles}: no profiles of GPUs in there; it holds aiconfigurator/")
    gpu = found.get(_plain(name))
    if gpu is None or not _is_form_of(name, gpu):
        names = ", ".join(sorted(gpu.name for gpu in found.values()))
        other = "" if gpu is None or gpu.kernels is None else f"; {gpu.name} is {gpu.kernels.name}"
        raise ConfigError(f"GPU {name!r} was not profiled; profiled: {names}{other}")
    return gpu


def _is_form_of(name: str, gpu: Gpu) -> bool:
    """A form may be left out, but not be another's: the PCIe cards have half the bandwidth."""
    asked = name.lower().replace("-", "_")
    form = asked.removeprefix(_short(asked))
    return gpu.kernels is None or gpu.kernels.name.endswith(form)


def _all(profiles: Path) -> dict[str, Gpu]:
    """By plain name."""
    layers = {
        _plain(folder.name): folder
        for folder in sorted((profiles / "llmservingsim/profiler/perf").glob("*"))
    }
    found: dict[str, Gpu] = {}
    for sheet in sorted((profiles / "aiconfigurator").glob("*.yaml")):
        folder = sheet.with_suffix("")
        if (folder / "gemm").is_dir():
            name = _short(folder.name)
            found[_plain(name)] = _from_sheet(name, sheet, folder, layers.pop(_plain(name), None))
    for plain, folder in layers.items():
        name = re.sub(r"(?<=[A-Za-z])(?=\d)", "_", folder.name).lower()
        found[plain] = Gpu(name, _MEMORY_BYTES.get(plain, 0), layers=folder)
    return found


def _from_sheet(name: str, sheet: Path, kernels: Path, layers: Path | None) -> Gpu:
    read: Any = yaml.safe_load(sheet.read_text())
    card, node = read["gpu"], read["node"]
    return Gpu(
        name,
        int(card["mem_capacity"]),
        card["mem_bw"] * card["mem_bw_empirical_scaling_factor"],
        card["mem_empirical_constant_latency"],
        kernels,
        layers,
        is_linked=node["intra_node_bw"] > 2 * node["pcie_bw"],
    )


def _short(name: str) -> str:
    for form in _FORMS:
        name = name.removesuffix(form)
    return name


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _short(name.lower().replace("-", "_")))
