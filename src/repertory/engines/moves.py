"""Moves of a worker: in which order they are made, and how they slow each other down.

A move takes a fixed time, and then as long as its bytes need on their ways.  A way (a disk, a bus,
a device's link) is shared fairly by all that use it: nobody gets less than an equal part who could
use it, and what one cannot use the others get (max-min fairness).
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from repertory.domain.actions import Transition
from repertory.domain.events import Measured
from repertory.domain.requests import Fault

__all__ = [
    "BESIDE_STEPS",
    "FREED_NS",
    "IDLE_FREED_NS",
    "Failure",
    "Move",
    "Moves",
    "PageCache",
    "Warmth",
]

BESIDE_STEPS = 1.25
"""How much longer a mover takes beside steps, on the core that they leave it and everybody else.
Measured of contexts: 1.15 to 1.3."""
IDLE_FREED_NS, FREED_NS = 1_000_000, 6_000_000
"""What is left of a resize once its cells are moved, where nothing is computed and beside steps:
its mover gives way to a step of all threads.  Measured: 1, and 1 to 9 ms."""
_WARM_NS = 1_000_000_000
_WARM_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transition of the model fails."""

    message: str
    fault: Fault = Fault.ENGINE


@dataclass(slots=True, eq=False)
class Move:
    """A transition that was asked for."""

    transition: Transition
    fixed_ns: int
    size_bytes: float = 0.0
    """Sent after that; 0: the fixed time is all it takes."""
    most_bytes_per_ns: float = 0.0
    """However free its ways are."""
    ways: Mapping[str, float] = field(default_factory=dict)
    """What it uses, and which part of its bytes goes there."""
    failure: Failure | None = None
    measured: Measured = field(default_factory=lambda: Measured(0, 0, 0, 0))
    """But for the time."""
    wait_ns: int = 0
    """Before it begins, once it is its turn: no part of what it takes."""
    began_ns: int = 0
    end_ns: int = 0
    """As things stand; of one that sends, it changes when others begin or end."""
    bytes_per_ns: float = 0.0
    is_sending: bool = False


class Moves:
    """One line of moves for each mover.  The first of each line is under way."""

    def __init__(self, bytes_per_ns: Mapping[str, float]) -> None:
        """Of each way."""
        self._rooms = bytes_per_ns
        self._lines: dict[str, deque[Move]] = {}
        self._at_ns = 0
        self.next_at_ns: int | None = None
        """When a move ends or begins to send, if no other begins before."""

    @property
    def is_busy(self) -> bool:
        """A move is under way."""
        return bool(self._lines)

    def begin(self, at_ns: int, mover: str, move: Move) -> None:
        line = self._lines.setdefault(mover, deque())
        line.append(move)
        if len(line) == 1:
            self._send(at_ns)
            self._start(move, at_ns)
            self._share()

    def advance(self, at_ns: int, held: Callable[[Move], int] = lambda _: 0) -> list[Move]:
        """Those that end at `at_ns`, by the ids of their actions; `next_at_ns` is not before.

        `held`: until when something keeps a move that would be over.
        """
        self._send(at_ns)
        ended: list[Move] = []
        for mover in list(self._lines):
            line = self._lines[mover]
            while line and line[0].end_ns <= at_ns:
                move = line[0]
                if move.size_bytes and not move.is_sending:
                    move.is_sending = True
                    break
                until_ns = held(move)
                if until_ns > at_ns:
                    move.end_ns = until_ns
                    break
                ended.append(line.popleft())
                if line:
                    self._start(line[0], move.end_ns)
            if not line:
                del self._lines[mover]
        self._share()
        ended.sort(key=lambda move: (move.end_ns, move.transition.action_id))
        return ended

    def _start(self, move: Move, at_ns: int) -> None:
        move.began_ns = at_ns + move.wait_ns
        move.end_ns = move.began_ns + move.fixed_ns

    def _send(self, at_ns: int) -> None:
        """What was sent since the last change."""
        for line in self._lines.values():
            if line[0].is_sending:
                line[0].size_bytes -= line[0].bytes_per_ns * (at_ns - self._at_ns)
        self._at_ns = at_ns

    def _share(self) -> None:
        """The rates of all that send, and when each would end by them."""
        heads = [line[0] for line in self._lines.values()]
        left = [move for move in heads if move.is_sending]
        rooms = dict(self._rooms)
        while left:
            asked = _asked(left)
            parts = {way: rooms[way] / share for way, share in asked.items()}
            least = min([*parts.values(), *(move.most_bytes_per_ns for move in left)])
            bound = [one for one in left if _bound(one, parts) <= least]
            for move in bound:
                move.bytes_per_ns = least
                took_ns = -int(-max(0.0, move.size_bytes) // least)
                move.end_ns = self._at_ns + max(1, took_ns)
                for way, share in move.ways.items():
                    rooms[way] -= least * share
            left = [one for one in left if one not in bound]
        self.next_at_ns = min((move.end_ns for move in heads), default=None)


def _asked(moves: list[Move]) -> dict[str, float]:
    asked: dict[str, float] = {}
    for move in moves:
        for way, share in move.ways.items():
            asked[way] = asked.get(way, 0.0) + share
    return asked


def _bound(move: Move, parts: Mapping[str, float]) -> float:
    """The most that it can have, if each of its ways is parted equally."""
    return min([move.most_bytes_per_ns, *(parts[way] for way in move.ways)])


class PageCache:
    """Main memory that keeps the files read last."""

    def __init__(self, room_bytes: int) -> None:
        self._room_bytes = room_bytes
        self._files: OrderedDict[str, int] = OrderedDict()

    def holds(self, digest: str) -> bool:
        return digest in self._files

    def read(self, digest: str, size_bytes: int) -> None:
        """It is there from now on; those read longest ago go.  One that is too large stays out."""
        self._files[digest] = size_bytes
        self._files.move_to_end(digest)
        while sum(self._files.values()) > self._room_bytes:
            self._files.popitem(last=False)


class Warmth:
    """Which memory is there at once, on a machine whose host takes back what lies free.

    What was in use within the last second is warm, and a little more; the rest the host has to find
    anew.  Measured in such a machine (free page reporting): 64 MiB that were free for 1 s take 8 ms
    to fill, and 120 to 250 when they were free for longer; 8 MiB stay warm.
    """

    def __init__(self, cold_s_per_byte: float = 0.0) -> None:
        self._cold_s_per_byte = cold_s_per_byte
        self._held_bytes = 0
        self._peaks: deque[tuple[int, int]] = deque()
        """(until when it is warm, bytes): what was held before some of it was freed."""

    def take(self, at_ns: int, size_bytes: int) -> int:
        """Bytes that are cold, of so many that are taken."""
        while self._peaks and self._peaks[0][0] < at_ns:
            self._peaks.popleft()
        peaks = [self._held_bytes, *(peak_bytes for _, peak_bytes in self._peaks)]
        warm_bytes = _WARM_BYTES + max(peaks)
        self._held_bytes += size_bytes
        return min(size_bytes, max(0, self._held_bytes - warm_bytes))

    def cold_ns(self, at_ns: int, size_bytes: int) -> int:
        """What so many that are taken take longer than if they were warm."""
        if not self._cold_s_per_byte:
            return 0
        return round(self.take(at_ns, size_bytes) * self._cold_s_per_byte * 1e9)

    def give(self, at_ns: int, size_bytes: int) -> None:
        if not self._cold_s_per_byte:
            return
        self._peaks.append((at_ns + _WARM_NS, self._held_bytes))
        self._held_bytes -= size_bytes
