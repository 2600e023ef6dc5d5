"""A generation interrupted, its model unloaded and loaded again: does it go on as it would have?"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpucheck.costs.found import Resume
from gpucheck.costs.up import Place, Up
from gpucheck.measure import (
    TOLERANCE_BYTES,
    Taken,
    Wrong,
    checked,
    prefill,
    some_tokens,
    spec_of,
    timed,
)
from gpucheck.result import Freed
from gpucheck.shapes import Shape
from repertory.engines.llamacpp.context import Logits
from repertory.engines.llamacpp.library import Accelerator

__all__ = ["measure_resume"]

_SPARE_CELLS = 8


def measure_resume(path: Path, shape: Shape, accelerator: Accelerator | None) -> Taken:
    """Greedy, with half of the tokens after the interruption; by KV and by replay."""
    taken = Taken()
    place, spec = Place(accelerator), spec_of(path)
    cells = shape.prompt_tokens + shape.decode_tokens + _SPARE_CELLS
    half = shape.decode_tokens // 2
    up = place.up(spec, cells)
    prompt = some_tokens(shape.prompt_tokens, up.vocabulary_tokens)
    undisturbed = _generate(up, prefill(up.context, prompt), len(prompt), shape.decode_tokens)
    up.context.forget(0)
    before = _generate(up, prefill(up.context, prompt), len(prompt), half)
    if before.tokens != undisturbed.tokens[:half]:
        raise Wrong("one prompt gave two texts, so nothing can be said about a resume")
    saved = up.context.save(0)
    place.down(up, place.taken_bytes())
    free_at_bytes = place.taken_bytes()

    position = len(prompt) + half
    up = place.up(spec, cells)
    in_s, _ = timed(partial(up.context.restore, 0, saved))
    # The last known token's logits were seen before the interruption: they come with the state.
    went_on = _generate(up, before.last, position, shape.decode_tokens - half)
    taken.resumes.append(_compared("kv", in_s, undisturbed.after(half), went_on))
    down = place.down(up, free_at_bytes)
    found = (free_at_bytes, None, free_at_bytes + down.kept_bytes, TOLERANCE_BYTES)
    taken.freed.append(Freed("resumed", "kernel" if place.is_cpu else "ggml", *found))

    up = place.up(spec, cells)
    known = [*prompt, *undisturbed.tokens[:half]]
    replay_s, row = timed(lambda: prefill(up.context, known).copy())
    replayed = _generate(up, row, position, shape.decode_tokens - half, undisturbed.tokens[half:])
    taken.resumes.append(_compared("replay", replay_s, undisturbed.after(half), replayed))
    place.down(up, free_at_bytes)
    return taken


@dataclass(frozen=True, slots=True)
class _Run:
    """Tokens that were taken, first choices, and log-probabilities of those taken."""

    tokens: list[int]
    choices: list[int]
    logprobs: NDArray[np.float64]
    last: Logits
    """The logits of what would come next."""

    def after(self, tokens: int) -> "_Run":
        return _Run(self.tokens[tokens:], self.choices[tokens:], self.logprobs[tokens:], self.last)


def _generate(
    up: Up, row: Logits, position: int, count: int, forced: list[int] | None = None
) -> _Run:
    """Greedy, or along `forced`, whatever the first choice is."""
    tokens: list[int] = []
    choices: list[int] = []
    logprobs: list[float] = []
    for number in range(count):
        choices.append(int(row.argmax()))
        tokens.append(choices[-1] if forced is None else forced[number])
        shifted = row.astype(np.float64) - float(row.max())
        logprobs.append(float(shifted[tokens[-1]] - np.log(np.exp(shifted).sum())))
        row = checked(up.context.decode([0], [tokens[-1]], [position + number]))[0]
    return _Run(tokens, choices, np.array(logprobs), row.copy())


def _compared(way: str, seconds: float, undisturbed: _Run, other: _Run) -> Resume:
    same = 0
    for mine, theirs in zip(undisturbed.tokens, other.choices, strict=True):
        if mine != theirs:
            break
        same += 1
    difference = np.abs(undisturbed.logprobs - other.logprobs)
    return Resume(
        way="kv" if way == "kv" else "replay",
        tokens=len(other.tokens),
        same_tokens=same,
        seconds=seconds,
        logprob_difference_max=float(difference.max()),
        logprob_difference_mean=float(difference.mean()),
    )
