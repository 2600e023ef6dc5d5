"""A heap and a loop: the brain under virtual time, engines by their `NodeModel`.

Between events nothing is stepped: node models say when something happens next.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

from repertory.core.controller import Controller
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
from repertory.policy.prewarm import solve

__all__ = ["SOLVE_NS", "Simulation"]

SOLVE_NS = 2_000_000
"""What a `Solve` is taken to last: 0.024 ms for 100 models in numpy, and the way there and back."""


class Simulation:
    """Feeds events to a controller and carries its actions out on node models."""

    def __init__(
        self,
        controller: Controller,
        nodes: Iterable[NodeModel],
        output_tokens: Callable[[Request], int] = lambda request: request.max_tokens,
        settled: Callable[[int, Outcome], None] = lambda at_ns, outcome: None,
        worker: Callable[[NodeSpec], NodeModel] | None = None,
    ) -> None:
        self._controller = controller
        self._nodes = {model.node.id: model for model in nodes}
        self._output_tokens = output_tokens
        self._settled = settled
        self._worker = worker
        """Makes the worker of a node that comes up during the run."""
        self._heap: list[tuple[tuple[int, int, str], Event]] = []
        self._timers: dict[str, int] = {}
        self._requests: dict[str, Request] = {}
        self._specs: dict[str, ModelSpec] = {}
        self._made: dict[str, int] = {}
        """Tokens that requests got from workers that have died."""
        self.now_ns = 0

    def start(self, specs: Iterable[ModelSpec]) -> None:
        """Workers come up and models are announced, at time zero."""
        for model in self._nodes.values():
            self._push(WorkerUp(0, model.node))
        for spec in specs:
            self._push(ModelAdded(0, spec))

    def run(self, arrivals: Iterable[Event]) -> None:
        """Until nothing is left to happen.  `arrivals` must come in order of time."""
        coming = iter(arrivals)
        upcoming = next(coming, None)
        while True:
            upcoming = self._take_due(coming, upcoming)
            if self._heap:
                at_ns = self._heap[0][0][0]
                node_ns = self._next_node_ns()
                if node_ns is not None and node_ns <= at_ns:
                    self._advance(node_ns)
                    continue
                self._deliver(heapq.heappop(self._heap)[1])
            elif (node_ns := self._next_node_ns()) is not None:
                self._advance(node_ns)
            else:
                return

    def _take_due(self, coming: Iterator[Event], upcoming: Event | None) -> Event | None:
        """Move arrivals onto the heap up to the next thing that happens anyway."""
        while upcoming is not None:
            next_ns = self._heap[0][0][0] if self._heap else None
            node_ns = self._next_node_ns()
            if node_ns is not None and (next_ns is None or node_ns < next_ns):
                next_ns = node_ns
            if next_ns is not None and upcoming.at_ns > next_ns:
                break
            self._push(upcoming)
            upcoming = next(coming, None)
        return upcoming

    def _push(self, event: Event) -> None:
        if isinstance(event, Arrived):
            self._requests[event.request.id] = event.request
        elif isinstance(event, ModelAdded):
            self._specs[event.spec.name] = event.spec
        heapq.heappush(self._heap, (order(event), event))

    def _deliver(self, event: Event) -> None:
        if isinstance(event, Timer):
            if self._timers.get(event.name) != event.at_ns:
                return
            del self._timers[event.name]
        assert event.at_ns >= self.now_ns, f"time went back to {event}"
        self.now_ns = event.at_ns
        if isinstance(event, WorkerLost):
            self._bury(self._nodes.pop(event.node_id))
        elif isinstance(event, WorkerUp) and event.node.id not in self._nodes:
            assert self._worker is not None, f"nobody makes a worker for {event.node.id}"
            self._nodes[event.node.id] = self._worker(event.node)
        for action in self._controller.handle(event):
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Dispatch(request_id, replica_id, node_id):
                request = self._requests[request_id]
                made = self._made.get(request_id, 0)
                length = self._output_tokens(request)
                prompt_tokens, weight = request.prompt_tokens + made, request.weight
                deadline_ns = None if made else request.deadline_ns
                job = Job(request_id, prompt_tokens, length - made, weight, deadline_ns)
                self._nodes[node_id].submit(self.now_ns, replica_id, job)
            case Cancel(request_id, _, node_id):
                self._nodes[node_id].cancel(self.now_ns, request_id)
            case Preempt(request_id, _, node_id):
                self._preempt(self._nodes[node_id], request_id)
            case Settle(outcome):
                self._requests.pop(outcome.request_id, None)
                self._made.pop(outcome.request_id, None)
                self._settled(self.now_ns, outcome)
            case WakeAt(at_ns, name):
                self._timers[name] = at_ns
                self._push(Timer(at_ns, name))
            case Solve(problem):
                self._push(PlanReady(self.now_ns + SOLVE_NS, solve(problem)))
            case _:
                node = self._nodes[action.node_id]
                node.transit(self.now_ns, action, self._specs[action.model])

    def _next_node_ns(self) -> int | None:
        times = [model.next_at_ns for model in self._nodes.values()]
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def _advance(self, to_ns: int) -> None:
        for model in self._nodes.values():
            for happened in model.advance(to_ns):
                for event in self._events_of(happened):
                    self._push(event)

    def _preempt(self, node: NodeModel, name: str) -> None:
        """Unless it has ended: then that is on its way."""
        node.catch_up(self.now_ns)
        if name in node.generations:
            self._made[name] = self._made.get(name, 0) + node.produced(name)
            share_ns = node.share_ns(name)
            node.cancel(self.now_ns, name)
            self._push(Preempted(self.now_ns, name, self._made[name], share_ns))

    def _bury(self, lost: NodeModel) -> None:
        """What its generations have made by now is not made again."""
        lost.catch_up(self.now_ns)
        for name in lost.generations:
            self._made[name] = self._made.get(name, 0) + lost.produced(name)

    def _events_of(self, happened: Output | TransitionEnd) -> Iterator[Event]:
        if isinstance(happened, TransitionEnd):
            yield _end_of(happened)
            return
        name = happened.generation_id
        if happened.is_first:
            yield FirstToken(happened.at_ns, name)
        if happened.is_last:
            yield Finished(
                happened.at_ns,
                name,
                FinishReason.LENGTH,
                self._made.get(name, 0) + happened.output_tokens,
                happened.prefill_ns,
                happened.decode_ns,
                share_ns=happened.share_ns,
            )


def _end_of(end: TransitionEnd) -> Event:
    transition, failure = end.transition, end.failure
    if failure is None:
        return TransitionDone(end.at_ns, transition.action_id, transition.replica_id, end.measured)
    return TransitionFailed(
        end.at_ns,
        transition.action_id,
        transition.replica_id,
        failure.message,
        failure.fault,
    )
