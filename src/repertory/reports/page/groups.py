"""Runs that repeat one another, and what they come to together.

Runs of one system, workload, fleet and load are repeats: their seeds differ.  Of what they say, the
mean is shown, and the 95 % confidence interval of it by Student's t.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repertory.domain.workloads import Origin
from repertory.reports.figures import percent_text, rate_text, seconds_text
from repertory.reports.page.runs import RunDigest
from repertory.traces.summary import Figures

__all__ = ["COLUMNS", "Column", "Estimate", "Group", "Setting", "estimate", "group_runs"]

_T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The two-sided 95 % points of Student's t with 1, 2, ... 30 degrees of freedom."""
_T_NORMAL = 1.96
_SAME_LOAD = 0.1
_CHANCE = 4.0
"""Repeats offer loads within a tenth of each other, or what chance explains of so few requests:
the mean rate of n independent arrivals deviates by 1/sqrt(n); four times that is no chance."""


@dataclass(frozen=True, slots=True)
class Estimate:
    mean: float | None
    """None: at least one of the runs has no such value."""
    half: float | None = None
    """Of the confidence interval; None: one run says nothing of its like."""


def estimate(values: Sequence[float | None]) -> Estimate:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Estimate(None)
    count = len(known)
    mean = sum(known) / count
    if count == 1:
        return Estimate(mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / (count - 1))
    t = _T_95[count - 2] if count - 2 < len(_T_95) else _T_NORMAL
    return Estimate(mean, t * deviation / math.sqrt(count))


@dataclass(frozen=True, slots=True)
class Setting:
    """What makes runs comparable: only systems, loads and seeds differ."""

    origin: Origin
    workload: str
    fleet: str

    @property
    def words(self) -> str:
        return " · ".join(part for part in (self.workload, self.fleet) if part)


@dataclass(frozen=True, slots=True)
class Group:
    setting: Setting
    system: str
    runs: tuple[RunDigest, ...]
    level: int = 0
    """Of the loads of this setting and system, the how manieth."""

    @property
    def offered_per_s(self) -> float:
        return sum(run.offered_per_s for run in self.runs) / len(self.runs)

    @property
    def requests(self) -> int:
        return sum(run.summary.total.requests for run in self.runs)

    def estimate(self, value: Callable[[Figures], float | None]) -> Estimate:
        return estimate([value(run.summary.total) for run in self.runs])


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a table of groups."""

    name: str
    value: Callable[[Figures], float | None]
    text: Callable[[float | None], str]
    is_more_better: bool = False


def _done_share(figures: Figures) -> float | None:
    return figures.done / figures.requests if figures.requests else None


COLUMNS = (
    Column("TTFT p50", lambda one: one.ttft.p50_s, seconds_text),
    Column("TTFT p95", lambda one: one.ttft.p95_s, seconds_text),
    Column("TTFT p99", lambda one: one.ttft.p99_s, seconds_text),
    Column("TPOT p50", lambda one: one.tpot.p50_s, seconds_text),
    Column("TPOT p99", lambda one: one.tpot.p99_s, seconds_text),
    Column("Under 100 ms", lambda one: one.at_once_share, percent_text, is_more_better=True),
    Column("In SLO", lambda one: one.met_share, percent_text, is_more_better=True),
    Column("Goodput", lambda one: one.goodput_per_s, rate_text, is_more_better=True),
    Column("Done", _done_share, percent_text, is_more_better=True),
)


def group_runs(runs: Iterable[RunDigest]) -> list[Group]:
    """By setting in the order of the runs; there by load, then by the order of the runs."""
    kinds: dict[tuple[Setting, str, float], list[RunDigest]] = {}
    for run in runs:
        header = run.header
        setting = Setting(header.origin, header.workload, header.fleet)
        kinds.setdefault((setting, header.system, header.speed), []).append(run)
    groups: list[Group] = []
    for (setting, system, _), alike in kinds.items():
        groups += [
            Group(setting, system, tuple(sorted(level, key=_seed)), number)
            for number, level in enumerate(_levels(alike))
        ]
    order = {setting: at for at, setting in enumerate(dict.fromkeys(one.setting for one in groups))}
    groups.sort(key=lambda one: (order[one.setting], one.level))
    return groups


def _levels(runs: Sequence[RunDigest]) -> list[list[RunDigest]]:
    levels: list[list[RunDigest]] = []
    for run in sorted(runs, key=lambda one: (one.offered_per_s, one.path)):
        if levels and _is_same_load(levels[-1][0], run):
            levels[-1].append(run)
        else:
            levels.append([run])
    return levels


def _seed(run: RunDigest) -> tuple[int, Path]:
    return -1 if run.header.seed is None else run.header.seed, run.path


def _is_same_load(one: RunDigest, other: RunDigest) -> bool:
    fewest = max(1, min(one.summary.total.requests, other.summary.total.requests))
    within = max(_SAME_LOAD, _CHANCE / math.sqrt(fewest))
    return abs(other.offered_per_s - one.offered_per_s) <= within * max(one.offered_per_s, 1e-12)
