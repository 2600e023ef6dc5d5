"""What an answer is made of."""

from dataclasses import dataclass

__all__ = ["Call", "Content", "Part", "Reasoning"]


@dataclass(frozen=True, slots=True)
class Content:
    """Text for whoever asked."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model wrote to itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the model wants called."""

    name: str
    arguments: str
    """A JSON object as text, as OpenAI has it."""


Part = Content | Reasoning | Call
