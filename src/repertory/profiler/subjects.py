"""What is measured, and where: a model, a place for it; and how often something is repeated."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from repertory.domain.specs import DeviceSpec, ModelSpec, Placement, WeightsForm

__all__ = ["KNOWN", "Place", "Subject", "prompt_of", "repeated"]

_LEAST, _MOST = 3, 7
"""Repeats.  Cheap measurements get more: they scatter most (barrier stalls, facts.md)."""
KNOWN = "known"
"""The seed of prompts whose computing is not what is measured."""
_ENOUGH_S = 1.0
"""Spent on one measurement, preparations included, once it has the least."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be measured, and what its spec does not say."""

    spec: ModelSpec
    vocabulary_tokens: int
    is_generating: bool = True
    """Not so for one that only makes embeddings."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is to lie, and how."""

    device: DeviceSpec
    form: WeightsForm = WeightsForm.PLAIN
    layers: int | None = None
    """On the device; None: all.  0: the device is the cores, for comparison."""
    share: float = 1.0
    """Of its bytes."""

    @property
    def placement(self) -> Placement:
        return Placement((self.device.id,), self.form, self.layers or None)

    @property
    def text(self) -> str:
        layers = "" if self.layers is None else f", {self.layers} layers"
        return f"{self.device.id}, {self.form.value}{layers}"


async def repeated(measure: Callable[[], Awaitable[float]]) -> tuple[float, ...]:
    """Seconds, again and again: at least three times, cheap ones up to seven."""
    clock_s = asyncio.get_running_loop().time
    seconds: list[float] = []
    began_s = clock_s()
    while len(seconds) < _LEAST or (len(seconds) < _MOST and clock_s() - began_s < _ENOUGH_S):
        seconds.append(await measure())
    return tuple(seconds)


def prompt_of(subject: Subject, tokens: int, seed: str) -> tuple[int, ...]:
    """As many tokens as asked for, by luck; other seeds and other lengths share no beginning.

    What one measurement has computed of `KNOWN`, the next one of that length finds saved, where the
    engine saves anything.
    """
    luck = Random(f"{seed} {tokens}")
    return tuple(luck.choices(range(1, subject.vocabulary_tokens), k=tokens))
