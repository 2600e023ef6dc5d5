"""What all scenes of one run share: where files go, what is said, and what is kept."""

import argparse
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.checks import Check, at_most, finish, write

__all__ = ["Run", "Scenes", "main", "play"]


@dataclass
class Run:
    """One run of the benchmark."""

    root: Path
    peers: Path
    """Where llama-server was built, for the scenes that stand beside it."""
    raw: dict[str, Any] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _stamp: int = field(default_factory=time.monotonic_ns)

    @property
    def peer(self) -> Path:
        """The llama-server binary."""
        found = sorted(self.peers.glob("llama-server-*/bin/llama-server"))
        if not found:
            sys.exit(f"no llama-server in {self.peers}: run `bash bench/peers.sh`")
        return found[-1]

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


Scenes = Mapping[str, Callable[[Run], list[Check]]]


def main(program: str, about: str, scenes: Scenes) -> int:
    """All scenes, or those named; the exit code, 1 if a bar is missed."""
    name = program.rpartition(".")[2]
    options = argparse.ArgumentParser(prog=program, description=about.partition("\n")[0])
    options.add_argument("--out", type=Path, default=Path(f"build/bench/{name}.json"))
    options.add_argument("--peers", type=Path, default=Path("build/peers"))
    options.add_argument(
        "--only", action="append", choices=list(scenes), help="a part, while working on it"
    )
    chosen = options.parse_args()
    run = Run(chosen.out.parent / "serve", chosen.peers)
    checks = play(run, {each: scenes[each] for each in chosen.only or scenes}, chosen.out)
    return finish(chosen.out, checks, run.raw)


def play(run: Run, scenes: Scenes, out: Path) -> list[Check]:
    """One after the other.  What is read is on the disk when a scene ends, and one that breaks off
    takes no other with it: it is a bar that is missed.
    """
    checks: list[Check] = []
    lasted_s: dict[str, float] = {}
    run.keep("seconds", lasted_s)
    for name, scene in scenes.items():
        run.say(f"{name} begins")
        began_s = time.monotonic()
        try:
            checks += scene(run)
        except Exception:  # noqa: BLE001 - said, and counted
            traceback.print_exc()
            checks.append(at_most(f"{name}: broke off", "", 1, 0))
        lasted_s[name] = round(time.monotonic() - began_s, 1)
        write(out, checks, run.raw)
    return checks
