"""`repertory why`: from the decision log to the story of one request or one model.

Pure: decoded log lines in, lines of text or JSON out.  A line is a `Decision` as a dict, with the
name of the class under "kind" in its event and in each of its actions; what transitions really
cost comes with later events and is joined by action id.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from repertory.reports.figures import bytes_text, seconds_text
from repertory.reports.story import Entry, Milestone, Move, OptionRow, Story

__all__ = ["explain", "near_subjects"]

_Record = Mapping[str, Any]  # Any: a decoded log line


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
    is in that model's story too.  A request's story holds its model's verdicts while it waits, what
    it was stopped for, and what stopping cost: itself, or others for its model.
    """

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._begin_ns: int | None = None
        self._moves: dict[int, Move] = {}
        self._models_of: dict[str, str] = {}
        self._is_waiting = False
        self._deadline_ns: int | None = None
        """Of the request, until its first token."""
        self._runs_on: str | None = None
        """A node; None while it waits."""
        self._broke_off_ns: int | None = None
        """When it was stopped, or lost its worker; None: it goes on, or has made no token."""
        self._has_begun = False
        self._stopped: set[str] = set()
        """Models of which work was stopped while it waited."""
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
            self._verdict(at_s, record, verdict)
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
            self._deadline_ns = request.get("deadline_ns")
            if self._deadline_ns is not None:
                left_s = (self._deadline_ns - event["at_ns"]) / 1e9
                text += f"; its first token is wanted within {left_s:.3g} s"
            story.parts.append(Milestone(step, at_s, text))
        if self.story is None:
            return
        if event.get("request_id") == self._subject:
            text = self._happened(event) + self._lateness(event)
            self.story.parts.append(Milestone(step, at_s, text))
        if event["kind"] == "WorkerLost" and event["node_id"] == self._runs_on:
            self._break_off(event["at_ns"])
            text = f"its worker died ({event['message']}); it waits, to go on where it stood"
            self.story.parts.append(Milestone(step, at_s, text))
        if event["kind"] == "Preempted" and event["request_id"] == self._subject:
            self._break_off(event["at_ns"])
        if event["kind"] == "OperatorAsked" and event["model"] == self._subject:
            text = f"the operator asked to {event['wish']}"
            self.story.parts.append(Milestone(step, at_s, text))

    def _break_off(self, at_ns: int) -> None:
        self._is_waiting, self._runs_on = True, None
        if self._has_begun and self._broke_off_ns is None:
            self._broke_off_ns = at_ns

    def _happened(self, event: _Record) -> str:
        """As `_happened` has it, but for the first token after it broke off."""
        if event["kind"] != "FirstToken":
            return _happened(event)
        self._has_begun = True
        if self._broke_off_ns is None:
            return _happened(event)
        after_s = (event["at_ns"] - self._broke_off_ns) / 1e9
        self._broke_off_ns = None
        found = event.get("reused_tokens", 0)
        way = f"{found} tokens before it were found" if found else "all before it computed again"
        return f"goes on, {seconds_text(after_s)} after it broke off ({way})"

    def _lateness(self, event: _Record) -> str:
        """What became of its deadline, with the first token, or with the end of what has none."""
        deadline_ns = self._deadline_ns
        if deadline_ns is None or event["kind"] not in ("FirstToken", "Finished"):
            return ""
        self._deadline_ns = None
        late_s = (event["at_ns"] - deadline_ns) / 1e9
        if late_s > 0:
            return f"; its deadline was missed by {seconds_text(late_s)}"
        return f"; {seconds_text(-late_s)} before its deadline"

    def _action(self, step: int, at_s: float, action: _Record) -> None:
        if self.story is None or self.story.kind != "request":
            return
        outcome = action.get("outcome")
        if outcome is not None and outcome["request_id"] == self._subject:
            self._is_waiting, self._runs_on = False, None
            self.story.parts.append(Milestone(step, at_s, _settled(outcome)))
        elif action.get("request_id") == self._subject:
            self._is_waiting = False
            self._runs_on = action["node_id"]
            text = f"{_SENT[action['kind']]} replica {action['replica_id']}"
            self.story.parts.append(Milestone(step, at_s, text))

    def _verdict(self, at_s: float, record: _Record, verdict: _Record) -> None:
        moves = tuple(
            self._moves[action_id]
            for action_id in verdict.get("action_ids", ())
            if action_id in self._moves
        )
        is_its_stop = verdict["rule"] == "preempt" and any(
            action["kind"] == "Preempt" and action["request_id"] == self._subject
            for action in record["actions"]
        )
        if not (is_its_stop or self._concerns(verdict, moves)):
            return
        if verdict["rule"] == "preempt":
            self._stopped.add(verdict["subject"])
        story = self._begin("model", self._subject)
        story.parts.append(
            Entry(
                step=record["step"],
                at_s=at_s,
                rule=verdict["rule"],
                subject=verdict["subject"],
                choice=verdict["choice"],
                why=verdict["why"],
                options=_options(verdict, record),
                predicted_s=verdict.get("predicted_s"),
                predicted_bytes=verdict.get("predicted_bytes"),
                basis=verdict.get("basis", ""),
                error=verdict.get("error"),
                cause=verdict.get("cause") or "",
                moves=moves,
                hindsight_s=verdict.get("measured_s"),
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
        if verdict["rule"] == "penalty" and self.story is not None:
            return self.story.model in named and verdict["subject"] in self._stopped
        return self._is_waiting and self.story is not None and self.story.model in named


def _move(action: _Record) -> Move:
    return Move(action["action_id"], action["kind"].lower(), action["model"], action["replica_id"])


_SENT = {"Dispatch": "sent to", "Cancel": "cancelled on", "Preempt": "stopped for others on"}
_BROUGHT = {
    "stage": ("weights_bytes",),
    "load": ("weights_bytes", "rest_weights_bytes"),
    "activate": ("kv_bytes", "buffers_bytes", "rest_kv_bytes", "rest_buffers_bytes"),
    "resize": ("kv_bytes", "rest_kv_bytes"),
}
"""What the brain predicted the bytes of, in all memories together.  A release is to free them, and
reads nothing back."""


def _brought_bytes(edge: str, measured: _Record) -> int | None:
    parts = [measured.get(name) for name in _BROUGHT.get(edge, ())]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _options(verdict: _Record, record: _Record) -> tuple[OptionRow, ...]:
    """What was done is the first one.

    1. A refusal took none of them.
    2. Nor did a turn that was bounded, and its work stopped in the same step all the same.
    """
    stopped = [one["subject"] for one in record["verdicts"] if one["rule"] == "preempt"]
    is_taken = verdict["rule"] != "admit"
    if verdict["rule"] == "drain" and verdict["subject"] in stopped:
        is_taken = False
    return tuple(
        OptionRow(
            name=row["name"],
            harm_s=row["harm_s"],
            seconds=row["seconds"],
            bytes=row["bytes"],
            note=row.get("note", ""),
            is_chosen=at == 0 and is_taken,
        )
        for at, row in enumerate(verdict.get("options", ()))
    )


def _happened(event: _Record) -> str:
    match event["kind"]:
        case "FirstToken":
            told = _copies(event)
            return f"first token ({'; '.join(told)})" if told else "first token"
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


def _copies(event: _Record) -> list[str]:
    """What its slot held for it, and whose cells made way."""
    told: list[str] = []
    if event.get("reused_tokens"):
        told.append(f"{event['reused_tokens']} tokens before it were found")
    if event.get("restored_bytes"):
        size, took_s = bytes_text(event["restored_bytes"]), event["restored_ns"] / 1e9
        told.append(f"{size} copied back from {event['restored_from']} in {seconds_text(took_s)}")
    if event.get("displaced_bytes"):
        size, took_s = bytes_text(event["displaced_bytes"]), event["displaced_ns"] / 1e9
        told.append(f"{size} of another conversation copied out first, in {seconds_text(took_s)}")
    return told


def _settled(outcome: _Record) -> str:
    text = f"settled: {outcome['kind']}"
    if outcome.get("message"):
        text += f": {outcome['message']}"
    if outcome.get("retry_after_s") is not None:
        text += f" (try again in {seconds_text(outcome['retry_after_s'])})"
    return text
