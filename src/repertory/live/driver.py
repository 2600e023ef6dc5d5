"""The brain under asyncio: events in one at a time and in total order, actions out as tasks.

The driver owns the clock.  Everything that happens becomes an event; every failure of an engine
becomes one too, so nothing flies past the brain.
"""

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from repertory.core.controller import Controller
from repertory.domain.actions import (
    Action,
    Activate,
    Cancel,
    Deactivate,
    Dispatch,
    Drop,
    Load,
    Preempt,
    Resize,
    Settle,
    Solve,
    Stage,
    Transition,
    Unload,
    WakeAt,
)
from repertory.domain.errors import EngineError, RepertoryError, WorkerGone
from repertory.domain.events import (
    Event,
    Finished,
    FirstToken,
    GenerationFailed,
    Measured,
    PlanReady,
    Preempted,
    Timer,
    TransitionDone,
    TransitionFailed,
    WorkerLost,
    WorkerUp,
    order,
)
from repertory.domain.plans import Plan, Problem
from repertory.domain.requests import Fault, Outcome
from repertory.domain.specs import ModelSpec, NodeSpec
from repertory.engines.contract import Engine, GenerationSpec, TokenStep
from repertory.policy.places.prewarm import solve

__all__ = ["Driver", "Owner"]

_log = logging.getLogger(__name__)
_LAST_WORDS_S = 0.5


class Owner(Protocol):
    """Who owns the requests: the server, or a test."""

    def generation(self, request_id: str) -> GenerationSpec:
        """What to run for a request that is dispatched, with the tokens that it has made."""
        ...

    def model(self, name: str) -> ModelSpec: ...

    def tokens(self, step: TokenStep) -> None:
        """A running request got tokens."""
        ...

    def emitted_tokens(self, request_id: str) -> int:
        """How many tokens a running request has got."""
        ...

    def settled(self, outcome: Outcome) -> None:
        """A request has its one outcome."""
        ...


async def _solve_beside(problem: Problem) -> Plan:
    return await asyncio.to_thread(solve, problem)


class Driver:
    """One controller, its engines, and the loop between them.  Use inside a running loop."""

    def __init__(
        self,
        controller: Controller,
        owner: Owner,
        *,
        solver: Callable[[Problem], Awaitable[Plan]] = _solve_beside,
        when_quiet: Callable[[Callable[[], None]], object] | None = None,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        self._controller = controller
        self._owner = owner
        self._solver = solver
        self._loop = asyncio.get_running_loop()
        self._when_quiet = when_quiet or self._loop.call_soon
        self._now_ns = now_ns
        self._inbox: list[tuple[tuple[int, int, str], int, Event]] = []
        self._posted = 0
        self._is_scheduled = False
        self._engines: dict[str, Engine] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._started: dict[str, int] = {}
        """Requests whose first token came, with the prompt tokens that were not computed again."""
        self._failure: asyncio.Future[None] = self._loop.create_future()

    def now_ns(self) -> int:
        """The driver's clock; monotonic, and the same for every worker of this machine.

        Not always the loop's: uvloop counts milliseconds.
        """
        if self._now_ns is not None:
            return self._now_ns()
        return round(self._loop.time() * 1e9)

    def post(self, event: Event) -> None:
        """Deliver an event, in order among those of its instant."""
        self._posted += 1
        heapq.heappush(self._inbox, (order(event), self._posted, event))
        if not self._is_scheduled:
            self._is_scheduled = True
            self._when_quiet(self._deliver)

    def attach(self, engine: Engine, node: NodeSpec) -> None:
        """A worker is up: announce it and listen to it."""
        self._engines[node.id] = engine
        self.post(WorkerUp(self.now_ns(), node))
        self._spawn(self._listen(node.id, engine))

    def detach(self, node_id: str, reason: str) -> None:
        """A worker died; known deaths are no news."""
        if self._engines.pop(node_id, None) is not None:
            self.post(WorkerLost(self.now_ns(), node_id, reason))

    def hold(self, request_id: str, is_held: bool) -> None:
        """Keep a running generation out of its worker's steps, or let it go on.

        Flow control of the data plane, like a full socket: the brain hears nothing of it.
        """
        for engine in self._engines.values():  # those that do not run it do not mind
            self._spawn(self._hold(engine, request_id, is_held))

    async def failed(self) -> None:
        """Waits until the driver itself breaks, and raises why: our bug, never the engine's."""
        await asyncio.shield(self._failure)

    async def close(self) -> None:
        """Stop listening and forget the timers."""
        for handle in self._timers.values():
            handle.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _deliver(self) -> None:
        self._is_scheduled = False
        if not self._inbox:
            return
        _, _, event = heapq.heappop(self._inbox)
        if self._inbox:
            self._is_scheduled = True
            self._when_quiet(self._deliver)
        try:
            for action in self._controller.handle(event):
                self._carry_out(action)
        except Exception as broken:
            self._break(broken)
            raise

    def _break(self, broken: BaseException) -> None:
        """Our bug: the brain's state can no longer be believed."""
        if not self._failure.done():
            self._failure.set_exception(broken)

    def _carry_out(self, action: Action) -> None:
        """Begin it.  What it needs of the owner is taken now: when its task runs, the request may
        be settled already, or the model gone.
        """
        match action:
            case Dispatch(request_id, replica_id, node_id):
                self._started.pop(request_id, None)
                generation = self._owner.generation(request_id)
                if node_id in self._engines:  # else its WorkerLost is on the way, and returns it
                    self._spawn(self._submit(self._engines[node_id], replica_id, generation))
            case Cancel(request_id, _, node_id) | Preempt(request_id, _, node_id):
                if node_id in self._engines:
                    self._spawn(self._stop(self._engines[node_id], action))
            case Settle(outcome):
                self._started.pop(outcome.request_id, None)
                self._owner.settled(outcome)
            case WakeAt(at_ns, name):
                self._wake_at(at_ns, name)
            case Solve(problem):
                self._spawn(self._solve(problem))
            case _:
                if action.node_id in self._engines:  # else its WorkerLost forgets the replica
                    self._spawn(self._transit(self._engines[action.node_id], action))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (broken := task.exception()) is not None:
            _log.error("a task of the driver broke", exc_info=broken)
            self._break(broken)

    def _wake_at(self, at_ns: int, name: str) -> None:
        old = self._timers.pop(name, None)
        if old is not None:
            old.cancel()

        def due() -> None:
            now_ns = self.now_ns()
            if now_ns < at_ns:  # a loop that counts milliseconds wakes early
                self._timers[name] = self._loop.call_later((at_ns - now_ns) / 1e9 + 1e-3, due)
                return
            del self._timers[name]
            self.post(Timer(now_ns, name))

        self._timers[name] = self._loop.call_at(at_ns / 1e9, due)

    async def _solve(self, problem: Problem) -> None:
        plan = await self._solver(problem)
        self.post(PlanReady(self.now_ns(), plan))

    async def _submit(self, engine: Engine, replica_id: str, generation: GenerationSpec) -> None:
        try:
            await engine.submit(replica_id, generation)
        except WorkerGone:
            pass  # its WorkerLost returns every request of it to the queue
        except RepertoryError as refused:
            fault = refused.fault if isinstance(refused, EngineError) else Fault.ENGINE
            self.post(GenerationFailed(self.now_ns(), generation.id, str(refused), fault))

    async def _stop(self, engine: Engine, action: Cancel | Preempt) -> None:
        """For good, or for a while."""
        stop = engine.cancel if isinstance(action, Cancel) else engine.preempt
        try:
            await stop(action.request_id)
        except EngineError as gone:
            _log.info("%s: %s", action, gone)

    async def _hold(self, engine: Engine, request_id: str, is_held: bool) -> None:
        try:
            await engine.hold(request_id, is_held)
        except EngineError as gone:
            _log.info("hold of %s: %s", request_id, gone)

    async def _transit(self, engine: Engine, action: Transition) -> None:
        try:
            measured = await self._ask(engine, action)
        except WorkerGone:
            pass  # its WorkerLost says how it died, and finds what it was at
        except EngineError as failed:
            self.post(
                TransitionFailed(
                    self.now_ns(),
                    action.action_id,
                    action.replica_id,
                    str(failed),
                    failed.fault,
                )
            )
        else:
            self.post(TransitionDone(self.now_ns(), action.action_id, action.replica_id, measured))

    async def _ask(self, engine: Engine, action: Transition) -> Measured:
        match action:
            case Stage():
                return await engine.stage(action, self._owner.model(action.model))
            case Load():
                return await engine.load(action, self._owner.model(action.model))
            case Activate():
                return await engine.activate(action)
            case Resize():
                return await engine.resize(action)
            case Deactivate():
                return await engine.deactivate(action)
            case Unload():
                return await engine.unload(action)
            case Drop():
                return await engine.drop(action)

    async def _listen(self, node_id: str, engine: Engine) -> None:
        async for frame in engine.outputs():
            if self._engines.get(node_id) is not engine:
                return  # its generations go on elsewhere, after what was heard until now
            for step in frame.steps:
                self._hear(step)
        # Whoever keeps the worker knows how it died; without such word it is lost all the same.
        await asyncio.sleep(_LAST_WORDS_S)
        if self._engines.get(node_id) is engine:
            self.detach(node_id, "its connection ended")

    def _hear(self, step: TokenStep) -> None:
        now_ns = self.now_ns()
        if step.is_preempted:
            made = self._owner.emitted_tokens(step.generation_id)
            self.post(Preempted(now_ns, step.generation_id, made, step.share_ns))
            return
        self._owner.tokens(step)
        if step.error is not None:
            self.post(GenerationFailed(now_ns, step.generation_id, step.error))
            return
        if step.tokens and step.generation_id not in self._started:
            self._started[step.generation_id] = step.reused_tokens
            self.post(
                FirstToken(
                    now_ns,
                    step.generation_id,
                    step.reused_tokens,
                    step.restored_bytes,
                    step.restored_ns,
                    step.restored_from,
                    step.displaced_bytes,
                    step.displaced_ns,
                )
            )
        if step.finish is not None:
            total = self._owner.emitted_tokens(step.generation_id)
            self.post(
                Finished(
                    now_ns,
                    step.generation_id,
                    step.finish,
                    total,
                    step.prefill_ns,
                    step.decode_ns,
                    self._started.get(step.generation_id, 0),
                    step.share_ns,
                )
            )
