"""A pure model of a worker's step loop: which replica steps next, and what its steps compute.

Between two inputs whole runs of equal decode steps are moved in closed form.
"""

from collections import deque
from dataclasses import dataclass, field
from math import isqrt

from repertory.domain.specs import KvShape, WeightsForm
from repertory.perf.profiles import Profile
from repertory.policy.share import (
    Contender,
    StepKind,
    next_run,
    next_step,
    step_weight,
    worth_ns,
)

__all__ = ["PREFILL_CHUNK", "Job", "Lane", "Output", "Running", "Segment", "StepLoop"]

PREFILL_CHUNK = 256
"""Prompt tokens per prefill step."""


@dataclass(frozen=True, slots=True)
class Job:
    """A generation to compute: sizes only."""

    id: str
    prompt_tokens: int
    output_tokens: int
    weight: float = 1.0
    deadline_ns: int | None = None


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


@dataclass(slots=True, eq=False)
class Running:
    job: Job
    prefill_left: int
    output_left: int
    prefill_ns: int = 0
    decode_ns: int = 0
    share_ns: int = 0

    def weight(self, at_ns: int) -> float:
        """Among others' steps."""
        deadline_ns = self.job.deadline_ns if self.prefill_left else None
        return step_weight(self.job.weight, deadline_ns, at_ns)

    @property
    def context_tokens(self) -> int:
        """What its next token looks at, once its prompt is computed."""
        return self.job.prompt_tokens + self.job.output_tokens - self.output_left


@dataclass(slots=True)
class Lane:
    """A serving replica inside a step loop."""

    replica_id: str
    profile: Profile
    form: WeightsForm
    share: float
    """Of the weights' bytes on the device."""
    kv: KvShape
    prefilling: deque[Running]
    """What weighs more first, equal ones as they came."""
    decoding: dict[str, Running]
    held: dict[str, Running] = field(default_factory=dict)
    """They keep their slots, and take part in no step."""
    used_ns: int = 0
    """Counted as `policy.share` wants it."""
    total_ns: int = 0
    """Since it was activated."""
    prompt_tokens_since: int = 0
    """Computed since the last decode step."""

    @property
    def has_work(self) -> bool:
        return bool(self.prefilling or self.decoding)

    @property
    def next_prompt_tokens(self) -> int:
        """Of the next prefill step; 0: there is none."""
        return min(PREFILL_CHUNK, self.prefilling[0].prefill_left) if self.prefilling else 0

    @property
    def size(self) -> int:
        return len(self.prefilling) + len(self.decoding) + len(self.held)

    @property
    def all(self) -> list[Running]:
        return [*self.prefilling, *self.decoding.values(), *self.held.values()]

    def weight(self, at_ns: int) -> float:
        """Of the heaviest that it works on."""
        return max(one.weight(at_ns) for one in (*self.prefilling, *self.decoding.values()))

    def ratio(self) -> float:
        """What the next prompt weighs to the heaviest that decodes."""
        if not self.prefilling or not self.decoding:
            return 1.0
        heaviest = max(one.job.weight for one in self.decoding.values())
        return self.prefilling[0].job.weight / heaviest

    def put(self, running: Running) -> None:
        """Later steps compute it."""
        if not running.prefill_left:
            self.decoding[running.job.id] = running
            return
        weight = running.job.weight
        ahead = sum(one.job.weight >= weight for one in self.prefilling)
        self.prefilling.insert(ahead, running)

    def take_out(self, generation_id: str) -> Running | None:
        """No later step computes it; None if it is not here."""
        found = next((one for one in self.all if one.job.id == generation_id), None)
        if found is not None:
            self.decoding.pop(generation_id, None)
            self.held.pop(generation_id, None)
            self.prefilling = deque(one for one in self.prefilling if one is not found)
        return found

    def step_ns(self, kind: StepKind) -> int:
        if kind is StepKind.DECODE:
            return _ns(self._decode_s(self._context_tokens))
        first, profile = self.prefilling[0], self.profile
        done = first.job.prompt_tokens - first.prefill_left
        upto = done + self.next_prompt_tokens
        whole_s = profile.prefill_s(self.form, upto, 0, self.share)
        before_s = profile.prefill_s(self.form, done, 0, self.share) if done else 0.0
        return _ns(whole_s - before_s)

    @property
    def growth_ns(self) -> int:
        """What each decode step takes more than the last: all contexts are a token longer."""
        context = self._context_tokens
        more_s = self._decode_s(context + len(self.decoding)) - self._decode_s(context)
        return max(0, round(more_s * 1e9))

    @property
    def _context_tokens(self) -> int:
        return sum(one.context_tokens for one in self.decoding.values())

    def _decode_s(self, context_tokens: int) -> float:
        return self.profile.decode_s(self.form, len(self.decoding), context_tokens, self.share)


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

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self._segment: Segment | None = None
        self._run: tuple[str, int | None] | None = None
        """Lane of the current run, and how many steps are left of it (None: no limit)."""

    @property
    def next_at_ns(self) -> int | None:
        """When a segment ends, if no input comes before."""
        one = self._segment
        return one.start_ns + one.spent_ns(one.steps) if one is not None else None

    def advance(self, to_ns: int, outputs: list[Output]) -> None:
        """Complete every step that ends by `to_ns`."""
        while (one := self._segment) is not None:
            whole = one.within(to_ns - one.start_ns)
            if whole <= 0:
                return
            end_ns = one.start_ns + one.spent_ns(whole)
            self._complete(one, whole, end_ns, outputs)
            if whole < one.steps:
                one.pass_over(whole)
                return
            self._plan(end_ns)

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
            self._run = None

    def _complete(self, one: Segment, steps: int, end_ns: int, outputs: list[Output]) -> None:
        lane, spent_ns = one.lane, one.spent_ns(steps)
        lane.used_ns = one.used_ns + worth_ns(one.kind, one.passed_ns + spent_ns, one.weight)
        lane.total_ns += spent_ns
        if self._run is not None and self._run[1] is not None:
            self._run = (self._run[0], self._run[1] - steps)
        if one.kind is StepKind.PREFILL:
            if one.prefilled is not None and one.prefilled in lane.prefilling:
                self._complete_prefill(lane, one.prefilled, spent_ns, end_ns, outputs)
            return
        lane.prompt_tokens_since = 0
        company = max(1, len(lane.decoding))
        # Of all that passed, less what had its share before: it adds up however often one looks.
        each_ns = (one.passed_ns + spent_ns) // company - one.passed_ns // company
        for running in list(lane.decoding.values()):
            running.decode_ns += spent_ns
            running.share_ns += each_ns
            running.output_left -= steps
            if running.output_left == 0:
                del lane.decoding[running.job.id]
                outputs.append(_output(end_ns, running, is_first=False))

    def _complete_prefill(
        self, lane: Lane, running: Running, spent_ns: int, end_ns: int, outputs: list[Output]
    ) -> None:
        running.prefill_ns += spent_ns
        running.share_ns += spent_ns
        tokens = min(PREFILL_CHUNK, running.prefill_left)
        lane.prompt_tokens_since += tokens
        running.prefill_left -= tokens
        if running.prefill_left:
            return
        lane.prefilling.remove(running)
        running.output_left -= 1
        outputs.append(_output(end_ns, running, is_first=True))
        if running.output_left:
            lane.decoding[running.job.id] = running

    def _plan(self, at_ns: int) -> None:
        lane = self._choose_lane()
        if lane is None:
            self._segment = None
            return
        kind = next_step(
            lane.next_prompt_tokens,
            bool(lane.decoding),
            lane.prompt_tokens_since,
            PREFILL_CHUNK,
            lane.ratio(),
        )
        assert kind is not None
        steps = 1
        if kind is StepKind.DECODE and not lane.prefilling:
            steps = min(one.output_left for one in lane.decoding.values())
        assert self._run is not None
        if self._run[1] is not None:
            steps = min(steps, self._run[1])
        prefilled = lane.prefilling[0] if kind is StepKind.PREFILL else None
        steps_like = lane.step_ns(kind), lane.growth_ns if steps > 1 else 0
        self._segment = Segment(
            lane, kind, at_ns, *steps_like, steps, lane.weight(at_ns), lane.used_ns, prefilled
        )

    def _choose_lane(self) -> Lane | None:
        busy = [lane for lane in self.lanes.values() if lane.has_work]
        if self._run is not None:
            name, left = self._run
            lane = self.lanes.get(name)
            is_alone = len(busy) == 1
            if lane is not None and lane.has_work and (left or (left is None and is_alone)):
                return lane
        run = next_run([Contender(one.replica_id, one.used_ns, _expected_ns(one)) for one in busy])
        self._run = (run.name, run.steps) if run is not None else None
        return self.lanes[run.name] if run is not None else None


def _ns(seconds: float) -> int:
    return max(1, round(seconds * 1e9))


def _expected_ns(lane: Lane) -> int:
    return lane.step_ns(StepKind.DECODE if lane.decoding else StepKind.PREFILL)


def _output(at_ns: int, running: Running, *, is_first: bool) -> Output:
    return Output(
        at_ns,
        running.job.id,
        is_first,
        running.output_left == 0,
        running.job.output_tokens - running.output_left,
        running.prefill_ns,
        running.decode_ns,
        running.share_ns,
    )
