"""What devices can be had, in which numbers and at what price: `repertory plan --catalog`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repertory.config.file import read_text
from repertory.config.fleet import MACHINE_KEYS, Rate, gpu_devices, machine_of
from repertory.config.kinds import Key, ListOf, Mapping, Placed, Reading, Schema, Size, Text
from repertory.config.nodes import Value, nearest, read_yaml
from repertory.config.units import size_bytes
from repertory.domain.fleets import Gpu, Machine
from repertory.perf.datasheets import GPUS

__all__ = ["Offered", "parse_catalog", "read_catalog"]

_Fields = dict[str, Placed[Any]]  # Any: each is of the kind that the table says

_MOST_USD = 1e6
_MOST_PER_NODE = 64


@dataclass(frozen=True, slots=True)
class Price:
    """Of a device and hour, in dollars."""

    def read(self, value: Value, reading: Reading) -> float:
        return value.number(_MOST_USD)

    def schema(self) -> Schema:
        return {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_USD}


@dataclass(frozen=True, slots=True)
class Operations:
    """Per second, in T: 10¹²."""

    def read(self, value: Value, reading: Reading) -> float:
        text = value.text()
        size = size_bytes(f"{text}B") if text.endswith("T") else None
        if not size:
            raise value.wrong(f"must be operations per second such as 362T, not {text!r}")
        return float(size)

    def schema(self) -> Schema:
        return {"type": "string", "examples": ["362T"]}


@dataclass(frozen=True, slots=True)
class PerNode:
    """`8`, or from so many to so many: `1-8`."""

    def read(self, value: Value, reading: Reading) -> range:
        if (one := re.fullmatch(r"([0-9]{1,3})-([0-9]{1,3})", value.written)) is not None:
            least, most = int(one[1]), int(one[2])
        else:
            least = most = value.whole(1, _MOST_PER_NODE)
        if not 1 <= least <= most <= _MOST_PER_NODE:
            raise value.wrong(f"must be like 8 or 1-8, at most {_MOST_PER_NODE}")
        return range(least, most + 1)

    def schema(self) -> Schema:
        return {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": _MOST_PER_NODE},
                {"type": "string", "pattern": "^[0-9]{1,3}-[0-9]{1,3}$"},
            ]
        }


_CONSTANTS = ("memory", "memory_rate", "flops", "link")

_GPU = Mapping(
    (
        Key("gpu", Text(), "A name of the library, or one of your own.", needs="a name"),
        Key("price", Price(), "Dollars per device and hour.", needs="such as 2.49"),
        Key("per_node", PerNode(), "Devices that a node has, or may have.", "1-8"),
        Key("memory", Size(), "Of the device; nine tenths of it are for models."),
        Key("memory_rate", Rate(), "Of its memory, as the datasheet says."),
        Key("flops", Operations(), "Dense 16-bit operations per second."),
        Key("link", Rate(), "To main memory, one way."),
        *MACHINE_KEYS,
    )
)

CATALOG = Mapping(
    (
        Key(
            "gpus",
            ListOf(_GPU, 1, "one type of device", is_unique=False),
            "What can be had.",
            needs="at least one, with its price",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Offered:
    """A type of device: machines of so many of it, at a price."""

    gpu: Gpu
    usd_per_h: float
    per_node: range
    found: _Fields

    def counts(self, most: int) -> tuple[int, ...]:
        """All numbers up to `most` that make whole nodes."""
        return tuple(count for count in range(1, most + 1) if self._nodes(count))

    def machines(self, count: int) -> tuple[Machine, ...]:
        """As few nodes as can have so many, all full but the last."""
        made = []
        for at, size in enumerate(self._nodes(count)):
            name = f"{self.gpu.name}-{at}"
            devices = gpu_devices(name, self.gpu, size)
            gpus = {device.id: self.gpu for device in devices}
            made.append(machine_of(name, devices, gpus, self.found))
        return tuple(made)

    def _nodes(self, count: int) -> list[int]:
        """Where too few are left for the last node, the one before it gives some up."""
        least, most = self.per_node[0], self.per_node[-1]
        full, rest = divmod(count, most)
        sizes = [most] * full
        if rest >= least:
            return [*sizes, rest]
        if rest and full and most + rest >= 2 * least:
            return [*sizes[:-1], most + rest - least, least]
        return [] if rest else sizes


def read_catalog(path: Path) -> tuple[Offered, ...]:
    return parse_catalog(read_text(path), str(path))


def parse_catalog(text: str, source: str) -> tuple[Offered, ...]:
    """`ConfigError` names every mistake, a line each."""
    reading = Reading(Path())
    found = CATALOG.read(read_yaml(text, source, "gpus"), reading)
    offered: dict[str, Offered] = {}
    for entry in found["gpus"].value if "gpus" in found else []:
        one = _offered(entry, reading)
        if one is not None and one.gpu.name in offered:
            where = entry.value["gpu"].at
            reading.complain(where.wrong(f"is there twice: {one.gpu.name!r}; rename one"))
        elif one is not None:
            offered[one.gpu.name] = one
    reading.end()
    return tuple(offered.values())


def _offered(entry: Placed[_Fields], reading: Reading) -> Offered | None:
    found = entry.value
    if "gpu" not in found or "price" not in found:
        return None  # it was complained about
    name = found["gpu"].value
    given = {key: found[key].value for key in _CONSTANTS if key in found}
    known = GPUS.get(name)
    if known is None and len(given) < len(_CONSTANTS):
        missing = ", ".join(f"'{key}'" for key in _CONSTANTS if key not in given)
        hint = f"{nearest(name, GPUS)}  Or write its {missing}"
        reading.complain(found["gpu"].at.wrong(f"is no GPU of the library: {name!r}; {hint}"))
        return None
    price = found["price"].value
    gpu = Gpu(
        name,
        given.get("memory") or (known.memory_bytes if known else 0),
        given.get("memory_rate") or (known.memory_bytes_per_s if known else 0.0),
        given.get("flops") or (known.flops_per_s if known else 0.0),
        given.get("link") or (known.bus_bytes_per_s if known else 0.0),
        price,
    )
    per_node = found["per_node"].value if "per_node" in found else range(1, 9)
    return Offered(gpu, price, per_node, found)
