"""From a fleet to workers and their costs: what is simulated, apart from who decides in it."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from heapq import merge

from repertory.domain.actions import Transition
from repertory.domain.events import Event, WorkerLost, WorkerUp, order
from repertory.domain.fleets import Fleet, Machine, Outage
from repertory.domain.readings import DeviceReadings
from repertory.domain.specs import DeviceSpec, ModelSpec, NodeSpec
from repertory.engines.node_model import NodeModel
from repertory.perf.datasheets import datasheet_profile
from repertory.perf.fit import profile_from
from repertory.perf.profiles import Profile, prior_profile
from repertory.perf.tolls import beside_server
from repertory.policy.places.fit import Split, misfit

__all__ = ["Read", "World", "unfit"]

Read = Mapping[tuple[str, str], DeviceReadings]
"""What was measured, by the model's digest and the device; nothing of what is not here."""


class World:
    """The workers of a fleet, as one seed has them."""

    def __init__(self, fleet: Fleet, seed: int, jitter: float, read: Read) -> None:
        """`jitter`: moves take longer or shorter by a log-normal factor with this deviation."""
        self.fleet = fleet
        self._seed = seed
        self._jitter = jitter
        self._read = read
        self._machines = {
            machine.node.id: replace(machine, read=read) for machine in fleet.machines
        }
        self._gpus = {name: gpu for machine in fleet.machines for name, gpu in machine.gpus.items()}
        self._disks = {
            device.id: machine.disk_bytes_per_s
            for machine in fleet.machines
            for device in machine.node.devices
        }
        self._tolls = {
            device.id: machine.toll for machine in fleet.machines for device in machine.node.devices
        }
        self._known: dict[tuple[ModelSpec, str], Profile] = {}
        self._lives: dict[str, int] = {}

    def profile(self, spec: ModelSpec, device: DeviceSpec) -> Profile:
        """Measured, by the datasheet, or the prior of a set of cores: the first that there is.

        Of no device of ours (a brain asks before any is up): as on the first.
        """
        if device.id not in self._disks:
            device = self.fleet.devices[0]
        found = self._known.get((spec, device.id))
        if found is None:
            gpu = self._gpus.get(device.id)
            found = prior_profile(spec, device)
            if gpu is not None:
                disk = self._disks[device.id]
                found = datasheet_profile(spec, gpu, disk, self._start_s(device.id))
            read = self._read.get((spec.digest, device.id))
            if read is not None:
                found = profile_from(found, read, spec.weights_bytes)
                found = beside_server(found, self._tolls[device.id])
            self._known[spec, device.id] = found
        return found

    def workers(self) -> list[NodeModel]:
        return [self.worker(machine.node) for machine in self.fleet.machines]

    def worker(self, node: NodeSpec) -> NodeModel:
        """A new one: nothing is in its memory, the page cache neither."""
        life = self._lives[node.id] = self._lives.get(node.id, 0) + 1
        pace = self._pace(f"{node.id}/{life}") if self._jitter else _even
        return NodeModel(node, self.profile, machine=self._machines[node.id], pace=pace)

    def failures(self) -> Iterator[Event]:
        """Machines that go and come back, in order of time; where that is drawn, without an end."""
        lives = [
            _life(machine, self._luck(f"fails/{machine.node.id}"))
            for machine in self.fleet.machines
        ]
        return merge(*lives, key=order)

    def _start_s(self, device: str) -> float:
        for machine in self.fleet.machines:
            if device in machine.gpus:
                return machine.engine_start_s
        return 0.0

    def _luck(self, what: str) -> random.Random:
        return random.Random(f"{self._seed}/{what}")

    def _pace(self, life: str) -> Callable[[Transition], float]:
        """By the action, not by the order in which it is asked for."""

        def pace(transition: Transition) -> float:
            luck = self._luck(f"{life}/{transition.action_id}")
            return luck.lognormvariate(0.0, self._jitter)

        return pace


def _even(_: Transition) -> float:
    return 1.0


def _life(machine: Machine, luck: random.Random) -> Iterator[Event]:
    """What was said, or what was drawn: times to a failure are exponential."""
    node = machine.node
    for outage in machine.outages or _drawn(machine, luck):
        at_ns = round(outage.at_s * 1e9)
        yield WorkerLost(at_ns, node.id, "the machine failed", is_outage=True)
        yield WorkerUp(at_ns + max(1, round(outage.for_s * 1e9)), node)


def _drawn(machine: Machine, luck: random.Random) -> Iterator[Outage]:
    at_s = 0.0
    while machine.mtbf_s is not None:
        at_s += luck.expovariate(1.0 / machine.mtbf_s)
        yield Outage(at_s, machine.repair_s)
        at_s += machine.repair_s


def unfit(fleet: Fleet) -> list[str]:
    """Of each model that no part of the fleet can ever serve: its name, and why."""
    found = []
    for spec in fleet.models:
        rooms: dict[str, int] = {}
        for machine in fleet.machines:
            rooms |= _rooms(machine.node, spec.devices_per_replica)
        splits = [split for machine in fleet.machines for split in Split.of(machine.node)]
        width = spec.devices_per_replica
        why = misfit(spec, rooms, splits)
        if why is not None and width > 1 and not rooms:
            most = max(_widest(machine.node) for machine in fleet.machines)
            why = f"cannot be served: no machine has so many devices for it, at most {most}"
        if why is not None:
            wide = f" (split over {width})" if width > 1 else ""
            found.append(f"{spec.name}{wide} {why}")
    return found


def _widest(node: NodeSpec) -> int:
    return min(len(node.devices), node.capabilities.max_devices_per_replica)


def _rooms(node: NodeSpec, width: int) -> dict[str, int]:
    """Bytes on each device of the roomiest placements over so many of them."""
    if width > node.capabilities.max_devices_per_replica:
        return {}
    sizes = sorted(node.devices, key=lambda one: (-one.memory_bytes, one.id))
    widest = sizes[width - 1 :: width]
    return {device.id: device.memory_bytes for device in widest}
