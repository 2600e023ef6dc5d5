"""Runs that answer one question: is this fleet enough?  Many at once, and none longer than needed.

A run ends as soon as so many answers were late that all that are left could not make it good.
"""

import multiprocessing
import resource
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import inf
from multiprocessing.synchronize import Event
from types import TracebackType
from typing import Self

import numpy as np

from repertory.domain.errors import RepertoryError
from repertory.domain.workloads import Arrival, Ending, RequestRecord
from repertory.sim.many import deaf_to_ctrl_c
from repertory.sim.planning.evidence import Watch
from repertory.sim.planning.judging import Trial
from repertory.sim.planning.stretches import Stretch
from repertory.sim.play import Scenario, play
from repertory.traces.summary import Slo

__all__ = ["Cost", "Crew", "Task", "Term", "cost_of", "run_task", "terms_of"]

_HOPELESS = 3.0
"""So many times as many late answers as all requests may have: more than `planning` calls far."""
_FEW = 20
"""Late answers that say nothing yet, however short a run is."""
_LOOKS_S = 0.2
"""How long answers are waited for before it is asked again whether to stop."""


@dataclass(frozen=True, slots=True)
class Term:
    """One limit of an objective."""

    name: str
    share: float
    limit_s: float


def terms_of(slo: Slo) -> tuple[Term, ...]:
    pairs = (("TTFT", slo.ttft_share, slo.ttft_s), ("TPOT", slo.tpot_share, slo.tpot_s))
    return tuple(
        Term(f"{name} p{share * 100:.10g}", share, limit_s)
        for name, share, limit_s in pairs
        if limit_s is not None
    )


@dataclass(frozen=True, slots=True)
class Task:
    """One run."""

    scenario: Scenario
    stretch: Stretch
    counted: int
    """Requests after its warm-up, by the seed that the stretch was chosen with."""
    slo: Slo


@dataclass(slots=True)
class _Tally:
    """Times of one term, and how many were in time."""

    term: Term
    met: int = 0
    late: int = 0
    times_s: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, time_s: float | None, *, is_met: bool) -> None:
        self.met += is_met
        self.late += not is_met
        self.times_s.append(inf if time_s is None else time_s)

    @property
    def met_share(self) -> float:
        """Of no requests, all are in time."""
        asked = self.met + self.late
        return self.met / asked if asked else 1.0

    @property
    def at_s(self) -> float | None:
        """By rank, as in `traces.summary`."""
        if not self.times_s:
            return 0.0
        found = np.quantile(np.asarray(self.times_s), self.term.share, method="inverted_cdf")
        return None if np.isinf(found) else float(found)


class _Sheet:
    """What is kept of a run's records."""

    def __init__(self, task: Task) -> None:
        self._slo = task.slo
        self._warm_s = task.stretch.warm_s
        terms = terms_of(task.slo)
        self._tallies = {term.name.partition(" ")[0]: _Tally(term) for term in terms}
        self._allowed = {
            name: _FEW + _HOPELESS * (1 - tally.term.share) * task.counted
            for name, tally in self._tallies.items()
        }
        self.is_cut = False
        self.counted = 0

    def tell(self, record: RequestRecord) -> None:
        """After the run was cut, what is told is lost because of it."""
        if self.is_cut or record.at_s < self._warm_s:
            return
        self.counted += 1
        is_done = record.ending is Ending.DONE
        ttft, tpot = self._tallies.get("TTFT"), self._tallies.get("TPOT")
        if ttft is not None:
            ttft.add(record.ttft_s, is_met=self._slo.has_first_in_time(record))
        if tpot is not None:
            has_none = is_done and record.tpot_s is None
            time_s = 0.0 if has_none else record.tpot_s if is_done else None
            tpot.add(time_s, is_met=self._slo.has_rest_in_time(record))

    def goes_on(self) -> bool:
        self.is_cut = any(tally.late > self._allowed[name] for name, tally in self._tallies.items())
        return not self.is_cut

    @property
    def tallies(self) -> list[_Tally]:
        return list(self._tallies.values())


def run_task(task: Task, stop: Event | None = None) -> Trial:
    """Here and now."""
    scenario, stretch = task.scenario, task.stretch
    sheet = _Sheet(task)
    watch = Watch(scenario.fleet.models, task.slo, stretch.warm_s)
    played = play(
        scenario,
        stretch.arrivals(scenario.seed),
        sheet.tell,
        watch,
        lambda at_s, requests: sheet.goes_on() and (stop is None or not stop.is_set()),
        lambda: stretch.arrivals(scenario.seed),
    )
    return Trial(
        met=tuple(tally.met_share for tally in sheet.tallies),
        at_s=tuple(tally.at_s for tally in sheet.tallies),
        evidence=watch.evidence(len(scenario.fleet.devices)),
        requests=sheet.counted,
        is_cut=not played.is_whole,
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one core's time."""

    arrivals_s: float
    """To make the stretch, and what comes before it; once for each seed and process."""
    request_s: float


def cost_of(task: Task, requests: int) -> Cost:
    """Seen here, on the first of its requests."""
    scenario, stretch = task.scenario, task.stretch
    began_s = _cpu_s()
    count = sum(1 for _ in stretch.arrivals(scenario.seed))
    made_s = _cpu_s()
    watch = Watch(scenario.fleet.models, task.slo, stretch.warm_s)
    first = partial(_first, stretch, scenario.seed, requests)
    play(scenario, first(), lambda record: None, watch, again=first)
    return Cost(made_s - began_s, (_cpu_s() - made_s) / max(1, min(requests, count)))


def _first(stretch: Stretch, seed: int, requests: int) -> Iterator[Arrival]:
    return islice(stretch.arrivals(seed), requests)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Crew:
    """Processes that stay: each run is the same whichever does it."""

    def __init__(self, most: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        context = multiprocessing.get_context("spawn")
        self._is_stopped = is_stopped
        self._stop = context.Event()
        self._pool = ProcessPoolExecutor(most, context, _begin, (self._stop,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Interrupted, runs under way end at their next look."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, tasks: Sequence[Task]) -> list[Trial]:
        """In the order of the tasks.  Stopped, it raises `KeyboardInterrupt`: here, where no
        process is just begun and no answer half read.
        """
        try:
            with deaf_to_ctrl_c():
                asked = [self._pool.submit(_run, task) for task in tasks]
            left = set(asked)
            while left:
                if self._is_stopped():
                    raise KeyboardInterrupt
                left = wait(left, _LOOKS_S).not_done
            return [one.result() for one in asked]
        except BrokenProcessPool:
            raise RepertoryError(
                "a process of the simulation died, killed perhaps for its memory: plan with fewer "
                "--requests"
            ) from None


_stops: list[Event] = []
"""Of this process: the crew's."""


def _begin(stop: Event) -> None:
    _stops.append(stop)


def _run(task: Task) -> Trial:
    return run_task(task, _stops[0])
