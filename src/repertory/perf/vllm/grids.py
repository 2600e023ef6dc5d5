"""Times read at points of a grid, and straight lines between them.

Kernel times are close to linear in tokens, contexts and batches between neighbouring points, and
jump where a kernel is exchanged for another: a fit through all points would smear that.  Beyond the
ends the last two points are carried on.  Grids need not be full: each line has its own points.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Grid", "grid_of"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Values over one axis or several; `below` are values, or grids over the axes that follow."""

    knots: tuple[float, ...]
    below: tuple["Grid | float", ...]

    def at(self, *where: float) -> float:
        """One number per axis.  Never below 0, however far the ends are carried on."""
        return max(0.0, self._at(where, 0))

    def _at(self, where: Sequence[float], axis: int) -> float:
        knots = self.knots
        if len(knots) == 1:
            return self._value(0, where, axis)
        x = where[axis]
        right = min(max(bisect_right(knots, x), 1), len(knots) - 1)
        left = right - 1
        if x == knots[left]:
            return self._value(left, where, axis)
        first, second = self._value(left, where, axis), self._value(right, where, axis)
        return first + (second - first) * (x - knots[left]) / (knots[right] - knots[left])

    def _value(self, index: int, where: Sequence[float], axis: int) -> float:
        found = self.below[index]
        return found._at(where, axis + 1) if isinstance(found, Grid) else found

    def last_knots(self) -> frozenset[float]:
        """Of the last axis: between two neighbours of these, `at` is a straight line along it."""
        return frozenset(self._last_knots())

    def _last_knots(self) -> Iterator[float]:
        for below in self.below:
            if isinstance(below, Grid):
                yield from below._last_knots()
            else:
                yield from self.knots
                return


def grid_of(points: Mapping[tuple[float, ...], float]) -> Grid:
    """At least one point, all with the same number of axes."""
    assert points, "a grid needs a point"
    by_first: dict[float, dict[tuple[float, ...], float]] = {}
    for where, value in points.items():
        by_first.setdefault(where[0], {})[where[1:]] = value
    knots = tuple(sorted(by_first))
    if len(next(iter(points))) == 1:
        return Grid(knots, tuple(by_first[knot][()] for knot in knots))
    return Grid(knots, tuple(grid_of(by_first[knot]) for knot in knots))
