"""`<think>...</think>` before an answer, as Qwen 3 and DeepSeek R1 write it."""

from enum import Enum

from repertory.gateway.reading.cuts import overlap
from repertory.gateway.reading.parts import Content, Part, Reasoning

__all__ = ["CLOSING", "OPENING", "Thinking"]

OPENING = "<think>"
CLOSING = "</think>"


class _State(Enum):
    BEFORE = "before"
    INSIDE = "inside"
    BEHIND = "behind"
    """The closing mark was seen; white space up to the answer is dropped."""
    OVER = "over"


class Thinking:
    """Splits a text that comes in pieces.  White space around either part is nobody's."""

    def __init__(self, is_open: bool) -> None:
        """`is_open`: the prompt itself ends in the opening mark."""
        self._state = _State.INSIDE if is_open else _State.BEFORE
        self._held = ""
        self._has_begun = False
        """A character that is no white space was inside."""

    @property
    def is_inside(self) -> bool:
        return self._state is _State.INSIDE

    def feed(self, text: str) -> list[Part]:
        self._held += text
        parts: list[Part] = []
        if self._state is _State.BEFORE:
            parts += self._before()
        if self._state is _State.INSIDE:
            parts += self._inside()
        if self._state is _State.BEHIND:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.OVER
        if self._state is _State.OVER and self._held:
            parts.append(Content(self._let_go(len(self._held))))
        return parts

    def finish(self) -> list[Part]:
        rest = self._let_go(len(self._held))
        if not rest or self._state is _State.BEHIND:
            return []
        if self._state is _State.INSIDE:
            rest = rest.rstrip()
            return [Reasoning(rest)] if rest else []
        return [Content(rest)]

    def _before(self) -> list[Part]:
        start = self._held.lstrip()
        if start.startswith(OPENING):
            self._held = start[len(OPENING) :]
            self._state = _State.INSIDE
        elif not OPENING.startswith(start):
            self._state = _State.OVER
        return []

    def _inside(self) -> list[Part]:
        if not self._has_begun:
            self._held = self._held.lstrip()
            self._has_begun = bool(self._held) and not CLOSING.startswith(self._held)
        at = self._held.find(CLOSING)
        if at >= 0:
            text = self._let_go(at).rstrip()
            self._let_go(len(CLOSING))
            self._state = _State.BEHIND
        else:
            safe = self._held[: len(self._held) - overlap(self._held, CLOSING)].rstrip()
            text = self._let_go(len(safe))
        return [Reasoning(text)] if text else []

    def _let_go(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text
