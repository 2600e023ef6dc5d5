"""The cheapest fleets that meet an objective, by asking what becomes of some of them.

What a fleet comes to is asked from an oracle (`Ask`), a simulation or a test's own function; here
is only which fleets are asked about, and what is believed of the answers:

1. More devices of a type are taken to do no worse.  From the fewest that could do (`is_enough`)
   the number grows by ever larger steps until one meets, then the gap is halved.
2. Noise makes that untrue at the edge: the next two below what was found are tried too, and the
   smaller one is taken if it meets.
3. What nobody knows by its seeds (`judging`) is asked about with as many again, once, if that can
   still make it good.  What nobody knows then is not called met.
4. A run far from enough decides alone.
5. What costs no less than the cheapest that meets is not tried.  Once there is one, the largest
   that costs less is asked about first: where it does not meet, the smaller ones do not.
6. Where more devices changed nothing, still more do not either.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, permutations
from statistics import fmean

from repertory.sim.planning.evidence import Evidence
from repertory.sim.planning.judging import Standing, Trial, can_still_meet, first_look, judge

__all__ = [
    "LOAD_STEP",
    "LOAD_STEPS",
    "Ask",
    "Choice",
    "Judged",
    "Offer",
    "Plan",
    "Planner",
    "Search",
    "first_choices",
    "least",
    "line_of",
]

LOAD_STEP = 1.05
"""How exactly the load is found that a fleet still bears."""
LOAD_STEPS = 28
"""Up to four times the load: who has more room than that has no margin to speak of."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A type of device that can be had."""

    name: str
    usd_per_h: float
    """For each."""
    counts: tuple[int, ...]
    """In which numbers, ascending."""


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """A fleet: how many devices of which types, by their names."""

    parts: tuple[tuple[str, int], ...]

    @property
    def words(self) -> str:
        return " + ".join(f"{count}x {name}" for name, count in self.parts)

    @property
    def devices(self) -> int:
        return sum(count for _, count in self.parts)

    def is_within(self, other: "Choice") -> bool:
        """It has no more of anything."""
        more = dict(other.parts)
        return all(count <= more.get(name, 0) for name, count in self.parts)


@dataclass(frozen=True, slots=True)
class Judged:
    """A fleet under a load, and what its runs say."""

    choice: Choice
    usd_per_h: float
    load: float
    standing: Standing
    trials: tuple[Trial, ...]

    def reach(self, wanted: Sequence[float]) -> float:
        """How near it comes, by its worst term; 1: it is there."""
        means = _means(self.trials, len(wanted))
        return min((mean / share for mean, share in zip(means, wanted, strict=True)), default=1.0)

    @property
    def is_met(self) -> bool:
        return self.standing is Standing.MEETS

    def is_like(self, other: "Judged") -> bool:
        """All that was measured of answers is the same; a run that was cut was not measured."""
        mine, others = ([(one.met, one.at_s) for one in each.trials] for each in (self, other))
        is_known = all(None not in at_s for _, at_s in mine)
        return mine == others and is_known and not any(one.is_cut for one in self.trials)

    @property
    def evidence(self) -> Evidence:
        return Evidence.of([one.evidence for one in self.trials])


Ask = Callable[[Choice, float, Sequence[int]], Sequence[Trial]]
"""A fleet, how many times the workload's load, and seeds: a run for each."""


@dataclass(frozen=True, slots=True)
class Planner:
    """What a search is given."""

    offers: tuple[Offer, ...]
    wanted: tuple[float, ...]
    """For each term of the objective, the share of answers within its limit."""
    seeds: range
    is_enough: Callable[[Choice], bool]
    """A bound that costs nothing: False where no run is needed to know.  Monotone."""
    most_devices: int
    has_mixes: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What has been found; after an interruption, so far."""

    best: Judged | None
    """The cheapest that meets."""
    holds_load: float | None
    """It still meets the objective at so many times the load; None: that was not reached."""
    breaks: Judged | None
    """The first load that it does not bear; None: it bears the most that was tried."""
    tried: tuple[Judged, ...]
    """By price, at the workload's own load."""
    too_dear: tuple[str, ...]
    """Types of which nothing was tried: the fewest that could do cost no less than the best."""
    trials: int
    is_whole: bool


class Search:
    """`run` looks; `plan` is what it knows at any time, also while it is interrupted."""

    def __init__(
        self, planner: Planner, ask: Ask, tell: Callable[[Plan], None] = lambda plan: None
    ) -> None:
        self._planner = planner
        self._ask = ask
        self._tell = tell
        self._prices = {offer.name: offer.usd_per_h for offer in planner.offers}
        self._judged: dict[tuple[Choice, float], Judged] = {}
        self._best: Judged | None = None
        self._holds_load: float | None = None
        self._breaks: Judged | None = None
        self._too_dear: list[str] = []
        self._trials = 0
        self._is_whole = False

    def run(self) -> Plan:
        lines = [(offer, line_of(offer, self._planner)) for offer in self._planner.offers]
        possible = [(offer, line) for offer, line in lines if line]
        for offer, line in sorted(possible, key=lambda each: self._order(each[1][0])):
            cheaper = self._cheaper(line)
            if not cheaper:
                self._too_dear.append(offer.name)
            self._cheapest_of(cheaper)
        if self._planner.has_mixes:
            for one, other in combinations(self._planner.offers, 2):
                self._mix(one, other)
        if self._best is not None:
            self._look_around(self._best)
            self._find_margin(self._best)
        self._is_whole = True
        return self.plan

    @property
    def plan(self) -> Plan:
        tried = [one for (_, load), one in self._judged.items() if load == 1.0]
        return Plan(
            best=self._best,
            holds_load=self._holds_load,
            breaks=self._breaks,
            tried=tuple(sorted(tried, key=lambda one: (one.usd_per_h, one.choice))),
            too_dear=tuple(self._too_dear),
            trials=self._trials,
            is_whole=self._is_whole,
        )

    def price(self, choice: Choice) -> float:
        """Rounded: sums of other parts may be the same price, and differ in the last digit."""
        return round(sum(count * self._prices[name] for name, count in choice.parts), 6)

    def _order(self, choice: Choice) -> tuple[float, Choice]:
        return self.price(choice), choice

    def _cheaper(self, line: Sequence[Choice]) -> list[Choice]:
        best = self._best
        return [one for one in line if best is None or self.price(one) < best.usd_per_h]

    def _cheapest_of(self, line: Sequence[Choice]) -> None:
        """Of choices that only grow.  Within a fleet of two types that failed, none is tried."""

        def meets(at: int) -> bool:
            choice = line[at]
            if len(choice.parts) > 1 and self._is_known_too_small(choice):
                return False
            if (choice, 1.0) not in self._judged and self._has_more_of_no_use(choice):
                return False
            return self._judge(choice, 1.0).is_met

        if not line or (self._best is not None and not meets(len(line) - 1)):
            return
        found = least(meets, 0, len(line) - 1)
        if found is not None:
            self._best = self._judge(line[found], 1.0)
            self._tell(self.plan)

    def _has_more_of_no_use(self, choice: Choice) -> bool:
        """Two fleets within it did not meet: one with more, and alike to the last digit."""
        smaller = [
            tried
            for (other, load), tried in self._judged.items()
            if load == 1.0 and not tried.is_met and other != choice and other.is_within(choice)
        ]
        return any(
            one.is_like(more) and one.choice.is_within(more.choice)
            for one, more in permutations(smaller, 2)
        )

    def _mix(self, one: Offer, other: Offer) -> None:
        """For each number of the type that can be had in fewer, the fewest of the other."""
        possible = [len(self._cheaper(line_of(each, self._planner))) for each in (one, other)]
        if possible[0] > possible[1]:
            one, other = other, one
        for line in _mixed(one, other, self._planner, self._cheaper):
            self._cheapest_of(line)

    def _is_known_too_small(self, choice: Choice) -> bool:
        return any(
            choice.is_within(tried.choice)
            for (_, load), tried in self._judged.items()
            if load == 1.0 and tried.standing is not Standing.MEETS and tried.choice != choice
        )

    def _look_around(self, best: Judged) -> None:
        """The next larger one should meet too; if not, whoever reads the table sees it."""
        if len(best.choice.parts) == 1:
            ((name, count),) = best.choice.parts
            offers = {offer.name: offer for offer in self._planner.offers}
            larger = [
                choice for choice in line_of(offers[name], self._planner) if choice.devices > count
            ]
            for choice in larger[:1]:
                self._judge(choice, 1.0)

    def _find_margin(self, best: Judged) -> None:
        def breaks(step: int) -> bool:
            return self._at_load(best, step).standing is not Standing.MEETS

        found = least(breaks, 1, LOAD_STEPS)
        self._holds_load = LOAD_STEP ** ((LOAD_STEPS + 1 if found is None else found) - 1)
        self._breaks = None if found is None else self._at_load(best, found)

    def _at_load(self, best: Judged, step: int) -> Judged:
        return self._judge(best.choice, LOAD_STEP**step)

    def _judge(self, choice: Choice, load: float) -> Judged:
        known = self._judged.get((choice, load))
        if known is not None:
            return known
        wanted, seeds = self._planner.wanted, self._planner.seeds
        again = range(seeds.stop, seeds.stop + len(seeds))
        trials: list[Trial] = []
        standing = Standing.UNSURE
        for more in (seeds[:1], seeds[1:], again if len(seeds) > 1 else range(0)):
            if not more or standing is not Standing.UNSURE:
                continue
            if more is again and not can_still_meet(trials, wanted, len(again)):
                continue
            trials += self._ask(choice, load, more)
            self._trials += len(more)
            is_alone = len(trials) == 1 < len(seeds)
            standing = first_look(trials[0], wanted) if is_alone else judge(trials, wanted)
        found = Judged(choice, self.price(choice), load, standing, tuple(trials))
        self._judged[choice, load] = found
        self._tell(self.plan)
        return found


def _means(trials: Sequence[Trial], terms: int) -> Iterator[float]:
    return (fmean(trial.met[at] for trial in trials) for at in range(terms))


def least(is_true: Callable[[int], bool], first: int, last: int) -> int | None:
    """The least number for which it is true, if it stays true from there on.  Where it does not
    quite: one for which it is true, and for the two below it is not.
    """
    low, high, step = first - 1, first, 1
    while not is_true(high):
        if high == last:
            return None
        low, high, step = high, min(last, high + step), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_true(middle) else (middle, high)
    while True:
        below = [at for at in (high - 2, high - 1) if at >= first and is_true(at)]
        if not below:
            return high
        high = below[0]


def first_choices(planner: Planner) -> list[Choice]:
    """Of each type that can do alone, the smallest fleet; else the first mix that could do."""
    lines = [line_of(offer, planner) for offer in planner.offers]
    found = [line[0] for line in lines if line]
    if not found and planner.has_mixes:
        pairs = combinations(planner.offers, 2)
        mixes = (line for one, other in pairs for line in _mixed(one, other, planner, list) if line)
        found = [line[0] for line in islice(mixes, 1)]
    return found


def line_of(offer: Offer, planner: Planner) -> list[Choice]:
    """Of one type, all that could do."""
    choices = [Choice(((offer.name, count),)) for count in offer.counts]
    return [one for one in choices if _is_possible(one, planner)]


def _mixed(
    one: Offer,
    other: Offer,
    planner: Planner,
    cheaper: Callable[[Sequence[Choice]], list[Choice]],
) -> Iterator[list[Choice]]:
    """For each number of the one, what could do with more and more of the other.  To ask whether
    it could takes the making of a fleet, so it is halved.
    """
    for count in one.counts:
        parts = ((more, ((one.name, count), (other.name, more))) for more in other.counts)
        choices = [
            Choice(tuple(sorted(both)))
            for more, both in parts
            if count + more <= planner.most_devices
        ]
        affordable = cheaper(choices)
        first = bisect_left(affordable, True, key=planner.is_enough)
        yield affordable[first:]


def _is_possible(choice: Choice, planner: Planner) -> bool:
    return choice.devices <= planner.most_devices and planner.is_enough(choice)
