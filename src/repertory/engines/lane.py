"""What a serving replica computes inside a step loop.

All that decode are a token further after a step, so a lane counts steps and times once, and what
each generation has had is the difference since it joined: a step of 256 sequences costs no more to
reckon than one of a single sequence.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush

from repertory.domain.specs import KvShape, WeightsForm
from repertory.perf.profiles import Profile
from repertory.policy.requests.share import StepKind, step_weight

__all__ = ["PREFILL_CHUNK", "Job", "Lane", "Running"]

PREFILL_CHUNK = 256
"""Prompt tokens per prefill step, where nothing else is said."""
_REMEMBERED = 16
"""Slots of a worker of ours, at most (`ModelSpec.max_sequences`)."""


@dataclass(frozen=True, slots=True)
class Job:
    """A generation to compute: sizes only."""

    id: str
    prompt_tokens: int
    output_tokens: int
    weight: float = 1.0
    deadline_ns: int | None = None

    @property
    def is_plain(self) -> bool:
        """It weighs what most do, now and later."""
        return self.weight == 1.0 and self.deadline_ns is None


@dataclass(slots=True, eq=False)
class Running:
    """A generation under way.  While it decodes, its counts are as of when it joined."""

    job: Job
    prefill_left: int
    output_left: int
    prefill_ns: int = 0
    decode_ns: int = 0
    share_ns: int = 0
    entry: int | None = None
    """Its number among those that have joined the decoding; None: it does not decode."""
    end_step: int = 0
    """The lane's step with which it ends."""

    def weight(self, at_ns: int) -> float:
        """Among others' steps."""
        deadline_ns = self.job.deadline_ns if self.prefill_left else None
        return step_weight(self.job.weight, deadline_ns, at_ns)


@dataclass(slots=True)
class Lane:
    """A serving replica inside a step loop."""

    replica_id: str
    profile: Profile
    form: WeightsForm
    share: float
    """Of the weights' bytes on the device."""
    kv: KvShape
    prefilling: deque[Running] = field(default_factory=deque)
    """What weighs more first, equal ones as they came."""
    decoding: dict[str, Running] = field(default_factory=dict)
    held: dict[str, Running] = field(default_factory=dict)
    """They keep their slots, and take part in no step."""
    chunk_tokens: int = PREFILL_CHUNK
    used_ns: int = 0
    """Counted as `policy.requests.share` wants it."""
    total_ns: int = 0
    """Since it was activated."""
    prompt_tokens_since: int = 0
    """Computed since the last decode step."""
    _steps: int = 0
    """Decode steps so far; with them the time they took, and what of it was each one's own."""
    _decode_ns: int = 0
    _share_ns: int = 0
    _ends: list[tuple[int, int, Running]] = field(default_factory=list)
    """A heap: at which step who ends.  Those that left before are dropped when they come up."""
    _entries: int = 0
    _left_tokens: deque[int] = field(default_factory=partial(deque, maxlen=_REMEMBERED))
    """Of those that ended, the latest last: their cells stay in their slots until others come."""
    _context_at_zero: int = 0
    """The context of all that decode, less what the steps so far have added to it."""
    _unlike: int = 0
    """Of those that take part in steps, how many weigh other than most: none, as a rule."""
    _base_s: dict[int, float] = field(default_factory=dict)
    """Of a decode step by its sequences; looked up, for it is asked for at every step."""

    @property
    def has_work(self) -> bool:
        return bool(self.prefilling or self.decoding)

    @property
    def next_prompt_tokens(self) -> int:
        """Of the next prefill step; 0: there is none."""
        prefilling = self.prefilling
        return min(self.chunk_tokens, prefilling[0].prefill_left) if prefilling else 0

    @property
    def size(self) -> int:
        return len(self.prefilling) + len(self.decoding) + len(self.held)

    @property
    def jobs(self) -> list[Job]:
        every = (*self.prefilling, *self.decoding.values(), *self.held.values())
        return [one.job for one in every]

    def weight(self, at_ns: int) -> float:
        """Of the heaviest that it works on."""
        if not self._unlike:
            return 1.0
        return max(one.weight(at_ns) for one in (*self.prefilling, *self.decoding.values()))

    def ratio(self) -> float:
        """What the next prompt weighs to the heaviest that decodes."""
        if not self._unlike or not self.prefilling or not self.decoding:
            return 1.0
        heaviest = max(one.job.weight for one in self.decoding.values())
        return self.prefilling[0].job.weight / heaviest

    def put(self, running: Running) -> None:
        """Later steps compute it."""
        self._unlike += not running.job.is_plain
        if not running.prefill_left:
            self._join(running)
        elif not self._unlike:
            self.prefilling.append(running)
        else:
            weight = running.job.weight
            ahead = sum(one.job.weight >= weight for one in self.prefilling)
            self.prefilling.insert(ahead, running)

    def take_out(self, generation_id: str) -> Running | None:
        """No later step computes it; None if it is not here."""
        held = self.held.pop(generation_id, None)
        if held is not None:
            return held
        found = self.decoding.get(generation_id)
        if found is not None:
            self._leave(found)
        else:
            found = next((one for one in self.prefilling if one.job.id == generation_id), None)
            if found is None:
                return None
            self.prefilling.remove(found)
        self._unlike -= not found.job.is_plain
        return found

    def output_left(self, running: Running) -> int:
        """Tokens that it has still to make."""
        if running.entry is None:
            return running.output_left
        return running.end_step - self._steps

    def decode_ns(self, running: Running) -> int:
        """Decode steps that it took part in so far."""
        if running.entry is None:
            return running.decode_ns
        return running.decode_ns + self._decode_ns

    def share_ns(self, running: Running) -> int:
        """Device time that was its own so far."""
        if running.entry is None:
            return running.share_ns
        return running.share_ns + self._share_ns

    def find(self, generation_id: str) -> Running | None:
        found = self.decoding.get(generation_id) or self.held.get(generation_id)
        if found is None:
            found = next((one for one in self.prefilling if one.job.id == generation_id), None)
        return found

    def decoded(self, steps: int, spent_ns: int, each_ns: int) -> list[Running]:
        """So many decode steps are complete; returns those that end, in the order they joined."""
        self.prompt_tokens_since = 0
        self._steps += steps
        self._decode_ns += spent_ns
        self._share_ns += each_ns
        ended = []
        while self._ends and self._ends[0][0] <= self._steps:
            _, entry, running = heappop(self._ends)
            if running.entry == entry:
                self._leave(running)
                self._unlike -= not running.job.is_plain
                self._left_tokens.append(running.job.prompt_tokens + running.job.output_tokens)
                ended.append(running)
        return ended

    def prefilled(self, running: Running, spent_ns: int) -> bool:
        """A chunk of its prompt is complete; true if that was the last, with its first token."""
        running.prefill_ns += spent_ns
        running.share_ns += spent_ns
        tokens = min(self.chunk_tokens, running.prefill_left)
        self.prompt_tokens_since += tokens
        running.prefill_left -= tokens
        if running.prefill_left:
            return False
        self.prefilling.remove(running)
        running.output_left -= 1
        if running.output_left:
            self._join(running)
        else:
            self._unlike -= not running.job.is_plain
            self._left_tokens.append(running.job.prompt_tokens)
        return True

    @property
    def cells(self) -> int:
        """That are computed: of all that is on it, and of what was in its free slots last."""
        begun = (*self.prefilling, *self.held.values())
        here = sum(one.job.prompt_tokens - one.prefill_left for one in begun)
        free = self.kv.sequences - self.size
        left = list(self._left_tokens)[-free:] if free > 0 else []
        return here + self._context_tokens + sum(left)

    @property
    def steps_to_an_end(self) -> int:
        """Decode steps until the first of them ends."""
        ends = self._ends
        while ends[0][2].entry != ends[0][1]:
            heappop(ends)
        return ends[0][0] - self._steps

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
        """What the next tokens look at, once the prompts are computed."""
        return self._context_at_zero + self._steps * len(self.decoding)

    def _decode_s(self, context_tokens: int) -> float:
        """`Profile.decode_s`, with the base looked up where all is on the device."""
        batch, profile = len(self.decoding), self.profile
        if self.share < 1.0 and profile.beside is not None:
            return profile.decode_s(self.form, batch, context_tokens, self.share)
        law = profile.decode[self.form]
        base_s = self._base_s.get(batch)
        if base_s is None:
            base_s = self._base_s[batch] = law.base.seconds(batch)
        return base_s + context_tokens * law.per_pair_s

    def _join(self, running: Running) -> None:
        """It decodes from the next step on; its counts are kept as differences to the lane's."""
        job = running.job
        self._entries += 1
        running.entry = self._entries
        running.end_step = self._steps + running.output_left
        running.decode_ns -= self._decode_ns
        running.share_ns -= self._share_ns
        self._context_at_zero += job.prompt_tokens + job.output_tokens - running.end_step
        self.decoding[job.id] = running
        heappush(self._ends, (running.end_step, self._entries, running))

    def _leave(self, running: Running) -> None:
        job = running.job
        running.entry = None
        running.output_left = running.end_step - self._steps
        running.decode_ns += self._decode_ns
        running.share_ns += self._share_ns
        self._context_at_zero -= job.prompt_tokens + job.output_tokens - running.end_step
        del self.decoding[job.id]


def _ns(seconds: float) -> int:
    return max(1, round(seconds * 1e9))
