"""The loop of a vLLM engine's core: two steps deep, each planned while the one before it runs.

A request is taken in between two steps, so it is in the step after next at the earliest.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from repertory.perf.vllm.batches import Batch, StepTimes
from repertory.sim.vllm.scheduler import Limits, Planned, Scheduler, Sequence

__all__ = ["Asked", "Engine", "RequestTimes"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, in the order of arrival."""

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """What it met; seconds on the workload's clock."""

    request_id: str
    arrival_s: float
    queued_s: float
    """When the engine's core took it in: it looks between two steps."""
    first_token_s: float
    finished_s: float
    output_tokens: int
    preemptions: int


class Engine:
    """Fed with arrivals in order, it yields each request as it ends."""

    def __init__(self, times: StepTimes, limits: Limits, host_s: float, in_runs: bool = True):
        self._times = times
        self._host_s = host_s
        self._in_runs = in_runs
        self._scheduler = Scheduler(limits)
        self._under_way: deque[tuple[float, Planned]] = deque()
        """When each step ends, the oldest first."""
        self._asked: dict[int, Asked] = {}
        self._now_s = 0.0
        self.steps = 0

    def serve(self, workload: Iterable[Asked]) -> Iterator[RequestTimes]:
        arrivals = _Ahead(iter(workload))
        while True:
            self._take_in(arrivals)
            if self._in_runs:
                self._run(arrivals.next_s)
            planned = self._scheduler.next_step()
            if planned is not None:
                self._begin(planned)
                if len(self._under_way) < 2:
                    continue
            if self._under_way:
                yield from self._end_step()
            elif arrivals.next_s is None:
                return
            else:
                self._now_s = max(self._now_s, arrivals.next_s)

    def _take_in(self, arrivals: "_Ahead") -> None:
        while arrivals.next_s is not None and arrivals.next_s <= self._now_s:
            number, asked = arrivals.pop()
            self._asked[number] = asked
            self._scheduler.waiting.append(
                Sequence(number, asked.prompt_tokens, asked.output_tokens, self._now_s)
            )

    def _begin(self, planned: Planned) -> None:
        free_s = self._under_way[-1][0] if self._under_way else self._now_s
        self._under_way.append((free_s + self._step_s(planned.batch), planned))
        self.steps += 1

    def _step_s(self, batch: Batch) -> float:
        return self._times.step_s(batch) + self._host_s

    def _end_step(self) -> Iterator[RequestTimes]:
        self._now_s, planned = self._under_way.popleft()
        for each in planned.emitting:
            each.promised -= 1
            each.emitted += 1
            if each.first_token_s is None:
                each.first_token_s = self._now_s
            if each.emitted == each.output_tokens:
                self._scheduler.finish(each)
                yield self._told(each, self._asked.pop(each.number))

    def _told(self, each: Sequence, asked: Asked) -> RequestTimes:
        assert each.first_token_s is not None
        return RequestTimes(
            request_id=asked.request_id,
            arrival_s=asked.arrival_s,
            queued_s=each.queued_s,
            first_token_s=each.first_token_s,
            finished_s=self._now_s,
            output_tokens=each.emitted,
            preemptions=each.preemptions,
        )

    def _run(self, next_arrival_s: float | None) -> None:
        """Many steps at once, as long as all are the same decodes and nothing else can happen.

        Contexts grow by one token a step, so between two knots of the kernel times the steps' times
        are an arithmetic series.  What the loop would do one by one is done in sums: the same to a
        rounding.
        """
        if len(self._under_way) != 1 or not self._scheduler.is_full:
            return
        end_s, under_way = self._under_way[0]
        running = self._scheduler.running
        if under_way.batch.chunks or len(under_way.emitting) != len(running):
            return
        if any(each.lacks != 1 or each.promised != 1 for each in running):
            return
        batch = under_way.batch
        steps = self._most_steps(batch)
        if steps < _WORTH_IT:
            return
        first_s, last_s = (self._step_s(_later(batch, ahead)) for ahead in (1, steps))
        series = _Series(first_s, last_s, steps)
        if next_arrival_s is not None:
            steps = min(steps, series.steps_until(next_arrival_s - end_s) + 1)
        if steps >= _WORTH_IT:
            self._skip(series, steps)

    def _most_steps(self, batch: Batch) -> int:
        """Until a request ends, a block is missing or a knot is passed."""
        scheduler = self._scheduler
        steps = min(each.output_tokens - each.emitted - 1 for each in scheduler.running)
        knots = self._times.context_knots(batch.decodes)
        for context in (batch.context_tokens / batch.decodes, float(batch.longest_tokens)):
            after = bisect_right(knots, context + 1)
            if after < len(knots):
                steps = min(steps, int(knots[after] - context))
        if steps >= _WORTH_IT and self._blocks_for(steps) > scheduler.pool.free:
            low, high = 0, steps
            while low + 1 < high:
                middle = (low + high) // 2
                fits = self._blocks_for(middle) <= scheduler.pool.free
                low, high = (middle, high) if fits else (low, middle)
            steps = low
        return steps

    def _blocks_for(self, steps: int) -> int:
        return sum(self._scheduler.grow(each, steps) for each in self._scheduler.running)

    def _skip(self, series: "_Series", steps: int) -> None:
        """Plan `steps` of them and end all but the last."""
        end_s, under_way = self._under_way.popleft()
        scheduler = self._scheduler
        for each in scheduler.running:
            each.blocks += scheduler.pool.take(scheduler.grow(each, steps))
            each.computed += steps
            each.emitted += steps
        self._now_s = end_s + series.sum_s(steps - 1)
        last = Planned(_later(under_way.batch, steps), under_way.emitting)
        self._under_way.append((end_s + series.sum_s(steps), last))
        self.steps += steps


_WORTH_IT = 4
"""Steps in a run: fewer are as fast one by one."""


@dataclass(frozen=True, slots=True)
class _Series:
    """Times of steps that grow evenly."""

    first_s: float
    last_s: float
    steps: int

    def sum_s(self, steps: int) -> float:
        """Of the first so many."""
        growth_s = (self.last_s - self.first_s) / (self.steps - 1)
        return steps * self.first_s + growth_s * steps * (steps - 1) / 2

    def steps_until(self, after_s: float) -> int:
        """How many end before then: the one after them is the first that does not."""
        return bisect_left(range(1, self.steps + 1), after_s, key=self.sum_s)


def _later(batch: Batch, steps: int) -> Batch:
    """The same decodes, so many tokens on."""
    grown = batch.context_tokens + steps * batch.decodes
    return Batch(batch.decodes, grown, batch.longest_tokens + steps)


class _Ahead:
    """Arrivals, with the time of the next one known."""

    def __init__(self, arrivals: Iterator[Asked]) -> None:
        self._arrivals = enumerate(arrivals)
        self._next = next(self._arrivals, None)

    @property
    def next_s(self) -> float | None:
        return None if self._next is None else self._next[1].arrival_s

    def pop(self) -> tuple[int, Asked]:
        assert self._next is not None
        popped, self._next = self._next, next(self._arrivals, None)
        return popped
