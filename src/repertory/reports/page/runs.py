"""A run file, boiled down to what a page shows of it.

While a file is read some 80 bytes are kept of each request; afterwards, a few kilobytes in all.
"""

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repertory.domain.workloads import Ending, RequestRecord, RunHeader
from repertory.reports.page.logs import LogDigest
from repertory.traces.runs import RunReader
from repertory.traces.summary import Figures, Slo, Summary, summarise

__all__ = ["Failure", "ModelCourse", "RunDigest", "Spread", "digest_run"]

_POINTS = 400
"""Of a distribution: a quarter of a percent each, finer than a line is wide."""
_SLOTS = 160
"""Of a course over time: two pixels each on a phone."""
_COURSES = 12
"""Models with a course of their own, the busiest first."""
_MOST_MESSAGES = 1_000
"""Kinds of failure that are told apart."""
_TOLD = 20_000
"""Records between two reports of progress."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LATE_S = 1.0
_TTFT_S, _TTFT_SHARE = 0.25, 0.1
"""A client hears of a first token a little after the brain; and its requests are sent a little
after they are due."""

_Numbers = NDArray[np.float64]
Advance = Callable[[int], None]
"""Told how many bytes more were read."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution: values at equal shares, ascending.  Who never had one is infinite."""

    values: tuple[float, ...]
    count: int

    @property
    def share_each(self) -> float:
        return self.count / len(self.values) if self.values else 0.0


@dataclass(frozen=True, slots=True)
class ModelCourse:
    """What was asked of a model over time, and how many waited: a value per slot."""

    name: str
    requests: int
    demand_per_s: tuple[float, ...]
    waiting: tuple[float, ...]
    """On average over the slot: from a request's arrival until its prompt was begun, as far as
    the run tells, else until its first token."""
    ttft: Spread


@dataclass(frozen=True, slots=True)
class Failure:
    """What several requests ended with; numbers in their messages may differ."""

    ending: Ending
    status: int | None
    words: str


@dataclass(frozen=True, slots=True)
class RunDigest:
    path: Path
    header: RunHeader
    summary: Summary
    is_cut: bool
    begin_s: float
    """Of what counts: after the warm-up."""
    end_s: float
    slot_s: float
    ttft: Spread
    tpot: Spread
    courses: tuple[ModelCourse, ...]
    failures: tuple[tuple[Failure, int, str], ...]
    """How often, and one message as it was; the most frequent first."""
    unlike: int = 0
    """Failures of more kinds than are told apart."""
    matches: tuple[tuple[LogDigest, "Match"], ...] = ()

    @property
    def offered_per_s(self) -> float:
        return self.summary.total.requests / self.summary.horizon_s

    @property
    def is_empty(self) -> bool:
        return not self.summary.total.requests


@dataclass(frozen=True, slots=True)
class Match:
    """How far a log's first requests are those of a run."""

    known: int
    """Of the log's, requests of that id and model in the run."""
    agreeing: int
    """Of those, with the same times."""
    offset_s: float
    """What the run's clock is behind the log's."""


def digest_run(
    path: Path, slo: Slo, logs: Sequence[LogDigest] = (), advance: Advance = lambda _: None
) -> RunDigest:
    """Raises `RunFileError` as the reader does."""
    with RunReader(path) as reader:
        taken = _Taken(logs, reader.header.models)
        counted = summarise(taken.all(_told(reader, advance)), slo, 1.0)
        horizon_s = max(taken.last_s - taken.begin_s, 1e-9)
        return replace(
            taken.digest(reader, _over(counted, horizon_s)),
            matches=tuple(zip(logs, map(_matched, taken.pairs), strict=True)),
        )


def _told(reader: RunReader, advance: Advance) -> Iterator[RequestRecord]:
    said = 0
    for count, record in enumerate(reader):
        if not count % _TOLD:
            advance(reader.read_bytes - said)
            said = reader.read_bytes
        yield record
    advance(reader.read_bytes - said)


def _over(counted: Summary, horizon_s: float) -> Summary:
    """The horizon is known at the end only; until then it was a second."""

    def rated(figures: Figures) -> Figures:
        return replace(
            figures,
            goodput_per_s=figures.goodput_per_s / horizon_s,
            goodput_tokens_per_s=figures.goodput_tokens_per_s / horizon_s,
        )

    models = {name: rated(figures) for name, figures in counted.models.items()}
    return replace(counted, horizon_s=horizon_s, total=rated(counted.total), models=models)


def _doubles() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class _Column:
    """Of one model's requests."""

    at_s: "array[float]" = field(default_factory=_doubles)
    until_s: "array[float]" = field(default_factory=_doubles)
    """When it stopped waiting; infinite: never."""
    ttft_s: "array[float]" = field(default_factory=_doubles)


@dataclass(slots=True)
class _Pair:
    """A request that a log and a run have."""

    shift_s: float
    log_ttft_s: float | None
    run_ttft_s: float | None


class _Taken:
    """What is kept of the records while they pass."""

    def __init__(self, logs: Sequence[LogDigest], names: Mapping[str, str]) -> None:
        """`names`: what the system, and so its log, calls the run's models."""
        self._names = names
        self.begin_s = 0.0
        self.last_s = 0.0
        self.pairs: list[list[_Pair]] = [[] for _ in logs]
        self._logs = logs
        self._end_s = 0.0
        self._first_counted_s = math.inf
        self._has_warmup = False
        self._columns: dict[str, _Column] = {}
        self._tpot_s = _doubles()
        self._failures: Counter[Failure] = Counter()
        self._examples: dict[Failure, str] = {}
        self._unlike = 0

    def all(self, records: Iterable[RequestRecord]) -> Iterator[RequestRecord]:
        for record in records:
            self._take(record)
            yield record
        if self._has_warmup and self._first_counted_s < math.inf:
            self.begin_s = self._first_counted_s

    def _take(self, record: RequestRecord) -> None:
        at_s, finished_s = record.at_s, record.finished_s
        self._end_s = max(self._end_s, at_s if finished_s is None else finished_s)
        for log, pairs in zip(self._logs, self.pairs, strict=True):
            self._pair(record, log, pairs)
        if record.is_warmup:
            self._has_warmup = True
            return
        self.last_s = max(self.last_s, at_s)
        self._first_counted_s = min(self._first_counted_s, at_s)
        column = self._columns.get(record.model)
        if column is None:
            column = self._columns[record.model] = _Column()
        ttft_s, tpot_s = record.ttft_s, record.tpot_s
        column.at_s.append(at_s)
        column.until_s.append(_waited_until_s(record))
        column.ttft_s.append(math.inf if ttft_s is None else ttft_s)
        if record.ending is not Ending.DONE:
            self._tpot_s.append(math.inf)
            self._fail(record)
        elif tpot_s is not None:
            self._tpot_s.append(tpot_s)

    def _fail(self, record: RequestRecord) -> None:
        failure = Failure(record.ending, record.status, _NUMBER.sub("…", record.message[:300]))
        if failure not in self._failures and len(self._failures) >= _MOST_MESSAGES:
            self._unlike += 1
            return
        self._failures[failure] += 1
        self._examples.setdefault(failure, record.message[:300])

    def _pair(self, record: RequestRecord, log: LogDigest, pairs: list[_Pair]) -> None:
        name = record.request_id.removeprefix("chatcmpl-").removeprefix("cmpl-")
        known = log.first_requests.get(name)
        if known is None or known.model != self._names.get(record.model, record.model):
            return
        log_ttft_s = None if known.first_s is None else known.first_s - known.at_s
        pairs.append(_Pair(known.at_s - record.at_s, log_ttft_s, record.ttft_s))

    def digest(self, reader: RunReader, summary: Summary) -> RunDigest:
        end_s = max(self._end_s, self.last_s, 1e-9)
        slot_s = end_s / _SLOTS
        busiest = sorted(self._columns, key=lambda name: (-len(self._columns[name].at_s), name))
        courses = [self._course(name, slot_s, end_s) for name in busiest[:_COURSES]]
        return RunDigest(
            path=reader.path,
            header=reader.header,
            summary=summary,
            is_cut=reader.is_cut,
            begin_s=self.begin_s,
            end_s=end_s,
            slot_s=slot_s,
            ttft=_spread([column.ttft_s for column in self._columns.values()]),
            tpot=_spread([self._tpot_s]),
            courses=tuple(courses),
            failures=tuple(
                (failure, count, self._examples[failure])
                for failure, count in self._failures.most_common()
            ),
            unlike=self._unlike,
        )

    def _course(self, name: str, slot_s: float, end_s: float) -> ModelCourse:
        column = self._columns[name]
        at_s = np.asarray(column.at_s)
        until_s = np.minimum(np.asarray(column.until_s), end_s)
        arrivals, begun_s = _binned(at_s, slot_s)
        left, left_s = _binned(until_s, slot_s)
        before = np.concatenate(([0.0], np.cumsum(arrivals - left)[:-1]))
        waiting = before + (begun_s - left_s) / slot_s
        return ModelCourse(
            name,
            len(at_s),
            tuple((arrivals / slot_s).tolist()),
            tuple(np.maximum(waiting, 0.0).tolist()),
            _spread([column.ttft_s]),
        )


def _waited_until_s(record: RequestRecord) -> float:
    for moment_s in (record.started_s, record.first_token_s, record.finished_s):
        if moment_s is not None:
            return moment_s
    return math.inf


def _binned(times_s: _Numbers, slot_s: float) -> tuple[_Numbers, _Numbers]:
    """Of each slot: how many, and their seconds until its end."""
    slots = np.clip((times_s / slot_s).astype(np.int64), 0, _SLOTS - 1)
    rest_s = (slots + 1) * slot_s - times_s
    counts = np.bincount(slots, minlength=_SLOTS).astype(np.float64)
    return counts, np.bincount(slots, weights=rest_s, minlength=_SLOTS).astype(np.float64)


def _spread(columns: Sequence["array[float]"]) -> Spread:
    kept = [np.asarray(column) for column in columns if column]
    if not kept:
        return Spread((), 0)
    values = np.concatenate(kept)
    shares = (np.arange(min(_POINTS, len(values))) + 0.5) / min(_POINTS, len(values))
    found = np.quantile(values, shares, method="inverted_cdf")
    return Spread(tuple(found.tolist()), len(values))


def _matched(pairs: Sequence[_Pair]) -> Match:
    """Clocks begin at other times; how far apart is the median of what the pairs say."""
    if not pairs:
        return Match(0, 0, 0.0)
    offset_s = float(np.median([pair.shift_s for pair in pairs]))
    return Match(len(pairs), sum(_agrees(pair, offset_s) for pair in pairs), offset_s)


def _agrees(pair: _Pair, offset_s: float) -> bool:
    if abs(pair.shift_s - offset_s) > _LATE_S:
        return False
    one_s, other_s = pair.log_ttft_s, pair.run_ttft_s
    if one_s is None or other_s is None:
        return one_s is other_s
    return abs(other_s - one_s) <= _TTFT_S + _TTFT_SHARE * one_s
