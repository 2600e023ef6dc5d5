"""The live server: owns the requests, answers the gateway, and tells the brain what happens."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from repertory.core.controller import Controller
from repertory.core.state import ModelState, State
from repertory.domain.actions import Settle, Transition
from repertory.domain.decisions import Decision
from repertory.domain.errors import BadRequest, ContextExceeded, UnknownModel, WorkerGone
from repertory.domain.events import (
    Arrived,
    Cancelled,
    OperatorAsked,
    TransitionDone,
    TransitionFailed,
    Wish,
    WorkerLost,
)
from repertory.domain.ladder import Rung
from repertory.domain.requests import Outcome, Request
from repertory.domain.specs import ModelSpec
from repertory.engines.contract import Engine, GenerationSpec, GrammarKind, TokenStep
from repertory.live.catalogue import Catalogue, Offer
from repertory.live.driver import Driver
from repertory.live.facade import (
    GenerationOptions,
    ModelStatus,
    Progress,
    ServiceStatus,
    Stage,
)
from repertory.live.generation import RunningAnswer
from repertory.live.status import Expected, device_status, highest, model_status

__all__ = ["Server", "TokenRate"]

_UNNAMED_MAX_TOKENS = 4096
"""A client that names no max_tokens gets min(context - prompt, this) (worker.md, Dispatch)."""
_Answer = TypeVar("_Answer")
_RATE_WINDOW_NS = 5_000_000_000
_START_S = 60.0
"""A worker is up after 1 s here; a slow disk and many accelerators take longer.  Then those who
wait for it are told."""
_STOPPING = "The server is shutting down; send the request again when it is back."


class TokenRate:
    """Tokens per second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()
        self._sum = 0

    def count(self, at_ns: int, tokens: int) -> None:
        self._seen.append((at_ns, tokens))
        self._sum += tokens
        self._forget(at_ns)

    def per_s(self, at_ns: int) -> float:
        self._forget(at_ns)
        return self._sum / (_RATE_WINDOW_NS / 1e9)

    def _forget(self, at_ns: int) -> None:
        while self._seen and self._seen[0][0] < at_ns - _RATE_WINDOW_NS:
            self._sum -= self._seen.popleft()[1]


class Server:
    """`live.facade.Service` for the gateway, `live.driver.Owner` for the driver.

    Made inside a running loop.  `luck` names requests; `memory_bytes` is the operator's budget.
    """

    def __init__(self, catalogue: Catalogue, memory_bytes: int, luck: random.Random) -> None:
        self.catalogue = catalogue
        self.overhead_bytes = 0
        self.process_bytes = 0
        self.log_dropped = 0
        self.faults: dict[str, str] = {}
        """Why the server is not healthy, by what is at fault."""
        self._memory_bytes = memory_bytes
        self._name = f"{luck.getrandbits(40):010x}"
        self._count = 0
        self._answers: dict[str, RunningAnswer] = {}
        self._held: dict[str, RunningAnswer] = {}
        """Whose readers have fallen behind."""
        self._listeners: dict[int, Callable[[Decision], None]] = {}
        self._rates: dict[str, TokenRate] = {}
        self._engine: Engine | None = None
        self._engine_known = asyncio.Event()
        """Set while there is a worker, or none will come."""
        self._asking: set[asyncio.Future[Any]] = set()
        """Questions that a worker has to answer."""
        self._is_closed = False
        self._driver: Driver | None = None
        self._state: State | None = None
        self._began_ns = 0
        self._expected: dict[str, Expected] = {}
        """Transitions under way, by replica."""
        self._predicted_s: dict[int, float] = {}
        """Transitions under way."""

    def connect(self, controller: Controller, driver: Driver) -> None:
        """The brain and its driver; before anything is asked."""
        self._state = controller.state
        self._driver = driver
        self._began_ns = driver.now_ns()

    def use(self, engine: Engine | None) -> None:
        """The worker that renders and tokenises; None while there is none."""
        self._engine = engine
        if engine is not None:
            self._engine_known.set()
        elif not self._is_closed:
            self._engine_known.clear()

    def close(self) -> None:
        """Whoever still waits or reads is told that the server stops."""
        self._is_closed = True
        self._engine_known.set()
        for task in self._asking:
            task.cancel()
        for answer in list(self._answers.values()):
            answer.fail(WorkerGone(_STOPPING))
            self._cancel(answer.id)

    def decided(self, decision: Decision) -> None:
        """Every decision passes here: for those who listen, and for those who wait to be let in."""
        if isinstance(decision.event, Arrived):
            self._admit(decision)
        if isinstance(decision.event, (TransitionDone, TransitionFailed)):
            self._predicted_s.pop(decision.event.action_id, None)
            self._expected.pop(decision.event.replica_id, None)
        elif isinstance(decision.event, WorkerLost):
            self._predicted_s.clear()
            self._expected.clear()
        self._expect(decision)
        if self._held and self._is_room_wanted():
            for answer in list(self._held.values()):
                answer.let_go()
        for listener in self._listeners.values():
            listener(decision)

    # The gateway asks.

    def resolve(self, name: str) -> ModelSpec:
        return self.catalogue.find(name)

    async def render(
        self, spec: ModelSpec, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        return await self._asked(lambda engine: engine.render(spec.location, messages, **extra))

    async def tokenize(self, spec: ModelSpec, text: str) -> tuple[int, ...]:
        return await self._asked(lambda engine: engine.tokenize(spec.location, text))

    async def detokenize(self, spec: ModelSpec, tokens: Sequence[int]) -> str:
        _check_tokens(self._offer(spec), tokens, "tokens")
        return await self._asked(lambda engine: engine.detokenize(spec.location, tokens))

    async def grammar(self, spec: ModelSpec, kind: GrammarKind, text: str) -> str:
        return await self._asked(lambda engine: engine.grammar(spec.location, kind, text))

    def chat_template(self, spec: ModelSpec) -> str:
        return self._offer(spec).chat_template

    async def generate(
        self, spec: ModelSpec, prompt: tuple[int, ...], options: GenerationOptions
    ) -> RunningAnswer:
        offer = self._offer(spec)
        _check_wishes(offer, prompt, options)
        asked = 1 if options.wants_embedding else options.max_tokens
        max_tokens = _max_tokens(spec, len(prompt), asked)
        self._count += 1
        driver = self._running_driver()
        weight = offer.weight if options.weight is None else options.weight
        deadline_ns = None
        if options.first_token_by_s is not None:
            left_s = options.first_token_by_s - asyncio.get_running_loop().time()
            deadline_ns = driver.now_ns() + round(left_s * 1e9)
        generation = GenerationSpec(
            f"{self._name}-{self._count}",
            prompt,
            max_tokens,
            options.sampling,
            options.stop,
            options.ignore_eos,
            options.trace_logits,
            options.logprobs,
            options.shows_specials,
            options.wants_embedding,
            weight=weight,
            deadline_ns=deadline_ns,
        )
        answer = RunningAnswer(generation, spec.name, self._cancel, self._progress, self._hold)
        self._answers[answer.id] = answer
        request = Request(
            answer.id, spec.name, len(prompt), max_tokens, weight, options.key, deadline_ns
        )
        driver.post(Arrived(driver.now_ns(), request))
        try:
            await answer.admitted
        except asyncio.CancelledError:
            await answer.aclose()
            raise
        return answer

    async def wish(self, name: str, wish: Wish) -> None:
        driver = self._running_driver()
        driver.post(OperatorAsked(driver.now_ns(), self.resolve(name).name, wish))

    def subscribe(self, listener: Callable[[Decision], None]) -> Callable[[], None]:
        key = id(listener)
        self._listeners[key] = listener
        return lambda: self._listeners.pop(key, None) and None

    def status(self) -> ServiceStatus:
        state, driver = self._state, self._running_driver()
        assert state is not None
        now_ns = driver.now_ns()
        models = tuple(
            self._model_status(model, now_ns) for _, model in sorted(state.models.items())
        )
        faults = [f"{name}: {why}" for name, why in sorted(self.faults.items())]
        faults += [f"{one.name}: {one.fault}" for one in models if one.fault is not None]
        return ServiceStatus(
            is_ready=bool(state.nodes) and self._engine is not None,
            is_draining=state.is_draining,
            faults=tuple(faults),
            models=models,
            devices=device_status(state),
            waiting=state.waiting,
            running=len(state.requests) - state.waiting,
            overhead_bytes=self.overhead_bytes,
            process_bytes=self.process_bytes,
            memory_bytes=self._memory_bytes,
            tokens_per_s=sum(one.tokens_per_s for one in models),
            uptime_s=(now_ns - self._began_ns) / 1e9,
            log_dropped=self.log_dropped,
        )

    def _model_status(self, model: ModelState, now_ns: int) -> ModelStatus:
        replica, rate = highest(model), self._rates.get(model.spec.name)
        expected = None if replica is None else self._expected.get(replica.id)
        tokens_per_s = 0.0 if rate is None else rate.per_s(now_ns)
        assert self._state is not None
        return model_status(self._state, model, expected, tokens_per_s, now_ns)

    # The driver tells.

    def generation(self, request_id: str) -> GenerationSpec:
        answer = self._answers[request_id]
        if self._held.pop(request_id, None) is not None:
            answer.is_held = False  # in the worker that died
        return replace(answer.spec, emitted=tuple(answer.emitted))

    def model(self, name: str) -> ModelSpec:
        assert self._state is not None
        return self._state.models[name].spec

    def tokens(self, step: TokenStep) -> None:
        answer = self._answers.get(step.generation_id)
        if answer is None:
            return
        answer.take(step)
        if step.tokens:
            rate = self._rates.get(answer.model)
            if rate is None:
                rate = self._rates[answer.model] = TokenRate()
            rate.count(self._running_driver().now_ns(), len(step.tokens))

    def emitted_tokens(self, request_id: str) -> int:
        answer = self._answers.get(request_id)
        return len(answer.emitted) if answer is not None else 0

    def settled(self, outcome: Outcome) -> None:
        answer = self._answers.pop(outcome.request_id, None)
        self._held.pop(outcome.request_id, None)
        if answer is not None:
            answer.settle(outcome)

    def longest_prediction_s(self) -> float | None:
        """Of what the worker has to do: the longest transition under way, but at least a prompt's
        chunk.  None: it has nothing to do; generations that are held are nothing.
        """
        assert self._state is not None
        is_asked = any(
            one.transition is not None or one.running.keys() - self._held.keys()
            for one in self._state.replicas.values()
        )
        return max([1.0, *self._predicted_s.values()]) if is_asked else None

    def _offer(self, spec: ModelSpec) -> Offer:
        offer = self.catalogue.offers.get(spec.name)
        if offer is None:
            raise UnknownModel(f"The model {spec.name!r} was just removed.", "model")
        return offer

    def _progress(self, request_id: str) -> Progress:
        """Of an answer without a token: it runs, or its model is on its way, or it waits."""
        state = self._state
        assert state is not None
        answer = self._answers.get(request_id)
        model = None if answer is None else state.models.get(answer.model)
        if model is None or request_id not in model.queue:
            return Progress(Stage.PREFILL)
        place = 1 + list(model.queue).index(request_id)
        replica = highest(model)
        if replica is None or replica.transition is None or replica.leaving is not None:
            return Progress(Stage.QUEUED, place)
        expected = self._expected.get(replica.id)
        if expected is None:
            return Progress(Stage.LOADING, place)
        now_ns = self._running_driver().now_ns()
        return Progress(Stage.LOADING, place, expected.share(now_ns), expected.left_s(now_ns))

    def _admit(self, decision: Decision) -> None:
        assert isinstance(decision.event, Arrived)
        request_id = decision.event.request.id
        is_settled = any(
            isinstance(action, Settle) and action.outcome.request_id == request_id
            for action in decision.actions
        )
        answer = self._answers.get(request_id)
        if answer is None or is_settled:
            return
        if answer.is_over:
            self._cancel(request_id)  # it left in the very instant in which it came
        elif not answer.admitted.done():
            answer.admitted.set_result(None)

    def _expect(self, decision: Decision) -> None:
        """Remember when the transitions of this decision should be over."""
        begun = {one.action_id: one for one in decision.actions if isinstance(one, Transition)}
        for verdict in decision.verdicts:
            for action_id in begun.keys() & set(verdict.action_ids):
                seconds = verdict.predicted_s or 0.0
                self._predicted_s[action_id] = seconds
                expected = Expected(decision.event.at_ns, seconds)
                self._expected[begun[action_id].replica_id] = expected

    def _hold(self, request_id: str, is_held: bool) -> bool:
        """Hold a generation, or let it go on; whether it is held then.

        It keeps its slot and its memory: while somebody waits for either, nobody is held, or slow
        readers would hold up others.
        """
        if is_held and (request_id not in self._answers or self._is_room_wanted()):
            return False
        if is_held:
            self._held[request_id] = self._answers[request_id]
        elif self._held.pop(request_id, None) is None:
            return False
        self._running_driver().hold(request_id, is_held)
        return is_held

    def _is_room_wanted(self) -> bool:
        """Somebody waits for a slot or for memory; a serving replica, or the server, is to stop."""
        state = self._state
        assert state is not None
        is_leaving = any(
            one.rung is Rung.SERVING and not one.is_open for one in state.replicas.values()
        )
        return state.waiting > 0 or is_leaving or state.is_draining

    def _cancel(self, request_id: str) -> None:
        driver = self._running_driver()
        driver.post(Cancelled(driver.now_ns(), request_id))

    async def _asked(self, ask: Callable[[Engine], Awaitable[_Answer]]) -> _Answer:
        """A worker's answer.  One that dies over it is asked once more when it is back: it may have
        died of something else.
        """
        if self._is_closed:
            raise WorkerGone(_STOPPING)
        task = asyncio.ensure_future(self._asked_twice(ask))
        self._asking.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if self._is_closed:
                raise WorkerGone(_STOPPING) from None
            raise
        finally:
            self._asking.discard(task)

    async def _asked_twice(self, ask: Callable[[Engine], Awaitable[_Answer]]) -> _Answer:
        """Its socket ends before its loss is told: until then the same one is not asked again."""
        engine = await self._worker()
        try:
            return await ask(engine)
        except WorkerGone:
            if self._is_closed:
                raise
            if self._engine is engine:
                self.use(None)
            return await ask(await self._worker())

    async def _worker(self) -> Engine:
        """The worker; one that is starting is waited for."""
        try:
            async with asyncio.timeout(_START_S):
                await self._engine_known.wait()
        except TimeoutError:
            reasons = "; ".join(self.faults.values()) or "the server's log has the details"
            raise WorkerGone(f"The engine does not start: {reasons}") from None
        if self._engine is None:
            raise WorkerGone(_STOPPING)
        return self._engine

    def _running_driver(self) -> Driver:
        assert self._driver is not None, "connect() comes first"
        return self._driver


def _check_wishes(offer: Offer, prompt: tuple[int, ...], options: GenerationOptions) -> None:
    """What the engine would refuse only after a load."""
    if offer.only_embeds and not options.wants_embedding:
        raise BadRequest(
            f"The model {offer.spec.name!r} makes embeddings and generates no text.", "model"
        )
    if not prompt:
        raise BadRequest("The prompt holds no token.", "prompt")
    _check_tokens(offer, prompt, "prompt")
    _check_tokens(offer, [token for token, _ in options.sampling.logit_bias], "logit_bias")


def _check_tokens(offer: Offer, tokens: Sequence[int], field: str) -> None:
    ends = (min(tokens), max(tokens)) if tokens else ()
    wrong = next((one for one in ends if not 0 <= one < offer.tokens), None)
    if wrong is not None:
        raise BadRequest(
            f"Token {wrong} is not in the vocabulary of {offer.spec.name!r}, 0 to "
            f"{offer.tokens - 1}.",
            field,
        )


def _max_tokens(spec: ModelSpec, prompt_tokens: int, asked: int | None) -> int:
    room = spec.context_tokens - prompt_tokens
    if room < 1:
        raise ContextExceeded(
            f"The prompt has {prompt_tokens} tokens; the context of {spec.name!r} holds "
            f"{spec.context_tokens} and must keep room for at least one more."
        )
    if asked is None:
        return min(room, _UNNAMED_MAX_TOKENS)
    if asked > room:
        raise ContextExceeded(
            f"{prompt_tokens} prompt tokens + max_tokens {asked} = {prompt_tokens + asked} exceed "
            f"the context of {spec.name!r}, {spec.context_tokens} tokens.",
            "max_tokens",
        )
    return asked
