"""Prompts of a wanted length, different for every request but for what they share."""

import random
from collections.abc import Sequence

from repertory.domain.workloads import Arrival

__all__ = ["WORDS", "Prompts"]

_FIRST_ID, _LAST_ID = 300, 30_000
"""Ordinary tokens in vocabularies from 32,000 on: no specials, no single bytes."""
WORDS = ("of", "the", "and", "to", "in", "is", "was", "for", "on", "that", "with", "as", "by", "at")
"""A token each in every tokenizer that has seen English, with the blank before it."""


class Prompts:
    """The same for the same seed and request, on every server."""

    def __init__(self, seed: int, *, as_text: bool) -> None:
        """`as_text`: for servers that take no token ids; lengths are then about right."""
        self._seed = seed
        self._as_text = as_text

    def of(self, arrival: Arrival, number: int) -> Sequence[int] | str:
        """Its first `prefix_tokens` are those of every request with the same `prefix_id`."""
        shared = arrival.prefix_tokens if arrival.prefix_id else 0
        ids = self._drawn(f"prefix {arrival.prefix_id}", shared) if shared else []
        ids += self._drawn(f"request {number}", arrival.prompt_tokens - shared)
        return "".join(f" {WORDS[one % len(WORDS)]}" for one in ids) if self._as_text else ids

    def _drawn(self, name: str, tokens: int) -> list[int]:
        luck = random.Random(f"{self._seed} {name}")
        return luck.choices(range(_FIRST_ID, _LAST_ID), k=tokens)
