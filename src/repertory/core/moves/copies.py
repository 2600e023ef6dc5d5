"""Copies of KV between a slot and main memory: predicted, beside what they took, and learned from.

A worker decides by its own readings whether cells come back or are computed again; what it read is
told with the move or the first token that a copy was part of.
"""

from dataclasses import dataclass

from repertory.core.state import ReplicaState, State, Step
from repertory.domain.decisions import Verdict
from repertory.perf.costs import Ratio
from repertory.perf.profiles import KV_OUT, Key

__all__ = ["KvCopy", "learn_copy"]


@dataclass(frozen=True, slots=True)
class KvCopy:
    """What went, and which way: `KV_OUT` or `KV_IN`."""

    way: Key
    size_bytes: int
    took_ns: int


def learn_copy(
    state: State, step: Step, replica: ReplicaState, copy: KvCopy, subject: str = ""
) -> Ratio:
    """`subject`: a request whose first token it came with; none: it was a part of a move."""
    spec, where, measured_s = replica.spec, replica.placement, copy.took_ns / 1e9
    found = state.costs.copy(spec, where, copy.way, copy.size_bytes)
    direction = "out" if copy.way == KV_OUT else "back"
    step.verdicts.append(
        Verdict(
            "kv",
            subject or replica.model,
            f"{copy.size_bytes / 2**20:.3g} MiB {direction}",
            "",
            predicted_s=found.seconds,
            basis=found.basis,
            error=found.error,
            measured_s=measured_s,
        )
    )
    return state.costs.observe_copy(spec, where, copy.way, copy.size_bytes, measured_s)
