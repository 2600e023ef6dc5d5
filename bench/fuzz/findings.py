"""What was found, each with what it takes to see it again."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from bench.fuzz.cases import Case, Manner

__all__ = ["Finding", "Findings"]

_SHOWN_BYTES = 300


@dataclass(frozen=True)
class Finding:
    """Something that must not happen."""

    what: str
    replay: str
    """The command that shows it again."""


@dataclass
class Findings:
    """Printed as they come."""

    seed: int
    folder: Path
    found: list[Finding] = field(default_factory=list)

    def of_case(self, case: Case, what: str) -> None:
        """The request is kept: as a body for curl where it is plain, else as its bytes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        head, _, body = case.raw.partition(b"\r\n\r\n")
        path = self.folder / f"{self.seed}-{case.number}.bin"
        path.write_bytes(case.raw)
        shown = f"the bytes are in {path}"
        if case.manner is Manner.READS and head.startswith(b"POST ") and len(case.methods) == 1:
            plain = path.with_suffix(".body")
            plain.write_bytes(body)
            target = head.split(b" ")[1].decode("utf-8", "replace")
            url = shlex.quote(f"http://127.0.0.1:7373{target}")
            shown = f"curl -m 60 --data-binary @{plain} {url}"
        print(f"  {body[:_SHOWN_BYTES]!r}\n  {shown}")
        self._add(f"case {case.number} ({case.kind}): {what}", f"--only {case.number}")

    def of_range(self, first: int, last: int, what: str) -> None:
        self._add(f"after cases {first} to {last}: {what}", f"--only {first}-{last}")

    def of_file(self, name: str, what: str) -> None:
        self._add(f"file {name}: {what}", f"--files {name}")

    def _add(self, what: str, selection: str) -> None:
        replay = f"python -m bench.fuzz --seed {self.seed} {selection}"
        self.found.append(Finding(what, replay))
        print(f"FOUND {what}\n  again: {replay}", flush=True)
