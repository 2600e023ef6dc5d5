"""What a benchmark ends with: named figures with their bars, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Check", "at_least", "at_most", "finish", "percentile", "write"]


@dataclass(frozen=True)
class Check:
    """One figure and its bar."""

    name: str
    unit: str
    value: float
    bar: float
    better: Literal["lower", "higher"]
    holds: bool = field(init=False)

    def __post_init__(self) -> None:
        """Unrounded: what is shown as the bar may still miss it."""
        holds = self.value <= self.bar if self.better == "lower" else self.value >= self.bar
        object.__setattr__(self, "holds", bool(holds))


def at_most(name: str, unit: str, value: float, bar: float) -> Check:
    return Check(name, unit, value, bar, "lower")


def at_least(name: str, unit: str, value: float, bar: float) -> Check:
    return Check(name, unit, value, bar, "higher")


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write(out: Path, checks: Sequence[Check], raw: Any) -> None:  # Any: JSON
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"checks": [asdict(one) for one in checks], "raw": raw}
    out.write_text(json.dumps(document, indent=1) + "\n")


def finish(out: Path, checks: Sequence[Check], raw: Any) -> int:  # Any: JSON
    """Print the table, write the file; the exit code, 1 if a bar is missed."""
    write(out, checks, raw)
    for one in checks:
        sign = "<=" if one.better == "lower" else ">="
        verdict = "holds" if one.holds else "MISSED"
        print(f"{one.name:62} {one.value:10.3f} {one.unit:7} {sign} {one.bar:<8} {verdict}")
    return 0 if all(one.holds for one in checks) else 1
