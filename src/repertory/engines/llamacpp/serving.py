"""A replica on the rung `SERVING`: continuous batching of one model's sequences.

Lives in the step loop of its device.  One step computes one chunk of one prompt, or one token
for every sequence past its prompt; chunk boundaries follow the prompt, never the load, so that in
mode `exact` a generation's logits do not depend on its company.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence

from repertory.domain.errors import BadRequest, EngineError
from repertory.domain.requests import FinishReason
from repertory.domain.specs import KvShape
from repertory.engines.contract import GenerationSpec, TokenStep
from repertory.engines.grammar.automaton import Automaton, Grammar
from repertory.engines.llamacpp.cells.computed import Weights, computed_of
from repertory.engines.llamacpp.cells.saved import SavedKv
from repertory.engines.llamacpp.cells.slots import Copied, Slots
from repertory.engines.llamacpp.context import Context, DecodeFailed, Logits
from repertory.engines.llamacpp.generations import Drawn, Generation, refuse_unfit
from repertory.engines.llamacpp.interrupt import Interrupted
from repertory.engines.llamacpp.library import Model
from repertory.engines.llamacpp.sampling import NotANumber, TokenSampler, logprobs, trace
from repertory.engines.pooling import Pool, pooling_of
from repertory.engines.text import TextAssembler
from repertory.policy.requests.share import QUANTUM_NS, StepKind, next_step, worth_ns

__all__ = ["Serving"]

_log = logging.getLogger(__name__)
_IDLE_AUTOMATA = 4
"""Of a replica; one holds a few MiB at most."""
_SMOOTHING = 0.2
"""Weight of the newest step in the expected step time: follows a growing KV within a few steps."""


class Serving:
    """The sequences of one context."""

    def __init__(
        self,
        name: str,
        model: Model,
        context: Context,
        saved: SavedKv | None = None,
        weights: Weights | None = None,
    ) -> None:
        """`saved` takes what loses its slot; `weights` names the file and form for it."""
        self.name = name
        self.used_ns = 0
        """Device time, counted as `policy.requests.share` wants it."""
        self.total_ns = 0
        """Device time since activation."""
        self._model = model
        kept = SavedKv(0) if saved is None else saved
        self._slots = Slots(name, model, context, kept, weights or Weights(name))
        self._waiting: deque[Generation] = deque()
        self._automata: deque[Automaton] = deque(maxlen=_IDLE_AUTOMATA)
        """Of grammars used last: they have met most of the states that their texts go through."""
        self._pieces: dict[tuple[int, bool], bytes] = {}
        self.last: StepKind | None = None
        """What the last step was."""
        self._stepping: Sequence[int] = ()
        """Slots that the last step was about, or that under way is."""
        self._prompt_tokens_since = 0
        """Computed since the last decode step."""
        self._expected_ns = dict.fromkeys(StepKind, 0.0)

    @property
    def context(self) -> Context:
        return self._slots.context

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._slots.taken

    @property
    def has_work(self) -> bool:
        """There is something to do in a step: what is held is nothing to do."""
        if any(self._slots.stepping):
            return True
        return bool(self._waiting) and self._slots.has_room

    @property
    def expected_ns(self) -> int:
        """What the next step is expected to take; a whole turn while nobody knows."""
        kind = self.next
        return round(self._expected_ns[kind] if kind is not None else 0) or QUANTUM_NS

    def submit(self, spec: GenerationSpec, grammar: Grammar | None = None) -> None:
        """Take a generation in; it waits here if its slot is still being freed."""
        refuse_unfit(spec, self.name, self.context.shape.cells, self._model.vocabulary_tokens)
        if grammar is not None and len(grammar.tree.pieces) != self._model.vocabulary_tokens:
            raise EngineError(f"the file of {self.name} was replaced by another model's")
        if any(one.spec.id == spec.id for one in self._all()):
            raise EngineError(f"generation {spec.id} is already running on {self.name}")
        if not spec.wants_embedding and not self._model.is_causal:
            raise EngineError(f"{self.name} makes embeddings and generates nothing")
        pool = self._pool() if spec.wants_embedding else None
        automaton = None if grammar is None else self._automaton(grammar)
        sampler = TokenSampler(spec.sampling, spec.prompt, automaton)
        one = Generation(
            spec,
            sampler,
            TextAssembler(spec.stop),
            list(spec.prompt),
            len(spec.prompt),
            automaton,
            pool,
        )
        self._catch_up(one)
        self._waiting.append(one)

    def _catch_up(self, one: Generation) -> None:
        """Stand where it stood after its last token; its cells are computed again."""
        for token in one.spec.emitted:
            one.sampler.accept(token)
            one.assembler.feed(self._piece(token, one.spec.shows_specials))
        wanted = computed_of(one.spec, is_exact=self.context.is_exact)
        one.tokens, one.prefill_tokens = list(wanted.tokens), wanted.prefill_tokens

    def _pool(self) -> Pool:
        pooling = pooling_of(self._model.pooling)
        if pooling is None:
            raise BadRequest("this model scores pairs of texts; it makes no embeddings", "model")
        return Pool(pooling)

    def _automaton(self, grammar: Grammar) -> Automaton:
        """One that met this grammar before, or a new one."""
        for idle in self._automata:
            if idle.grammar.is_same(grammar):
                self._automata.remove(idle)
                idle.begin()
                return idle
        return Automaton(grammar)

    def cancel(self, generation_id: str) -> bool:
        """Forget a generation; False if it is not here."""
        for one in self._waiting:
            if one.spec.id == generation_id:
                self._waiting.remove(one)
                self._put_aside(one)
                return True
        for slot, running in self._slots.taken:
            if running.spec.id == generation_id:
                self._retire(slot)
                return True
        return False

    def interrupt(self, generation_id: str) -> None:
        """End the step under way if it is about this generation.  From any thread."""
        stepping = self._stepping
        if any(
            slot in stepping and one.spec.id == generation_id for slot, one in self._slots.taken
        ):
            self.context.interrupt.ask()

    def share_ns(self, generation_id: str) -> int | None:
        """Device time that a generation has had; None if it is not here."""
        return next((one.share_ns for one in self._all() if one.spec.id == generation_id), None)

    def hold(self, generation_id: str, is_held: bool) -> bool:
        """Keep a generation out of the steps, or let it go on; False if it is not here."""
        for one in self._all():
            if one.spec.id == generation_id:
                one.is_held = is_held
                return True
        return False

    def step(self, threads: int, sharing: int) -> tuple[TokenStep, ...]:
        """Compute one step, and say what each generation got.

        Where `sharing` replicas compute side by side, each takes its part of the device's time.
        """
        self._admit()
        kind = self.next
        if kind is None:
            return ()
        self.context.use_threads(threads)
        before = self._prompt_tokens_since
        started_ns = time.monotonic_ns()
        weight = self._weight(started_ns)
        try:
            drawn = self._prefill() if kind is StepKind.PREFILL else self._decode()
        except Interrupted:
            return ()  # as if it had not begun
        elapsed_ns = time.monotonic_ns() - started_ns
        took_ns = elapsed_ns // sharing
        self._account(kind, took_ns, elapsed_ns, weight)
        self._note(kind, drawn[0], self._prompt_tokens_since - before, elapsed_ns)
        for one in drawn:
            one.generation.share_ns += took_ns // len(drawn)
            if kind is StepKind.PREFILL:
                one.generation.prefill_ns += took_ns
            else:
                one.generation.decode_ns += took_ns
        return tuple(one.step() for one in drawn if one.is_news)

    def check_fits(self, shape: KvShape) -> None:
        """Raise unless everything that runs or waits here fits into `shape`."""
        self._slots.check_fits(shape, self._waiting)

    def move_to(self, context: Context) -> Copied:
        """Go on in another context, bit for bit; what was saved of what finds no slot there."""
        self.check_fits(context.shape)
        return self._slots.move_to(context)

    def save_all(self) -> Copied:
        """Before its context goes: what may be wanted again."""
        return self._slots.save_all()

    def reusable(self, spec: GenerationSpec) -> int:
        """How many of its tokens the slots have now."""
        return self._slots.reusable(computed_of(spec, is_exact=self.context.is_exact))

    def _all(self) -> list[Generation]:
        return [one for _, one in self._slots.taken] + list(self._waiting)

    def _admit(self) -> None:
        while self._waiting and self._slots.has_room:
            one = max(self._waiting, key=lambda one: one.spec.weight)  # of equal ones the first
            self._waiting.remove(one)
            self._slots.settle(one)
        self._slots.close_gap(self._decoding())

    def _retire(self, slot: int) -> None:
        self._put_aside(self._slots.at(slot))
        self._slots.leave(slot)

    def _put_aside(self, one: Generation) -> None:
        """Its automaton may serve another generation."""
        if one.automaton is not None:
            self._automata.append(one.automaton)
            one.automaton = None

    def _decoding(self) -> list[int]:
        return [slot for slot, one in self._slots.stepping if not one.is_prefilling]

    def _prefilling(self) -> int | None:
        """The slot whose prompt is next: the heaviest, of equal ones the first."""
        prefilling = [pair for pair in self._slots.stepping if pair[1].is_prefilling]
        return max(prefilling, key=lambda pair: pair[1].spec.weight, default=(None, None))[0]

    @property
    def next(self) -> StepKind | None:
        """What the next step is; None: there is nothing to do."""
        slot, chunk_tokens = self._prefilling(), self.context.chunk_tokens
        weight = 0.0
        if slot is not None:
            one = self._slots.at(slot)
            tokens = min(chunk_tokens, one.prefill_tokens - one.computed)
            weight = one.spec.weight
        else:
            tokens = chunk_tokens if self._waiting and self._slots.has_room else 0
        decoding = [one.spec.weight for _, one in self._slots.stepping if not one.is_prefilling]
        ratio = weight / max(decoding) if decoding else 1.0
        return next_step(tokens, bool(decoding), self._prompt_tokens_since, chunk_tokens, ratio)

    def _weight(self, at_ns: int) -> float:
        """Of the heaviest that it works on."""
        return max((one.weight(at_ns) for _, one in self._slots.stepping), default=1.0)

    def _account(self, kind: StepKind, took_ns: int, elapsed_ns: int, weight: float) -> None:
        self.last = kind
        self.used_ns += worth_ns(kind, took_ns, weight)
        self.total_ns += took_ns
        known = self._expected_ns[kind]
        newer = known + _SMOOTHING * (elapsed_ns - known) if known else elapsed_ns
        self._expected_ns[kind] = newer

    def _note(self, kind: StepKind, drawn: Drawn, tokens: int, took_ns: int) -> None:
        """What computing cells takes is what copying them is weighed against."""
        one = drawn.generation
        if drawn.error is not None:
            return
        if kind is StepKind.DECODE:
            self._slots.note_step(one.computed, took_ns)
        elif tokens and one.pool is None:
            self._slots.note_chunk(one.computed - tokens, tokens, took_ns)

    def _prefill(self) -> list[Drawn]:
        slot = self._prefilling()
        assert slot is not None
        self._stepping = (slot,)
        one = self._slots.at(slot)
        if one.pool is not None:
            return [self._embed(slot, one, one.pool)]
        end = min(one.computed + self.context.chunk_tokens, one.prefill_tokens)
        chunk = one.tokens[one.computed : end]
        is_first_token = one.computed + len(chunk) == len(one.tokens)
        try:
            row = self.context.prefill(slot, chunk, one.computed, wants_logits=is_first_token)
        except DecodeFailed as error:
            return self._lose([slot], str(error))
        one.computed += len(chunk)
        self._prompt_tokens_since += len(chunk)
        return [Drawn(one) if row is None else self._advance(slot, row)]

    def _embed(self, slot: int, one: Generation, pool: Pool) -> Drawn:
        """A chunk of a prompt whose embedding is wanted; the finish with the last one.

        While states are computed, every token has one: where only the last counts, that is a
        chunk of its own.
        """
        prompt = one.spec.prompt
        size = len(prompt) if self.context.takes_whole_prompts else self.context.chunk_tokens
        end = min(one.computed + size, len(prompt))
        wants_states = not pool.takes_last or self.context.takes_whole_prompts
        if not wants_states and one.computed < len(prompt) - 1:
            end = min(end, len(prompt) - 1)
        else:
            wants_states = True
        try:
            chunk = prompt[one.computed : end]
            if wants_states:
                pool.add(self.context.embed(slot, chunk, one.computed))
            else:
                self.context.prefill(slot, chunk, one.computed, wants_logits=False)
        except DecodeFailed as error:
            return self._lose([slot], str(error))[0]
        self._prompt_tokens_since += end - one.computed
        one.computed = end
        if end < len(prompt):
            return Drawn(one)
        embedding = pool.embedding()
        if embedding is None:
            return self._lose([slot], "the model's states are not finite")[0]
        self._retire(slot)
        return Drawn(one, finish=FinishReason.STOP, embedding=embedding)

    def _decode(self) -> list[Drawn]:
        self._prompt_tokens_since = 0
        self._stepping = slots = self._decoding()
        running = [self._slots.at(slot) for slot in slots]
        try:
            rows = self.context.decode(
                slots,
                [one.tokens[one.computed] for one in running],
                [one.computed for one in running],
            )
        except DecodeFailed as error:
            return self._lose(slots, str(error))
        for one in running:
            one.computed += 1
        return [
            self._advance(slot, row) if one.computed == len(one.tokens) else Drawn(one)
            for slot, one, row in zip(slots, running, rows, strict=True)
        ]

    def _advance(self, slot: int, row: Logits) -> Drawn:
        """Draw the next token, and end the generation if that was its last."""
        one = self._slots.at(slot)
        try:
            token = one.sampler.next(row, len(one.tokens))
            if token is not None:
                one.sampler.accept(token)
        except (NotANumber, EngineError) as error:
            return self._lose([slot], str(error))[0]
        drawn = Drawn(one, token)
        if token is not None:
            one.tokens.append(token)
            drawn.traces = (trace(row),) if one.spec.trace_logits else ()
            drawn.logprobs = logprobs(row, token, one.spec.logprobs, self._piece)
        self._tell(drawn)
        if drawn.finish is not None:
            self._retire(slot)
        return drawn

    def _tell(self, drawn: Drawn) -> None:
        """The text that may go out, and whether this was the last.

        1. The grammar allows nothing.  2. An end token.  3. A stop string.  4. The grammar's text
        is complete.  5. The length.
        """
        one, token = drawn.generation, drawn.token
        if token is None or (self._model.is_end(token) and not one.spec.ignore_eos):  # 1, 2
            drawn.text, drawn.finish = one.assembler.finish(), FinishReason.STOP
            return
        drawn.text = one.assembler.feed(self._piece(token, one.spec.shows_specials))
        is_complete = one.sampler.is_complete
        is_last = is_complete or one.output_tokens >= one.spec.max_tokens
        if not one.assembler.is_stopped and is_last:
            drawn.text += one.assembler.finish()
            drawn.finish = FinishReason.STOP if is_complete else FinishReason.LENGTH  # 4, 5
        if one.assembler.is_stopped:
            drawn.finish = FinishReason.STOP  # 3

    def _lose(self, slots: list[int], message: str) -> list[Drawn]:
        lost = [Drawn(self._slots.at(slot), error=message) for slot in slots]
        for one, slot in zip(lost, slots, strict=True):
            self._put_aside(one.generation)
            self._slots.free(slot)
        return lost

    def _piece(self, token: int, shows_specials: bool) -> bytes:
        known = self._pieces.get((token, shows_specials))
        if known is None:
            known = self._model.piece(token, shows_specials=shows_specials)
            self._pieces[token, shows_specials] = known
        return known
