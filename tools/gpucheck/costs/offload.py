"""Steps with so many of a model's layers on the device: decode and whole prompts, by length."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic

import numpy as np

from gpucheck.costs.up import Place, Up
from gpucheck.costs.wanted import share_there
from gpucheck.measure import Taken, checked, prefill, some_tokens, spec_of, timed
from gpucheck.shapes import Shape
from repertory.domain.readings import StepReading
from repertory.domain.specs import WeightsForm
from repertory.engines.llamacpp.context import DecodeFailed, SavedSequence, empty_sequence
from repertory.engines.llamacpp.library import Accelerator

__all__ = ["measure_offload"]

_REPEATS = 3
_STEPS = 16
_LEAST_STEPS = 3
_DECODE_S = 2.0
"""Of one repeat: with 32B on the cores a step takes a third of a second."""
_PREFILL_S = 60.0
"""Of all prompts: on the cores, 5,000 tokens of a 32B would take minutes."""
_SPARE_CELLS = 32


def measure_offload(
    path: Path, shape: Shape, layers: int, accelerator: Accelerator | None, kept_kv: Path
) -> Taken:
    """`layers` on the device; 0: the CPU alone, with no part in it for the device.

    Decoding wants the cells of a long context, and computing them takes minutes on cores.  So the
    run with all layers keeps its KV in `kept_kv`, and the others start from there: how long a
    step takes does not depend on what the cells say.
    """
    taken = Taken()
    is_whole = layers == shape.layers
    place = Place(None if layers == 0 else accelerator, None if is_whole else layers or None)
    before_bytes = place.taken_bytes()
    up = place.up(spec_of(path), max(shape.lengths) + _SPARE_CELLS)
    taken.note("load", up.load_s, up.held.weights_bytes)
    taken.note("context", up.context_s)
    steps = _Steps(up, None if is_whole else layers, share_there(shape, layers), taken)
    steps.prompts(shape.lengths)
    if is_whole:
        up.context.save(0).content.tofile(kept_kv)
    elif up.context.tokens_in(0) < max(shape.lengths):
        steps.take_kv(kept_kv)
    steps.tokens_after(shape.lengths)
    down = place.down(up, before_bytes)
    taken.note("unload", down.unload_s)
    return taken


def _kept(path: Path) -> SavedSequence:
    """What the run with all layers left on the disk."""
    content = np.fromfile(path, np.uint8)
    kept = empty_sequence(content.size)
    kept.content[:] = content
    return kept


class _Steps:
    """Measures steps in one context."""

    def __init__(self, up: Up, layers: int | None, share: float, taken: Taken) -> None:
        self._up, self._layers, self._share, self._taken = up, layers, share, taken

    def prompts(self, lengths: Sequence[int]) -> None:
        """Whole prompts, short ones first; what would take too long is left out.

        The last one's cells stay.
        """
        context = self._up.context
        tokens = some_tokens(max(lengths), self._up.vocabulary_tokens)
        prefill(context, tokens[: context.chunk_tokens])  # what is loaded once is not timed
        ends_s = monotonic() + _PREFILL_S
        token_s = 0.0
        for length in sorted(lengths):
            expected_s = _REPEATS * length * token_s
            if monotonic() + expected_s > ends_s:
                self._taken.notes.append(
                    f"prompts of {length} tokens left out: they would take {expected_s:.0f} s"
                )
                break
            seconds = [self._prompt(tokens[:length]) for _ in range(_REPEATS)]
            token_s = median(seconds) / length
            self._note(False, length, 0, seconds)

    def _prompt(self, tokens: list[int]) -> float:
        self._up.context.forget(0)
        return timed(lambda: prefill(self._up.context, tokens))[0]

    def take_kv(self, kept_kv: Path) -> None:
        """The cells of the longest context; without them those of the last prompt have to do."""
        if not kept_kv.exists():
            self._taken.notes.append("there is no KV of the run with all layers")
            return
        known = self._up.context.tokens_in(0)
        try:
            self._up.context.restore(0, _kept(kept_kv))
        except DecodeFailed as error:  # cells may be laid out otherwise for these layers
            self._taken.notes.append(f"the KV of the run with all layers does not fit: {error}")
            self._prompt(some_tokens(known, self._up.vocabulary_tokens))

    def tokens_after(self, lengths: Sequence[int]) -> None:
        """Single tokens after contexts, long ones first: each is cut from the one before."""
        for length in sorted(lengths, reverse=True):
            if self._up.context.tokens_in(0) < length:
                self._taken.notes.append(f"decoding at {length} tokens left out: no KV for it")
                continue
            self._few(length)  # a graph is made for the first steps of a shape
            self._note(True, 1, length, [median(self._few(length)) for _ in range(_REPEATS)])

    def _few(self, length: int) -> list[float]:
        """Seconds of up to `_STEPS` steps."""
        context = self._up.context
        context.forget(0, length)
        ends_s = monotonic() + _DECODE_S
        steps: list[float] = []
        for token in some_tokens(_STEPS, self._up.vocabulary_tokens):
            seconds, rows = timed(partial(context.decode, [0], [token], [length + len(steps)]))
            checked(rows)
            steps.append(seconds)
            if len(steps) >= _LEAST_STEPS and monotonic() > ends_s:
                break
        return steps

    def _note(self, decode: bool, tokens: int, context_tokens: int, seconds: list[float]) -> None:
        self._taken.steps.append(
            StepReading(
                decode=decode,
                form=WeightsForm.PLAIN,
                layers=self._layers,
                share=self._share,
                batch=1,
                tokens=tokens,
                context_tokens=context_tokens,
                seconds=tuple(seconds),
            )
        )
