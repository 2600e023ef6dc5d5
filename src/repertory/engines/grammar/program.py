"""A grammar's rules as a program: automata over bytes that call each other.

Rules come as trees (`Node`); what they become has a bound, and they are known to read a byte before
they come to themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from repertory.domain.errors import BadRequest

__all__ = [
    "LAST_CODE_POINT",
    "MOST_STATES",
    "Builder",
    "Choice",
    "Class",
    "InOrder",
    "Move",
    "Name",
    "Node",
    "Program",
    "Range",
    "Repeat",
    "Text",
    "refuse_left_recursion",
]

MOST_STATES = 50_000
"""Each holds some 300 bytes here; a string of at most 10,000 characters takes 10,000."""
_MOST_CHECKS = 2_000_000
"""Visits of states while the rules are checked: some 0.5 s."""
LAST_CODE_POINT = 0x10FFFF

Range = tuple[int, int]
"""First and last."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Class:
    ranges: tuple[Range, ...]
    """Of code points, ascending, apart from each other."""


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class InOrder:
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: "Node"
    least: int
    most: int | None


Node = Text | Class | Name | InOrder | Choice | Repeat


@dataclass(frozen=True, slots=True)
class Move:
    """On a byte between `first` and `last`, to a state."""

    first: int
    last: int
    target: int


@dataclass(slots=True)
class Program:
    """Rules as automata over bytes that call each other.  One entry per state in each list."""

    entry: int = 0
    moves: list[list[Move]] = field(default_factory=list)
    jumps: list[list[int]] = field(default_factory=list)
    """States that are reached without a byte."""
    calls: list[list[tuple[int, int]]] = field(default_factory=list)
    """(entry of the called rule, state to go on in afterwards)."""
    is_final: list[bool] = field(default_factory=list)
    """The rule that the state belongs to may end here."""

    def add_state(self) -> int:
        if len(self.moves) >= MOST_STATES:
            raise BadRequest(
                f"The grammar is too large: more than {MOST_STATES} states with all its "
                "repetitions written out."
            )
        self.moves.append([])
        self.jumps.append([])
        self.calls.append([])
        self.is_final.append(False)
        return len(self.moves) - 1

    def is_end(self, state: int) -> bool:
        """Nothing but the end of its rule comes after it."""
        goes_on = self.moves[state] or self.jumps[state] or self.calls[state]
        return self.is_final[state] and not goes_on


# From the tree to states.


class Builder:
    def __init__(self, rules: dict[str, Node], root: str) -> None:
        self._rules = rules
        self._root = root
        self._program = Program()
        self._entries: dict[str | Node, int] = {}
        """Of rules, and of what is repeated often enough to become a rule of its own."""
        self._open: list[tuple[Node, int]] = []

    def build(self) -> Program:
        self._program.entry = self._entry_of(self._root, self._rules[self._root])
        for name, node in self._rules.items():
            self._entry_of(name, node)
        while self._open:
            node, entry = self._open.pop()
            end = self._program.add_state()
            self._program.is_final[end] = True
            self._add(node, entry, end)
        return self._program

    def _entry_of(self, key: str | Node, node: Node) -> int:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._program.add_state()
            self._open.append((node, entry))
        return entry

    def _add(self, node: Node, start: int, end: int) -> None:
        """All ways from `start` to `end` that `node` describes."""
        match node:
            case Text(text):
                self._add_bytes([(byte, byte) for byte in text.encode()], start, end)
            case Class(ranges):
                for first, last in ranges:
                    for steps in _byte_ranges(first, last):
                        self._add_bytes(steps, start, end)
            case Name():
                self._call(node, start, end)
            case InOrder(items):
                self._add_sequence(items, start, end)
            case Choice(options):
                for option in options:
                    self._add(option, start, end)
            case Repeat():
                self._repeat(node, start, end)

    def _call(self, node: Name, start: int, end: int) -> None:
        rule = self._rules.get(node.name)
        if rule is None:
            raise BadRequest(
                f"The grammar is wrong in line {node.line}: there is no rule {node.name!r}."
            )
        self._program.calls[start].append((self._entry_of(node.name, rule), end))

    def _add_sequence(self, items: Sequence[Node], start: int, end: int) -> None:
        if not items:
            self._program.jumps[start].append(end)
        for number, item in enumerate(items):
            after = end if number == len(items) - 1 else self._program.add_state()
            self._add(item, start, after)
            start = after

    def _repeat(self, node: Repeat, start: int, end: int) -> None:
        program = self._program
        copies = (node.most if node.most is not None else node.least) or 0
        # States of its own: what comes back to its start must not go another way from there.
        here = program.add_state()
        program.jumps[start].append(here)
        for number in range(copies):
            if number >= node.least:
                program.jumps[here].append(end)
            after = program.add_state()
            self._add_copy(node.item, here, after, copies)
            here = after
        if node.most is None:
            again = program.add_state()
            program.jumps[here].append(again)
            self._add_copy(node.item, again, again, 1)
            here = again
        program.jumps[here].append(end)

    def _add_copy(self, item: Node, start: int, end: int, copies: int) -> None:
        if copies > 1 and isinstance(item, (InOrder, Choice, Repeat, Text, Class)):
            self._program.calls[start].append((self._entry_of(item, item), end))
        else:
            self._add(item, start, end)

    def _add_bytes(self, steps: Sequence[Range], start: int, end: int) -> None:
        if not steps:
            self._program.jumps[start].append(end)
        for number, (first, last) in enumerate(steps):
            target = end if number == len(steps) - 1 else self._program.add_state()
            self._program.moves[start].append(Move(first, last, target))
            start = target


def _byte_ranges(first: int, last: int) -> Iterator[list[Range]]:
    """UTF-8 of a range of characters: sequences of byte ranges, together just these."""
    for low, high in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF),
                      (0x10000, LAST_CODE_POINT)):  # fmt: skip
        if max(first, low) <= min(last, high):
            start, stop = chr(max(first, low)).encode(), chr(min(last, high)).encode()
            yield from _between(tuple(start), tuple(stop))


def _between(first: tuple[int, ...], last: tuple[int, ...]) -> Iterator[list[Range]]:
    """Byte strings of one length in order, as few products of ranges."""
    if len(first) == 1:
        yield [(first[0], last[0])]
        return
    rest = len(first) - 1
    lowest, highest = (0x80,) * rest, (0xBF,) * rest
    low, high = first[0], last[0]
    if low == high:
        yield from ([(low, low), *tail] for tail in _between(first[1:], last[1:]))
        return
    if first[1:] != lowest:
        yield from ([(low, low), *tail] for tail in _between(first[1:], highest))
        low += 1
    if last[1:] != highest:
        yield from ([(high, high), *tail] for tail in _between(lowest, last[1:]))
        high -= 1
    if low <= high:
        yield [(low, high), *([(0x80, 0xBF)] * rest)]


# Left recursion.


def refuse_left_recursion(program: Program) -> None:
    """A rule that comes to itself before a byte was read would be entered for ever."""
    entries = {entry for calls in program.calls for entry, _ in calls} | {program.entry}
    first = _first_calls(program, sorted(entries))
    done: set[int] = set()
    for root in sorted(entries):
        path: dict[int, Iterator[int]] = {}
        todo = [root] if root not in done else []
        while todo:
            entry = todo[-1]
            if entry not in path:
                path[entry] = iter(sorted(first[entry]))
            called = next((one for one in path[entry] if one not in done), None)
            if called is None:
                done.add(todo.pop())
                del path[entry]
            elif called in path:
                raise BadRequest(
                    "The grammar has left recursion: a rule begins with itself. Write it with the "
                    "recursion at the end, or with '*'."
                )
            else:
                todo.append(called)


def _first_calls(program: Program, entries: Sequence[int]) -> dict[int, set[int]]:
    """Which rules each rule may call before it read a byte."""
    empty: set[int] = set()
    """Rules that can be empty, as far as known."""
    checks = 0
    first: dict[int, set[int]] = {}
    callers: dict[int, set[int]] = {}
    todo = list(entries)
    waiting = set(todo)
    while todo:
        entry = todo.pop()
        waiting.discard(entry)
        seen = {entry}
        states = [entry]
        called: set[int] = set()
        while states:
            state = states.pop()
            checks += 1
            after = list(program.jumps[state])
            for target, back in program.calls[state]:
                called.add(target)
                if target in empty:
                    after.append(back)
            states += [one for one in after if one not in seen]
            seen.update(after)
        if checks > _MOST_CHECKS:
            raise BadRequest("The grammar is too large: its rules cannot be checked in time.")
        first[entry] = called
        for one in called:
            callers.setdefault(one, set()).add(entry)
        if entry not in empty and any(program.is_final[state] for state in seen):
            empty.add(entry)
            again = callers.get(entry, set()) - waiting
            todo += sorted(again)
            waiting |= again
    return first
