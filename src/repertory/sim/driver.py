"""A heap and a loop: a brain under virtual time, engines by their `NodeModel`.

Between events nothing is stepped: node models say when something happens next.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from repertory.domain.actions import (
    Action,
    Cancel,
    Dispatch,
    Preempt,
    Settle,
    Solve,
    WakeAt,
)
from repertory.domain.events import (
    Arrived,
    Event,
    Finished,
    FirstToken,
    ModelAdded,
    PlanReady,
    Preempted,
    Timer,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
    WorkerUp,
    order,
)
from repertory.domain.requests import FinishReason, Outcome, Request
from repertory.domain.specs import ModelSpec, NodeSpec
from repertory.engines.node_model import Job, NodeModel, Output, TransitionEnd
from repertory.policy.places.prewarm import solve

__all__ = ["SOLVE_NS", "Brain", "Fate", "Simulation"]

SOLVE_NS = 2_000_000
"""What a `Solve` is taken to last: 0.024 ms for 100 models in numpy, and the way there and back."""


_WATCHED = 1024
"""Events between two looks of the watcher: some 50 ms."""


class Brain(Protocol):
    """What decides: ours, or another system's rules behind the same door."""

    def handle(self, event: Event) -> list[Action]: ...


@dataclass(slots=True)
class Fate:
    """What has become of a request so far."""

    request: Request
    output_tokens: int
    """That it comes to."""
    made_tokens: int = 0
    """On workers that have died, and before it was stopped."""
    started_ns: int | None = None
    """When it was first dispatched."""
    first_ns: int | None = None
    """When its first token was there."""
    stopped_ns: int | None = None
    """Since when its stream has stood still."""
    gap_ns: int = 0
    """The longest that it stood still."""


class Simulation:
    """Feeds events to a brain and carries its actions out on node models."""

    def __init__(
        self,
        brain: Brain,
        nodes: Iterable[NodeModel],
        output_tokens: Callable[[Request], int] = lambda request: request.max_tokens,
        settled: Callable[[int, Outcome], None] = lambda at_ns, outcome: None,
        worker: Callable[[NodeSpec], NodeModel] | None = None,
        lag_ns: int = 0,
    ) -> None:
        """`lag_ns`: between the end of something on a worker, and the brain's hearing of it; with
        the way of what was asked.
        """
        self._handle = brain.handle
        self._nodes = {model.node.id: model for model in nodes}
        self._output_tokens = output_tokens
        self._settled = settled
        self._worker = worker
        """Makes the worker of a node that comes up during the run."""
        self._lag_ns = lag_ns
        self._heap: list[tuple[tuple[int, int, str], int, Event]] = []
        self._pushed = 0
        """Of one name and instant, what was told first is heard first: as in the live driver."""
        self._due: list[tuple[int, str]] = []
        """A heap: when which node is to be looked at.  Holds only if `_booked` says the same."""
        self._booked: dict[str, int | None] = {}
        self._timers: dict[str, int] = {}
        self._specs: dict[str, ModelSpec] = {}
        self.fates: dict[str, Fate] = {}
        """Of requests without an outcome, and of the one that is told its outcome just now."""
        self.now_ns = 0

    def start(self, specs: Iterable[ModelSpec]) -> None:
        """Workers come up and models are announced, at time zero."""
        for model in self._nodes.values():
            self._push(WorkerUp(0, model.node))
        for spec in specs:
            self._push(ModelAdded(0, spec))

    def tell(self, events: Iterable[Event]) -> None:
        """What the brain hears besides, at the events' times."""
        for event in events:
            self._push(event)

    def run(self, arrivals: Iterable[Event], goes_on: Callable[[int], bool] | None = None) -> bool:
        """Until nothing is left to happen.  `arrivals` must come in order of time.

        `goes_on` is told the time now and then; when it says no, the run ends there.  True: to the
        end.
        """
        coming = iter(arrivals)
        upcoming = next(coming, None)
        events, left = self._heap, _WATCHED
        while True:
            node_ns = self._next_node_ns()
            at_ns = events[0][0][0] if events else None
            if node_ns is not None and (at_ns is None or node_ns <= at_ns):
                at_ns = node_ns
            while upcoming is not None and (at_ns is None or upcoming.at_ns <= at_ns):
                self._push(upcoming)
                at_ns = upcoming.at_ns
                upcoming = next(coming, None)
            if at_ns is None:
                return True
            if node_ns is not None and node_ns <= at_ns:
                self._advance(node_ns)
            else:
                self._deliver(heappop(events)[2])
            left -= 1
            if not left:
                left = _WATCHED
                if goes_on is not None and not goes_on(self.now_ns):
                    return False

    def _push(self, event: Event) -> None:
        if isinstance(event, Arrived):
            request = event.request
            self.fates[request.id] = Fate(request, self._output_tokens(request))
        elif isinstance(event, ModelAdded):
            self._specs[event.spec.name] = event.spec
        self._pushed += 1
        heappush(self._heap, (order(event), self._pushed, event))

    def _deliver(self, event: Event) -> None:
        at_ns = event.at_ns
        assert at_ns >= self.now_ns, f"time went back to {event}"
        match event:
            case Arrived() | FirstToken() | Finished():
                pass
            case Timer(name=name):
                if self._timers.get(name) != at_ns:
                    return
                del self._timers[name]
            case WorkerLost(node_id=node_id):
                self.now_ns = at_ns
                self._bury(self._nodes.pop(node_id))
            case WorkerUp(node=node) if node.id not in self._nodes:
                assert self._worker is not None, f"nobody makes a worker for {node.id}"
                self._nodes[node.id] = self._worker(node)
            case _:
                pass
        self.now_ns = at_ns
        for action in self._handle(event):
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Dispatch(request_id, replica_id, node_id):
                node = self._nodes[node_id]
                node.submit(self.now_ns, replica_id, self._job(request_id))
            case Settle(outcome):
                self._settled(self.now_ns, outcome)
                self.fates.pop(outcome.request_id, None)
                return
            case Cancel(request_id, _, node_id):
                node = self._nodes[node_id]
                node.cancel(self.now_ns, request_id)
            case Preempt(request_id, _, node_id):
                node = self._nodes[node_id]
                self._preempt(node, request_id)
            case WakeAt(at_ns, name):
                self._timers[name] = at_ns
                self._push(Timer(at_ns, name))
                return
            case Solve(problem):
                self._push(PlanReady(self.now_ns + SOLVE_NS, solve(problem)))
                return
            case _:
                node = self._nodes[action.node_id]
                node.transit(self.now_ns, action, self._specs[action.model])
        self._book(node)

    def _job(self, request_id: str) -> Job:
        """What is left to compute of a request; its deadline is of its first token alone."""
        fate = self.fates[request_id]
        request, made = fate.request, fate.made_tokens
        if fate.started_ns is None:
            fate.started_ns = self.now_ns
        return Job(
            request_id,
            request.prompt_tokens + made,
            fate.output_tokens - made,
            request.weight,
            None if made else request.deadline_ns,
        )

    def _next_node_ns(self) -> int | None:
        due = self._due
        while due and self._booked.get(due[0][1]) != due[0][0]:
            heappop(due)
        return due[0][0] if due else None

    def _book(self, node: NodeModel) -> None:
        """A node has changed: when is it to be looked at?"""
        at_ns, name = node.next_at_ns, node.node.id
        if self._booked.get(name) != at_ns:
            self._booked[name] = at_ns
            if at_ns is not None:
                heappush(self._due, (at_ns, name))

    def _advance(self, to_ns: int) -> None:
        """The nodes at which something happens then."""
        due = self._due
        while due and due[0][0] <= to_ns:
            at_ns, name = heappop(due)
            if self._booked.get(name) != at_ns:
                continue
            self._booked[name] = None
            node = self._nodes[name]
            for happened in node.advance(to_ns):
                for event in self._events_of(happened):
                    self._push(event)
            self._book(node)

    def _preempt(self, node: NodeModel, name: str) -> None:
        """Unless it has ended: then that is on its way."""
        node.catch_up(self.now_ns)
        if name in node.generations:
            fate = self.fates[name]
            fate.made_tokens += node.produced(name)
            fate.stopped_ns = self.now_ns
            share_ns = node.share_ns(name)
            node.cancel(self.now_ns, name)
            self._push(Preempted(self.now_ns, name, fate.made_tokens, share_ns))

    def _bury(self, lost: NodeModel) -> None:
        """What its generations have made by now is not made again."""
        self._booked.pop(lost.node.id, None)
        lost.catch_up(self.now_ns)
        for name in lost.generations:
            fate = self.fates[name]
            fate.made_tokens += lost.produced(name)
            fate.stopped_ns = self.now_ns

    def _events_of(self, happened: Output | TransitionEnd) -> Iterator[Event]:
        if isinstance(happened, TransitionEnd):
            yield _end_of(happened, self._lag_ns)
            return
        name, at_ns = happened.generation_id, happened.at_ns + self._lag_ns
        fate = self.fates[name]
        if happened.is_first:
            if fate.first_ns is None:
                fate.first_ns = at_ns
            elif fate.stopped_ns is not None:
                fate.gap_ns = max(fate.gap_ns, at_ns - fate.stopped_ns)
            yield FirstToken(at_ns, name)
        if happened.is_last:
            yield Finished(
                at_ns,
                name,
                FinishReason.LENGTH,
                fate.made_tokens + happened.output_tokens,
                happened.prefill_ns,
                happened.decode_ns,
                share_ns=happened.share_ns,
            )


def _end_of(end: TransitionEnd, lag_ns: int) -> Event:
    transition, failure, at_ns = end.transition, end.failure, end.at_ns + lag_ns
    if failure is None:
        return TransitionDone(at_ns, transition.action_id, transition.replica_id, end.measured)
    return TransitionFailed(
        at_ns,
        transition.action_id,
        transition.replica_id,
        failure.message,
        failure.fault,
    )
