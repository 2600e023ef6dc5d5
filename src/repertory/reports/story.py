"""The story of one request or one model: its parts, and how they read on a terminal.

`reports/why.py` tells it from the decision log.
"""

from dataclasses import dataclass, field

from repertory.reports.figures import bytes_text, change_text, seconds_text

__all__ = ["Entry", "Milestone", "Move", "OptionRow", "Story", "render"]


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
    error: float | None
    """Relative: how far off such predictions have been."""
    cause: str
    """What it is for, in the words of the metrics; empty in logs of older versions."""
    moves: tuple[Move, ...]
    hindsight_s: float | None = None
    """What came of the prediction, where the record itself says so."""

    @property
    def measured_s(self) -> float | None:
        """Of all its moves together; None until the last one is done."""
        if self.hindsight_s is not None:
            return self.hindsight_s
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
    if entry.error is not None and entry.predicted_s:
        text += f" ± {100 * entry.error:.0f} %"
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
