"""The regular expressions of a schema's `pattern`, as GBNF of a JSON string.

A subset of ECMA-262: characters, `.`, classes, `\\d \\w \\s` and their opposites, groups, `|`, and
counts.  `^` and `$` may stand at the ends; a pattern without them is read as if it had them, for
what matches as a whole is also found.  Everything else is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

from repertory.domain.errors import BadRequest

__all__ = ["pattern_rule"]

_MOST_CHARACTERS = 2000
_MOST_NESTING = 32
_LAST = 0x10FFFF

_Range = tuple[int, int]
_DIGITS: list[_Range] = [(0x30, 0x39)]
_WORDS: list[_Range] = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_BLANKS: list[_Range] = [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0)]
_LINE_ENDS: list[_Range] = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B}
_SHORT_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x08: "\\b", 0x0C: "\\f", 0x0A: "\\n", 0x0D: "\\r",
                  0x09: "\\t"}  # fmt: skip


def pattern_rule(pattern: Any, fault: Callable[[str], BadRequest]) -> str:
    """A JSON string whose text matches."""
    if not isinstance(pattern, str) or len(pattern) > _MOST_CHARACTERS:
        raise fault(f"'pattern' must be a text of at most {_MOST_CHARACTERS} characters")
    return rf'("\"" {_Reader(pattern, fault).whole()} "\"")'


class _Reader:
    def __init__(self, pattern: str, fault: Callable[[str], BadRequest]) -> None:
        self._text = pattern.removeprefix("^")
        if self._text.endswith("$") and not _is_escaped(self._text, len(self._text) - 1):
            self._text = self._text[:-1]
        self._at = 0
        self._depth = 0
        self._report = fault

    def whole(self) -> str:
        expression = self._choice()
        if self._at < len(self._text):
            raise self._fault(f"{self._peek()!r} is not expected")
        return expression

    def _choice(self) -> str:
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())
        return options[0] if len(options) == 1 else f"({' | '.join(options)})"

    def _sequence(self) -> str:
        items: list[str] = []
        while self._peek() not in ("", "|", ")"):
            item = self._item()
            count = self._count()
            items.append(f"({item}){count}" if count else item)
        return " ".join(items) or '""'

    def _item(self) -> str:
        one = self._peek()
        self._at += 1
        match one:
            case "(":
                return self._group()
            case "[":
                return _written(self._class())
            case ".":
                return _written(_others(_LINE_ENDS))
            case "\\":
                return _written(self._escaped())
            case "^" | "$" | "*" | "+" | "?" | "{":
                raise self._fault(f"{one!r} is not supported here")
        return _written([(ord(one), ord(one))])

    def _group(self) -> str:
        if self._peek() == "?":
            if self._text[self._at : self._at + 2] != "?:":
                raise self._fault("'(?' is supported as '(?:' only")
            self._at += 2
        self._depth += 1
        if self._depth > _MOST_NESTING:
            raise self._fault(f"more than {_MOST_NESTING} groups within each other")
        inner = self._choice()
        if self._peek() != ")":
            raise self._fault("')' is missing")
        self._at += 1
        self._depth -= 1
        return f"({inner})"

    def _count(self) -> str:
        one = self._peek()
        count = ""
        if one in ("*", "+", "?") and one:
            self._at += 1
            count = one
        elif one == "{":
            end = self._text.find("}", self._at)
            inner = self._text[self._at + 1 : max(end, 0)]
            if end < 0 or len(inner) > 12 or not inner.replace(",", "", 1).isdecimal():
                raise self._fault("'{m}', '{m,}' or '{m,n}' is expected")
            self._at = end + 1
            count = f"{{{'0' if inner.startswith(',') else ''}{inner}}}"
        if count and self._peek() == "?":
            self._at += 1  # lazy: the same texts
        return count

    def _class(self) -> list[_Range]:
        is_negated = self._peek() == "^"
        self._at += is_negated
        ranges: list[_Range] = []
        while self._peek() != "]":
            first = self._member()
            next_one = self._text[self._at + 1 : self._at + 2]
            if self._peek() == "-" and next_one not in ("]", "") and _is_one(first):
                self._at += 1
                last = self._member()
                if not _is_one(last) or last[0][0] < first[0][0]:
                    raise self._fault("a range of a class goes backwards")
                first = [(first[0][0], last[0][1])]
            ranges += first
        self._at += 1
        if not ranges:
            raise self._fault("an empty class is not supported")
        return _others(ranges) if is_negated else _united(ranges)

    def _member(self) -> list[_Range]:
        one = self._peek()
        self._at += 1
        if one == "":
            raise self._fault("']' is missing")
        return self._escaped() if one == "\\" else [(ord(one), ord(one))]

    def _escaped(self) -> list[_Range]:
        one = self._peek()
        self._at += 1
        kinds = {"d": _DIGITS, "w": _WORDS, "s": _BLANKS}
        if one in kinds:
            return kinds[one]
        if one.lower() in kinds:
            return _others(kinds[one.lower()])
        if one in _CONTROLS:
            return [(_CONTROLS[one], _CONTROLS[one])]
        if one in ("x", "u"):
            size = 2 if one == "x" else 4
            digits = self._text[self._at : self._at + size]
            self._at += size
            if len(digits) == size and all(digit in "0123456789abcdefABCDEF" for digit in digits):
                value = int(digits, 16)
                return [(value, value)]
        elif one and not one.isalnum():
            return [(ord(one), ord(one))]
        raise self._fault(f"'\\{one}' is not supported")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _fault(self, what: str) -> BadRequest:
        return self._report(f"'pattern': {what}")


def _is_escaped(text: str, at: int) -> bool:
    before = text[:at]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def _is_one(ranges: Sequence[_Range]) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]


def _united(ranges: Sequence[_Range]) -> list[_Range]:
    joined: list[_Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


def _others(ranges: Sequence[_Range]) -> list[_Range]:
    edges = [-1, *(edge for one in _united(ranges) for edge in one), _LAST + 1]
    gaps = [(edges[n] + 1, edges[n + 1] - 1) for n in range(0, len(edges), 2)]
    return [(first, last) for first, last in gaps if first <= last]


def _written(ranges: Sequence[_Range]) -> str:
    """The characters as they stand inside of a JSON string."""
    special = [*range(0x20), 0x22, 0x5C]
    plain = _others([*_others(ranges), *((one, one) for one in special), (0xD800, 0xDFFF)])
    options = []
    if plain:
        options.append("[" + "".join(_span(first, last) for first, last in plain) + "]")
    for one in special:
        if any(first <= one <= last for first, last in ranges):
            text = _SHORT_ESCAPES.get(one, f"\\u{one:04X}")
            options.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    if not options:
        return "[]"  # nothing at all: the grammar's reader says so
    return options[0] if len(options) == 1 else f"({' | '.join(options)})"


def _span(first: int, last: int) -> str:
    if first == last:
        return f"\\U{first:08X}"
    return f"\\U{first:08X}-\\U{last:08X}"
