"""What an examination yields."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Fact", "Finding", "Level", "Report"]


class Level(Enum):
    """How bad it is."""

    FAILS = "fails"
    """Something will not work."""
    SLOW = "slow"
    """It works, but slower than it could."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    what: str
    """What is so, and why it matters."""
    advice: str
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Fact:
    part: str
    """cpu, library, memory, limits, files, network"""
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Report:
    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...]
    """The worst first."""

    @property
    def is_fit(self) -> bool:
        return not any(finding.level is Level.FAILS for finding in self.findings)
