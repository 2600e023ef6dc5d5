"""The decision log's lines: encode a `Decision`, decode its event again.  Bytes in, bytes out.

One JSON object per line: {"step", "event", "actions", "verdicts"}; events and actions carry their
class name under "kind", so that a line explains itself and a replay can rebuild the event.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from repertory.domain.decisions import Decision
from repertory.domain.events import EVENT_KINDS, Event, WorkerUp
from repertory.domain.settings import Settings

__all__ = ["Header", "decode_event", "encode", "encode_header", "first_step", "read_lines"]

_encoder = msgspec.json.Encoder()
_KINDS = {kind.__name__: kind for kind in EVENT_KINDS}


class Header(msgspec.Struct, frozen=True):
    """The first line of every log file: what a replay needs beside the events.

    One in the middle of a file says that decisions are missing before it.
    """

    version: str
    settings: Settings
    first_step: int
    missing: int = 0
    """Decisions of this run that could not be written so far."""
    fleet: str = ""
    """Whose costs its brain began with, in a simulation; empty: nobody's, as in a server, which is
    told of costs by events.  A replay needs them too."""


def encode_header(header: Header) -> bytes:
    return _encoder.encode({"header": header}) + b"\n"


def first_step(line: bytes) -> int | None:
    """The step with which a file begins, from its first line; None if that is no header."""
    try:
        return int(msgspec.json.decode(line)["header"]["first_step"])
    except (msgspec.DecodeError, KeyError):
        return None


def encode(decision: Decision) -> bytes:
    """One line, newline included."""
    line = {
        "step": decision.step,
        "event": [type(decision.event).__name__, _written(decision.event)],
        "actions": [[type(action).__name__, action] for action in decision.actions],
        "verdicts": decision.verdicts,
    }
    return _encoder.encode(line) + b"\n"


def _written(event: Event) -> object:
    """Sets have no order, and a log has one: the same in every process."""
    if not isinstance(event, WorkerUp):
        return event
    body = msgspec.to_builtins(event)
    capabilities = body["node"]["capabilities"]
    capabilities["edges"] = sorted(capabilities["edges"])
    return body


def read_lines(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Decisions as dicts, "kind" folded into events and actions; headers are left out.

    A last line that was cut off (the process died while it wrote) ends the reading.
    """
    for line in lines:
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return
        if "header" in entry:
            continue
        entry["event"] = _fold(entry["event"])
        entry["actions"] = [_fold(action) for action in entry["actions"]]
        yield entry


def decode_event(entry: Mapping[str, Any]) -> Event:
    """The event of a line that `read_lines` gave."""
    event = dict(entry["event"])
    return msgspec.convert(event, _KINDS[event.pop("kind")])


def _fold(tagged: list[Any]) -> dict[str, Any]:
    kind, body = tagged
    return {"kind": kind, **body}
