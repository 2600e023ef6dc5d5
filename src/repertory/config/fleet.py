"""Fleets and models to simulate: `fleet.yaml`, parsed at the edge into `domain.fleets`."""

import re
from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from repertory.config.file import read_text
from repertory.config.kinds import (
    Choice,
    Duration,
    Entries,
    Key,
    ListOf,
    Mapping,
    Placed,
    Reading,
    Schema,
    Size,
    Text,
    Truth,
    Whole,
)
from repertory.config.nodes import Value, read_yaml
from repertory.config.units import size_bytes
from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet, Gpu, Machine, Outage
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.fake import llama_like, vllm_like
from repertory.engines.lane import PREFILL_CHUNK
from repertory.perf.datasheets import GPUS, SHAPES

__all__ = [
    "MACHINE_KEYS",
    "Rate",
    "gpu_devices",
    "machine_of",
    "models_of",
    "parse_fleet",
    "parse_models",
    "read_fleet",
    "read_models",
]

_Fields = dict[str, Placed[Any]]  # Any: each is of the kind that the table says

_GIB, _MIB = 1 << 30, 1 << 20
_USABLE = 0.9
"""Of a GPU's memory, for weights, KV and buffers: vLLM's own default."""
_GPU_CHUNK = 2048
"""Prompt tokens of a step on a GPU: vLLM's default for serving."""
_DISK_BYTES_PER_S = 5e9
"""One NVMe drive of the usual kind."""
_HOST_MEMORY_BYTES = 256 * _GIB
_VLLM_START_S = 35.0
"""A vLLM process until it is ready, but for its weights: 37.6 s with 1.5 GB of them, 47.4 with 61
(A100, `loadtimes/published_load_times.csv`)."""
_ASLEEP_BYTES = 512 * _MIB
"""Of a sleeping vLLM, on its device: its CUDA context and graphs."""
_BUFFERS_BYTES = 512 * _MIB
_MAX_SEQUENCES = 64
_RECIPE_CONTEXT = 32768
"""Tokens: all but a few requests of the published traces are shorter."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second."""

    def read(self, value: Value, reading: Reading) -> float:
        text = value.text()
        size = size_bytes(text.removesuffix("/s")) if text.endswith("/s") else None
        if not size:
            raise value.wrong(f"must be a rate such as 5GB/s, not {text!r}")
        return float(size)

    def schema(self) -> Schema:
        return {"type": "string", "examples": ["5GB/s"]}


@dataclass(frozen=True, slots=True)
class Count:
    """Parameters, as they are called: 8B, 600M."""

    def read(self, value: Value, reading: Reading) -> int:
        text = value.text()
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([MB])", text)
        if match is None or not float(match[1]):
            raise value.wrong(f"must be a number of parameters such as 8B or 600M, not {text!r}")
        return round(float(match[1]) * (1e9 if match[2] == "B" else 1e6))

    def schema(self) -> Schema:
        return {"type": "string", "examples": ["8B", "600M"]}


_MODEL = Mapping(
    (
        Key("like", Choice(list(SHAPES)), "Sizes of a published model; keys beside it win."),
        Key("parameters", Count(), "Of 16 bits each; or write its 'weights'."),
        Key("weights", Size(), "Bytes of all weights."),
        Key("layers", Whole(1, 1000), "Layers."),
        Key("kv_per_token", Size(), "KV memory of one token."),
        Key("context", Whole(256, 2**31 - 1), "Tokens of prompt and answer together."),
        Key("max_sequences", Whole(1, 4096), "At most so many at once.", 64),
        Key("devices", Whole(1, 64), "It is split over so many.", 1),
        Key("buffers", Size(), "Compute buffers, per replica.", "512MiB"),
        Key("pin", Truth(), "Never evicted.", False),
        Key("ttl", Duration(), "Unloaded after so long without a request.", "never"),
        Key("digest", Text(), "Of its file, for profiles that were measured. Default: its name."),
    )
)

_DEVICE = Mapping(
    (
        Key("gpu", Choice(list(GPUS)), "By name, with its datasheet's facts."),
        Key("cores", Whole(1, 4096), "Or a set of so many CPU cores."),
        Key("count", Whole(1, 1024), "So many of them.", 1),
        Key("memory", Size(), "For models. Default: 90 % of the GPU's; a core set must say."),
    )
)

_OUTAGE = Mapping(
    (
        Key("at", Duration(), "When it fails.", needs="such as 1h"),
        Key("for", Duration(), "How long it is gone.", needs="such as 5m"),
    )
)

MACHINE_KEYS = (
    Key("engine", Choice(["llama", "vllm"]), "Whose capabilities.", "llama"),
    Key("disk", Rate(), "Read by all loads together.", "5GB/s"),
    Key("bus", Rate(), "From main memory to all GPUs. Default: all their links together."),
    Key("host_memory", Size(), "Page cache (llama), or sleeping engines (vllm).", "256GiB"),
    Key("chunk", Whole(16, 2**20), "Prompt tokens per step. Default: 2048, on cores 256."),
    Key("engine_start", Duration(), "Until a process can load. Default: vllm 35s, llama 0."),
)
"""Of a node, what `machine_of` reads."""

_NODE = Mapping(
    (
        Key("id", Text(), "Its name; with a count, they are numbered.", needs="a name"),
        Key("count", Whole(1, 10000), "So many alike.", 1),
        Key(
            "devices",
            ListOf(_DEVICE, 1, "one device", is_unique=False),
            "What computes.",
            needs="at least one",
        ),
        *MACHINE_KEYS,
        Key("outages", ListOf(_OUTAGE, is_unique=False), "When it fails, if that is to be."),
        Key("mtbf", Duration(), "Mean time between failures, drawn by the seed."),
        Key("repair", Duration(), "How long it is gone then.", "5m"),
    )
)

_MODELS = Key("models", Entries(_MODEL), "The models, by the names that the workload uses.")

FLEET = Mapping(
    (
        Key("name", Text(), "What reports call it. Default: the file's name."),
        Key(
            "nodes",
            ListOf(_NODE, 1, "one node", is_unique=False),
            "The machines.",
            needs="at least one, with its devices",
        ),
        _MODELS,
    )
)

MODELS = Mapping((replace(_MODELS, needs="at least one"),))


def read_fleet(path: Path) -> Fleet:
    return parse_fleet(read_text(path), str(path))


def read_models(path: Path) -> tuple[ModelSpec, ...]:
    return parse_models(read_text(path), str(path))


def parse_fleet(text: str, source: str) -> Fleet:
    """`ConfigError` names every mistake, a line each."""
    reading = Reading(Path())
    root = read_yaml(text, source, "nodes")
    found = FLEET.read(root, reading)
    machines: list[Machine] = []
    names: dict[str, Value] = {}
    for entry in _value(found, "nodes", []):
        machines += _machines(entry, names, reading)
    models = _models(found, reading)
    reading.end()
    return Fleet(_value(found, "name", Path(source).stem), tuple(machines), models)


def parse_models(text: str, source: str) -> tuple[ModelSpec, ...]:
    reading = Reading(Path())
    models = _models(MODELS.read(read_yaml(text, source), reading), reading)
    reading.end()
    return models


def models_of(parameters: Iterable[tuple[str, int]], fleet: Fleet) -> tuple[ModelSpec, ...]:
    """Models of which only a name and a size are known, in the shape of the nearest published one.

    Each is split over as few devices as leave a fifth of their memory for KV.
    """
    room = max((device.memory_bytes for device in fleet.devices), default=0) * 0.8
    made = []
    for name, size in parameters:
        shape = min(SHAPES.values(), key=lambda one: abs(log(one.parameters / size)))
        width = 1
        while 2 * size / width > room and width < 8:
            width *= 2
        made.append(
            ModelSpec(
                name=name,
                digest=name,
                location=name,
                weights_bytes=2 * size,
                layers=shape.layers,
                kv_bytes_per_token=shape.kv_bytes_per_token,
                context_tokens=_RECIPE_CONTEXT,
                buffers_bytes=_BUFFERS_BYTES,
                max_sequences=_MAX_SEQUENCES,
                devices_per_replica=width,
            )
        )
    return tuple(made)


def _value(found: _Fields, name: str, otherwise: Any = None) -> Any:
    return found[name].value if name in found else otherwise


def _machines(entry: Placed[_Fields], names: dict[str, Value], reading: Reading) -> list[Machine]:
    found, count = entry.value, _value(entry.value, "count", 1)
    if "id" not in found or "devices" not in found:
        return []  # it was complained about
    outages = _outages(found, reading)
    made: list[Machine] = []
    for at in range(count):
        name = f"{found['id'].value}{at}" if "count" in found else str(found["id"].value)
        if names.setdefault(name, entry.at) is not entry.at:
            reading.complain(found["id"].at.wrong(f"is taken: there is a node {name!r} already"))
            return made
        made.append(_machine(name, found, outages, reading))
    return made


def _machine(name: str, found: _Fields, outages: tuple[Outage, ...], reading: Reading) -> Machine:
    devices: list[DeviceSpec] = []
    gpus = {}
    for entry in found["devices"].value:
        for device in _devices(name, entry, len(devices), reading):
            devices.append(device)
            if "gpu" in entry.value:
                gpus[device.id] = GPUS[entry.value["gpu"].value]
    return replace(
        machine_of(name, devices, gpus, found),
        outages=outages,
        mtbf_s=_value(found, "mtbf"),
        repair_s=_value(found, "repair", 300.0),
    )


def machine_of(
    name: str, devices: list[DeviceSpec], gpus: MappingOf[str, Gpu], found: _Fields
) -> Machine:
    """`found`: what was written of `MACHINE_KEYS`."""
    links = sum(gpu.bus_bytes_per_s for gpu in gpus.values())
    is_vllm = _value(found, "engine", "llama") == "vllm"
    host = _value(found, "host_memory", _HOST_MEMORY_BYTES)
    return Machine(
        node=_vllm(name, devices, host) if is_vllm else _llama(name, devices),
        gpus=gpus,
        disk_bytes_per_s=_value(found, "disk", _DISK_BYTES_PER_S),
        bus_bytes_per_s=_value(found, "bus", links or 1e12),
        cache_bytes=0 if is_vllm else host,
        chunk_tokens=_value(found, "chunk", _GPU_CHUNK if gpus else PREFILL_CHUNK),
        engine_start_s=_value(found, "engine_start", _VLLM_START_S if is_vllm else 0.0),
    )


def gpu_devices(node: str, gpu: Gpu, count: int) -> list[DeviceSpec]:
    """So many alike, with the usual share of their memory."""
    usable = round(gpu.memory_bytes * _USABLE)
    return [DeviceSpec(f"{node}/gpu{at}", usable, backend="cuda") for at in range(count)]


def _llama(name: str, devices: list[DeviceSpec]) -> NodeSpec:
    """Layers may stay in main memory only where a set of cores is there to compute them."""
    node = llama_like(devices, name)
    has_cores = any(device.backend == "cpu" for device in devices)
    abilities = replace(node.capabilities, partial_layers=has_cores, max_devices_per_replica=8)
    return replace(node, capabilities=abilities)


def _vllm(name: str, devices: list[DeviceSpec], host_memory_bytes: int) -> NodeSpec:
    return vllm_like(devices, name, host_memory_bytes, _ASLEEP_BYTES)


def _devices(node: str, entry: Placed[_Fields], first: int, reading: Reading) -> list[DeviceSpec]:
    found = entry.value
    gpu, cores, memory = (_value(found, name) for name in ("gpu", "cores", "memory"))
    if (gpu is None) == (cores is None):
        reading.complain(entry.at.wrong("is a 'gpu' or a set of 'cores'; write one of them"))
        return []
    if memory is None and gpu is None:
        reading.complain(entry.at.wrong("needs 'memory', such as 8GiB: a set of cores has none"))
        return []
    if gpu is not None and memory is not None and memory > GPUS[gpu].memory_bytes:
        most = f"{GPUS[gpu].memory_bytes / _GIB:.0f} GiB"
        reading.complain(found["memory"].at.wrong(f"is more than a {gpu} has: {most}"))
    if memory is None:
        memory = round(GPUS[gpu].memory_bytes * _USABLE)
    kind, backend = ("gpu", "cuda") if gpu is not None else ("cpu", "cpu")
    return [
        DeviceSpec(f"{node}/{kind}{first + at}", memory, cores or 0, backend)
        for at in range(_value(found, "count", 1))
    ]


def _outages(found: _Fields, reading: Reading) -> tuple[Outage, ...]:
    """In order, one after the other."""
    made: list[Outage] = []
    for entry in _value(found, "outages", []):
        at_s, for_s = _value(entry.value, "at"), _value(entry.value, "for")
        if at_s is None or for_s is None:
            reading.complain(entry.at.wrong("needs 'at' and 'for', both of them finite"))
        elif made and at_s < made[-1].at_s + made[-1].for_s:
            reading.complain(entry.at.wrong("begins before the one ahead of it has ended"))
        else:
            made.append(Outage(at_s, for_s))
    return tuple(made)


def _models(found: _Fields, reading: Reading) -> tuple[ModelSpec, ...]:
    made = []
    for name, entry in _value(found, "models", {}).items():
        try:
            made.append(_model(name, entry))
        except ConfigError as wrong:
            reading.complain(wrong)
    return tuple(made)


def _model(name: str, entry: Placed[_Fields]) -> ModelSpec:
    found = entry.value
    shape = SHAPES.get(_value(found, "like", ""))
    weights = _value(found, "weights")
    if weights is None and "parameters" in found:
        weights = 2 * found["parameters"].value
    layers, kv = _value(found, "layers"), _value(found, "kv_per_token")
    context = _value(found, "context")
    if shape is not None:
        weights = weights or 2 * shape.parameters
        layers, kv = layers or shape.layers, kv or shape.kv_bytes_per_token
        context = context or shape.context_tokens
    if weights is None or layers is None or kv is None:
        raise entry.at.wrong(
            "needs 'like' (a published model), or 'weights' or 'parameters', with 'layers' and "
            "'kv_per_token'"
        )
    return ModelSpec(
        name=name,
        digest=_value(found, "digest", name),
        location=name,
        weights_bytes=weights,
        layers=layers,
        kv_bytes_per_token=kv,
        context_tokens=context or 8192,
        buffers_bytes=_value(found, "buffers", _BUFFERS_BYTES),
        max_sequences=_value(found, "max_sequences", _MAX_SEQUENCES),
        devices_per_replica=_value(found, "devices", 1),
        is_pinned=_value(found, "pin", False),
        ttl_s=_value(found, "ttl"),
    )
