"""A decision log played again: its events in, and what comes out beside what stands there.

A brain's decisions follow from its settings, its beliefs and its events alone, so a log that was
written whole gives the same bytes again.  Where it does not, the first difference tells why: other
code, other beliefs, or a rule that asked something besides the event.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from repertory.core.journal import Header, decode_event, encode, read_lines
from repertory.domain.actions import Action
from repertory.domain.decisions import Decision
from repertory.domain.errors import RepertoryError
from repertory.domain.events import Event

__all__ = ["Difference", "LogUnfit", "Replayed", "header_of", "replay"]


class LogUnfit(RepertoryError):
    """This log cannot be played again; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line that came out otherwise."""

    step: int
    event: str
    """Its kind, and its time."""
    part: str
    """`actions` or `verdicts`."""
    expected: str
    """What the log says, from the first that differs."""
    found: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far it went."""

    decisions: int
    difference: Difference | None = None
    gap: str | None = None
    """Why it ended before the log did."""

    @property
    def is_whole(self) -> bool:
        return self.difference is None and self.gap is None

    @property
    def words(self) -> str:
        """What is wrong."""
        one = self.difference
        if one is None:
            return self.gap or ""
        return (
            f"decision {one.step}, {one.event}: other {one.part}\n"
            f"  the log: {one.expected}\n  now: {one.found}"
        )


class _Line(msgspec.Struct):
    """What of a line a brain answers for; the event was given."""

    step: int
    actions: msgspec.Raw
    verdicts: msgspec.Raw


class _Brain(Protocol):
    def handle(self, event: Event) -> list[Action]: ...


_Make = Callable[[Callable[[Decision], None]], _Brain]


def header_of(line: bytes) -> Header:
    """A log's first line; `LogUnfit` if it is none."""
    try:
        return msgspec.convert(msgspec.json.decode(line)["header"], Header)
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, TypeError):
        raise LogUnfit(
            "it is no decision log: its first line is no header; the server writes one to "
            "decisions.jsonl in its --state-dir, and simulate with --log"
        ) from None


def replay(lines: Iterable[bytes], make: _Make) -> Replayed:
    """`make`: a fresh brain, told where its decisions go.

    Ends with the first difference, at a decision that is missing, or with the log.
    """
    made: list[bytes] = []
    brain = make(lambda decision: made.append(encode(decision)))
    done = 0
    for line, entry in _decisions(lines):
        step = int(entry["step"])
        if step != done + 1:
            return Replayed(done, gap=_gap(done, step))
        made.clear()
        event = decode_event(entry)
        brain.handle(event)
        said = msgspec.json.decode(line, type=_Line)
        again = msgspec.json.decode(made[0], type=_Line)
        for part in ("actions", "verdicts"):
            expected, found = bytes(getattr(said, part)), bytes(getattr(again, part))
            if expected != found:
                kind = f"{type(event).__name__} at {event.at_ns / 1e9:.9g} s"
                return Replayed(done, Difference(step, kind, part, *_apart(expected, found)))
        done = step
    return Replayed(done)


def _decisions(lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each with its bytes.  A line that was cut off ends the reading; headers are left out."""
    for line in lines:
        yield from ((line, entry) for entry in read_lines([line]))


def _gap(done: int, step: int) -> str:
    if not done:
        return (
            f"the log begins with decision {step}: those before it are in an older file, or in "
            f"none any more; give all files of the run, the oldest first"
        )
    return (
        f"decisions {done + 1} to {step - 1} are missing: they were never written, or two runs "
        f"stand in one file; what follows cannot be played again"
    )


def _apart(expected: bytes, found: bytes) -> tuple[str, str]:
    """Both from the first entry of the lists that differs."""
    ours, theirs = (msgspec.json.decode(one, type=list[msgspec.Raw]) for one in (expected, found))
    at = 0
    while at < min(len(ours), len(theirs)) and bytes(ours[at]) == bytes(theirs[at]):
        at += 1
    return _entry(ours, at), _entry(theirs, at)


def _entry(entries: list[msgspec.Raw], at: int) -> str:
    return bytes(entries[at]).decode() if at < len(entries) else "nothing"
