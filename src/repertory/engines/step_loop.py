"""A pure model of a worker's step loop: which replica steps next, and what its steps compute.

Between two inputs whole runs of equal decode steps are moved in closed form.
"""

from dataclasses import dataclass
from math import isqrt

from repertory.engines.lane import PREFILL_CHUNK, Job, Lane, Running
from repertory.policy.share import Contender, StepKind, next_run, next_step, worth_ns

__all__ = ["PREFILL_CHUNK", "Job", "Lane", "Output", "Running", "Segment", "StepLoop"]


@dataclass(frozen=True, slots=True)
class Output:
    """A generation has its first token, or has ended."""

    at_ns: int
    generation_id: str
    is_first: bool
    is_last: bool
    output_tokens: int
    prefill_ns: int
    decode_ns: int
    share_ns: int = 0


@dataclass(slots=True)
class Segment:
    """Like steps of one lane, from `start_ns`: the first takes `step_ns`, each `growth_ns` more
    than the one before it.  Integers, so that sums in closed form and step by step agree.
    """

    lane: Lane
    kind: StepKind
    start_ns: int
    step_ns: int
    growth_ns: int
    steps: int
    weight: float = 1.0
    """Of the lane's work when it was planned."""
    used_ns: int = 0
    """By its lane until then: from it and from all that passed since, its share is reckoned anew,
    for rounding step by step would depend on how often somebody looks."""
    prefilled: Running | None = None
    """Whose chunk it is; it may be cancelled under the step."""
    passed_ns: int = 0
    """What is complete of it."""

    def spent_ns(self, steps: int) -> int:
        """What the first so many of them take."""
        return steps * self.step_ns + self.growth_ns * (steps * (steps - 1) // 2)

    def within(self, span_ns: int) -> int:
        """How many of them end within a span: the largest count that does not take more."""
        if span_ns < self.step_ns:
            return 0
        if self.growth_ns == 0:
            return min(self.steps, span_ns // self.step_ns)
        first = 2 * self.step_ns - self.growth_ns
        root = isqrt(first * first + 8 * self.growth_ns * span_ns)
        count = (root - first) // (2 * self.growth_ns)
        while self.spent_ns(count + 1) <= span_ns:  # the root was rounded down
            count += 1
        return min(self.steps, count)

    def pass_over(self, steps: int) -> None:
        """They are complete; the rest begins where they end."""
        self.start_ns += self.spent_ns(steps)
        self.passed_ns += self.spent_ns(steps)
        self.step_ns += steps * self.growth_ns
        self.steps -= steps


class StepLoop:
    """One step loop: the lanes of one device, or of one replica where engines cannot share."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        """Of several, which: ties end in it."""
        self.booked_ns: int | None = None
        """When its worker is going to look at it."""
        self.lanes: dict[str, Lane] = {}
        self.next_at_ns: int | None = None
        """When a segment ends, if no input comes before."""
        self._segment: Segment | None = None
        self._run: tuple[str, int | None] | None = None
        """Lane of the current run, and how many steps are left of it (None: no limit)."""

    def advance(self, to_ns: int, outputs: list[Output]) -> None:
        """Complete every step that ends by `to_ns`."""
        while (one := self._segment) is not None:
            if self.next_at_ns is not None and self.next_at_ns <= to_ns:
                end_ns = self.next_at_ns
                self._complete(one, one.steps, end_ns, outputs)
                self._plan(end_ns)
                continue
            whole = one.within(to_ns - one.start_ns)
            if whole > 0:
                self._complete(one, whole, one.start_ns + one.spent_ns(whole), outputs)
                one.pass_over(whole)
            return

    def catch_up(self, at_ns: int) -> None:
        """Complete the steps inside of a run, too, once whole runs are complete."""
        outputs: list[Output] = []
        self.advance(at_ns, outputs)
        assert not outputs, "advance the model first"

    def interrupt(self, at_ns: int) -> None:
        """An input came: the step under way ends, then the loop looks again."""
        self.catch_up(at_ns)
        one = self._segment
        if one is None or at_ns == one.start_ns:
            self._plan(at_ns)
        else:
            one.steps = 1
            self.next_at_ns = one.start_ns + one.step_ns
            self._run = None

    def _complete(self, one: Segment, steps: int, end_ns: int, outputs: list[Output]) -> None:
        lane, spent_ns = one.lane, one.spent_ns(steps)
        lane.used_ns = one.used_ns + worth_ns(one.kind, one.passed_ns + spent_ns, one.weight)
        lane.total_ns += spent_ns
        if self._run is not None and self._run[1] is not None:
            self._run = (self._run[0], self._run[1] - steps)
        if one.kind is StepKind.PREFILL:
            running = one.prefilled
            if running is None or running not in lane.prefilling:
                return
            if lane.prefilled(running, spent_ns):
                outputs.append(_output(end_ns, lane, running, is_first=True))
            return
        company = max(1, len(lane.decoding))
        # Of all that passed, less what had its share before: it adds up however often one looks.
        each_ns = (one.passed_ns + spent_ns) // company - one.passed_ns // company
        ended = lane.decoded(steps, spent_ns, each_ns)
        outputs += [_output(end_ns, lane, running, is_first=False) for running in ended]

    def _plan(self, at_ns: int) -> None:
        lane = self._choose_lane()
        if lane is None:
            self._segment = self.next_at_ns = None
            return
        kind = _kind_of(lane)
        steps, growth_ns = 1, 0
        if kind is StepKind.DECODE and not lane.prefilling:
            steps = lane.steps_to_an_end
        assert self._run is not None
        if self._run[1] is not None:
            steps = min(steps, self._run[1])
        if steps > 1:
            growth_ns = lane.growth_ns
        prefilled = lane.prefilling[0] if kind is StepKind.PREFILL else None
        step_ns, weight = lane.step_ns(kind), lane.weight(at_ns)
        self._segment = one = Segment(
            lane, kind, at_ns, step_ns, growth_ns, steps, weight, lane.used_ns, prefilled
        )
        self.next_at_ns = at_ns + one.spent_ns(steps)

    def _choose_lane(self) -> Lane | None:
        busy = [lane for lane in self.lanes.values() if lane.prefilling or lane.decoding]
        is_alone = len(busy) == 1
        if self._run is not None:
            name, left = self._run
            lane = self.lanes.get(name)
            if lane is not None and lane.has_work and (left or (left is None and is_alone)):
                return lane
        if is_alone:
            self._run = (busy[0].replica_id, None)
            return busy[0]
        run = next_run([Contender(one.replica_id, one.used_ns, _expected_ns(one)) for one in busy])
        self._run = (run.name, run.steps) if run is not None else None
        return self.lanes[run.name] if run is not None else None


def _kind_of(lane: Lane) -> StepKind:
    """Of a lane that has work."""
    if not lane.prefilling:
        return StepKind.DECODE
    kind = next_step(
        lane.next_prompt_tokens,
        bool(lane.decoding),
        lane.prompt_tokens_since,
        lane.chunk_tokens,
        lane.ratio(),
    )
    assert kind is not None
    return kind


def _expected_ns(lane: Lane) -> int:
    return lane.step_ns(StepKind.DECODE if lane.decoding else StepKind.PREFILL)


def _output(at_ns: int, lane: Lane, running: Running, *, is_first: bool) -> Output:
    left = lane.output_left(running)
    return Output(
        at_ns,
        running.job.id,
        is_first,
        left == 0,
        running.job.output_tokens - left,
        running.prefill_ns,
        lane.decode_ns(running),
        lane.share_ns(running),
    )
