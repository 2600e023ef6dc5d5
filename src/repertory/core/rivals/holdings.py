"""Memory in a rival's world: what replicas hold of devices, and sleepers of their node."""

from repertory.domain.ladder import Rung
from repertory.domain.specs import NodeSpec
from repertory.policy.baselines.view import DeviceView, ModelView, ReplicaView, View

__all__ = ["Holdings"]


class Holdings:
    """Keeps `DeviceView.free_bytes` and `ModelView.asleep` true.

    What sleepers keep of a device counts as free: they go for good where it is wanted.
    """

    def __init__(self, view: View, keeps_in_host: bool) -> None:
        self._view = view
        self._keeps_in_host = keeps_in_host
        self._nodes: dict[str, NodeSpec] = {}
        self._host_bytes: dict[str, int] = {}
        """Free, by node."""
        self._to_bed: dict[tuple[str, str], str] = {}
        """By model and node: the replica that is on its way to sleep."""

    def check(self) -> None:
        """What is free and what is held is all there is, and sleepers find room in what is free."""
        for seat in self._view.seats.values():
            here = {one.id: one for one in self._view.copies if seat.id in one.placement.devices}
            assert here == self._view.held.get(seat.id, {}), seat.id
            held = sum(copy.held_bytes for copy in here.values())
            sleepers = [
                sleeper
                for part in self._view.parts.values()
                for sleeper in part.asleep.values()
                if seat.id in sleeper.placement.devices
            ]
            residue = self._nodes[seat.node_id].capabilities.asleep_residue_bytes
            assert held + seat.free_bytes == seat.spec.memory_bytes, seat.id
            assert seat.free_bytes >= residue * len(sleepers), seat.id
        assert all(size >= 0 for size in self._host_bytes.values())

    def add_node(self, node: NodeSpec) -> None:
        self._nodes[node.id] = node
        self._host_bytes[node.id] = node.host_memory_bytes
        for device in node.devices:
            self._view.seats[device.id] = DeviceView(device, node.id, device.memory_bytes)
        self._view.rearranged()

    def lose_node(self, node_id: str) -> list[ReplicaView]:
        """What was there, sleepers but for."""
        node = self._nodes.pop(node_id)
        del self._host_bytes[node_id]
        for device in node.devices:
            del self._view.seats[device.id]
            self._view.held.pop(device.id, None)
        self._view.rearranged()
        lost = [copy for copy in self._view.copies if copy.node_id == node_id]
        for copy in lost:
            del self._view.parts[copy.model].copies[copy.id]
            self._to_bed.pop((copy.model, node_id), None)
        for part in self._view.parts.values():
            part.asleep.pop(node_id, None)
        return lost

    def hold(self, copy: ReplicaView, size_bytes: int) -> list[ReplicaView]:
        """On each of its devices; what does not fit is the rule's mistake.  Returns the sleepers
        that were in the way, and sleep there no more: those who have slept longest.
        """
        dropped: list[ReplicaView] = []
        for device in copy.placement.devices:
            seat = self._view.seats[device]
            assert size_bytes <= seat.free_bytes, (
                f"{copy.id} takes {size_bytes} of {seat.free_bytes} free bytes of {device}"
            )
            seat.free_bytes -= size_bytes
            self._view.held.setdefault(device, {})[copy.id] = copy
            dropped += self._squeezed(seat)
        copy.held_bytes = size_bytes
        self._view.layout += 1
        return dropped

    def _squeezed(self, seat: DeviceView) -> list[ReplicaView]:
        """Sleepers whose residues are more than what is free of their device."""
        residue = self._nodes[seat.node_id].capabilities.asleep_residue_bytes
        if not residue:
            return []
        there = [
            part
            for part in self._sleeping(seat.node_id)
            if seat.id in part.asleep[seat.node_id].placement.devices
        ]
        found = [self.wake(part, seat.node_id) for part in there[: _excess(there, seat, residue)]]
        return [one for one in found if one is not None]

    def let_go(self, part: ModelView, copy: ReplicaView, *, is_asleep: bool) -> None:
        """It is up no more."""
        if is_asleep:
            copy.rung, copy.is_leaving = Rung.HOST, False
            del self._to_bed[copy.model, copy.node_id]
            part.asleep[copy.node_id] = copy
        for device in copy.placement.devices:
            self._view.seats[device].free_bytes += copy.held_bytes
            del self._view.held[device][copy.id]
        copy.held_bytes = 0
        self._view.layout += 1
        del part.copies[copy.id]

    def make_bed(self, copy: ReplicaView) -> tuple[bool, list[ReplicaView]]:
        """Whether its weights may stay in host memory, and who sleeps there no more for it: those
        who have slept longest.
        """
        node, bed = self._nodes[copy.node_id], (copy.model, copy.node_id)
        if self._to_bed.get(bed) == copy.id:
            return True, []  # it failed to go a moment ago
        if bed in self._to_bed or copy.node_id in self._view.parts[copy.model].asleep:
            return False, []  # one of each is enough
        if node.capabilities.host_is_page_cache:
            self._to_bed[bed] = copy.id
            return True, []  # the system keeps files as it likes
        size = self._view.parts[copy.model].spec.weights_bytes
        if not self._keeps_in_host or size > node.host_memory_bytes:
            return False, []
        dropped: list[ReplicaView] = []
        for part in self._sleeping(node.id):
            if size <= self._host_bytes[node.id]:
                break
            sleeper = self.wake(part, node.id)
            assert sleeper is not None
            dropped.append(sleeper)
        if size > self._host_bytes[node.id]:
            return False, dropped  # others are on their way to bed
        self._host_bytes[node.id] -= size
        self._to_bed[bed] = copy.id
        return True, dropped

    def wake(self, part: ModelView, node_id: str) -> ReplicaView | None:
        """The sleeper of a model there, who sleeps no more; None: there is none."""
        sleeper = part.asleep.pop(node_id, None)
        if sleeper is None:
            return None
        capabilities = self._nodes[node_id].capabilities
        if not capabilities.host_is_page_cache:
            self._host_bytes[node_id] += part.spec.weights_bytes
        return sleeper

    def _sleeping(self, node_id: str) -> list[ModelView]:
        """Who has slept longest first."""
        found = [part for part in self._view.parts.values() if node_id in part.asleep]
        return sorted(found, key=lambda part: (part.asleep[node_id].used_ns, part.name))


def _excess(sleeping: list[ModelView], seat: DeviceView, residue: int) -> int:
    return max(0, len(sleeping) - seat.free_bytes // residue)
