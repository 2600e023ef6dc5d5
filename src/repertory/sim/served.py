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
"""Between server and worker, there and back: measured on two cores, of dispatches (1.2 to 1.5 ms).
Moves are heard of in 0.5 to 1.6 ms and take 0.3 to 0.7 more than in `profile`: as much together."""
TOLL = Toll(
    pace=1.05,
    step_s=0.0003,
    prompt_s=0.005,
    request_s=0.009,
    cold_s_per_byte=1.8e-3 / (1 << 20),
)
"""Of runs of their own (`python -m bench.sim --only tolls`), twice within half an hour: no value is
right for both, for what the machine computed in a second was a tenth less the second time.  These
are off by -10 to +16 % of the time that singles, stairs and a stream kept it busy, and by 0 in the
middle.  Server and client take some 9 ms of a core for a request; an idle core does it for nothing.
Memory: 64 MiB that the host had taken back were filled in 117 ms, in 4 otherwise."""
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
        toll=TOLL,
    )
