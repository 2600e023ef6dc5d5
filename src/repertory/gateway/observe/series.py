"""Counters and histograms as plain numbers.

All of them are written and read by the one thread of the server's event loop, so none has a lock:
a token costs a histogram a search and two additions.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from repertory.gateway.observe.catalogue import Family

__all__ = ["Counters", "Histograms", "Series", "Spread", "Sum"]


class Sum:
    """A counter's one series."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        self.value += amount


class Spread:
    """A histogram's one series."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Per bucket, not added up; the last one has no bound."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


_One = TypeVar("_One", Sum, Spread)


class Series(Generic[_One]):
    """One family's series by their labels."""

    def __init__(self, family: Family, make: Callable[[], _One]) -> None:
        self.family = family
        self._make: Callable[[], _One] = make
        self._series: dict[tuple[str, ...], _One] = {}

    def of(self, *labels: str) -> _One:
        """The series of these labels, in the family's order."""
        found = self._series.get(labels)
        if found is None:
            assert len(labels) == len(self.family.labels), self.family.name
            found = self._series[labels] = self._make()
        return found

    def items(self) -> Iterator[tuple[tuple[str, ...], _One]]:
        yield from self._series.items()

    def keep(self, label: str, names: frozenset[str]) -> None:
        """Forget the series whose `label` is none of `names`; an empty one stands for nobody."""
        if label not in self.family.labels:
            return
        at = self.family.labels.index(label)
        gone = [labels for labels in self._series if labels[at] and labels[at] not in names]
        for labels in gone:
            del self._series[labels]


class Counters(Series[Sum]):
    def __init__(self, family: Family) -> None:
        super().__init__(family, Sum)


class Histograms(Series[Spread]):
    def __init__(self, family: Family) -> None:
        super().__init__(family, lambda: Spread(family.bounds))
