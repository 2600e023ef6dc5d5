"""What a context takes: the first of a model is tried, and tells for those that follow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from repertory.engines.llamacpp.account import Account, Known, Tiers, read_back
from repertory.engines.llamacpp.context import (
    WARM_UP_TOKENS,
    Context,
    warm_up_decode,
    warm_up_embed,
    warm_up_prefill,
)
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.steps import StepLoop

__all__ = ["Contexts", "freed_on_failure"]

_Of = tuple[object, str]
"""Weights in one form, on a device."""


class Contexts:
    """What those of this worker showed, by model and device.  By the mover."""

    def __init__(self) -> None:
        self._seen: dict[_Of, Known] = {}
        self.first_ns = 0
        """Of the last context: what a later one of that model does not take."""

    def token_bytes(self, of: _Of, loop: StepLoop, context: Context) -> int:
        """KV of one token.  A model's first context in this process computes a few, and what they
        take is seen; later ones do not, for whoever waits would wait for it (a 1.1B: 110 ms).
        """
        known = self._seen.get(of)
        self.first_ns = 0
        if known is not None:
            return known.token_bytes
        began_ns = time.monotonic_ns()
        each = _warm_up(loop, context)
        self.first_ns = time.monotonic_ns() - began_ns
        return each

    def read_back(
        self,
        of: _Of,
        context: Context,
        accelerator: Accelerator | None,
        token_bytes: tuple[int, int],
        before: Tiers,
    ) -> Account:
        """`token_bytes`: of one token as saved, and as the file's head has it."""
        known = self._seen.get(of)
        account, self._seen[of] = read_back(context, accelerator, token_bytes, before, known)
        return account


def _warm_up(loop: StepLoop, context: Context) -> int:
    """One small batch of each kind, each between two steps; KV bytes per token."""
    if context.takes_whole_prompts:
        long = loop.call(partial(warm_up_embed, context, WARM_UP_TOKENS)).result()
        short = loop.call(partial(warm_up_embed, context, 1)).result()
        return (long - short) // (WARM_UP_TOKENS - 1)
    long = loop.call(partial(warm_up_prefill, context)).result()
    short = loop.call(partial(warm_up_decode, context)).result()
    return (long - short) // (WARM_UP_TOKENS - 1)


@contextmanager
def freed_on_failure(context: Context) -> Iterator[None]:
    try:
        yield
    except BaseException:
        context.free()
        raise
