"""How many runs a search will take, before it begins: at the very most, and about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, inf, log2

from repertory.sim.planning.evidence import Evidence
from repertory.sim.planning.judging import Trial
from repertory.sim.planning.search import (
    LOAD_STEPS,
    Choice,
    Planner,
    Search,
    line_of,
)

__all__ = ["Outlook", "most_trials", "outlook"]

_USUAL = 2.5
"""So many times the fewest devices that could do are needed in the end, or about."""
_NEAR = 0.85
"""From this part of them on seeds disagree."""
_CUT = 0.3
"""Of a run: how far one comes that is stopped because it fails."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Turns are whole runs, one after another: on several cores, seeds are side by side."""

    trials: int
    turns: Mapping[str, float]
    """Of each type alone."""
    more_turns: float
    """Of mixes, and of the margin."""


class _Guess:
    """An oracle that knows the bound, and takes all fleets of a strength to be alike."""

    def __init__(self, planner: Planner, cores: int, at_most: float) -> None:
        lines = {offer.name: line_of(offer, planner) for offer in planner.offers}
        self._fewest = {name: line[0].devices for name, line in lines.items() if line}
        self._terms = len(planner.wanted)
        self._cores, self._at_most = cores, at_most
        self.trials, self.turns = 0, 0.0

    def ask(self, choice: Choice, load: float, seeds: Sequence[int]) -> Sequence[Trial]:
        known = ((count, self._fewest.get(name)) for name, count in choice.parts)
        strength = sum(count / fewest for count, fewest in known if fewest) / load
        is_cut = strength < _USUAL * _NEAR
        if load <= self._at_most:
            self.trials += len(seeds)
            self.turns += ceil(len(seeds) / self._cores) * (_CUT if is_cut else 1.0)
        return [self._trial(strength, seed, is_cut=is_cut) for seed in seeds]

    def _trial(self, strength: float, seed: int, *, is_cut: bool) -> Trial:
        is_met = strength >= _USUAL or (not is_cut and seed % 2 == 0)
        return Trial((float(is_met),) * self._terms, (), Evidence({}), 0, is_cut)


def outlook(planner: Planner, cores: int) -> Outlook:
    """As if every type were searched to its end; then what is asked about mixes and the margin."""
    alone = {
        offer.name: _guessed(replace(planner, offers=(offer,), has_mixes=False), cores, at_most=1.0)
        for offer in planner.offers
    }
    whole = _guessed(planner, cores)
    types = _guessed(replace(planner, has_mixes=False), cores, at_most=1.0)
    return Outlook(
        trials=sum(one.trials for one in alone.values()) + whole.trials - types.trials,
        turns={name: one.turns for name, one in alone.items()},
        more_turns=whole.turns - types.turns,
    )


def _guessed(planner: Planner, cores: int, at_most: float = inf) -> _Guess:
    """Runs up to a load are counted."""
    guess = _Guess(planner, cores, at_most)
    Search(planner, guess.ask).run()
    return guess


def most_trials(planner: Planner) -> Mapping[str, int]:
    """How many runs there can be, by what for; unless noise leads further down than two steps."""
    each = len(planner.seeds) * (2 if len(planner.seeds) > 1 else 1)
    most = {offer.name: each * _looks(len(line_of(offer, planner))) for offer in planner.offers}
    if planner.has_mixes:
        most["mixes"] = each * sum(
            len(one.counts) * _looks(len(other.counts))
            for one, other in combinations(planner.offers, 2)
        )
    most["margin"] = each * (1 + _looks(LOAD_STEPS))
    return most


def _looks(candidates: int) -> int:
    """Growing, halving, and one more below; the largest, where that is asked about first."""
    if candidates < 4:
        return candidates
    return min(candidates, 2 * ceil(log2(candidates)) + 3)
