"""What all scenes of one run share: where files go, what is said, and what is kept."""

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Run"]


@dataclass
class Run:
    """One run of the benchmark."""

    root: Path
    peer: Path
    """The llama-server binary."""
    raw: dict[str, Any] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _stamp: int = field(default_factory=time.monotonic_ns)

    def say(self, line: str) -> None:
        """Progress: the whole takes more than an hour."""
        print(f"[{time.monotonic() - self.began_s:6.0f} s] {line}", file=sys.stderr, flush=True)

    def keep(self, scene: str, values: Any) -> None:  # Any: JSON
        self.raw[scene] = values

    def state_dir(self) -> Path:
        """A fresh one: no server inherits what another has learned."""
        return self.root / "state" / f"{self._stamp}-{next(self._numbers)}"

    def log(self) -> Path:
        return self.root / "state" / f"{self._stamp}-{next(self._numbers)}.log"
