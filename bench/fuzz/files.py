"""Damaged model files in a served folder: left out, refused or served, and nobody dies of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.fuzz.client import HANG_S
from bench.fuzz.findings import Findings
from bench.fuzz.ggufs import damaged_gguf
from bench.fuzz.server import Watched
from bench.fuzz.storm import look
from bench.fuzz.verdicts import NAMED

__all__ = ["BATCH", "Files", "put"]

BATCH = 50
_ASKERS = 4
_SEEN_S = 60.0
"""The folder is looked at again every 10 s."""
_POLL_S = 0.2


def put(folder: Path, seed: int, number: int, sources: Sequence[bytes]) -> Path:
    """A damaged file, under its name only when it is complete."""
    name, raw = damaged_gguf(seed, number, sources)
    draft = folder / f".gguf-{number}.draft"
    draft.write_bytes(raw)
    return draft.rename(folder / f"gguf-{number}-{name}.gguf")


@dataclass
class Files:
    """What came of all files."""

    server: Watched
    folder: Path
    findings: Findings
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    seconds: float = 0.0

    async def run(self, seed: int, numbers: Sequence[int], sources: Sequence[bytes]) -> None:
        began_s = time.monotonic()
        for at in range(0, len(numbers), BATCH):
            some = numbers[at : at + BATCH]
            paths = [put(self.folder, seed, number, sources) for number in some]
            await self.ask(paths, some[0], some[-1])
            for path in paths:
                path.unlink()
        self.seconds = time.monotonic() - began_s

    async def ask(self, paths: Sequence[Path], first: int, last: int) -> None:
        """Each for a chat, and a look at the server afterwards."""
        await self._until_seen(paths)
        waiting = iter(paths)

        async def ask() -> None:
            for path in waiting:
                await self._ask(path.stem)

        async with asyncio.TaskGroup() as askers:
            for _ in range(_ASKERS):
                askers.create_task(ask())
        await look(self.server, self.findings, first, last)

    async def _until_seen(self, paths: Sequence[Path]) -> None:
        end_s = time.monotonic() + _SEEN_S
        for path in paths:
            while time.monotonic() < end_s:
                answer = await self.server.get(f"/v1/models/{path.stem}")
                if "There is no model" not in str(answer):  # it is there, or left out with a reason
                    break
                await asyncio.sleep(_POLL_S)
            else:
                self.findings.of_file(path.stem, f"not seen within {_SEEN_S:.0f} s")
                return

    async def _ask(self, name: str) -> None:
        began_s = time.monotonic()
        status, answer = await self.server.chat(name)
        took_s = time.monotonic() - began_s
        self.slowest_s = max(self.slowest_s, took_s)
        error = answer.get("error", {}) if isinstance(answer, dict) else {}
        code = error.get("code") if isinstance(error, dict) else None
        died = self.server.restarts()
        if died:
            self.findings.of_file(name, f"{died} (or of a neighbour of it)")
        match status:
            case 200:
                outcome = "served"
            case 400 | 404:
                outcome = f"refused ({status}): {code or error.get('param')}"
            case 503 if code in NAMED[503]:
                outcome = f"refused (503): {code}"
            case 0:
                outcome = "no answer"
            case _:
                outcome = f"unforeseen ({status})"
        if outcome.startswith(("no answer", "unforeseen")) or took_s > HANG_S:
            self.findings.of_file(name, f"{outcome} after {took_s:.1f} s: {str(answer)[:300]}")
        if code == "worker_gone":
            self.findings.of_file(name, f"it killed a worker: {str(answer)[:300]}")
        self.outcomes[outcome] += 1
