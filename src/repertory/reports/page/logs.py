"""A decision log, boiled down to what a page shows of it, in one pass and bounded memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repertory.core.journal import read_lines
from repertory.domain.errors import RepertoryError
from repertory.reports.page.lanes import Lane, Level, Span, State

__all__ = ["DeviceCourse", "LogDigest", "Reason", "Seen", "digest_log"]

_Record = Mapping[str, Any]  # Any: a decoded log line
Advance = Callable[[int], None]
_TOLD_BYTES = 1 << 20
_SAMPLE = 4096
"""Requests by which a run is known again."""
_MOST_MESSAGES = 200
_MOST_GAPS = 100
_ENDS = {
    "Stage": State.HOST,
    "Load": State.DEVICE,
    "Activate": State.SERVING,
    "Resize": State.SERVING,
    "Deactivate": State.DEVICE,
    "Unload": State.HOST,
    "Drop": None,
}
"""Each edge of the ladder ends on one rung, wherever it began (`domain.ladder.TRANSITIONS`)."""
_KV = ("kv_bytes", "buffers_bytes")
_READ = {"Load": ("weights_bytes",), "Activate": _KV, "Resize": ("kv_bytes",), "Deactivate": _KV}
"""What a move changes; of the rest it may say nothing, or 0.  Others leave what they say."""
_PARTS = ("weights_bytes", *_KV)
_Held = dict[tuple[str, str], int]  # by device and part


@dataclass(frozen=True, slots=True)
class Seen:
    """A request, as the brain saw it."""

    model: str
    at_s: float
    first_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Verdicts of one rule and cause."""

    rule: str
    cause: str
    count: int
    moves: int
    """Transitions that they began."""
    predicted_s: float
    measured_s: float
    unmeasured: int
    """Predictions of which nobody said what came of them."""
    is_of_residency: bool


@dataclass(frozen=True, slots=True)
class DeviceCourse:
    name: str
    budget_bytes: int
    lanes: tuple[tuple[str, tuple[Span, ...]], ...]
    """By model, who was there longest first."""
    held: tuple[tuple[float, int], ...]
    """When it changed, and to how many bytes, as measured after each move."""
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class LogDigest:
    path: Path
    begin_s: float
    end_s: float
    decisions: int
    devices: tuple[DeviceCourse, ...]
    reasons: tuple[Reason, ...]
    first_requests: Mapping[str, Seen]
    gaps: tuple[tuple[float, int], ...]
    """Where decisions are missing, and how many."""
    missing: int
    troubles: tuple[tuple[str, int], ...]
    """Moves that failed and workers that were lost, by message."""
    unknown_moves: int
    """Ends of moves whose beginnings are missing."""
    remark: str = ""
    """Why it is only a part."""


def digest_log(files: Iterable[Path], name: Path, advance: Advance = lambda _: None) -> LogDigest:
    """`files` are those of one run, oldest first.  Raises `RepertoryError` for what is no log."""
    taken = _Taken()
    for path in files:
        lines = _Lines(path, advance)
        try:
            for entry in read_lines(lines):
                if not taken.goes_on(entry["step"]):
                    taken.remark = (
                        f"another run of the server begins in {path.name}; it is not shown"
                    )
                    break
                taken.take(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RepertoryError(
                f"{path}:{lines.count}: this is no line of a decision log"
            ) from None
        if lines.is_left and not taken.remark:
            taken.remark = f"{path.name} cannot be read from line {lines.count} on"
    if not taken.decisions:
        raise RepertoryError(f"{name}: there is no decision in it; is it a decision log?")
    return taken.digest(name)


class _Lines:
    """The lines of a file; counts them, and knows whether some were not asked for."""

    def __init__(self, path: Path, advance: Advance) -> None:
        self._path = path
        self._advance = advance
        self.count = 0
        self.is_left = False

    def __iter__(self) -> Iterator[bytes]:
        said = 0
        self.is_left = True
        with self._path.open("rb") as file:
            for line in file:
                self.count += 1
                said += len(line)
                if said >= _TOLD_BYTES:
                    self._advance(said)
                    said = 0
                yield line
        self._advance(said)
        self.is_left = False


@dataclass(slots=True)
class _Replica:
    model: str
    node: str
    devices: tuple[str, ...]
    rest: str | None
    state: State | None
    since_s: float
    held: _Held = field(default_factory=dict)


@dataclass(slots=True)
class _Move:
    kind: str
    replica_id: str
    before: State | None
    """Where the replica stood, and stands again if it fails."""
    reason: tuple[str, str] | None


@dataclass(slots=True)
class _Count:
    count: int = 0
    moves: int = 0
    predicted_s: float = 0.0
    measured_s: float = 0.0
    unmeasured: int = 0


class _Taken:
    """Walks over the log once."""

    def __init__(self) -> None:
        self.decisions = 0
        self.remark = ""
        self._begin_ns: int | None = None
        self._at_s = 0.0
        self._step = 0
        self._replicas: dict[str, _Replica] = {}
        self._moves: dict[int, _Move] = {}
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._held: dict[str, Level] = {}
        self._budgets: dict[str, int] = {}
        self._reasons: dict[tuple[str, str], _Count] = {}
        self._requests: dict[str, Seen] = {}
        self._gaps: list[tuple[float, int]] = []
        self._missing = 0
        self._troubles: Counter[str] = Counter()
        self._unknown_moves = 0

    def goes_on(self, step: int) -> bool:
        """Notes what is missing; False: it is a step of another run."""
        if step <= self._step:
            return False
        if step != self._step + 1:
            self._missing += step - self._step - 1
            if len(self._gaps) < _MOST_GAPS:
                self._gaps.append((self._at_s, step - self._step - 1))
        self._step = step
        return True

    def take(self, entry: _Record) -> None:
        event = entry["event"]
        if self._begin_ns is None:
            self._begin_ns = event["at_ns"]
        self.decisions += 1
        self._at_s = (event["at_ns"] - self._begin_ns) / 1e9
        self._event(event)
        reasons: dict[int, tuple[str, str]] = {}
        for verdict in entry["verdicts"]:
            self._verdict(verdict, reasons)
        for action in entry["actions"]:
            if "action_id" in action:
                self._begin(action, reasons.get(action["action_id"]))

    def _event(self, event: _Record) -> None:
        match event["kind"]:
            case "Arrived" if len(self._requests) < _SAMPLE:
                request = event["request"]
                self._requests[request["id"]] = Seen(request["model"], self._at_s)
            case "FirstToken" if event["request_id"] in self._requests:
                seen = self._requests[event["request_id"]]
                if seen.first_s is None:
                    self._requests[event["request_id"]] = Seen(seen.model, seen.at_s, self._at_s)
            case "TransitionDone":
                self._end(event, event["measured"])
            case "TransitionFailed":
                self._note(f"a move failed: {event['message']}")
                self._end(event, None)
            case "WorkerUp":
                self._worker_up(event["node"])
            case "WorkerLost":
                self._note(f"a worker was lost: {event['message']}")
                self._worker_lost(event["node_id"])

    def _note(self, words: str) -> None:
        if words in self._troubles or len(self._troubles) < _MOST_MESSAGES:
            self._troubles[words] += 1

    def _worker_up(self, node: _Record) -> None:
        for device in node["devices"]:
            name = _place(node["id"], device["id"])
            self._budgets[name] = device["memory_bytes"]
            self._held.setdefault(name, Level()).set(self._at_s, 0)

    def _worker_lost(self, node_id: str) -> None:
        for replica_id in [key for key, one in self._replicas.items() if one.node == node_id]:
            self._close(self._replicas[replica_id], None)
            self._weigh(self._replicas.pop(replica_id), {})
        for action_id in [
            key for key, move in self._moves.items() if move.replica_id not in self._replicas
        ]:
            del self._moves[action_id]

    def _begin(self, action: _Record, reason: tuple[str, str] | None) -> None:
        name, placement = action["replica_id"], action.get("placement")
        replica = self._replicas.get(name)
        if replica is None:
            self._forget_asleep(action["model"], action["node_id"])
            replica = _Replica(action["model"], action["node_id"], (), None, None, self._at_s)
            self._replicas[name] = replica
        before = replica.state
        self._close(replica, State.MOVING)
        if placement is not None:
            replica.devices, replica.rest = tuple(placement["devices"]), placement.get("rest")
        self._moves[action["action_id"]] = _Move(action["kind"], name, before, reason)

    def _forget_asleep(self, model: str, node: str) -> None:
        """A page cache is a belief: the next replica of the model comes from it, and it is gone."""
        for name in [
            key
            for key, one in self._replicas.items()
            if (one.model, one.node, one.state) == (model, node, State.HOST)
        ]:
            self._close(self._replicas.pop(name), None)

    def _end(self, event: _Record, measured: _Record | None) -> None:
        """`measured` is None for a move that failed: the replica stands where it stood."""
        move = self._moves.pop(event["action_id"], None)
        if move is None:
            self._unknown_moves += 1
            return
        replica = self._replicas[move.replica_id]
        ends = move.before if measured is None else _ENDS[move.kind]
        self._close(replica, ends)
        if measured is not None:
            count = None if move.reason is None else self._reasons[move.reason]
            if count is not None:
                count.measured_s += measured["took_ns"] / 1e9
            self._weigh(replica, _after(replica, move.kind, measured, ends))
        if ends is None:
            self._weigh(self._replicas.pop(move.replica_id), {})

    def _close(self, replica: _Replica, state: State | None) -> None:
        """What it was until now is over; from now on it is `state`."""
        if replica.state is not None and self._at_s > replica.since_s:
            for pool in replica.devices:
                lane = self._lanes.setdefault((_place(replica.node, pool), replica.model), Lane())
                lane.add(Span(replica.since_s, self._at_s, replica.state))
        replica.state, replica.since_s = state, self._at_s

    def _weigh(self, replica: _Replica, after: _Held) -> None:
        changes: Counter[str] = Counter()
        for sign, held in ((1, after), (-1, replica.held)):
            for (device, _), size_bytes in held.items():
                changes[device] += sign * size_bytes
        for device, change in changes.items():
            if change:
                level = self._held.setdefault(_place(replica.node, device), Level())
                level.set(self._at_s, level.value + change)
        replica.held = after

    def _verdict(self, verdict: _Record, reasons: dict[int, tuple[str, str]]) -> None:
        key = (verdict["rule"], verdict.get("cause") or "")
        count = self._reasons.setdefault(key, _Count())
        count.count += 1
        predicted_s, measured_s = verdict.get("predicted_s"), verdict.get("measured_s")
        ids = verdict.get("action_ids", ())
        count.moves += len(ids)
        count.predicted_s += predicted_s or 0.0
        count.measured_s += measured_s or 0.0
        if predicted_s is not None and measured_s is None and not ids:
            count.unmeasured += 1
        reasons.update((action_id, key) for action_id in ids)

    def digest(self, name: Path) -> LogDigest:
        for replica in self._replicas.values():
            self._close(replica, None)
        devices = sorted({*self._budgets, *(device for device, _ in self._lanes)})
        return LogDigest(
            path=name,
            begin_s=0.0,
            end_s=max(self._at_s, 1e-9),
            decisions=self.decisions,
            devices=tuple(self._device(device) for device in devices),
            reasons=self._all_reasons(),
            first_requests=self._requests,
            gaps=tuple(self._gaps),
            missing=self._missing,
            troubles=tuple(self._troubles.most_common()),
            unknown_moves=self._unknown_moves,
            remark=self.remark,
        )

    def _device(self, name: str) -> DeviceCourse:
        lanes = [(model, lane) for (device, model), lane in self._lanes.items() if device == name]
        lanes.sort(key=lambda one: (-one[1].present_s, one[0]))
        level = self._held.get(name, Level())
        return DeviceCourse(
            name,
            self._budgets.get(name, 0),
            tuple((model, lane.spans) for model, lane in lanes),
            level.points,
            level.peak,
        )

    def _all_reasons(self) -> tuple[Reason, ...]:
        found = [
            Reason(
                rule,
                cause,
                one.count,
                one.moves,
                one.predicted_s,
                one.measured_s,
                one.unmeasured,
                bool(cause) or one.moves > 0,
            )
            for (rule, cause), one in self._reasons.items()
        ]
        return tuple(sorted(found, key=lambda one: (-one.count, one.rule, one.cause)))


def _place(node: str, device: str) -> str:
    """Of several machines' devices, some are named with their machine already."""
    return device if device.startswith(f"{node}/") else f"{node}/{device}"


def _after(replica: _Replica, kind: str, measured: _Record, state: State | None) -> _Held:
    """Totals are over the devices of a replica, in equal shares, as in the brain's ledgers.

    A part that was not read stays as it was; nothing stays of what left the device.
    """
    if state is None:
        return {}
    after = {} if state is State.HOST else dict(replica.held)
    for part in _READ.get(kind, _PARTS):
        total, rest = measured.get(part), measured.get(f"rest_{part}")
        if total is not None:
            for device in replica.devices:
                after[device, part] = -(-total // len(replica.devices))
        if replica.rest is not None and rest is not None:
            after[replica.rest, f"rest_{part}"] = rest
    return after
