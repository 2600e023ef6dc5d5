"""Which requests the next step computes, as vLLM V1 decides it (0.19, first come first served).

1. Running requests in their order, each all it lacks, while the budget of tokens lasts: one token
   for a decode, the rest of its prompt for one that is not through.
2. One that finds no free block preempts the newest running; at last itself.  It goes to the head of
   the waiting and begins again, from what of its cells is still there.
3. If nobody was preempted: waiting requests while there are places, budget and blocks for the whole
   of each; the last may get a piece.

The next step is scheduled while one runs (`async_scheduling`): its tokens are counted before they
are known, and a request that ends with the step under way is not scheduled again.
"""

from collections import deque
from dataclasses import dataclass, field

from repertory.perf.vllm.batches import Batch, Chunk
from repertory.sim.vllm.blocks import BlockPool

__all__ = ["Limits", "Planned", "Scheduler", "Sequence"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine was started with."""

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    block_tokens: int = 16

    @property
    def kv_tokens(self) -> int:
        """One block is vLLM's own: where masked tokens write."""
        return (self.kv_blocks - 1) * self.block_tokens


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside the engine."""

    number: int
    """Its place in the workload."""
    prompt_tokens: int
    output_tokens: int
    queued_s: float
    computed: int = 0
    """Tokens whose cells are there, those of the step under way included."""
    emitted: int = 0
    promised: int = 0
    """Output tokens of steps under way."""
    blocks: list[int] = field(default_factory=list)
    is_running: bool = False
    first_token_s: float | None = None
    preemptions: int = 0

    @property
    def known(self) -> int:
        return self.prompt_tokens + self.emitted

    @property
    def lacks(self) -> int:
        """Tokens to compute before the next one comes out."""
        return self.known + self.promised - self.computed

    @property
    def is_last_promised(self) -> bool:
        return self.emitted + self.promised >= self.output_tokens


@dataclass(frozen=True, slots=True)
class Planned:
    """One step."""

    batch: Batch
    emitting: tuple[Sequence, ...]
    """Those that get a token from it."""
    preempted: int = 0


class Scheduler:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.pool = BlockPool(limits.kv_blocks - 1)

    def next_step(self) -> Planned | None:
        """None: nothing to compute until a step under way has ended."""
        parts: list[tuple[Sequence, int]] = []
        budget = self.limits.max_num_batched_tokens
        preempted, index = 0, 0
        while index < len(self.running) and budget:
            each = self.running[index]
            tokens = 0 if each.promised and each.is_last_promised else min(each.lacks, budget)
            if tokens:
                dropped = self._make_room(each, tokens)
                preempted += dropped
                if not each.is_running:
                    break
                parts.append((each, tokens))
                budget -= tokens
            index += 1
        while not preempted and budget and (admitted := self._admit(budget)):
            parts.append(admitted)
            budget -= admitted[1]
        return self._planned(parts, preempted) if parts else None

    def finish(self, done: Sequence) -> None:
        """It has all its tokens."""
        self.pool.give(done.blocks)
        done.blocks = []
        if done.is_running:
            done.is_running = False
            self.running.remove(done)
        else:
            self.waiting.remove(done)

    @property
    def is_full(self) -> bool:
        """No waiting request would be admitted now."""
        if not self.waiting or len(self.running) >= self.limits.max_num_seqs:
            return True
        head = self.waiting[0]
        return self._needed(head, self._held(head)) > self.pool.free

    def grow(self, each: Sequence, tokens: int) -> int:
        """How many more blocks so many tokens of it take."""
        return -(-(each.computed + tokens) // self.limits.block_tokens) - len(each.blocks)

    def _make_room(self, each: Sequence, tokens: int) -> int:
        """How many were preempted for it; it may have been among them itself."""
        needed, dropped = self.grow(each, tokens), 0
        while needed > self.pool.free and each.is_running:
            self._preempt(self.running.pop())
            dropped += 1
        if each.is_running:
            each.blocks += self.pool.take(needed)
        return dropped

    def _preempt(self, each: Sequence) -> None:
        whole = min(each.computed, each.known) // self.limits.block_tokens
        self.pool.give_named(each.number, each.blocks, whole)
        each.blocks = []
        each.computed = 0
        each.is_running = False
        each.preemptions += 1
        self.waiting.appendleft(each)

    def _admit(self, budget: int) -> tuple[Sequence, int] | None:
        """The first waiting request, and how much of it is computed."""
        if not self.waiting or len(self.running) >= self.limits.max_num_seqs:
            return None
        head = self.waiting[0]
        held = self._held(head)
        if self._needed(head, held) > self.pool.free:
            return None
        self.waiting.popleft()
        self.pool.take_back(held)
        head.computed = len(held) * self.limits.block_tokens
        tokens = min(head.known - head.computed, budget)
        head.blocks = held
        head.blocks += self.pool.take(self.grow(head, tokens))
        head.is_running = True
        self.running.append(head)
        return head, tokens

    def _held(self, head: Sequence) -> list[int]:
        """At least one token is computed, so that there are logits."""
        if not head.preemptions:
            return []
        return self.pool.held(head.number, (head.known - 1) // self.limits.block_tokens)

    def _needed(self, head: Sequence, held: list[int]) -> int:
        """Free blocks for the whole of it; its own old ones are among the free."""
        return -(-head.known // self.limits.block_tokens)

    def _planned(self, parts: list[tuple[Sequence, int]], preempted: int) -> Planned:
        chunks: list[Chunk] = []
        emitting: list[Sequence] = []
        decodes = context = longest = 0
        for each, tokens in parts:
            if tokens == 1 and each.computed >= each.prompt_tokens:
                decodes += 1
                context += each.computed
                longest = max(longest, each.computed)
            else:
                chunks.append(Chunk(tokens, each.computed))
            each.computed += tokens
            if not each.lacks:
                each.promised += 1
                emitting.append(each)
        batch = Batch(decodes, context, longest, tuple(chunks))
        return Planned(batch, tuple(emitting), preempted)
