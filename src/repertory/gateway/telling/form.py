"""How an answer looks on the wire: what chat and plain completions have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from repertory.engines.contract import Ranked
from repertory.gateway.telling.shapes import (
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
    WaitProgress,
)
from repertory.live.facade import Piece, Progress

__all__ = [
    "DONE",
    "Form",
    "Heading",
    "Writer",
    "encode",
    "event",
    "likely",
    "progress_of",
    "usage_of",
]

DONE = b"data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0
"""OpenAI's number for a token that could not come; JSON has no infinity."""

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands in every part of one answer."""

    id: str
    """Made of the first generation's."""
    model: str
    """The client's own word for it."""
    created: int
    """Unix time."""
    has_usage: bool


class Writer(Protocol):
    """One choice: told its pieces in order, as events or for the whole."""

    def events(self, piece: Piece) -> bytes:
        """Server-sent events for this piece; empty: nothing to say yet."""
        ...

    def keep(self, piece: Piece) -> None:
        """Remember this piece for the whole answer."""
        ...

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of thinking; None where it is not split off."""
        ...


class Form(Protocol):
    """One answer with all of its choices."""

    @property
    def writers(self) -> Sequence[Writer]: ...

    def whole(self, usage: Usage) -> bytes:
        """From what the writers kept."""
        ...

    def usage_event(self, usage: Usage) -> bytes: ...

    def progress_event(self, progress: Progress) -> bytes: ...


def event(chunk: msgspec.Struct) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def usage_of(
    prompt_tokens: int, output_tokens: int, reused_tokens: int, writers: Sequence[Writer]
) -> Usage:
    thought = [tokens for one in writers if (tokens := one.reasoning_tokens) is not None]
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=output_tokens,
        total_tokens=prompt_tokens + output_tokens,
        prompt_tokens_details=PromptTokensDetails(reused_tokens),
        completion_tokens_details=(
            CompletionTokensDetails(sum(thought)) if thought else msgspec.UNSET
        ),
    )


def progress_of(progress: Progress) -> WaitProgress:
    return WaitProgress(progress.stage.value, progress.place, progress.share, progress.eta_s)


def likely(token: Ranked) -> float:
    return max(token.logprob, _LEAST_LOGPROB)
