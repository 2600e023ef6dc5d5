"""Finds calls of tools in an answer that comes in pieces.

What turns out to be no call is content, to the letter; only white space around calls is dropped.
"""

from collections.abc import Collection
from enum import Enum

from repertory.gateway.reading.cuts import JsonSpan, overlap
from repertory.gateway.reading.formats import CallFormat
from repertory.gateway.reading.parts import Content, Part

__all__ = ["Calls"]


class _State(Enum):
    START = "start"
    """Formats without a mark: will it be a value?"""
    TEXT = "text"
    VALUE = "value"
    """Behind a mark."""
    AFTER = "after"
    """Behind a call."""


class Calls:
    """Splits a text that comes in pieces."""

    def __init__(
        self, call_format: CallFormat, names: Collection[str], most: int | None = None
    ) -> None:
        """`most`: so many calls are taken, further ones are dropped."""
        self._format = call_format
        self._names = names
        self._left = most
        self._state = _State.TEXT if call_format.opening else _State.START
        self._held = ""
        self._space = ""
        """White space that is content only if text follows."""
        self._prefix = ""
        """What stood before the value: said if it is no call."""
        self._span = JsonSpan()
        self._has_called = False
        self._parts: list[Part] = []

    def feed(self, text: str) -> list[Part]:
        self._held += text
        self._read(is_end=False)
        return self._take_parts()

    def finish(self) -> list[Part]:
        self._read(is_end=True)
        if self._state is _State.VALUE:
            self._no_call(0)  # nothing came behind the mark
        if not self._has_called and self._space:
            self._parts.append(Content(self._space))
        self._space = ""
        return self._take_parts()

    def _take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _read(self, is_end: bool) -> None:
        """Until what is held must wait for more."""
        while self._held and self._step(is_end):
            pass

    def _step(self, is_end: bool) -> bool:
        """One part of what is held.  False: the rest waits."""
        match self._state:
            case _State.TEXT:
                return self._text(is_end)
            case _State.VALUE:
                return self._value(is_end)
            case _State.START:
                return self._start(is_end)
            case _State.AFTER:
                return self._after(is_end)

    def _start(self, is_end: bool) -> bool:
        """White space, perhaps the lead, then `{`: else it is text."""
        lead = self._format.lead
        rest = self._held.lstrip()
        if lead and rest.startswith(lead):
            rest = rest[len(lead) :].lstrip()
        elif rest and lead.startswith(rest) and not is_end:
            return False
        if not rest and not is_end:
            return False
        if rest.startswith("{"):
            self._open(rest)
        else:
            self._state = _State.TEXT
        return True

    def _text(self, is_end: bool) -> bool:
        opening = self._format.opening
        at = self._held.find(opening) if opening else -1
        if at >= 0:
            self._say(self._held[:at])
            self._held = self._held[at:]
            self._open(self._held[len(opening) :])
            return True
        keep = 0 if is_end else overlap(self._held, opening)
        split = len(self._held) - keep
        self._say(self._held[:split])
        self._held = self._held[split:]
        return False

    def _open(self, rest: str) -> None:
        """A value may begin in `rest`, the end of what is held."""
        self._prefix = self._held[: len(self._held) - len(rest)]
        self._held = rest
        self._span = JsonSpan()
        self._state = _State.VALUE

    def _value(self, is_end: bool) -> bool:
        value = self._held.lstrip()
        if value and value[0] not in "{[":
            return self._no_call(0)
        end = self._span.end(value) if value else None
        if end is None:
            return self._no_call(len(self._held)) if is_end else False
        calls = self._format.calls_of(value[:end], self._names)
        if calls is None:
            return self._no_call(len(self._held) - len(value) + end)
        self._held = value[end:]
        self._state = _State.AFTER
        self._space, self._has_called = "", True
        self._parts += calls[: self._left]
        if self._left is not None:
            self._left = max(0, self._left - len(calls))
        return True

    def _no_call(self, count: int) -> bool:
        """The prefix and so many characters of what is held are content."""
        self._say(self._prefix + self._held[:count])
        self._held = self._held[count:]
        self._state = _State.TEXT
        return True

    def _after(self, is_end: bool) -> bool:
        return self._after_mark(is_end) if self._format.opening else self._after_value(is_end)

    def _after_mark(self, is_end: bool) -> bool:
        """White space and the closing mark."""
        closing = self._format.closing
        rest = self._held.lstrip()
        if len(rest) < len(closing) and closing.startswith(rest) and not is_end:
            return False
        if closing and rest.startswith(closing):
            self._held = rest[len(closing) :]
        self._state = _State.TEXT
        return True

    def _after_value(self, is_end: bool) -> bool:
        """White space and separators, then another value or text."""
        rest = self._held.lstrip(self._format.separators + " \t\r\n")
        if not rest and not is_end:
            return False
        if rest.startswith("{"):
            self._open(rest)
        elif rest:
            self._state = _State.TEXT
        else:
            self._held = ""
        return True

    def _say(self, text: str) -> None:
        text = self._space + text
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._parts.append(Content(said))
