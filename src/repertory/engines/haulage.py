"""What a worker's transitions take, and over which ways: by the law of its model on its device.

Without a machine around it each move is alone in the world, and `HOST` is always there.
"""

from collections.abc import Callable
from dataclasses import replace

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Stage,
    Transition,
    Unload,
)
from repertory.domain.events import Measured
from repertory.domain.fleets import Machine
from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, NodeSpec, Placement
from repertory.engines.moves import Move, Moves, PageCache
from repertory.perf.bytes import kv_needs, placed_footprint, rest_footprint, share_there
from repertory.perf.fit import buffers_of, held_from
from repertory.perf.profiles import Profile

__all__ = ["Haulage"]

_DISK, _BUS = "a disk", "a bus"
"""Ways that no device's name can be."""


class Haulage:
    """Makes moves of transitions; knows where replicas lie, and which files were read."""

    def __init__(
        self,
        node: NodeSpec,
        profile: Callable[[ModelSpec, DeviceSpec], Profile],
        machine: Machine | None,
        pace: Callable[[Transition], float],
    ) -> None:
        self._node = node
        self._profile = profile
        self._machine = machine
        self._pace = pace
        self._cache: PageCache | None = None
        if machine is not None and node.capabilities.host_is_page_cache:
            self._cache = PageCache(machine.cache_bytes)
        self._placed: dict[str, Placement] = {}
        self._held: dict[str, Measured] = {}
        """Weights and where they lie, by replica, from its latest load."""

    def moves(self) -> Moves:
        """With the rooms of the machine's ways."""
        return Moves(_rooms(self._machine) if self._machine is not None else {})

    def move(
        self,
        transition: Transition,
        spec: ModelSpec,
        where: Placement | None,
        rung: Rung,
        cells: int | None = None,
    ) -> Move:
        """What it will take, and what its end will say but for the time.

        `cells`: that a resize copies; None: as many as the new shape has.
        """
        measured = Measured(0, 0, 0, 0)
        fixed_s, seconds, ways = 0.0, 0.0, dict[str, float]()
        profile = self.profile_at(spec, transition.placement if type(transition) is Load else where)
        match transition:
            case Stage():
                fixed_s, seconds = profile.stage.fixed_s, profile.stage.seconds(spec.weights_bytes)
                ways = {_DISK: 1.0}
            case Load(placement=placement):
                source, share = self._source(spec, rung), share_there(spec, placement.layers)
                fixed_s = profile.load_s(placement.form, source, 0, share)
                seconds = profile.load_s(placement.form, source, spec.weights_bytes, share)
                ways = self._ways(placement, source)
                self._placed[transition.replica_id] = placement
                held = self._held[transition.replica_id] = self._loaded(spec, placement)
                measured = replace(held, source=source)
            case Activate(kv=kv):
                seconds = profile.activate.seconds(kv.tokens * spec.kv_bytes_per_token)
                measured = self._opened(spec, transition.replica_id, kv)
            case Resize(kv=kv):
                size = kv.tokens * spec.kv_bytes_per_token
                moved = size if cells is None else cells * spec.kv_bytes_per_token
                seconds = profile.activate.seconds(size) + profile.move_kv.seconds(moved)
                measured = self._opened(spec, transition.replica_id, kv)
            case Deactivate():
                seconds = profile.deactivate_s
                measured = self._held[transition.replica_id]
            case Unload():
                seconds = profile.unload_s
            case Drop():
                seconds = profile.drop_s
        pace = self._pace(transition)
        move = Move(transition, max(1, round(seconds * pace * 1e9)), measured=measured)
        if self._machine is not None and ways and seconds > fixed_s:
            move.fixed_ns = max(1, round(fixed_s * pace * 1e9))
            move.size_bytes, move.ways = spec.weights_bytes * pace, ways
            move.most_bytes_per_ns = spec.weights_bytes / (seconds - fixed_s) / 1e9
        return move

    def _loaded(self, spec: ModelSpec, placement: Placement) -> Measured:
        """As it was read, where a worker of this machine was."""
        read = self._read_at(spec, placement)
        known = held_from(spec, read).weights_bytes if read is not None else {}
        taken = _loaded(spec, placement)
        return replace(taken, weights_bytes=known.get(placement.form, taken.weights_bytes))

    def _opened(self, spec: ModelSpec, replica_id: str, kv: KvShape) -> Measured:
        """Its weights too: bytes are totals, whichever of them a move has changed."""
        placement = self._placed[replica_id]
        read = self._read_at(spec, placement)
        taken = _opened(spec, placement, kv, self._held[replica_id])
        buffers = buffers_of(spec, read, kv) if read is not None else None
        return taken if buffers is None else replace(taken, buffers_bytes=buffers)

    def _read_at(self, spec: ModelSpec, placement: Placement) -> DeviceReadings | None:
        if self._machine is None or placement.layers is not None:
            return None
        return self._machine.read.get((spec.digest, placement.devices[0]))

    def _source(self, spec: ModelSpec, rung: Rung) -> Rung:
        """Where its bytes are: what was read lately is in the page cache, if that has room."""
        if self._machine is not None and self._machine.is_warm:
            return Rung.HOST
        if self._cache is not None:
            return Rung.HOST if self._cache.holds(spec.digest) else Rung.DISK
        return Rung.HOST if rung is Rung.HOST else Rung.DISK

    def read(self, spec: ModelSpec) -> None:
        """Its file has come from the disk, or was used again."""
        if self._cache is not None:
            self._cache.read(spec.digest, spec.weights_bytes)

    def _ways(self, placement: Placement, source: Rung) -> dict[str, float]:
        """Of the bytes of a load; split over devices, each has its part of them."""
        ways = {_DISK: 1.0} if source is Rung.DISK else dict[str, float]()
        gpus = self._machine.gpus if self._machine is not None else {}
        linked = [device for device in placement.devices if device in gpus]
        if linked:
            ways[_BUS] = 1.0
            ways |= dict.fromkeys(linked, 1.0 / len(placement.devices))
        return ways

    def profile_at(self, spec: ModelSpec, where: Placement | None) -> Profile:
        """Of the first device of the placement; what is nowhere yet is read on the node's first."""
        devices = self._node.devices
        name = where.devices[0] if where is not None else devices[0].id
        return self._profile(spec, next(one for one in devices if one.id == name))

    def mover_of(self, transition: Transition) -> str:
        """One per worker, or one per replica of separate engines.  Of a machine that was described,
        one per device: its links are separate.
        """
        if not self._node.capabilities.step_sharing:
            return transition.replica_id
        placement = self._placed.get(transition.replica_id)
        if type(transition) is Load:
            placement = transition.placement
        if self._machine is None or placement is None:
            return ""
        return placement.devices[0]


def _rooms(machine: Machine) -> dict[str, float]:
    """Bytes per nanosecond of each way."""
    rooms = {_DISK: machine.disk_bytes_per_s / 1e9, _BUS: machine.bus_bytes_per_s / 1e9}
    return rooms | {name: gpu.bus_bytes_per_s / 1e9 for name, gpu in machine.gpus.items()}


def _loaded(spec: ModelSpec, placement: Placement) -> Measured:
    weights = placed_footprint(spec, placement).weights_bytes * len(placement.devices)
    if placement.rest is None:
        return Measured(0, weights, 0, 0)
    rest = rest_footprint(spec, placement).weights_bytes
    return Measured(
        0, weights, 0, 0, rest_weights_bytes=rest, rest_kv_bytes=0, rest_buffers_bytes=0
    )


def _opened(spec: ModelSpec, placement: Placement, kv: KvShape, held: Measured) -> Measured:
    needs, width = kv_needs(spec, placement, kv), len(placement.devices)
    there = sum(needs[device] for device in placement.devices)
    buffers = placed_footprint(spec, placement).buffers_bytes * width
    opened = replace(held, kv_bytes=there, buffers_bytes=buffers)
    if placement.rest is None:
        return opened
    return replace(
        opened,
        rest_kv_bytes=needs[placement.rest],
        rest_buffers_bytes=rest_footprint(spec, placement).buffers_bytes,
    )
