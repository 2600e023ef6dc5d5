"""What a context takes: the first of a model is tried, and tells for those that follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from repertory.domain.specs import ModelSpec
from repertory.engines.llamacpp.context import (
    WARM_UP_TOKENS,
    Context,
    warm_up_decode,
    warm_up_embed,
    warm_up_prefill,
)
from repertory.engines.llamacpp.steps import StepLoop

__all__ = ["Contexts", "Taken", "freed_on_failure"]

_STATE_OVERHEAD_BYTES = 32
"""What a saved token holds besides its KV (position, sequence): measured 13."""

_Of = tuple[object, str]
"""Weights in one form, on a device."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a model's first context showed."""

    token_bytes: int
    """KV of one token, as saved."""
    unstated_bytes: int
    """What appeared beyond the KV and the buffers that the library reserved."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a context takes."""

    kv_bytes: int
    buffers_bytes: int


class Contexts:
    """What those of this worker showed, by model and device.  By the mover."""

    def __init__(self) -> None:
        self._seen: dict[_Of, _Known] = {}

    def token_bytes(self, of: _Of, loop: StepLoop, context: Context) -> int:
        """KV of one token.  A model's first context in this process computes a few, and what they
        take is seen; later ones do not, for whoever waits would wait for it (a 1.1B: 110 ms).
        """
        known = self._seen.get(of)
        return _warm_up(loop, context) if known is None else known.token_bytes

    def read_back(
        self, of: _Of, spec: ModelSpec, context: Context, per_token_bytes: int, appeared_bytes: int
    ) -> Taken:
        """The KV's own bytes are exact; buffers are what appeared besides, or what the library
        reserved if it has not touched all of that yet."""
        stated = spec.kv_bytes_per_token
        if 0 <= per_token_bytes - stated <= _STATE_OVERHEAD_BYTES:
            per_token_bytes = stated
        kv_bytes = context.cells_allocated * per_token_bytes
        unstated = max(0, appeared_bytes - kv_bytes - context.reserved_bytes)
        known = self._seen.setdefault(of, _Known(per_token_bytes, unstated))
        buffers_bytes = context.reserved_bytes + max(unstated, known.unstated_bytes)
        return Taken(kv_bytes, buffers_bytes)


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
