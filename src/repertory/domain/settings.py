"""The operator's few dials, with their defaults and the reasons for them."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Favour", "Settings"]


class Favour(Enum):
    """The one dial: how many switch times a serving replica may go on before it hands over."""

    LATENCY = "latency"
    BALANCED = "balanced"
    THROUGHPUT = "throughput"


_SWITCHES_PER_TURN = {Favour.LATENCY: 2.0, Favour.BALANCED: 5.0, Favour.THROUGHPUT: 20.0}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the brain is told once.  Written at the head of the decision log."""

    favour: Favour = Favour.BALANCED
    min_residency_s: float = 1.0
    """A serving replica keeps its memory at least so long; below that a load never pays."""
    max_wait_s: float = 10.0
    """After so long the oldest waiting request is next on some feasible device."""
    max_queue_s: float = 120.0
    """A request whose predicted wait is longer is refused."""
    max_waiting: int = 4096
    """The longest queue over all models."""
    window_s: float = 10.0
    """The slow clock: how often prewarming is thought over."""
    rate_half_life_s: float = 600.0
    """Memory of a model's arrival rate (worker.md, Dispatch)."""
    use_soon_floor_s: float = 60.0
    """`p(use soon)` looks at least so far ahead when an eviction is weighed."""
    output_prior_tokens: int = 256
    """Output length of a model nobody has used yet."""
    prewarm: bool = True

    @property
    def switches_per_turn(self) -> float:
        return _SWITCHES_PER_TURN[self.favour]
