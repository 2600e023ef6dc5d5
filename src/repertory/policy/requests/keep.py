"""What to keep of what was computed, where not all of it fits: GreedyDual-Size (Cao & Irani 1997).

A thing is worth what computing it again would cost per byte, above the worth of the last one that
was given up.  So what nobody asks for ages, at the pace of the pressure, and needs no clock.
"""

from dataclasses import dataclass

__all__ = ["Keep"]


@dataclass(slots=True)
class _Kept:
    size_bytes: int
    cost_s: float
    worth: float


class Keep:
    """Names, sizes and costs of what is kept within `budget_bytes`."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._kept: dict[str, _Kept] = {}
        self._floor = 0.0
        self.total_bytes = 0

    def put(self, name: str, size_bytes: int, cost_s: float) -> tuple[str, ...]:
        """Keep it, `cost_s` being what it takes to compute again; the names that are given up.

        1. What is larger than the budget is not kept.
        2. The least worth per byte goes first; equal ones by name.  That may be the new one.
        3. One that is kept already has its new size and cost.
        """
        assert size_bytes > 0, f"{name} has no bytes"
        self.drop(name)
        if size_bytes > self.budget_bytes:
            return (name,)
        self._kept[name] = _Kept(size_bytes, cost_s, self._floor + cost_s / size_bytes)
        self.total_bytes += size_bytes
        gone: list[str] = []
        while self.total_bytes > self.budget_bytes:
            least = min(self._kept, key=lambda one: (self._kept[one].worth, one))
            self._floor = self._kept[least].worth
            self.drop(least)
            gone.append(least)
        return tuple(gone)

    def use(self, name: str) -> None:
        """It was asked for: it is as fresh as a new one."""
        kept = self._kept[name]
        kept.worth = self._floor + kept.cost_s / kept.size_bytes

    def drop(self, name: str) -> None:
        """It is gone; unknown names are no error."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            self.total_bytes -= kept.size_bytes
