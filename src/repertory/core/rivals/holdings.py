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
        for device in self._view.devices.values():
            here = {
                one.id: one for one in self._view.replicas if device.id in one.placement.devices
            }
            assert here == self._view.held.get(device.id, {}), device.id
            held = sum(replica.held_bytes for replica in here.values())
            sleepers = [
                sleeper
                for model in self._view.models.values()
                for sleeper in model.asleep.values()
                if device.id in sleeper.placement.devices
            ]
            residue = self._nodes[device.node_id].capabilities.asleep_residue_bytes
            assert held + device.free_bytes == device.spec.memory_bytes, device.id
            assert device.free_bytes >= residue * len(sleepers), device.id
        assert all(size >= 0 for size in self._host_bytes.values())

    def add_node(self, node: NodeSpec) -> None:
        self._nodes[node.id] = node
        self._host_bytes[node.id] = node.host_memory_bytes
        for device in node.devices:
            self._view.devices[device.id] = DeviceView(device, node.id, device.memory_bytes)
        self._view.rearranged()

    def lose_node(self, node_id: str) -> list[ReplicaView]:
        """What was there, sleepers but for."""
        node = self._nodes.pop(node_id)
        del self._host_bytes[node_id]
        for device in node.devices:
            del self._view.devices[device.id]
            self._view.held.pop(device.id, None)
        self._view.rearranged()
        lost = [replica for replica in self._view.replicas if replica.node_id == node_id]
        for replica in lost:
            del self._view.models[replica.model].replicas[replica.id]
            self._to_bed.pop((replica.model, node_id), None)
        for model in self._view.models.values():
            model.asleep.pop(node_id, None)
        return lost

    def hold(self, replica: ReplicaView, size_bytes: int) -> list[ReplicaView]:
        """On each of its devices; what does not fit is the rule's mistake.  Returns the sleepers
        that were in the way, and sleep there no more: those who have slept longest.
        """
        dropped: list[ReplicaView] = []
        for device_id in replica.placement.devices:
            device = self._view.devices[device_id]
            assert size_bytes <= device.free_bytes, (
                f"{replica.id} takes {size_bytes} of {device.free_bytes} free bytes of {device.id}"
            )
            device.free_bytes -= size_bytes
            self._view.held.setdefault(device_id, {})[replica.id] = replica
            dropped += self._squeezed(device)
        replica.held_bytes = size_bytes
        self._view.layout += 1
        return dropped

    def _squeezed(self, device: DeviceView) -> list[ReplicaView]:
        """Sleepers whose residues are more than what is free of their device."""
        residue = self._nodes[device.node_id].capabilities.asleep_residue_bytes
        if not residue:
            return []
        there = [
            model
            for model in self._sleeping(device.node_id)
            if device.id in model.asleep[device.node_id].placement.devices
        ]
        found = [
            self.wake(model, device.node_id) for model in there[: _excess(there, device, residue)]
        ]
        return [one for one in found if one is not None]

    def let_go(self, model: ModelView, replica: ReplicaView, *, is_asleep: bool) -> None:
        """It is up no more."""
        if is_asleep:
            replica.rung, replica.is_leaving = Rung.HOST, False
            del self._to_bed[replica.model, replica.node_id]
            model.asleep[replica.node_id] = replica
        for device in replica.placement.devices:
            self._view.devices[device].free_bytes += replica.held_bytes
            del self._view.held[device][replica.id]
        replica.held_bytes = 0
        self._view.layout += 1
        del model.replicas[replica.id]

    def make_bed(self, replica: ReplicaView) -> tuple[bool, list[ReplicaView]]:
        """Whether its weights may stay in host memory, and who sleeps there no more for it: those
        who have slept longest.
        """
        node, bed = self._nodes[replica.node_id], (replica.model, replica.node_id)
        if self._to_bed.get(bed) == replica.id:
            return True, []  # it failed to go a moment ago
        if bed in self._to_bed or replica.node_id in self._view.models[replica.model].asleep:
            return False, []  # one of each is enough
        if node.capabilities.host_is_page_cache:
            self._to_bed[bed] = replica.id
            return True, []  # the system keeps files as it likes
        size = self._view.models[replica.model].spec.weights_bytes
        if not self._keeps_in_host or size > node.host_memory_bytes:
            return False, []
        dropped: list[ReplicaView] = []
        for model in self._sleeping(node.id):
            if size <= self._host_bytes[node.id]:
                break
            sleeper = self.wake(model, node.id)
            assert sleeper is not None
            dropped.append(sleeper)
        if size > self._host_bytes[node.id]:
            return False, dropped  # others are on their way to bed
        self._host_bytes[node.id] -= size
        self._to_bed[bed] = replica.id
        return True, dropped

    def wake(self, model: ModelView, node_id: str) -> ReplicaView | None:
        """The sleeper of a model there, who sleeps no more; None: there is none."""
        sleeper = model.asleep.pop(node_id, None)
        if sleeper is None:
            return None
        capabilities = self._nodes[node_id].capabilities
        if not capabilities.host_is_page_cache:
            self._host_bytes[node_id] += model.spec.weights_bytes
        return sleeper

    def _sleeping(self, node_id: str) -> list[ModelView]:
        """Who has slept longest first."""
        found = [model for model in self._view.models.values() if node_id in model.asleep]
        return sorted(found, key=lambda model: (model.asleep[node_id].used_ns, model.name))


def _excess(sleeping: list[ModelView], device: DeviceView, residue: int) -> int:
    return max(0, len(sleeping) - device.free_bytes // residue)
