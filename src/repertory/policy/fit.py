"""Fitting: the models that no device can ever serve, however empty it is."""

from collections.abc import Mapping

from repertory.domain.specs import ModelSpec
from repertory.perf.bytes import MIN_CELLS
from repertory.perf.needs import need_of, size_text

__all__ = ["misfit"]

_MIB = 1 << 20


def misfit(spec: ModelSpec, rooms: Mapping[str, int]) -> str | None:
    """Why a model cannot be served there, to be read after its name; None: it can.

    `rooms`: bytes per device of each placement that it could have to itself; none is no room.
    What is needed is its weights and the least KV memory that serves a short request.
    """
    need = need_of(spec, MIN_CELLS)
    name, room = min(rooms.items(), key=lambda one: (-one[1], one[0]), default=("none", 0))
    if need.total_bytes <= room:
        return None
    missing = -(-(need.total_bytes - room) // _MIB) * _MIB
    return (
        f"cannot be served: it needs {need.sum_text()}, and the largest device, {name}, has "
        f"{size_text(room)}; give {size_text(missing)} more memory, or choose a smaller file"
    )
