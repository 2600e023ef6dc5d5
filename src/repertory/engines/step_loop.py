"""A pure model of a worker's step loop: which replica steps next, and what its steps compute.

Between two inputs whole runs of equal decode steps are moved in closed form.

On two cores a worker has two lanes (`engines.llamacpp.steps`): two replicas step side by side, each
on one core, and slower; a third waits for a turn.  Otherwise all take turns.
"""

from dataclasses import dataclass
from math import isqrt

from repertory.domain.fleets import Toll
from repertory.engines.lane import PREFILL_CHUNK, Job, Lane, Running
from repertory.policy.requests.share import (
    QUANTUM_NS,
    Contender,
    StepKind,
    next_run,
    next_step,
    worth_ns,
)

__all__ = ["PREFILL_CHUNK", "Job", "Lane", "Output", "Running", "Segment", "StepLoop", "one_core"]

_NO_TOLL = Toll()
_PROMPT, _BATCH, _SINGLE, _SINGLE_BESIDE = 1.95, 1.8, 1.25, 1.4


def one_core(kind: StepKind, sequences: int, *, is_beside: bool) -> float:
    """How much longer a step takes on one core of two; `is_beside`: another model has the other.

    Only a decode step of one sequence waits for memory rather than computes.  Measured of a 50M and
    a 300M with nothing beside: prompts 1.9 to 2.0, two to eight sequences 1.7 to 2.0, one 1.2 and
    1.25.  Beside another model one is 1.2 (two 50M) to 1.7 (300M and 1.1B, by the table of
    `engines.llamacpp.steps`), the others are as before.
    """
    if kind is StepKind.PREFILL:
        return _PROMPT
    if sequences > 1:
        return _BATCH
    return _SINGLE_BESIDE if is_beside else _SINGLE


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
    sharing: int = 1
    """So many replicas compute side by side: each takes its part of the device's time."""
    owed_ns: int = 0
    """Of its first step, for requests that ended before it."""
    passed_ns: int = 0
    """What is complete of it."""

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.spent_ns(self.steps)

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

    def __init__(self, number: int = 0, width: int = 1, toll: Toll = _NO_TOLL) -> None:
        """`width`: so many replicas may step at once, each on its part of the cores."""
        self.number = number
        """Of several, which: ties end in it."""
        self.booked_ns: int | None = None
        """When its worker is going to look at it."""
        self.lanes: dict[str, Lane] = {}
        self._width = width
        self._prompt_ns, self._request_ns = (
            round(1e9 * one_s) for one_s in (toll.prompt_s, toll.request_s)
        )
        self._owed_ns = 0
        """By the next step, for requests that have ended."""
        self._segments: list[Segment] = []
        """Under way, one of a replica at most."""
        self._runs: dict[str, int | None] = {}
        """How many steps are left of the latest turn of a replica (None: no limit)."""
        self._told: str | None = None
        """A replica whose turn goes on after a first token: its worker leaves a core to those who
        carry it out, for one decode step."""
        self._is_crowded = False

    @property
    def next_at_ns(self) -> int | None:
        """When a segment ends, if no input comes before."""
        segments = self._segments
        if len(segments) == 1:
            return segments[0].end_ns
        return min((one.end_ns for one in segments), default=None)

    @property
    def has_work(self) -> bool:
        return any(lane.has_work for lane in self.lanes.values())

    def step_end_ns(self, at_ns: int, replica_id: str | None) -> int:
        """When the steps of a replica, or of all, that are under way have ended."""
        mine = [one for one in self._segments if replica_id in (None, one.lane.replica_id)]
        return max([one.start_ns + one.step_ns for one in mine], default=at_ns)

    def advance(self, to_ns: int, outputs: list[Output]) -> None:
        """Complete every step that ends by `to_ns`."""
        while self._segments:
            one = self._first()
            end_ns = one.end_ns
            if end_ns <= to_ns:
                self._segments.remove(one)
                self._complete(one, one.steps, end_ns, outputs)
                self._plan(end_ns)
                continue
            for one in self._segments:
                self._pass(one, to_ns, outputs)
            return

    def catch_up(self, at_ns: int) -> None:
        """Complete the steps inside of a run, too, once whole runs are complete."""
        outputs: list[Output] = []
        self.advance(at_ns, outputs)
        assert not outputs, "advance the model first"

    def interrupt(self, at_ns: int) -> None:
        """An input came: the steps under way end, then the loop looks again."""
        self.catch_up(at_ns)
        self.cut_short(at_ns)

    def cut_short(self, at_ns: int) -> None:
        """The same, where it has caught up."""
        for one in list(self._segments):
            if not self._cut(one, at_ns):
                self._runs.pop(one.lane.replica_id, None)
        self._plan(at_ns)

    def crowd(self, at_ns: int, is_crowded: bool) -> None:
        """A mover works, which leaves one core of two to steps, or it has come to an end."""
        if self._width > 1 and is_crowded != self._is_crowded:
            self._is_crowded = is_crowded
            self.interrupt(at_ns)

    def _first(self) -> Segment:
        segments = self._segments
        if len(segments) == 1:
            return segments[0]
        return min(segments, key=lambda one: (one.end_ns, one.lane.replica_id))

    def _cut(self, one: Segment, at_ns: int) -> bool:
        """It ends with the step under way; true if that is none, and it is dropped."""
        if one.end_ns <= at_ns:
            return False
        self._pass(one, at_ns, [])
        if one.start_ns == at_ns:
            self._segments.remove(one)
            self._owed_ns += one.owed_ns
            return True
        one.steps = 1
        return False

    def _pass(self, one: Segment, to_ns: int, outputs: list[Output]) -> None:
        whole = one.within(to_ns - one.start_ns)
        if 0 < whole < one.steps:
            self._complete(one, whole, one.start_ns + one.spent_ns(whole), outputs)
            one.pass_over(whole)

    def _complete(self, one: Segment, steps: int, end_ns: int, outputs: list[Output]) -> None:
        lane, upto_ns = one.lane, one.passed_ns + one.spent_ns(steps)
        # Of all that passed, less what was counted before: it adds up however often one looks.
        had_ns, has_ns = one.passed_ns // one.sharing, upto_ns // one.sharing
        spent_ns = has_ns - had_ns
        lane.used_ns = one.used_ns + worth_ns(one.kind, has_ns, one.weight)
        lane.total_ns += spent_ns
        left = self._runs.get(lane.replica_id)
        if left is not None:
            self._runs[lane.replica_id] = left - steps
        self._told = None
        if one.kind is StepKind.PREFILL:
            running = one.prefilled
            if running is None or running not in lane.prefilling:
                return
            if lane.prefilled(running, spent_ns):
                outputs.append(_output(end_ns, lane, running, is_first=True))
                if self._width > 1 and self._runs.get(lane.replica_id, 0) != 0:
                    self._told = lane.replica_id
            return
        company = max(1, len(lane.decoding))
        ended = lane.decoded(steps, spent_ns, has_ns // company - had_ns // company)
        self._owed_ns += self._request_ns * len(ended)
        outputs += [_output(end_ns, lane, running, is_first=False) for running in ended]

    def _plan(self, at_ns: int) -> None:
        """Begin what may begin now.  Who has all cores and is to share them ends its step first."""
        if self._segments and self._width == 1:
            return  # one at a time
        busy = [lane for lane in self.lanes.values() if lane.prefilling or lane.decoding]
        if not busy:
            self._owed_ns = 0  # nobody waits for it
        sharing = 1
        if self._width > 1 and not self._is_crowded:
            names = {lane.replica_id for lane in busy}
            names |= {one.lane.replica_id for one in self._segments}
            sharing = max(1, min(len(names), self._width))
        for one in list(self._segments):
            if one.sharing < sharing and not self._cut(one, at_ns):
                return
        while len(self._segments) < sharing:
            lane = self._choose_lane(busy)
            if lane is None:
                return
            self._segments.append(self._segment_of(lane, at_ns, sharing))

    def _segment_of(self, lane: Lane, at_ns: int, sharing: int) -> Segment:
        kind = _kind_of(lane)
        steps, growth_ns = 1, 0
        if kind is StepKind.DECODE and not lane.prefilling:
            steps = lane.steps_to_an_end
        left = self._runs[lane.replica_id]
        if left is not None:
            steps = min(steps, left)
        if steps > 1:
            growth_ns = lane.growth_ns
        step_ns = lane.step_ns(kind)
        is_telling = kind is StepKind.DECODE and self._told == lane.replica_id
        owed_ns, self._owed_ns = self._owed_ns, 0
        if is_telling or owed_ns:
            steps = 1
        if sharing > 1 or self._is_crowded or is_telling:
            longer = one_core(kind, len(lane.decoding), is_beside=sharing > 1)
            step_ns, growth_ns = round(step_ns * longer), round(growth_ns * longer)
        step_ns += owed_ns
        prefilled = lane.prefilling[0] if kind is StepKind.PREFILL else None
        if prefilled is not None and prefilled.prefill_left <= lane.chunk_tokens:
            step_ns += self._prompt_ns
        weight = lane.weight(at_ns)
        return Segment(
            lane,
            kind,
            at_ns,
            step_ns,
            growth_ns,
            steps,
            weight,
            lane.used_ns,
            prefilled,
            sharing,
            owed_ns,
        )

    def _choose_lane(self, busy: list[Lane]) -> Lane | None:
        """Whose turn goes on, or whose begins; of those that are not under way."""
        is_alone = len(busy) == 1
        under_way = [one.lane.replica_id for one in self._segments]
        for name, left in self._runs.items():
            lane = self.lanes.get(name)
            if lane is None or name in under_way or not lane.has_work:
                continue
            if left or (left is None and is_alone):
                return lane
        ready = [one for one in busy if one.replica_id not in under_way] if under_way else busy
        if not ready:
            return None
        if is_alone:
            lane, steps = ready[0], None
        elif len(ready) == 1:
            lane, steps = ready[0], max(1, QUANTUM_NS // _expected_ns(ready[0]))
        else:
            contenders = [
                Contender(one.replica_id, one.used_ns, _expected_ns(one)) for one in ready
            ]
            run = next_run(contenders)
            assert run is not None
            lane, steps = self.lanes[run.name], run.steps
        self._runs = {name: left for name, left in self._runs.items() if name in under_way}
        self._runs[lane.replica_id] = steps
        return lane


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
