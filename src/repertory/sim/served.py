"""A server of ours as a fleet: from its decision log, what it runs on and what it was told.

Its devices have the memory that it was left with, its models the limits that it gave them, and its
brain begins with the settings and the readings of `repertory profile` that it had.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from repertory.core.journal import decode_event, read_lines
from repertory.core.replaying import header_of
from repertory.domain.errors import ConfigError
from repertory.domain.events import Arrived, ModelAdded, ModelProfiled, SettingsChanged, WorkerUp
from repertory.domain.fleets import Fleet, Machine, Toll
from repertory.domain.settings import Settings
from repertory.domain.specs import ModelSpec, NodeSpec
from repertory.sim.world import Read

__all__ = ["CHUNK_TOKENS", "FRONT_S", "LAG_S", "LANES", "Served", "served"]

CHUNK_TOKENS = 128
"""Of our worker's prompt steps, at most (`engines.llamacpp.context`)."""
LANES = 2
"""Of our worker, on a set of two cores."""
LAG_S = 0.0014
"""Between server and worker, there and back: measured on two cores, of dispatches and of moves."""
TOLL = Toll(pace=1.08, prompt_s=0.002, token_s=0.0004, move_s=0.0013)
"""Of steps: read on a run of its own, with room for all three models, while one had the cores to
itself.  A decode step of one sequence took 0.5 ms more than in `profile` for a 50M (1.4 ms) and 0.9
for a 300M (7 ms), a 50M's of three 1.0, a 50M's prompt of some 90 tokens 3 to 5.  Of moves: in the
mean over loads, unloads and contexts of two runs that were played for it."""
FRONT_S = 0.0033
"""From a client to the brain and back with the first token: measured, both on the same cores."""
_DISK_BYTES_PER_S = 2e9
"""Files are taken to be in the page cache; what is not is read at a usual SSD's pace."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a log says of its server, up to its first request."""

    fleet: Fleet
    settings: Settings
    profiled: tuple[ModelProfiled, ...]

    @property
    def read(self) -> Read:
        return {(one.digest, one.readings.device): one.readings for one in self.profiled}


def served(lines: Iterable[bytes], name: str) -> Served:
    """`ConfigError` where nothing was up by the first request."""
    coming = iter(lines)
    settings = header_of(next(coming, b"")).settings
    node: NodeSpec | None = None
    models: dict[str, ModelSpec] = {}
    profiled: dict[tuple[str, str], ModelProfiled] = {}
    for entry in read_lines(coming):
        event = decode_event(entry)
        match event:
            case WorkerUp():
                node = event.node
            case ModelAdded(spec=spec):
                models[spec.name] = spec
            case ModelProfiled(digest=digest, readings=readings):
                profiled[digest, readings.device] = event
            case SettingsChanged():
                settings = event.settings
            case Arrived():
                break
            case _:
                pass
    if node is None or not models:
        raise ConfigError(f"{name}: no worker was up in it before the first request")
    fleet = Fleet(
        name,
        (_machine(node),),
        tuple(models.values()),
        lag_s=LAG_S,
        toll=TOLL,
        front_s=FRONT_S,
    )
    return Served(fleet, settings, tuple(profiled.values()))


def _machine(node: NodeSpec) -> Machine:
    return Machine(
        node=node,
        gpus={},
        disk_bytes_per_s=_DISK_BYTES_PER_S,
        bus_bytes_per_s=_DISK_BYTES_PER_S,
        cache_bytes=node.host_memory_bytes,
        chunk_tokens=CHUNK_TOKENS,
        lanes=LANES,
        is_warm=True,
    )
