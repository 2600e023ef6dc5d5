"""How the models that serve on one device share it, and how one model's sequences share a step.

Stride scheduling (Waldspurger & Weihl 1995) over measured device time: the contender that has
used least runs next, for a quantum, and what weighs more is charged less for the same time.  Used
by the worker's step loop and by the simulator's device model alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "QUANTUM_NS",
    "Contender",
    "Run",
    "StepKind",
    "entry_ns",
    "next_run",
    "next_step",
    "step_weight",
    "worth_ns",
]

QUANTUM_NS = 50_000_000
"""One run: long against the cost of changing models (caches refill in about 1 ms), short against
what a reader notices (worker.md, Time)."""


_WEIGHT_OF_A_PROMPT = 2
_WEIGHT_OF_A_DEADLINE = 2.0
"""As much as having waited for `max_wait` once: `policy.objective.MISS_PENALTY_S`."""


def worth_ns(kind: "StepKind", took_ns: int, weight: float = 1.0) -> int:
    """How much of its share a step takes, for a replica whose work weighs so much (the heaviest of
    it): with twice the weight half of it, so it gets twice the time.

    The step of a prompt counts half: who waits for a first token sees nothing at all, and a stream
    at two thirds of its speed is still a stream.
    """
    worth = took_ns // _WEIGHT_OF_A_PROMPT if kind is StepKind.PREFILL else took_ns
    return worth if weight == 1.0 else round(worth / weight)


def step_weight(weight: float, deadline_ns: int | None, at_ns: int) -> float:
    """What a generation weighs among others' steps.

    Twice as much while it has no first token and its deadline is ahead; once that is missed there
    is nothing to save.  `deadline_ns` is None for those with a token.
    """
    is_due = deadline_ns is not None and at_ns <= deadline_ns
    return weight * _WEIGHT_OF_A_DEADLINE if is_due else weight


@dataclass(frozen=True, slots=True)
class Contender:
    """A serving replica with work."""

    name: str
    used_ns: int
    """Device time it has had so far by its worth, from `entry_ns` when it last became busy."""
    step_ns: int
    """What one of its steps is expected to take."""


@dataclass(frozen=True, slots=True)
class Run:
    """Let `name` do `steps` steps; None: until something changes."""

    name: str
    steps: int | None


def next_run(contenders: Sequence[Contender]) -> Run | None:
    """Who steps next, and for how long.  Least used first; a tie goes to the name."""
    if not contenders:
        return None
    if len(contenders) == 1:
        return Run(contenders[0].name, None)
    chosen = min(contenders, key=lambda one: (one.used_ns, one.name))
    return Run(chosen.name, max(1, QUANTUM_NS // max(1, chosen.step_ns)))


def entry_ns(busy_used_ns: Iterable[int]) -> int:
    """The used time that a replica starts with when it becomes busy: idling earns no credit."""
    return min(busy_used_ns, default=0)


class StepKind(Enum):
    """What one step of a model computes."""

    PREFILL = "prefill"
    """One chunk of one prompt."""
    DECODE = "decode"
    """One token for every sequence that is past its prompt."""


def next_step(
    prompt_tokens: int,
    is_decoding: bool,
    computed_tokens: int,
    chunk_tokens: int,
    ratio: float = 1.0,
) -> StepKind | None:
    """What a model with `prompt_tokens` in its next prefill step (0: no prompt waits) does next;
    `computed_tokens` of prompts have been computed since its last decode step.  The prompt weighs
    `ratio` times what the heaviest of the decoding does.

    Prefill and decode take turns while both have work, so neither waits for the other's end: short
    prompts follow one another up to one chunk's tokens, then comes a decode step.  (Sixteen clients
    that come at once would else pay fifteen decode steps of a part of them.)  One step never mixes
    them: mixing gains nothing (30 + 123 against 160 ms, worker.md) and makes logits depend on the
    company.

    A prompt that weighs more than all that decodes has so many chunks' tokens: an interactive one
    of ten chunks waits for one step of a batch, not for ten.
    """
    if not prompt_tokens:
        return StepKind.DECODE if is_decoding else None
    most_tokens = chunk_tokens * max(1.0, ratio)
    has_room = not computed_tokens or computed_tokens + prompt_tokens <= most_tokens
    return StepKind.PREFILL if has_room or not is_decoding else StepKind.DECODE
