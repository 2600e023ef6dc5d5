"""`repertory why`: from the decision log to the story of one request or one model.

Pure: decoded log lines in, lines of text or JSON out.  A line is a `Decision` as a dict, with the
name of the class under "kind" in its event and in each of its actions; what transitions really
cost comes with later events and is joined by action id.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from repertory.reports.figures import bytes_text, change_text, seconds_text

__all__ = ["Entry", "Milestone", "Move", "OptionRow", "Story", "explain", "near_subjects", "render"]

_Record = Mapping[str, Any]  # Any: a decoded log line


@dataclass(frozen=True, slots=True)
class OptionRow:
    """A thing that could have been done."""

    name: str
    harm_s: float
    seconds: float
    bytes: int
    note: str
    is_chosen: bool


@dataclass(slots=True)
class Move:
    """A transition, and what it really cost once that is known."""

    action_id: int
    edge: str
    model: str
    replica_id: str
    measured_s: float | None = None
    measured_bytes: int | None = None
    """What it was to bring: weights for a load, KV and buffers for an activation."""
    source: str | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One verdict, its options, its moves."""

    step: int
    at_s: float
    rule: str
    subject: str
    choice: str
    why: str
    options: tuple[OptionRow, ...]
    predicted_s: float | None
    predicted_bytes: int | None
    basis: str
    cause: str
    """What it is for, in the words of the metrics; empty in logs of older versions."""
    moves: tuple[Move, ...]

    @property
    def measured_s(self) -> float | None:
        """Of all its moves together; None until the last one is done."""
        seconds = [move.measured_s for move in self.moves if move.measured_s is not None]
        return sum(seconds) if self.moves and len(seconds) == len(self.moves) else None

    @property
    def measured_bytes(self) -> int | None:
        """Of all its moves together; None where one was not read back."""
        sizes = [move.measured_bytes for move in self.moves if move.measured_bytes is not None]
        return sum(sizes) if self.moves and len(sizes) == len(self.moves) else None


@dataclass(frozen=True, slots=True)
class Milestone:
    """Something that happened to a request."""

    step: int
    at_s: float
    text: str


@dataclass(slots=True)
class Story:
    """Everything that the log has about one subject, in order."""

    subject: str
    kind: str
    """request or model"""
    model: str
    parts: list[Entry | Milestone] = field(default_factory=list)


def explain(records: Iterable[_Record], subject: str) -> Story | None:
    """The story of a request (its id, with or without the API's prefix) or a model (or alias).

    None: the log does not know it.
    """
    for prefix in ("chatcmpl-", "cmpl-"):
        subject = subject.removeprefix(prefix)
    teller = _Teller(subject)
    for record in records:
        teller.take(record)
    return teller.story


def near_subjects(records: Iterable[_Record], subject: str) -> list[str]:
    """Names in the log that may have been meant."""
    names: dict[str, None] = {}
    for record in records:
        for event in (record["event"], *record["actions"]):
            known = event.get("model"), event.get("request_id"), event.get("spec", {}).get("name")
            names.update((name, None) for name in known if name)
        request = record["event"].get("request", {})
        names.update((name, None) for name in (request.get("id"), request.get("model")) if name)
    return difflib.get_close_matches(subject, list(names), 3, cutoff=0.5)


class _Teller:
    """Walks over the log once.

    A verdict belongs to a model's story if it names the model anywhere: who must go for a model
    is in that model's story too.  A request's story holds its model's verdicts while it waits.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._begin_ns: int | None = None
        self._moves: dict[int, Move] = {}
        self._models_of: dict[str, str] = {}
        self._is_waiting = False
        self._runs_on: str | None = None
        """A node; None while it waits."""
        self.story: Story | None = None

    def take(self, record: _Record) -> None:
        event = record["event"]
        if self._begin_ns is None:
            self._begin_ns = event["at_ns"]
        at_s = (event["at_ns"] - self._begin_ns) / 1e9
        self._learn(event)
        self._event(record["step"], at_s, event)
        moves = [_move(action) for action in record["actions"] if "action_id" in action]
        for move in moves:
            self._moves[move.action_id] = move
            self._models_of[move.replica_id] = move.model
        for verdict in record["verdicts"]:
            self._verdict(record["step"], at_s, verdict)
        for action in record["actions"]:
            self._action(record["step"], at_s, action)

    def _learn(self, event: _Record) -> None:
        """Names, and what moves have cost."""
        match event["kind"]:
            case "ModelAdded":
                spec = event["spec"]
                if self._subject in (spec["name"], *spec.get("aliases", ())):
                    self._subject = spec["name"]
                    self._begin("model", spec["name"])
            case "OperatorAsked" if event["model"] == self._subject:
                self._begin("model", self._subject)
            case "Arrived" if event["request"]["model"] == self._subject:
                self._begin("model", self._subject)
            case "TransitionDone" if event["action_id"] in self._moves:
                move, measured = self._moves[event["action_id"]], event["measured"]
                move.measured_s = measured["took_ns"] / 1e9
                move.measured_bytes = _brought_bytes(move.edge, measured)
                move.source = measured.get("source")
            case "TransitionFailed" if event["action_id"] in self._moves:
                self._moves[event["action_id"]].failure = event["message"]

    def _begin(self, kind: str, model: str) -> Story:
        if self.story is None:
            self.story = Story(self._subject, kind, model)
        return self.story

    def _event(self, step: int, at_s: float, event: _Record) -> None:
        """What happens to the request itself, or what an operator wants of the model."""
        request = event.get("request")
        if request is not None and request["id"] == self._subject:
            story = self._begin("request", request["model"])
            self._is_waiting = True
            text = (
                f"arrived for {request['model']}: {request['prompt_tokens']} prompt tokens, "
                f"at most {request['max_tokens']} to generate"
            )
            story.parts.append(Milestone(step, at_s, text))
        if self.story is None:
            return
        if event.get("request_id") == self._subject:
            self.story.parts.append(Milestone(step, at_s, _happened(event)))
        if event["kind"] == "WorkerLost" and event["node_id"] == self._runs_on:
            self._is_waiting, self._runs_on = True, None
            text = f"its worker died ({event['message']}); it waits, to go on where it stood"
            self.story.parts.append(Milestone(step, at_s, text))
        if event["kind"] == "Preempted" and event["request_id"] == self._subject:
            self._is_waiting = True
        if event["kind"] == "OperatorAsked" and event["model"] == self._subject:
            text = f"the operator asked to {event['wish']}"
            self.story.parts.append(Milestone(step, at_s, text))

    def _action(self, step: int, at_s: float, action: _Record) -> None:
        if self.story is None or self.story.kind != "request":
            return
        outcome = action.get("outcome")
        if outcome is not None and outcome["request_id"] == self._subject:
            self._is_waiting, self._runs_on = False, None
            self.story.parts.append(Milestone(step, at_s, _settled(outcome)))
        elif action.get("request_id") == self._subject:
            self._is_waiting = False
            self._runs_on = action["node_id"] if action["kind"] == "Dispatch" else None
            text = f"{_SENT[action['kind']]} replica {action['replica_id']}"
            self.story.parts.append(Milestone(step, at_s, text))

    def _verdict(self, step: int, at_s: float, verdict: _Record) -> None:
        moves = tuple(
            self._moves[action_id]
            for action_id in verdict.get("action_ids", ())
            if action_id in self._moves
        )
        if not self._concerns(verdict, moves):
            return
        story = self._begin("model", self._subject)
        story.parts.append(
            Entry(
                step=step,
                at_s=at_s,
                rule=verdict["rule"],
                subject=verdict["subject"],
                choice=verdict["choice"],
                why=verdict["why"],
                options=_options(verdict),
                predicted_s=verdict.get("predicted_s"),
                predicted_bytes=verdict.get("predicted_bytes"),
                basis=verdict.get("basis", ""),
                cause=verdict.get("cause") or "",
                moves=moves,
            )
        )

    def _concerns(self, verdict: _Record, moves: tuple[Move, ...]) -> bool:
        """Whether a verdict is about the subject, or about what the subject waits for."""
        text = f"{verdict['subject']} {verdict['choice']} {verdict['why']}"
        named = {word.strip(".,:;()'") for word in text.split()}
        named |= {self._models_of[name] for name in named if name in self._models_of}
        named |= {move.model for move in moves}
        if self._subject in named:
            return True
        return self._is_waiting and self.story is not None and self.story.model in named


def _move(action: _Record) -> Move:
    return Move(action["action_id"], action["kind"].lower(), action["model"], action["replica_id"])


_SENT = {"Dispatch": "sent to", "Cancel": "cancelled on", "Preempt": "stopped for others on"}
_BROUGHT = {
    "stage": ("weights_bytes",),
    "load": ("weights_bytes",),
    "activate": ("kv_bytes", "buffers_bytes"),
    "resize": ("kv_bytes",),
}
"""What the brain predicted the bytes of.  A release is to free them, and reads nothing back."""


def _brought_bytes(edge: str, measured: _Record) -> int | None:
    parts = [measured.get(name) for name in _BROUGHT.get(edge, ())]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _options(verdict: _Record) -> tuple[OptionRow, ...]:
    """Best first, so that what was done is the first one; a refusal took none of them."""
    return tuple(
        OptionRow(
            name=row["name"],
            harm_s=row["harm_s"],
            seconds=row["seconds"],
            bytes=row["bytes"],
            note=row.get("note", ""),
            is_chosen=at == 0 and bool(verdict.get("action_ids")),
        )
        for at, row in enumerate(verdict.get("options", ()))
    )


def _happened(event: _Record) -> str:
    match event["kind"]:
        case "FirstToken":
            found = event.get("reused_tokens", 0)
            if not found:
                return "first token"
            text = f"first token ({found} tokens before it were found"
            if event.get("restored_bytes"):
                size, took_s = bytes_text(event["restored_bytes"]), event["restored_ns"] / 1e9
                source = event["restored_from"]
                text += f"; {size} copied back from {source} in {seconds_text(took_s)}"
            return text + ")"
        case "Finished":
            busy_s = (event["prefill_ns"] + event["decode_ns"]) / 1e9
            return (
                f"finished ({event['reason']}): {event['output_tokens']} tokens, "
                f"{seconds_text(busy_s)} of compute"
            )
        case "GenerationFailed":
            return f"failed: {event['message']}"
        case "Cancelled":
            return "the client left"
        case "Preempted":
            return "stopped; it waits, to go on where it stood"
        case kind:
            return str(kind)


def _settled(outcome: _Record) -> str:
    text = f"settled: {outcome['kind']}"
    if outcome.get("message"):
        text += f": {outcome['message']}"
    if outcome.get("retry_after_s") is not None:
        text += f" (try again in {seconds_text(outcome['retry_after_s'])})"
    return text


def render(story: Story) -> list[str]:
    """Lines for a terminal."""
    of_model = f" of model {story.model}" if story.kind == "request" else ""
    lines = [f"{story.kind} {story.subject}{of_model}"]
    if not story.parts:
        lines.append("  nothing was decided about it yet")
    for part in story.parts:
        head = f"  {part.at_s:10.3f} s  "
        if isinstance(part, Milestone):
            lines.append(head + part.text)
            continue
        choice = "" if part.choice == part.subject else f" -> {part.choice}"
        lines.append(f"{head}{part.rule} {part.subject}{choice}")
        lines += [f"{'':17}{line}" for line in _details(part)]
    return lines


def _details(entry: Entry) -> list[str]:
    cause = f" ({entry.cause})" if entry.cause else ""
    lines = [f"why{cause}: {entry.why}"] if entry.why else []
    if entry.predicted_s is not None or entry.predicted_bytes is not None:
        lines.append(_comparison(entry))
    if entry.options:
        width = max(len(option.name) for option in entry.options)
        lines.append(f"  {'option':<{width}} {'harm':>12} {'takes':>12} {'memory':>10}")
        lines += [_row(option, width) for option in entry.options]
    lines += [f"#{move.action_id} {move.edge} {move.model}: {_cost(move)}" for move in entry.moves]
    return lines


def _comparison(entry: Entry) -> str:
    basis = f" ({entry.basis})" if entry.basis else ""
    text = f"predicted {seconds_text(entry.predicted_s)}"
    if entry.predicted_bytes is not None:
        text += f", {bytes_text(entry.predicted_bytes)}"
    text += basis
    if any(move.failure is not None for move in entry.moves):
        return f"{text}; failed"
    if entry.measured_s is None:
        return text + "; not measured yet" if entry.moves else text
    text += f"; measured {seconds_text(entry.measured_s)}"
    text += _bracketed(change_text(entry.predicted_s, entry.measured_s))
    if entry.measured_bytes is not None:
        text += f", {bytes_text(entry.measured_bytes)}"
        text += _bracketed(change_text(entry.predicted_bytes, entry.measured_bytes))
    return text


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""


def _row(option: OptionRow, width: int) -> str:
    mark = "*" if option.is_chosen else " "
    times = f"{seconds_text(option.harm_s):>12} {seconds_text(option.seconds):>12}"
    row = f"{mark} {option.name:<{width}} {times} {bytes_text(option.bytes):>10}"
    return f"{row}  {option.note}".rstrip()


def _cost(move: Move) -> str:
    if move.failure is not None:
        return f"failed: {move.failure}"
    if move.measured_s is None:
        return "under way, or its worker was lost"
    source = f" from {move.source}" if move.source else ""
    size = "" if move.measured_bytes is None else f", {bytes_text(move.measured_bytes)}"
    return f"took {seconds_text(move.measured_s)}{source}{size}"
