"""llama-server as a router (`--models-max N`), read in its source and measured in November 2026.

One child process per model, at most N of them on a machine.  Whoever asks for another waits until
the least recently used child *that has nothing to do* is ended: by count, whatever anything weighs,
and never a busy one.  Each child has a fixed number of slots (`-np`); requests beyond them wait
inside of it, first come first served.
"""

from collections.abc import Mapping

from repertory.domain.requests import Request
from repertory.policy.baselines.view import Bring, Dismiss, Move, View, full_slots, need_bytes

__all__ = ["LruCount"]


class LruCount:
    """1. Who waits longest is first.
    2. Fewer than N children: one more, where most memory is free.
    3. Else the idle child that was used least recently goes, one per model that waits.
    """

    name = "lru-count"
    keeps_in_host = False
    minds_tokens = False

    def __init__(self, most: int | Mapping[str, int] = 4, slots: int = 4) -> None:
        """`most` per node: `--models-max`, 4 unless told; `slots`: `-np`, 4 unless told."""
        self.most = most
        self.slots = slots

    def moves(self, view: View, at_ns: int) -> list[Move]:
        missing = view.missing()  # 1
        if not missing:
            return []
        nodes = sorted({device.node_id for device in view.devices.values()})
        up = {node: [one for one in view.replicas if one.node_id == node] for node in nodes}
        spec = missing[0].spec
        spare = [
            group
            for group in view.groups(spec)
            if len(up[group.node_id]) < self._most(group.node_id)
        ]
        if spare:  # 2
            group = min(
                spare, key=lambda one: (len(up[one.node_id]), one.node_id, -one.free_bytes, one.id)
            )
            node = group.node_id
            kv = full_slots(spec, self.slots, group.free_bytes)
            if need_bytes(spec, kv) <= group.free_bytes:
                why = f"{len(up[node])} of {self._most(node)} run"
                return [Bring(spec.name, group.devices, kv, why)]
        leaving = sum(one.is_leaving for one in view.replicas)
        idle = sorted((one.used_ns, one.id) for one in view.replicas if one.is_idle)
        wanted = max(0, len(missing) - leaving)
        return [Dismiss(name, "least recently used of the idle") for _, name in idle[:wanted]]  # 3

    def wake_ns(self, view: View, at_ns: int) -> int | None:
        return None

    def refuses(self, view: View, request: Request) -> str | None:
        return None

    def _most(self, node_id: str) -> int:
        return self.most if isinstance(self.most, int) else self.most.get(node_id, 1)
