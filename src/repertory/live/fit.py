"""Can the operator's wishes come true on these devices?  Arithmetic, and how it is said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repertory.core.places.sites import USUAL_CELLS
from repertory.domain.specs import ModelSpec
from repertory.live.options import ServeConfig
from repertory.perf.bytes import MIN_CELLS
from repertory.perf.needs import Need, need_of, size_text
from repertory.policy.places.fit import Split, misfit

__all__ = ["Room", "expected_room", "least_bytes", "pinned_misfit", "warnings"]

USUAL_OVERHEAD_BYTES = 170 << 20
"""Read back at the start of a server: 74 MiB server and worker, 96 kept for their growth."""
_MOST_PACKED = 10
"""So many pinned models are tried on several devices in every way; more are only summed up."""


@dataclass(frozen=True, slots=True)
class Room:
    """What models may take, and where that number comes from."""

    devices: Mapping[str, int]
    """Bytes by device."""
    story: str
    """`12.0 GiB - 290 MiB for server and worker`; empty where each device has its own memory."""
    splits: tuple[Split, ...] = ()
    """Accelerators that may hold a part of a model, with the main memory beside them."""

    @property
    def total_bytes(self) -> int:
        return sum(self.devices.values())

    @property
    def largest_bytes(self) -> int:
        return max(self.devices.values(), default=0)

    def text(self) -> str:
        where = " + ".join(f"{size_text(size)} on {name}" for name, size in self.devices.items())
        return f"{where} ({self.story})" if self.story else where


def expected_room(config: ServeConfig) -> Room | None:
    """What models will have, before anything is started; None where only the engine can tell."""
    left = config.memory_bytes - USUAL_OVERHEAD_BYTES - config.saved_kv_bytes
    story = (
        f"{size_text(config.memory_bytes)} - about {size_text(USUAL_OVERHEAD_BYTES)} for server "
        f"and worker"
    )
    if config.saved_kv_bytes:
        story += f" - {size_text(config.saved_kv_bytes)} host_memory"
    if config.devices is None:
        return Room({"cpu0": max(0, left)}, story)
    if any(device.memory_bytes is None for device in config.devices):
        return None
    sizes = {device.id: device.memory_bytes or 0 for device in config.devices}
    return Room(sizes, "")


def least_bytes(spec: ModelSpec) -> int:
    """What a model takes once it serves one short request."""
    return need_of(spec, MIN_CELLS).total_bytes


def pinned_misfit(pinned: Mapping[ModelSpec, str], room: Room) -> str | None:
    """Why these models cannot all be loaded at once; None if they can.  Values are places.

    A pinned model is brought up with one slot of `USUAL_CELLS` before anybody asks for it.
    """
    needs = sorted(
        (need_of(spec, min(USUAL_CELLS, spec.context_tokens), at) for spec, at in pinned.items()),
        key=lambda need: (-need.total_bytes, need.name),
    )
    sizes = [need.total_bytes for need in needs]
    if _fit(sizes, sorted(room.devices.values(), reverse=True)):
        return None
    if room.splits and sum(sizes) <= room.total_bytes:
        return None  # layers fill what whole models leave
    total = sum(sizes)
    place = next((need.place for need in needs if need.place), "")
    alone = [need.name for need in needs if need.total_bytes > room.largest_bytes]
    lines = [f"{place}: the pinned models cannot be loaded together:".removeprefix(": ")]
    lines += [f"  {need.text()}" for need in needs]
    lines.append(f"  together {size_text(total)}, but models have {room.text()}")
    lines.append(f"  {_advice(needs, alone, total, room)}")
    return "\n".join(lines)


def _advice(needs: Sequence[Need], alone: Sequence[str], total: int, room: Room) -> str:
    names = ", ".join(need.name for need in needs)
    missing = total - room.total_bytes
    wishes = [f"unpin some of {names}" if len(needs) > 1 else f"unpin {names}"]
    if missing > 0:
        wishes.append(f"give {size_text(missing)} more memory")
    elif alone:
        wishes.append(f"give {alone[0]} a larger device")
    else:
        wishes.append("give one device what now lies on several")
    wishes.append("choose smaller files")
    return "to mend it: " + ", or ".join(wishes)


def _fit(sizes: Sequence[int], rooms: list[int]) -> bool:
    """Whether each finds a device.  Largest first; equal rooms are tried once.

    Beyond `_MOST_PACKED` only what is certain counts: the sum, and each by itself.
    """
    if not sizes:
        return True
    if sum(sizes) > sum(rooms) or sizes[0] > max(rooms, default=0):
        return False
    if len(rooms) == 1 or len(sizes) > _MOST_PACKED:
        return True
    tried: set[int] = set()
    for at, free in enumerate(rooms):
        if free < sizes[0] or free in tried:
            continue
        tried.add(free)
        if _fit(sizes[1:], [*rooms[:at], free - sizes[0], *rooms[at + 1 :]]):
            return True
    return False


def warnings(specs: Sequence[ModelSpec], pinned: Mapping[ModelSpec, str], room: Room) -> list[str]:
    """Models that cannot be loaded here, ever, or while the pinned ones are."""
    held = sum(need_of(spec, min(USUAL_CELLS, spec.context_tokens)).total_bytes for spec in pinned)
    found = []
    for spec in specs:
        need = need_of(spec, MIN_CELLS)
        never = misfit(spec, room.devices, room.splits)
        if never is not None:
            where = f" ({room.story})" if room.story else ""
            found.append(f"{spec.name}: {never}{where}")
        elif spec not in pinned and need.total_bytes > room.total_bytes - held:
            found.append(
                f"{need.text()}, but the pinned models leave "
                f"{size_text(max(0, room.total_bytes - held))} of {room.text()}; it cannot be "
                f"served while they are pinned"
            )
    return found
