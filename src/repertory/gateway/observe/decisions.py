"""What the decisions tell the metrics: waits, moves by reason, victims' age, predictions kept."""

from collections.abc import Callable
from dataclasses import dataclass

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Dispatch,
    Drop,
    Load,
    Resize,
    Settle,
    Stage,
    Transition,
    Unload,
    edge_of,
)
from repertory.domain.decisions import Decision, Verdict
from repertory.domain.errors import DeadlineMissed
from repertory.domain.events import (
    Arrived,
    Event,
    FirstToken,
    Measured,
    Preempted,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
    WorkerUp,
)
from repertory.domain.requests import Outcome, OutcomeKind
from repertory.gateway.observe import catalogue
from repertory.gateway.observe.series import Counters, Histograms

__all__ = ["DecisionMetrics", "Story"]


@dataclass(slots=True)
class Story:
    """When one request came to what, on the brain's clock.  None: not yet."""

    model: str
    arrived_ns: int
    dispatched_ns: int | None = None
    first_token_ns: int | None = None
    key: str = ""
    deadline_ns: int | None = None

    @property
    def queue_s(self) -> float | None:
        """From its admission until it ran."""
        if self.dispatched_ns is None:
            return None
        return (self.dispatched_ns - self.arrived_ns) / 1e9

    @property
    def prefill_s(self) -> float | None:
        """From then to its first token."""
        if self.dispatched_ns is None or self.first_token_ns is None:
            return None
        return (self.first_token_ns - self.dispatched_ns) / 1e9


@dataclass(frozen=True, slots=True)
class _Move:
    """A transition under way, and what its verdict predicted."""

    transition: Transition
    predicted_s: float | None
    predicted_bytes: int | None
    began_unix_s: float


class DecisionMetrics:
    """Counts what the brain decided, and how well it predicted."""

    def __init__(self, unix_s: Callable[[], float]) -> None:
        self._unix_s = unix_s
        self.transitions = Counters(catalogue.TRANSITIONS)
        self.failures = Counters(catalogue.TRANSITION_FAILURES)
        self.seconds = Histograms(catalogue.TRANSITION_S)
        self.predicted_s = Counters(catalogue.PREDICTED_S)
        self.measured_s = Counters(catalogue.MEASURED_S)
        self.time_ratio = Histograms(catalogue.TIME_RATIO)
        self.memory_ratio = Histograms(catalogue.MEMORY_RATIO)
        self.error = Histograms(catalogue.PREDICTION_ERROR)
        self.drifts = Counters(catalogue.COST_DRIFTS)
        self.eviction_idle_s = Histograms(catalogue.EVICTION_IDLE_S)
        self.preemptions = Counters(catalogue.PREEMPTIONS)
        self.deadlines = Counters(catalogue.DEADLINES)
        self.resumes = Counters(catalogue.RESUMES)
        self.worker_losses = Counters(catalogue.WORKER_LOSSES)
        self.worker_restarts = Counters(catalogue.WORKER_RESTARTS)
        self.last_use_unix_s: dict[str, float] = {}
        self._last_use_ns: dict[str, int] = {}
        self._stories: dict[str, Story] = {}
        self._moves: dict[int, _Move] = {}

    def story(self, request_id: str) -> Story | None:
        """Of a request that has no outcome yet.  Whoever holds it sees it go on."""
        return self._stories.get(request_id)

    def under_way(self) -> dict[tuple[str, ...], float]:
        """When the oldest move of a model and an edge began, in Unix seconds."""
        oldest: dict[tuple[str, ...], float] = {}
        for move in self._moves.values():
            labels = (move.transition.model, edge_of(move.transition).value)
            oldest.setdefault(labels, move.began_unix_s)
        return oldest

    def keep_models(self, names: frozenset[str]) -> None:
        """What is known of other models is forgotten."""
        for model in self.last_use_unix_s.keys() - names:
            del self.last_use_unix_s[model]
        for model in self._last_use_ns.keys() - names:
            del self._last_use_ns[model]

    def take(self, decision: Decision) -> None:
        """A listener of `Service.subscribe`."""
        event = decision.event
        self._take_event(event)
        for verdict in decision.verdicts:
            if verdict.measured_s is not None:  # computing, going on, stopping: with hindsight
                self._compared(verdict.rule, verdict.predicted_s, verdict.measured_s)
            elif verdict.rule == "drift":
                self.drifts.of(verdict.subject).add()
        for action in decision.actions:
            match action:
                case Dispatch(request_id=request_id):
                    story = self._stories.get(request_id)
                    if story is not None:
                        self._dispatched(story, event.at_ns)
                case Settle(outcome=outcome):
                    self._settled(outcome, event.at_ns)
                case Stage() | Load() | Activate() | Resize() | Deactivate() | Unload() | Drop():
                    self._begun(action, _verdict_of(decision, action.action_id), event)
                case _:
                    pass

    def _take_event(self, event: Event) -> None:
        match event:
            case Arrived(at_ns=at_ns, request=request):
                self._stories[request.id] = Story(
                    request.model, at_ns, key=request.key, deadline_ns=request.deadline_ns
                )
            case FirstToken() | Preempted():
                self._went_on(event)
            case TransitionDone():
                self._done(event)
            case TransitionFailed(action_id=action_id):
                move = self._moves.pop(action_id, None)
                if move is not None:
                    edge = edge_of(move.transition).value
                    self.failures.of(move.transition.model, edge).add()
            case WorkerLost(node_id=node_id):
                self._lost(node_id)
            case WorkerUp(node=node):
                if any(labels == (node.id,) for labels, _ in self.worker_losses.items()):
                    self.worker_restarts.of(node.id).add()
            case _:
                pass

    def _went_on(self, event: FirstToken | Preempted) -> None:
        story = self._stories.get(event.request_id)
        if story is None:
            return
        if isinstance(event, Preempted):
            self.preemptions.of(story.model).add()
        elif story.first_token_ns is None:  # a resume has a first token of its own
            story.first_token_ns = event.at_ns

    def _dispatched(self, story: Story, at_ns: int) -> None:
        """For the first time, or to go on."""
        self._used(story.model, at_ns)
        if story.dispatched_ns is None:
            story.dispatched_ns = at_ns
        else:
            self.resumes.of(story.model).add()

    def _settled(self, outcome: Outcome, at_ns: int) -> None:
        story = self._stories.pop(outcome.request_id, None)
        if story is not None and story.deadline_ns is not None:
            word = _kept(story, story.deadline_ns, outcome, at_ns)
            if word is not None:
                self.deadlines.of(story.model, story.key, word).add()
        if story is not None and story.dispatched_ns is not None:
            self._used(story.model, at_ns)

    def _used(self, model: str, at_ns: int) -> None:
        self._last_use_ns[model] = at_ns
        self.last_use_unix_s[model] = self._unix_s()

    def _begun(self, action: Transition, verdict: Verdict | None, event: Event) -> None:
        reason = verdict.cause.value if verdict is not None and verdict.cause is not None else ""
        self.transitions.of(action.model, edge_of(action).value, reason).add()
        predicted_s = verdict.predicted_s if verdict is not None else None
        predicted_bytes = verdict.predicted_bytes if verdict is not None else None
        self._moves[action.action_id] = _Move(action, predicted_s, predicted_bytes, self._unix_s())
        if isinstance(action, Unload | Drop):
            self._evicted(action.model, reason, event.at_ns)

    def _evicted(self, model: str, reason: str, at_ns: int) -> None:
        """Once per way down: what sleeps first and is dropped later was not used meanwhile."""
        used_ns = self._last_use_ns.pop(model, None)
        if used_ns is not None:
            self.eviction_idle_s.of(reason).observe((at_ns - used_ns) / 1e9)

    def _done(self, event: TransitionDone) -> None:
        move = self._moves.pop(event.action_id, None)
        if move is None:
            return
        transition, took_s = move.transition, event.measured.took_ns / 1e9
        edge = edge_of(transition).value
        self.seconds.of(edge).observe(took_s)
        if isinstance(transition, Load | Activate):
            self._used(transition.model, event.at_ns)
        if move.predicted_s:
            self.predicted_s.of(edge).add(move.predicted_s)
            self.measured_s.of(edge).add(took_s)
            self.time_ratio.of(edge).observe(took_s / move.predicted_s)
            self._compared(edge, move.predicted_s, took_s)
        measured_bytes = _read_back(transition, event.measured)
        if move.predicted_bytes and measured_bytes is not None:
            self.memory_ratio.of(edge).observe(measured_bytes / move.predicted_bytes)
            self._compared("memory", move.predicted_bytes, measured_bytes)

    def _compared(self, kind: str, predicted: float | None, measured: float) -> None:
        """Over what was measured, which may be too short for the clock."""
        if predicted is not None and measured > 0:
            self.error.of(kind).observe(abs(predicted - measured) / measured)

    def _lost(self, node_id: str) -> None:
        """Nothing more is heard of its moves."""
        self.worker_losses.of(node_id).add()
        lost = [id_ for id_, one in self._moves.items() if one.transition.node_id == node_id]
        for action_id in lost:
            del self._moves[action_id]


def _kept(story: Story, deadline_ns: int, outcome: Outcome, at_ns: int) -> str | None:
    """What became of its deadline; None: nobody can say, for it ended before.

    An embedding has no first token: its end counts.
    """
    if outcome.kind is OutcomeKind.REFUSED:
        return "refused" if outcome.status == DeadlineMissed.status else None
    at_ns = at_ns if story.first_token_ns is None else story.first_token_ns
    if at_ns > deadline_ns:
        return "missed"
    is_there = story.first_token_ns is not None or outcome.kind is OutcomeKind.DONE
    return "met" if is_there else None


def _verdict_of(decision: Decision, action_id: int) -> Verdict | None:
    return next((one for one in decision.verdicts if action_id in one.action_ids), None)


def _read_back(transition: Transition, measured: Measured) -> int | None:
    """The bytes that a move's prediction is about, in all memories together; None for moves down,
    and where not read.
    """
    there: tuple[int | None, ...]
    rest: tuple[int | None, ...]
    match transition:
        case Load():
            there, rest = (measured.weights_bytes,), (measured.rest_weights_bytes,)
        case Activate():
            there = (measured.kv_bytes, measured.buffers_bytes)
            rest = (measured.rest_kv_bytes, measured.rest_buffers_bytes)
        case Resize():
            there, rest = (measured.kv_bytes,), (measured.rest_kv_bytes,)
        case Stage() | Deactivate() | Unload() | Drop():
            return None
    known = [size for size in there if size is not None]
    if len(known) < len(there):
        return None
    return sum(known) + sum(size for size in rest if size is not None)
