"""The memory ledger of one pool: a device, or a node's host memory.

Bytes are reserved before an action and corrected after it.  What replicas hold is *charged*; what
a placement under way will still need is *promised*; what victims will give back is *releasing*.
"""

from enum import Enum

__all__ = ["Charge", "Ledger"]


class Charge(Enum):
    """What a replica's bytes are for."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    WEIGHTS = "weights"
    KV = "kv"
    BUFFERS = "buffers"
    PEAK = "peak"
    """Transient: only while a transition runs."""
    RESIDUE = "residue"
    """What a sleeping replica keeps on the device."""


class Ledger:
    """Charges by (replica, kind), with running sums.  Never over budget by a reservation."""

    __slots__ = (
        "_charges",
        "_promised",
        "_releasing",
        "available_bytes",
        "budget_bytes",
        "charged",
        "peak",
        "pool",
        "promised",
        "releasing",
    )

    def __init__(self, pool: str, budget_bytes: int) -> None:
        self.pool = pool
        self.budget_bytes = budget_bytes
        self.charged = 0
        self.promised = 0
        self.releasing = 0
        self.available_bytes = budget_bytes
        """What a new placement may count on: free, plus releasing, less promised.  A running sum,
        as these are: it is read for every device whenever somebody becomes idle."""
        self.peak = 0
        """The most that was ever charged."""
        self._charges: dict[str, dict[Charge, int]] = {}
        self._promised: dict[str, int] = {}
        self._releasing: dict[str, int] = {}

    @property
    def free_bytes(self) -> int:
        """Nobody holds these now."""
        return self.budget_bytes - self.charged

    @property
    def spare_bytes(self) -> int:
        """Free now, and nobody counts on them."""
        return self.budget_bytes - self.charged - max(0, self.promised - self.releasing)

    @property
    def is_overrun(self) -> bool:
        """A measurement turned out larger than its reservation, and room must be made."""
        return self.charged > self.budget_bytes

    def of(self, owner: str, kind: Charge) -> int:
        held = self._charges.get(owner)
        return held.get(kind, 0) if held is not None else 0

    def held_by(self, owner: str) -> int:
        held = self._charges.get(owner)
        return sum(held.values()) if held is not None else 0

    def reserve(self, owner: str, kind: Charge, size_bytes: int) -> None:
        """Before an action.  Refusing what does not fit is the planner's work, done before."""
        assert size_bytes <= self.free_bytes, (
            f"{self.pool}: {owner} reserves {size_bytes} of {self.free_bytes} free bytes"
        )
        self._set(owner, kind, self.of(owner, kind) + size_bytes)

    def correct(self, owner: str, kind: Charge, size_bytes: int) -> None:
        """After an action: what was read back.  May overrun the budget; see `is_overrun`."""
        self._set(owner, kind, size_bytes)

    def release(self, owner: str, *kinds: Charge) -> None:
        for kind in kinds or tuple(self._charges.get(owner, ())):
            self._set(owner, kind, 0)

    def promise(self, owner: str, size_bytes: int) -> None:
        more = size_bytes - self._promised.get(owner, 0)
        self.promised += more
        self.available_bytes -= more
        self._promised[owner] = size_bytes

    def promised_to(self, owner: str) -> int:
        return self._promised.get(owner, 0)

    def keep_promise(self, owner: str) -> None:
        """The promised bytes become reservations, or are no longer wanted."""
        kept = self._promised.pop(owner, 0)
        self.promised -= kept
        self.available_bytes += kept

    def expect(self, owner: str, size_bytes: int) -> None:
        """A victim will give back so much."""
        more = size_bytes - self._releasing.get(owner, 0)
        self.releasing += more
        self.available_bytes += more
        self._releasing[owner] = size_bytes

    def expected_from(self, owner: str) -> int:
        return self._releasing.get(owner, 0)

    def stop_expecting(self, owner: str) -> None:
        gone = self._releasing.pop(owner, 0)
        self.releasing -= gone
        self.available_bytes -= gone

    def check(self) -> None:
        """The running sums are the sums, and nothing is negative."""
        sizes = [size for held in self._charges.values() for size in held.values()]
        assert self.charged == sum(sizes), f"{self.pool}: the sum is wrong"
        assert self.promised == sum(self._promised.values()), f"{self.pool}: promises"
        assert self.releasing == sum(self._releasing.values()), f"{self.pool}: releases"
        expected = self.budget_bytes - self.charged + self.releasing - self.promised
        assert self.available_bytes == expected, f"{self.pool}: what is available"
        assert all(size > 0 for size in sizes), f"{self.pool}: empty charges"
        assert all(self._charges.values()), f"{self.pool}: empty owners"
        assert all(size >= 0 for size in self._promised.values())
        assert all(size >= 0 for size in self._releasing.values())

    def owners(self) -> set[str]:
        return set(self._charges)

    def claimants(self) -> set[str]:
        return set(self._promised)

    def leavers(self) -> set[str]:
        return set(self._releasing)

    def _set(self, owner: str, kind: Charge, size_bytes: int) -> None:
        assert size_bytes >= 0, f"{self.pool}: {owner} {kind.value} {size_bytes}"
        held = self._charges.setdefault(owner, {})
        more = size_bytes - held.get(kind, 0)
        self.charged += more
        self.available_bytes -= more
        self.peak = max(self.peak, self.charged)
        if size_bytes:
            held[kind] = size_bytes
        else:
            held.pop(kind, None)
            if not held:
                del self._charges[owner]
