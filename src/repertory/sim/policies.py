"""Who decides: by the name of a policy, a brain behind the door `handle(event) -> [Action]`."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from repertory.core.controller import Controller
from repertory.core.costbook import CostBook, ProfileSource
from repertory.core.rivals.rival import Rival
from repertory.domain.decisions import Decision
from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet
from repertory.domain.settings import Favour, Settings
from repertory.domain.workloads import Arrival
from repertory.sim.driver import Brain
from repertory.sim.rivals import RULES, Knowledge, RuleOf

__all__ = ["POLICIES", "Means", "Policy", "brain_of", "check_policy"]


@dataclass(frozen=True, slots=True)
class Means:
    """What a brain is made with."""

    record: Callable[[Decision], None]
    """Told every step."""
    profile: ProfileSource
    """What it believes of costs before it has seen any."""
    fleet: Fleet
    again: Callable[[], Iterable[Arrival]] | None = None
    """Opens the workload once more, for the rules that know of it beforehand; ours does not."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to decide."""

    make: Callable[[Means], Brain]
    settings: Settings = field(default_factory=Settings)
    """Of our own brain; they stand at the head of a decision log."""


def _repertory(favour: Favour) -> Policy:
    settings = Settings(favour=favour)

    def make(means: Means) -> Brain:
        return Controller(settings, means.record, CostBook(means.profile))

    return Policy(make, settings)


def _rival(rule_of: RuleOf) -> Policy:
    def make(means: Means) -> Brain:
        return Rival(rule_of(Knowledge(means.fleet, means.profile, means.again)), means.record)

    return Policy(make)


POLICIES: Mapping[str, Policy] = {
    "repertory": _repertory(Favour.BALANCED),
    "repertory:latency": _repertory(Favour.LATENCY),
    "repertory:throughput": _repertory(Favour.THROUGHPUT),
    **{name: _rival(rule_of) for name, rule_of in RULES.items()},
}
"""Ours in three moods, and the rules of other systems."""


def brain_of(policy: str, means: Means) -> Brain:
    return POLICIES[policy].make(means)


def check_policy(policy: str) -> None:
    """`ConfigError` for one that nobody knows."""
    if policy not in POLICIES:
        near = difflib.get_close_matches(policy, POLICIES, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(POLICIES)}"
        raise ConfigError(f"no policy is called {policy!r}; {hint}")
