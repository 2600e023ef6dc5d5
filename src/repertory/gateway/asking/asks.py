"""Requests, understood: what the rest of the gateway works with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repertory.engines.contract import GrammarKind
from repertory.live.facade import GenerationOptions

__all__ = ["Ask", "Chat", "Constraint", "EmbeddingAsk", "Prompt", "ToolWish"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """What every possible answer is held to."""

    kind: GrammarKind
    text: str
    field: str
    """Of the body; it is at fault if no grammar can be made of it."""


@dataclass(frozen=True, slots=True)
class ToolWish:
    """Tools that may be called, or must be."""

    tools: tuple[Mapping[str, Any], ...]  # Any: wire values, for the template
    is_required: bool
    most: int | None
    """None: any number of calls in one answer."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tool["function"]["name"] for tool in self.tools)


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages for the model's own template (wire values, hence `Any`)."""

    messages: tuple[Mapping[str, Any], ...]
    tools: ToolWish | None = None
    variables: Mapping[str, Any] | None = None
    splits_reasoning: bool = True


Prompt = Chat | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for text."""

    model: str
    prompts: tuple[Prompt, ...]
    copies: int
    """Generations of each prompt."""
    options: GenerationOptions
    constraint: Constraint | None
    timeout_s: float | None
    is_streaming: bool
    has_usage_chunk: bool
    has_progress: bool
    is_echo: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingAsk:
    """A request for vectors."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    is_base64: bool
    dimensions: int | None
    options: GenerationOptions
