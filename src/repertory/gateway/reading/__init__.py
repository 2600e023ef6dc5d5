"""What a model's text means: thinking, calls of tools, and what is meant for the reader."""

from repertory.gateway.reading.formats import TemplateMarks, marks_of
from repertory.gateway.reading.parts import Call, Content, Part, Reasoning
from repertory.gateway.reading.reader import Reader

__all__ = ["Call", "Content", "Part", "Reader", "Reasoning", "TemplateMarks", "marks_of"]
