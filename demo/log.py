"""What the decision log says, read while it is written."""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repertory.core.journal import read_lines

__all__ = ["LogReader"]

_Record = Mapping[str, Any]  # Any: a decoded log line
_SHOWN_RULES = ("load", "evict", "drain", "prewarm")


@dataclass(slots=True)
class Wait:
    """What happened to a request before it was let in."""

    model: str
    began_step: int
    rules: list[str] = field(default_factory=list)
    """Of the verdicts for its model's memory, in order."""
    is_cold: bool = False
    """It waited for a load."""


@dataclass(slots=True)
class LogReader:
    """Counts moves by model, and tells cold requests from warm ones."""

    path: Path
    evictions: Counter[str] = field(default_factory=Counter)
    load_seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    waits: dict[str, Wait] = field(default_factory=dict)
    recent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=6))
    _waiting: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _moves: dict[int, tuple[str, str]] = field(default_factory=dict)
    _begin_ns: int | None = None
    _read_bytes: int = 0

    def catch_up(self) -> None:
        """Take in the lines that are complete by now."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for record in read_lines(whole.splitlines()):
            self._take(record)

    def _take(self, record: _Record) -> None:
        event = record["event"]
        kind = event["kind"]
        if kind == "Arrived":
            self._begin_ns = self._begin_ns or event["at_ns"]
            request = event["request"]
            self.waits[request["id"]] = Wait(request["model"], record["step"])
            self._waiting[request["model"]].add(request["id"])
        elif kind == "TransitionDone":
            self._done(event["action_id"], event["measured"]["took_ns"] / 1e9)
        for action in record["actions"]:
            if "action_id" in action:
                self._moves[action["action_id"]] = (action["kind"], action["model"])
            request_id = action.get("request_id") or action.get("outcome", {}).get("request_id")
            if request_id in self.waits:
                self._waiting[self.waits[request_id].model].discard(request_id)
        at_s = (event["at_ns"] - (self._begin_ns or event["at_ns"])) / 1e9
        for verdict in record["verdicts"]:
            self._verdict(at_s, verdict)

    def _done(self, action_id: int, took_s: float) -> None:
        kind, model = self._moves.pop(action_id, ("", ""))
        if kind == "Load":
            self.load_seconds[model].append(took_s)
            for request_id in self._waiting[model]:
                self.waits[request_id].is_cold = True
        elif kind in ("Unload", "Drop"):
            self.evictions[model] += 1

    def _verdict(self, at_s: float, verdict: _Record) -> None:
        rule, why = verdict["rule"], verdict["why"]
        if rule not in _SHOWN_RULES or why == "goes on down":
            return
        self.recent.append((at_s, f"{rule:<7} {verdict['choice']}: {why}"))
        words = {word.strip(":,;") for word in f"{verdict['subject']} {why}".split()}
        for model in words & self._waiting.keys():
            for request_id in self._waiting[model]:
                self.waits[request_id].rules.append(rule)

    @property
    def loads(self) -> int:
        return sum(map(len, self.load_seconds.values()))

    def example(self, rule: str) -> str | None:
        """A request whose short wait shows the rule at work; None if it never spoke."""
        found = [
            (len(wait.rules), wait.began_step, request_id)
            for request_id, wait in self.waits.items()
            if rule in wait.rules
            and wait.is_cold
            and (rule == "evict" or "evict" not in wait.rules)
        ]
        return min(found)[2] if found else None
