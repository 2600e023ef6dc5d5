"""How many runs a search will take, before it begins: at the very most, and about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log2

from repertory.sim.planning.evidence import Evidence
from repertory.sim.planning.search import (
    LOAD_STEPS,
    Choice,
    Planner,
    Search,
    Trial,
    line_of,
)

__all__ = ["Outlook", "most_trials", "outlook"]

_USUAL = 2.5
"""So many times the fewest devices that could do are what was needed in the end, about: 1.7 to 3.5
in the plans of docs/results/capacity.md."""
_CUT = 0.3
"""Of a run: how far one comes that is stopped because it fails."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """If fleets meet from some size on, and nobody is unsure."""

    trials: int
    turns: float
    """Whole runs, one after another: on several cores, seeds are side by side."""


def outlook(planner: Planner, cores: int) -> Outlook:
    """A search is made with an oracle that knows nothing but the bound."""
    lines = {offer.name: line_of(offer, planner) for offer in planner.offers}
    fewest = {name: line[0].devices for name, line in lines.items() if line}
    turns = 0.0

    def ask(choice: Choice, load: float, seeds: Sequence[int]) -> Sequence[Trial]:
        nonlocal turns
        strength = sum(count / fewest[name] for name, count in choice.parts if name in fewest)
        is_met = strength >= _USUAL * load
        turns += ceil(len(seeds) / cores) * (1.0 if is_met else _CUT)
        met = tuple(float(is_met) for _ in planner.wanted)
        return [Trial(met, (), Evidence({}), 0, is_cut=not is_met) for _ in seeds]

    plan = Search(planner, ask).run()
    return Outlook(plan.trials, turns)


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
