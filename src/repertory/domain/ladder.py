"""The residency ladder and the life of a request, as tables.

Everything that changes a rung or a request's state is in this file, and the diagrams in
`docs/ladder.md` are drawn from these tables (`python -m repertory.reports.diagrams`).
"""

from enum import Enum

__all__ = [
    "REQUEST_STEPS",
    "TRANSITIONS",
    "Edge",
    "IllegalTransition",
    "Phase",
    "RequestState",
    "RequestStep",
    "Rung",
    "destination",
    "next_state",
]


class Rung(Enum):
    """Where a replica's weights are."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    DISK = "disk"
    HOST = "host"
    """In RAM and cheap to load: the page cache of a CPU engine, slept weights of a GPU engine."""
    DEVICE = "device"
    """Prewarmed: weights on the device, no KV memory."""
    SERVING = "serving"


class Edge(Enum):
    """A way from rung to rung.  Each has a predicted and a measured cost."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    STAGE = "stage"
    LOAD = "load"
    ACTIVATE = "activate"
    RESIZE = "resize"
    DEACTIVATE = "deactivate"
    UNLOAD = "unload"
    DROP = "drop"


TRANSITIONS: dict[tuple[Rung, Edge], Rung] = {
    (Rung.DISK, Edge.STAGE): Rung.HOST,
    (Rung.DISK, Edge.LOAD): Rung.DEVICE,
    (Rung.HOST, Edge.LOAD): Rung.DEVICE,
    (Rung.DEVICE, Edge.ACTIVATE): Rung.SERVING,
    (Rung.SERVING, Edge.RESIZE): Rung.SERVING,
    (Rung.SERVING, Edge.DEACTIVATE): Rung.DEVICE,
    (Rung.DEVICE, Edge.UNLOAD): Rung.HOST,
    (Rung.HOST, Edge.DROP): Rung.DISK,
    (Rung.DEVICE, Edge.DROP): Rung.DISK,
}
"""A failed transition leaves the replica on the rung where it stood."""


class Phase(Enum):
    """Whether a serving replica admits more of its own requests."""

    OPEN = "open"
    DRAINING = "draining"


class RequestState(Enum):
    """Where a request is."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    SETTLED = "settled"


class RequestStep(Enum):
    """What moves a request on."""

    __hash__ = object.__hash__  # singletons in hot tables: ten times faster than Enum's own

    DISPATCH = "dispatch"
    FIRST_TOKEN = "first token"
    RETURN = "return"
    """It was preempted, or its worker died: it goes on later, after the tokens that it has made."""
    SETTLE = "settle"


REQUEST_STEPS: dict[tuple[RequestState, RequestStep], RequestState] = {
    (RequestState.WAITING, RequestStep.DISPATCH): RequestState.PREFILLING,
    (RequestState.PREFILLING, RequestStep.FIRST_TOKEN): RequestState.DECODING,
    (RequestState.PREFILLING, RequestStep.RETURN): RequestState.WAITING,
    (RequestState.DECODING, RequestStep.RETURN): RequestState.WAITING,
    (RequestState.WAITING, RequestStep.SETTLE): RequestState.SETTLED,
    (RequestState.PREFILLING, RequestStep.SETTLE): RequestState.SETTLED,
    (RequestState.DECODING, RequestStep.SETTLE): RequestState.SETTLED,
}


class IllegalTransition(AssertionError):
    """Our bug: the tables above know no such edge.  The message tells the story so far."""


def destination(rung: Rung, edge: Edge, story: object = "") -> Rung:
    """The rung that `edge` leads to from `rung`; raises `IllegalTransition` with the story."""
    if (rung, edge) not in TRANSITIONS:
        raise IllegalTransition(f"no edge {edge.value!r} from rung {rung.value!r}: {story}")
    return TRANSITIONS[rung, edge]


def next_state(state: RequestState, step: RequestStep, story: object = "") -> RequestState:
    """The state that `step` leads to from `state`; raises `IllegalTransition` with the story."""
    if (state, step) not in REQUEST_STEPS:
        raise IllegalTransition(f"no step {step.value!r} from {state.value!r}: {story}")
    return REQUEST_STEPS[state, step]
