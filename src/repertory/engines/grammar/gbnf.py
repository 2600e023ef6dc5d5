"""GBNF, llama.cpp's notation for grammars: from a stranger's text to a program of byte moves.

The library's own parser and matcher are not used: they print the grammar to stderr, recurse as
deep as the text does, search for left recursion in exponential time, and double their stacks with
every character of an ambiguous grammar, inside of one call that nobody can interrupt.  Here every
size has a bound, and whatever exceeds it is a `BadRequest`.

What is taken: rules of names, literals, classes, `.`, groups, `|`, `?`, `*`, `+`, `{m}`, `{m,}`,
`{m,n}` and comments.  What is not: tokens by name or number (`<...>`).
"""

from collections.abc import Sequence

from repertory.domain.errors import BadRequest
from repertory.engines.grammar.program import (
    LAST_CODE_POINT,
    MOST_STATES,
    Builder,
    Choice,
    Class,
    InOrder,
    Name,
    Node,
    Program,
    Range,
    Repeat,
    Text,
    refuse_left_recursion,
)

__all__ = ["MOST_GBNF_BYTES", "compile_gbnf"]

MOST_GBNF_BYTES = 256 << 10
"""Of GBNF text: what a JSON schema of 64 KiB may become.  The largest schema among the samples of
llama.cpp's test suite becomes 10 KiB."""
_MOST_NESTING = 64
_ROOT = "root"


def compile_gbnf(text: str) -> Program:
    """The program of a grammar; `BadRequest` says what is wrong with it, and in which line."""
    size = len(text.encode("utf-8", "replace"))
    if size > MOST_GBNF_BYTES:
        raise BadRequest(f"The grammar has {size} bytes; at most {MOST_GBNF_BYTES} are taken.")
    rules = _Reader(text).rules()
    if _ROOT not in rules:
        raise BadRequest(f"The grammar has no rule {_ROOT!r}.")
    program = Builder(rules, _ROOT).build()
    refuse_left_recursion(program)
    return program


# From text to a tree.


class _Reader:
    """Recursive descent; `_MOST_NESTING` bounds its depth."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._skip(newlines=True)
        while self._at < len(self._text):
            name = self._name()
            if name in found:
                raise self._fault(f"the rule {name!r} is defined twice")
            self._skip(newlines=False)
            if not self._text.startswith("::=", self._at):
                raise self._fault(f"'::=' is expected after {name!r}")
            self._at += 3
            self._skip(newlines=True)
            found[name] = self._choice(is_nested=False)
            if self._at < len(self._text) and self._peek() not in "\r\n":
                raise self._fault(f"{self._peek()!r} is not expected here")
            self._skip(newlines=True)
        return found

    def _choice(self, is_nested: bool) -> Node:
        options = [self._sequence(is_nested)]
        while self._peek() == "|":
            self._at += 1
            self._skip(newlines=True)
            options.append(self._sequence(is_nested))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, is_nested: bool) -> Node:
        items: list[Node] = []
        while (item := self._item()) is not None:
            self._skip(is_nested)
            while (count := self._count()) is not None:
                item = Repeat(item, *count)
                self._skip(is_nested)
            items.append(item)
        return items[0] if len(items) == 1 else InOrder(tuple(items))

    def _item(self) -> Node | None:
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                return self._class()
            case ".":
                self._at += 1
                return Class(((0, LAST_CODE_POINT),))
            case "(":
                return self._group()
            case "<" | "!":
                raise self._fault("tokens in a grammar are not supported; write their text")
            case "*" | "+" | "?" | "{":
                raise self._fault("there is nothing to repeat")
            case one if _is_name(one):
                return Name(self._name(), self._line)
        return None

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > _MOST_NESTING:
            raise self._fault(f"more than {_MOST_NESTING} groups within each other")
        self._at += 1
        self._skip(newlines=True)
        inner = self._choice(is_nested=True)
        if self._peek() != ")":
            raise self._fault("')' is expected")
        self._at += 1
        self._depth -= 1
        return inner

    def _literal(self) -> Node:
        self._at += 1
        text: list[str] = []
        while (one := self._peek()) != '"':
            if one in ("", "\n"):
                raise self._fault("a literal does not end in its line")
            text.append(chr(self._code_point()))
        self._at += 1
        return Text("".join(text))

    def _class(self) -> Node:
        self._at += 1
        is_negated = self._peek() == "^"
        self._at += is_negated
        ranges: list[Range] = []
        while (one := self._peek()) != "]":
            if one in ("", "\n"):
                raise self._fault("a class does not end in its line")
            first = last = self._code_point()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._code_point()
            if last < first:
                raise self._fault("a range of a class goes backwards")
            ranges.append((first, last))
        self._at += 1
        if not ranges and not is_negated:
            raise self._fault("an empty class matches nothing")
        united = _united(ranges)
        return Class(_others(united) if is_negated else united)

    def _code_point(self) -> int:
        one = self._peek()
        self._at += 1
        if one != "\\":
            return ord(one)
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return ord(_ESCAPES[kind])
        digits = _HEX_DIGITS.get(kind, 0)
        number = self._text[self._at : self._at + digits]
        try:
            value = int(number, 16) if digits == len(number) > 0 else -1
        except ValueError:
            value = -1
        if not 0 <= value <= LAST_CODE_POINT or 0xD800 <= value <= 0xDFFF:
            raise self._fault(f"no character is written '\\{kind}{number}'")
        self._at += digits
        return value

    def _count(self) -> tuple[int, int | None] | None:
        one = self._peek()
        if one == "{":
            return self._braces()
        if one in _COUNTS:
            self._at += 1
        return _COUNTS.get(one)

    def _braces(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        inner = self._text[self._at + 1 : max(end, 0)]
        low, comma, high = (part.strip() for part in inner.partition(","))
        is_number = low.isdecimal() and (high.isdecimal() or not high) and len(inner) < 20
        if end < 0 or not is_number:
            raise self._fault("'{m}', '{m,}' or '{m,n}' is expected")
        self._at = end + 1
        least = int(low)
        most = int(high) if high else None if comma else least
        if max(least, most or 0) > MOST_STATES or (most is not None and most < least):
            raise self._fault(f"nothing can be repeated {inner} times")
        return least, most

    def _name(self) -> str:
        start = self._at
        while _is_name(self._peek()):
            self._at += 1
        if self._at == start:
            raise self._fault("a rule's name is expected (letters, digits, '-')")
        return self._text[start : self._at]

    def _skip(self, newlines: bool) -> None:
        """Over blanks and comments."""
        blanks = " \t\r\n" if newlines else " \t"
        while (one := self._peek()) and (one in blanks or one == "#"):
            if one == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                self._at += 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    @property
    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _fault(self, what: str) -> BadRequest:
        return BadRequest(f"The grammar is wrong in line {self._line}: {what}.")


_ESCAPES = {
    "t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^",
}  # fmt: skip
_COUNTS: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def _is_name(one: str) -> bool:
    return one == "-" or (one.isascii() and one.isalnum())


def _united(ranges: Sequence[Range]) -> tuple[Range, ...]:
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def _others(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    edges = [-1, *(edge for one in ranges for edge in one), LAST_CODE_POINT + 1]
    gaps = [(edges[n] + 1, edges[n + 1] - 1) for n in range(0, len(edges), 2)]
    return tuple((first, last) for first, last in gaps if first <= last)
