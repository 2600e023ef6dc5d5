"""What late answers waited for, seen in the brain's decisions while it is simulated.

Of each request the time to its first token is split by what kept it: its model had no room, was on
its way from a disk or from main memory, served but had no free slot, or the prompt was computed.
The largest part is what a late answer is counted for.  Works for any policy: it reads nothing but
events and actions.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Dispatch,
    Drop,
    Load,
    Settle,
    Stage,
    Transition,
    Unload,
)
from repertory.domain.decisions import Decision
from repertory.domain.events import (
    Arrived,
    Event,
    Finished,
    FirstToken,
    Preempted,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
)
from repertory.domain.ladder import Rung
from repertory.domain.requests import OutcomeKind
from repertory.domain.specs import ModelSpec
from repertory.traces.summary import Slo

__all__ = ["Evidence", "Limit", "Watch"]


class Limit(Enum):
    """What a fleet has too little of."""

    MEMORY = "memory"
    """No room was free for the model: neither there nor on its way."""
    DISK = "disk"
    """The model was on its way, read from a disk for the first time."""
    HOST_MEMORY = "host memory"
    """Read from the disk again: main memory had not kept it."""
    LOADS = "loads"
    """On its way from main memory, or being opened."""
    SLOTS = "slots"
    """It served, and all its slots were taken."""
    COMPUTE = "compute"
    """It had a slot, and the steps took so long."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one run, or of several together."""

    late: dict[Limit, int]
    """Answers out of the objective, by what they waited for most."""
    window_s: float = 0.0
    """Simulated, without the warm-up."""
    device_s: float = 0.0
    """The same times devices."""
    busy_s: float = 0.0
    """Of those, computing."""
    crowded_s: float = 0.0
    """In which some model was asked for and had no room."""
    loads: int = 0
    loading_s: float = 0.0
    """All loads together, also those side by side."""

    @property
    def limit(self) -> Limit | None:
        """What most late answers waited for; None: none was late."""
        late = self.late_by_limit
        return max(late, key=lambda limit: (late[limit], limit.value), default=None)

    @property
    def late_by_limit(self) -> dict[Limit, int]:
        """Slots of busy devices are taken because steps are slow, not because they are few."""
        late = dict(self.late)
        if self.busy_share >= _BUSY and Limit.SLOTS in late:
            late[Limit.COMPUTE] = late.get(Limit.COMPUTE, 0) + late.pop(Limit.SLOTS)
        return late

    @property
    def busy_share(self) -> float:
        return self.busy_s / self.device_s if self.device_s else 0.0

    @property
    def crowded_share(self) -> float:
        return self.crowded_s / self.window_s if self.window_s else 0.0

    @staticmethod
    def of(parts: Iterable["Evidence"]) -> "Evidence":
        late: dict[Limit, int] = {}
        window_s = device_s = busy_s = crowded_s = loading_s = 0.0
        loads = 0
        for part in parts:
            for limit, count in part.late.items():
                late[limit] = late.get(limit, 0) + count
            window_s, device_s = window_s + part.window_s, device_s + part.device_s
            busy_s, crowded_s = busy_s + part.busy_s, crowded_s + part.crowded_s
            loads, loading_s = loads + part.loads, loading_s + part.loading_s
        return Evidence(late, window_s, device_s, busy_s, crowded_s, loads, loading_s)


_BUSY = 0.7
"""Of a device's time: where steps take that much, more slots would only make them longer."""

_Waits = dict[Limit, int]
_UP = (Stage, Load, Activate)


@dataclass(slots=True)
class _Model:
    """How it stands, and for how long it has stood so in all."""

    width: int
    stood_ns: _Waits = field(default_factory=dict)
    state: Limit = Limit.MEMORY
    since_ns: int = 0
    copies: dict[str, "_Copy"] = field(default_factory=dict)
    waiting: int = 0

    def look(self, at_ns: int) -> None:
        """Its time until now counts as what it was; then, what it is."""
        self.stood_ns[self.state] = self.stood_ns.get(self.state, 0) + at_ns - self.since_ns
        self.since_ns = at_ns
        rising = [copy.rising for copy in self.copies.values() if copy.rising is not None]
        if any(copy.is_serving for copy in self.copies.values()):
            self.state = Limit.SLOTS
        else:
            self.state = rising[0] if rising else Limit.MEMORY

    @property
    def is_crowded(self) -> bool:
        return self.waiting > 0 and self.state is Limit.MEMORY


@dataclass(slots=True)
class _Copy:
    node: str
    is_serving: bool = False
    rising: Limit | None = None
    """On its way up, and from where."""
    came: Limit = Limit.LOADS
    came_ns: int = -1
    """From where its weights came, and when they were there."""


@dataclass(frozen=True, slots=True)
class _Rise:
    """A move up under way."""

    model: str
    since_ns: int
    is_opening: bool


@dataclass(slots=True)
class _Wait:
    """A request without its end."""

    model: str
    at_ns: int
    before: _Waits
    """How its model had stood until then."""
    split: _Waits | None = None
    """What it waited for; None: it waits."""
    started_ns: int = 0
    turn_ns: int = 0
    """When it was dispatched last; and its first token since then."""
    turn_first_ns: int | None = None
    first_ns: int | None = None
    is_stopped: bool = False
    is_late: bool = False


class Watch:
    """A sink of decisions.  Requests that came before `warm_s` do not count."""

    def __init__(self, models: Iterable[ModelSpec], slo: Slo, warm_s: float) -> None:
        self._models = {spec.name: _Model(spec.devices_per_replica) for spec in models}
        self._slo = slo
        self._warm_ns = round(warm_s * 1e9)
        self._waits: dict[str, _Wait] = {}
        self._rises: dict[int, _Rise] = {}
        self._read: set[tuple[str, str]] = set()
        """Model and node: its file was read there before."""
        self._late: dict[Limit, int] = {}
        self._busy_ns = self._crowded_ns = self._loading_ns = self._loads = 0
        self._crowded = 0
        """Models that are asked for and have no room."""
        self._now_ns = self._used_ns = 0
        """The latest event, and the latest that told of computing."""

    def __call__(self, decision: Decision) -> None:
        event = decision.event
        at_ns = event.at_ns
        if self._crowded and at_ns > self._warm_ns:
            self._crowded_ns += at_ns - max(self._now_ns, self._warm_ns)
        self._now_ns = at_ns
        self._take(event)
        for action in decision.actions:
            match action:
                case Dispatch(request_id):
                    self._start(request_id)
                case Settle(outcome):
                    self._end(outcome.request_id, is_done=outcome.kind is OutcomeKind.DONE)
                case Stage() | Load() | Activate() | Deactivate() | Unload() | Drop():
                    self._move(action)
                case _:
                    pass

    def evidence(self, devices: int) -> Evidence:
        """Until computing ended: what is left to do when the last request comes is work too.

        No device computes for longer than that; what is even on average may seem so at the edge.
        """
        window_s = max(self._used_ns - self._warm_ns, 0) / 1e9
        return Evidence(
            late=dict(self._late),
            window_s=window_s,
            device_s=window_s * devices,
            busy_s=min(self._busy_ns / 1e9, window_s * devices),
            crowded_s=min(self._crowded_ns / 1e9, window_s),
            loads=self._loads,
            loading_s=self._loading_ns / 1e9,
        )

    def _take(self, event: Event) -> None:
        match event:
            case Arrived(at_ns, request):
                model = self._models[request.model]
                model.look(at_ns)
                self._count(model, 1)
                self._waits[request.id] = _Wait(request.model, at_ns, dict(model.stood_ns))
            case FirstToken(at_ns, name) if name in self._waits:
                self._first(self._waits[name], at_ns)
            case Finished() if event.request_id in self._waits:
                self._finish(self._waits[event.request_id], event)
            case Preempted() if event.request_id in self._waits:
                wait = self._waits[event.request_id]
                wait.is_stopped = True
                self._use(wait, event.share_ns, 0)
            case TransitionDone(at_ns, action_id, replica_id):
                self._land(at_ns, action_id, replica_id, is_done=True)
            case TransitionFailed(at_ns, action_id, replica_id):
                self._land(at_ns, action_id, replica_id, is_done=False)
            case WorkerLost(_, node_id):
                self._lose(node_id)
            case _:
                pass

    def _start(self, name: str) -> None:
        wait = self._waits.get(name)
        if wait is None:
            return
        wait.turn_ns, wait.turn_first_ns = self._now_ns, None
        if wait.split is not None:
            return
        wait.split, wait.started_ns = self._split(wait), self._now_ns
        self._count(self._models[wait.model], -1)

    def _split(self, wait: _Wait) -> _Waits:
        model = self._models[wait.model]
        model.look(self._now_ns)
        return {limit: stood - wait.before.get(limit, 0) for limit, stood in model.stood_ns.items()}

    def _first(self, wait: _Wait, at_ns: int) -> None:
        wait.turn_first_ns = at_ns
        if wait.first_ns is not None:
            return
        wait.first_ns = at_ns
        limit_s = self._slo.ttft_s
        if limit_s is not None and at_ns - wait.at_ns >= limit_s * 1e9:
            self._blame(wait)

    def _finish(self, wait: _Wait, event: Finished) -> None:
        self._use(wait, event.share_ns, event.prefill_ns)
        limit_s, more = self._slo.tpot_s, event.output_tokens - 1
        if wait.first_ns is None or limit_s is None or more < 1:
            return
        if event.at_ns - wait.first_ns >= limit_s * 1e9 * more and not wait.is_late:
            self._vote(wait, Limit.MEMORY if wait.is_stopped else Limit.COMPUTE)

    def _use(self, wait: _Wait, share_ns: int, prompt_ns: int) -> None:
        """What was computed before the warm-up was over does not count: a prompt's is taken to be
        even until the first token, the rest's after it.
        """
        at_ns = self._used_ns = self._now_ns
        first_ns = at_ns if wait.turn_first_ns is None else wait.turn_first_ns
        prompt_ns = min(prompt_ns, share_ns)
        if not prompt_ns:
            first_ns = wait.turn_ns
        counted_ns = self._later(wait.turn_ns, first_ns, prompt_ns)
        counted_ns += self._later(first_ns, at_ns, share_ns - prompt_ns)
        self._busy_ns += counted_ns * self._models[wait.model].width

    def _later(self, from_ns: int, to_ns: int, spent_ns: int) -> int:
        if from_ns >= self._warm_ns:
            return spent_ns
        return spent_ns * max(0, to_ns - self._warm_ns) // max(1, to_ns - from_ns)

    def _end(self, name: str, *, is_done: bool) -> None:
        wait = self._waits.pop(name, None)
        if wait is None:
            return
        if not is_done and not wait.is_late:
            self._blame(wait)
        if wait.split is None:
            self._count(self._models[wait.model], -1)

    def _blame(self, wait: _Wait) -> None:
        """What it waited for most; if it did not wait at all: how its model stands."""
        split = dict(self._split(wait) if wait.split is None else wait.split)
        if wait.split is not None:
            split[Limit.COMPUTE] = self._now_ns - wait.started_ns
        if any(split.values()):
            self._vote(wait, max(split, key=lambda limit: (split[limit], limit.value)))
        else:
            self._vote(wait, self._models[wait.model].state)

    def _vote(self, wait: _Wait, limit: Limit) -> None:
        wait.is_late = True
        if wait.at_ns >= self._warm_ns:
            self._late[limit] = self._late.get(limit, 0) + 1

    def _count(self, model: _Model, more: int) -> None:
        was = model.is_crowded
        model.waiting += more
        self._crowded += model.is_crowded - was

    def _look(self, model: _Model) -> None:
        was = model.is_crowded
        model.look(self._now_ns)
        self._crowded += model.is_crowded - was

    def _move(self, action: Transition) -> None:
        model, name = self._models[action.model], action.replica_id
        copy = model.copies.setdefault(name, _Copy(action.node_id))
        if isinstance(action, _UP):
            copy.rising = self._from(action, copy)
            is_opening = isinstance(action, Activate)
            self._rises[action.action_id] = _Rise(action.model, self._now_ns, is_opening)
            if isinstance(action, Load) and self._now_ns >= self._warm_ns:
                self._loads += 1
        else:
            copy.is_serving = False
            if isinstance(action, Drop):
                del model.copies[name]
        self._look(model)

    def _from(self, action: Stage | Load | Activate, copy: _Copy) -> Limit:
        """Opening after a load counts as the load did."""
        match action:
            case Activate():
                return copy.came if copy.came_ns == self._now_ns else Limit.LOADS
            case Load(source=source) if source is not Rung.DISK:
                return Limit.LOADS
            case _:
                seen = (action.model, action.node_id)
                limit = Limit.HOST_MEMORY if seen in self._read else Limit.DISK
                self._read.add(seen)
                return limit

    def _land(self, at_ns: int, action_id: int, replica_id: str, *, is_done: bool) -> None:
        rise = self._rises.pop(action_id, None)
        if rise is None:
            return
        model = self._models[rise.model]
        if at_ns > self._warm_ns:
            self._loading_ns += at_ns - max(rise.since_ns, self._warm_ns)
        copy = model.copies.get(replica_id)
        if copy is not None:
            copy.is_serving = is_done and rise.is_opening
            copy.came, copy.came_ns = copy.rising or Limit.LOADS, at_ns
            copy.rising = None
            self._look(model)

    def _lose(self, node: str) -> None:
        for model in self._models.values():
            model.copies = {name: copy for name, copy in model.copies.items() if copy.node != node}
            self._look(model)
        self._read = {(name, where) for name, where in self._read if where != node}
