"""How much memory there is to give: a pure function of what was read, and the reader."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from repertory.domain.errors import ConfigError
from repertory.reports.figures import bytes_text

__all__ = [
    "Budget",
    "CgroupReading",
    "MemoryReading",
    "default_budget",
    "most_memory",
    "read_memory",
]

_MARGIN_BYTES = 256 * 2**20
_MARGIN_SHARE = 16
"""What stays free: a sixteenth for the page cache and other programs, and never less than this."""

_UNLIMITED_BYTES = 2**60
"""A cgroup of version 1 says 'no limit' with a number near 2**63."""


@dataclass(frozen=True, slots=True)
class CgroupReading:
    """A limit that we are under.  Clean file pages are given back before anybody is killed."""

    name: str
    max_bytes: int
    current_bytes: int
    inactive_file_bytes: int

    @property
    def room_bytes(self) -> int:
        return self.max_bytes - self.current_bytes + self.inactive_file_bytes


@dataclass(frozen=True, slots=True)
class MemoryReading:
    own_bytes: int
    """Ours already, so no longer among the available ones, but within the budget."""
    available_bytes: int
    total_bytes: int
    """Of the machine, whoever has it now."""
    cgroups: tuple[CgroupReading, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    bytes: int
    story: str


def default_budget(reading: MemoryReading) -> Budget:
    """own + min(available, room in each container) - margin; refused where nothing is left."""
    rooms = [(reading.available_bytes, "available")]
    rooms += [(each.room_bytes, f"left in the container {each.name}") for each in reading.cgroups]
    room_bytes = max(0, min(rooms)[0])
    margin_bytes = max(_MARGIN_BYTES, room_bytes // _MARGIN_SHARE)
    total_bytes = reading.own_bytes + room_bytes - margin_bytes
    terms = ", ".join(f"{bytes_text(max(0, size))} {what}" for size, what in rooms)
    smallest = f"min({terms})" if len(rooms) > 1 else terms
    sum_text = (
        f"{bytes_text(reading.own_bytes)} own + {smallest} - {bytes_text(margin_bytes)} margin"
    )
    if total_bytes <= 0:
        raise ConfigError(f"no memory to serve from: {sum_text}; free some, or give --memory")
    return Budget(total_bytes, f"{bytes_text(total_bytes)} = {sum_text}")


def most_memory(reading: MemoryReading) -> Budget:
    """What could be given if nobody else took any."""
    most = [(reading.total_bytes, "of this machine")]
    most += [(each.max_bytes, f"for the container {each.name}") for each in reading.cgroups]
    terms = ", ".join(f"{bytes_text(size)} {what}" for size, what in most)
    return Budget(min(most)[0], f"min({terms})" if len(most) > 1 else terms)


def read_memory(
    proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> MemoryReading:
    """This machine, now."""
    return MemoryReading(
        own_bytes=int(psutil.Process().memory_info().rss),
        available_bytes=int(psutil.virtual_memory().available),
        total_bytes=int(psutil.virtual_memory().total),
        cgroups=read_cgroups(proc, cgroups),
    )


def read_cgroups(proc: Path, root: Path) -> tuple[CgroupReading, ...]:
    """Every limit above us, the nearest first; empty where the system has no cgroups.

    Limits are hierarchical: the tightest one on the way up counts.  Inside a container the path
    of `/proc/self/cgroup` may be the host's, and then only the root of the mount is ours.
    """
    readings: list[CgroupReading] = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places = _upward(root, path) or _upward(root / "unified", path)
            readings += _read_each(places, root, _V2)
        elif "memory" in controllers.split(","):
            readings += _read_each(_upward(root / "memory", path), root, _V1)
    return tuple(readings)


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _upward(mount: Path, path: str) -> list[Path]:
    """The group's folder and those above it, as far as they are visible."""
    inner = mount / path.lstrip("/")
    candidates = [inner, *inner.parents]
    within = [each for each in candidates if each == mount or mount in each.parents]
    return [each for each in within if each.is_dir()]


def _read_each(places: list[Path], root: Path, files: tuple[str, str, str]) -> list[CgroupReading]:
    max_name, current_name, inactive_name = files
    readings = []
    for place in places:
        max_bytes = _number(_lines(place / max_name))
        current_bytes = _number(_lines(place / current_name))
        if max_bytes is None or current_bytes is None or max_bytes >= _UNLIMITED_BYTES:
            continue
        stat = dict(line.split(maxsplit=1) for line in _lines(place / "memory.stat") if " " in line)
        inactive_bytes = _number([stat.get(inactive_name, "0")]) or 0
        name = f"/{place.relative_to(root)}".removesuffix("/.")
        readings.append(CgroupReading(name or "/", max_bytes, current_bytes, inactive_bytes))
    return readings


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(lines: list[str]) -> int | None:
    """None for what is no number; `max` is the kernel's word for no limit."""
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None
