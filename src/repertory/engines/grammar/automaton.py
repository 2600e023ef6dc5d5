"""Holds a generation to a grammar: which tokens may come next, and where each one leads.

A state of the automaton is a set of stacks of the grammar's program.  States, and where each of
the 256 bytes leads from them, are made when they are first met, and kept: text goes through the
same few states again and again.  Tokens are bytes, so half characters need no special care.

Nothing here grows without bound, however ambiguous the grammar is.  What a bound cuts off is a
continuation that would have been allowed, never one that is not: a text that came through is
always one of the grammar's.  Cuts depend on the state alone, so the same tokens lead to the same
state on any worker.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repertory.domain.errors import EngineError
from repertory.engines.grammar.program import Program

__all__ = ["DEAD", "Automaton", "Grammar", "TokenTree"]

DEAD = -1
"""No state: the text is none of the grammar's."""
_MOST_STACKS = 4096
"""Per state: alternatives that are open at once.  An enumeration of 1,000 strings needs 1,000."""
_MOST_DEPTH = 256
"""Frames of a stack: arrays within arrays."""
_MOST_STATES = 2048
_MOST_FRAMES = 100_000
"""When there are more of either, all are forgotten but the current state: 10 MiB at most."""
_MOST_MASKS = 64
_MOST_WORK = 50_000
"""Visits of program states for one token, some 80 ms: a prefill step of a larger model.  JSON takes
under 5,000 for its first token, and hardly any later."""
_ROW_WORK = 10
"""What a new row takes, counted in visits."""

_TOO_AMBIGUOUS = "The grammar is too ambiguous: the text so far has too many readings."

Ids = NDArray[np.intp]
Mask = NDArray[np.bool_]
_Row = NDArray[np.int32]

_Stack = tuple[int, int]
"""The state of the program on top, and the frame below it."""


class TokenTree:
    """The pieces of a vocabulary by their common beginnings, level by level."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = tuple(pieces)
        flat = np.frombuffer(b"".join(pieces), np.uint8).astype(np.intp)
        lengths = np.array([len(piece) for piece in pieces], np.intp)
        starts = lengths.cumsum() - lengths
        nodes = np.zeros(lengths.size, np.intp)
        self.levels: list[_Level] = []
        for depth in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > depth)
            edges = nodes[longer] * 256 + flat[starts[longer] + depth]
            unique, nodes[longer] = np.unique(edges, return_inverse=True)
            ending = np.flatnonzero(lengths == depth + 1)
            self.levels.append(_Level(unique >> 8, unique & 255, ending, nodes[ending]))


@dataclass(frozen=True, slots=True)
class _Level:
    """Nodes of one depth of a `TokenTree`."""

    parents: Ids
    bytes: Ids
    tokens: Ids
    """Those that end here, and at which node."""
    nodes: Ids


@dataclass(frozen=True, slots=True)
class Grammar:
    """A program over a vocabulary: what an automaton is made from, on any thread."""

    text: str
    program: Program
    tree: TokenTree
    ends: Ids
    """Tokens that end a generation; allowed where the text may end."""

    def is_same(self, other: "Grammar") -> bool:
        """An automaton of the one follows the other too."""
        is_same_tree = self.tree is other.tree and np.array_equal(self.ends, other.ends)
        return self.text == other.text and is_same_tree


class Automaton:
    """The states met so far, for one generation at a time."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._program = grammar.program
        self._masks: OrderedDict[int, Mask] = OrderedDict()
        self._work = 0
        self._forget()
        self._state = self._start()

    def begin(self) -> None:
        """A new text."""
        self._state = self._start()

    @property
    def is_complete(self) -> bool:
        """The text ends here: nothing may follow."""
        return self._accepts[self._state] and not self._stacks[self._state]

    def allows(self, token: int) -> bool:
        """Whether a token may come next."""
        piece = self.grammar.tree.pieces[token]
        if not piece:
            return self._accepts[self._state] and bool((self.grammar.ends == token).any())
        return self._walk(piece) != DEAD

    def accept(self, token: int) -> None:
        """The token came; one that `allows` refuses must not."""
        piece = self.grammar.tree.pieces[token]
        if piece:
            state = self._walk(piece)
            assert state != DEAD, f"token {token} is none of the grammar's"
            self._state = state
        if len(self._stacks) > _MOST_STATES or len(self._frames) > _MOST_FRAMES:
            self._start_over()

    def allowed(self) -> Mask:
        """Which tokens may come next.  Shared: not to be written to."""
        known = self._masks.get(self._state)
        if known is not None:
            self._masks.move_to_end(self._state)
            return known
        mask = self._masks[self._state] = self._mask()
        if len(self._masks) > _MOST_MASKS:
            self._masks.popitem(last=False)
        return mask

    def _mask(self) -> Mask:
        self._work = 0
        tree = self.grammar.tree
        mask = np.zeros(len(tree.pieces), np.bool_)
        if self._accepts[self._state]:
            mask[self.grammar.ends] = True
        states = np.array([self._state], np.int32)
        for level in tree.levels:
            states = self._followed(states[level.parents], level.bytes)
            if not (states != DEAD).any():
                break
            mask[level.tokens] = states[level.nodes] != DEAD
        return mask

    def _followed(self, states: _Row, read: Ids) -> _Row:
        """Where each state goes on its byte."""
        is_met = np.zeros(len(self._stacks), np.bool_)
        is_met[states[states != DEAD]] = True
        met = np.flatnonzero(is_met)
        table = np.full((met.size + 1, 256), DEAD, np.int32)
        for number, state in enumerate(met.tolist()):
            table[number] = self._row(state)
        index = np.full(is_met.size + 1, met.size, np.intp)  # the last one is for DEAD
        index[met] = np.arange(met.size)
        followed: _Row = table[index[states], read]
        return followed

    def _walk(self, piece: bytes) -> int:
        self._work = 0
        state = self._state
        for byte in piece:
            state = int(self._row(state)[byte])
            if state == DEAD:
                break
        return state

    def _row(self, state: int) -> _Row:
        row = self._rows[state]
        if row is None:
            row = self._rows[state] = self._made_row(state)
        return row

    def _made_row(self, state: int) -> _Row:
        self._work += _ROW_WORK
        moves = [
            (move, frame) for top, frame in self._stacks[state] for move in self._program.moves[top]
        ]
        edges = sorted({edge for move, _ in moves for edge in (move.first, move.last + 1)})
        number_of = {edge: number for number, edge in enumerate(edges)}
        reached: list[list[_Stack]] = [[] for _ in edges]
        for move, frame in moves:
            for number in range(number_of[move.first], number_of[move.last + 1]):
                reached[number].append((move.target, frame))
        row = np.full(256, DEAD, np.int32)
        known: dict[tuple[_Stack, ...], int] = {}
        for number, stacks in enumerate(reached[:-1]):
            key = tuple(stacks)
            if key and key not in known:
                known[key] = self._closed(key)
            if key:
                row[edges[number] : edges[number + 1]] = known[key]
        return row

    def _closed(self, stacks: tuple[_Stack, ...]) -> int:
        """The state of these stacks and all that they reach without a byte."""
        program, frames, depths = self._program, self._frames, self._depths
        todo = list(reversed(stacks))
        seen: set[_Stack] = set()
        found: list[_Stack] = []
        accepts = False
        while todo and len(found) < _MOST_STACKS:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if self._work + len(seen) > _MOST_WORK:
                raise EngineError(_TOO_AMBIGUOUS)
            top, frame = stack
            if program.moves[top]:
                found.append(stack)
            if program.is_final[top]:
                if frame:
                    todo.append(frames[frame])
                else:
                    accepts = True
            todo += [(target, frame) for target in reversed(program.jumps[top])]
            for entry, back in reversed(program.calls[top]):
                if program.is_end(back):
                    todo.append((entry, frame))
                elif depths[frame] < _MOST_DEPTH:
                    todo.append((entry, self._frame(back, frame)))
        self._work += len(seen)
        return self._state_of(tuple(found), accepts)

    def _frame(self, back: int, below: int) -> int:
        number = self._frame_numbers.get((back, below))
        if number is None:
            number = self._frame_numbers[back, below] = len(self._frames)
            self._frames.append((back, below))
            self._depths.append(self._depths[below] + 1)
        return number

    def _state_of(self, stacks: tuple[_Stack, ...], accepts: bool) -> int:
        if not stacks and not accepts:
            return DEAD
        number = self._numbers.get((stacks, accepts))
        if number is None:
            number = self._numbers[stacks, accepts] = len(self._stacks)
            self._stacks.append(stacks)
            self._accepts.append(accepts)
            self._rows.append(None)
        return number

    def _start(self) -> int:
        self._work = 0
        return self._closed(((self._program.entry, 0),))

    def _forget(self) -> None:
        self._masks.clear()
        self._frames: list[_Stack] = [(0, 0)]
        """Frame 0 is the bottom."""
        self._depths = [0]
        self._frame_numbers: dict[_Stack, int] = {}
        self._stacks: list[tuple[_Stack, ...]] = []
        self._accepts: list[bool] = []
        self._rows: list[_Row | None] = []
        self._numbers: dict[tuple[tuple[_Stack, ...], bool], int] = {}

    def _start_over(self) -> None:
        """Forget everything but the current state."""
        stacks, accepts = self._stacks[self._state], self._accepts[self._state]
        frames = self._frames
        self._forget()
        kept: dict[int, int] = {0: 0}

        def copied(frame: int) -> int:
            chain: list[int] = []
            while frame not in kept:
                chain.append(frame)
                frame = frames[frame][1]
            for one in reversed(chain):
                back, below = frames[one]
                kept[one] = self._frame(back, kept[below])
            return kept[chain[0] if chain else frame]

        self._state = self._state_of(tuple((top, copied(frame)) for top, frame in stacks), accepts)
