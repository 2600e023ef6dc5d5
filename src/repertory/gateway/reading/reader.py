"""Thinking first, then calls of tools in what is left."""

from repertory.gateway.reading.calls import Calls
from repertory.gateway.reading.parts import Content, Part
from repertory.gateway.reading.thinking import Thinking

__all__ = ["Reader"]


class Reader:
    """Reads one answer, piece by piece.  However it is cut, its parts joined are the same."""

    def __init__(self, thinking: Thinking | None, calls: Calls | None) -> None:
        self._thinking = thinking
        self._calls = calls

    @property
    def splits_thinking(self) -> bool:
        return self._thinking is not None

    @property
    def is_thinking(self) -> bool:
        return self._thinking is not None and self._thinking.is_inside

    def feed(self, text: str) -> list[Part]:
        if self._thinking is not None:
            return self._look_for_calls(self._thinking.feed(text))
        return self._look_for_calls([Content(text)] if text else [])

    def finish(self) -> list[Part]:
        parts = self._look_for_calls(self._thinking.finish() if self._thinking else [])
        return parts + self._calls.finish() if self._calls else parts

    def _look_for_calls(self, parts: list[Part]) -> list[Part]:
        if self._calls is None:
            return parts
        found: list[Part] = []
        for part in parts:
            found += self._calls.feed(part.text) if isinstance(part, Content) else [part]
        return found
