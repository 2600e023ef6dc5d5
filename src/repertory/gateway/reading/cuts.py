"""Looking for marks and values in text that comes in pieces."""

import re

__all__ = ["JsonSpan", "overlap"]

_STRUCTURE = re.compile(r'["\\{}\[\]]')


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    at = text.find(mark[:1], max(0, len(text) - len(mark) + 1)) if mark else -1
    while at >= 0:
        if mark.startswith(text[at:]):
            return len(text) - at
        at = text.find(mark[0], at + 1)
    return 0


class JsonSpan:
    """Finds where one JSON object or array ends.  Whether it is valid is for a parser to say."""

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._is_string = False

    def end(self, text: str) -> int | None:
        """Offset behind the value that `text` begins with; None while it is open.

        Every call is given the text of the one before, perhaps with more behind it.
        """
        at = self._at
        while (found := _STRUCTURE.search(text, at)) is not None:
            at, mark = found.end(), found[0]
            if self._is_string:
                if mark == "\\":
                    at += 1  # whatever is escaped; it may not have come yet
                elif mark == '"':
                    self._is_string = False
            elif mark == '"':
                self._is_string = True
            elif mark in "{[":
                self._depth += 1
            elif mark in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at
        self._at = max(at, len(text))
        return None
