"""What a server's decision log says of its moves."""

from dataclasses import dataclass, field
from pathlib import Path

from repertory.core.journal import read_lines

__all__ = ["Moves", "moves_of"]


@dataclass
class Moves:
    """Seconds, in the order in which they ended."""

    loads: list[float] = field(default_factory=list)
    activations: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    """What each preemption was predicted to cost."""


def moves_of(state_dir: Path, source: str | None = None) -> Moves:
    """All of a server; of its loads those from that rung (None: from any)."""
    found, kinds = Moves(), dict[int, str]()
    for path in sorted(state_dir.glob("decisions*.jsonl")):
        with path.open("rb") as lines:
            for entry in read_lines(lines):
                kinds |= {
                    one["action_id"]: one["kind"] for one in entry["actions"] if "action_id" in one
                }
                found.penalties += [
                    one["predicted_s"] for one in entry["verdicts"] if one["rule"] == "preempt"
                ]
                event = entry["event"]
                if event["kind"] != "TransitionDone":
                    continue
                measured, kind = event["measured"], kinds.get(event["action_id"])
                if kind == "Load" and source in (None, measured["source"]):
                    found.loads.append(measured["took_ns"] / 1e9)
                elif kind == "Activate":
                    found.activations.append(measured["took_ns"] / 1e9)
    return found
