"""A generation on a replica, and what it got in one step."""

from dataclasses import dataclass

from repertory.domain.errors import EngineError
from repertory.domain.ladder import Rung
from repertory.domain.requests import FinishReason
from repertory.engines.contract import GenerationSpec, LogitsTrace, TokenLogprob, TokenStep
from repertory.engines.grammar.automaton import Automaton
from repertory.engines.llamacpp.sampling import TokenSampler
from repertory.engines.pooling import Pool
from repertory.engines.text import TextAssembler
from repertory.policy.requests.share import step_weight

__all__ = ["Drawn", "Generation", "refuse_unfit"]


def refuse_unfit(spec: GenerationSpec, replica: str, cells: int, vocabulary_tokens: int) -> None:
    """Raise unless it can run in a slot of so many cells, on a model of so many words."""
    if not spec.prompt or spec.max_tokens < 1:
        raise EngineError(f"generation {spec.id} has no prompt or no tokens to make")
    if len(spec.prompt) + spec.max_tokens > cells:
        raise EngineError(
            f"generation {spec.id} needs {len(spec.prompt)} + {spec.max_tokens} cells, "
            f"a slot of {replica} has {cells}"
        )
    if len(spec.emitted) >= spec.max_tokens:
        raise EngineError(f"generation {spec.id} has made all of its {spec.max_tokens} tokens")
    biased = (token for token, _ in spec.sampling.logit_bias)
    named = (*spec.prompt, *spec.emitted, *biased)
    if min(named) < 0 or max(named) >= vocabulary_tokens:
        raise EngineError(f"generation {spec.id} has token ids outside of the vocabulary")


@dataclass(slots=True, eq=False)
class Generation:
    """A generation that has a slot, or waits for one."""

    spec: GenerationSpec
    sampler: TokenSampler
    assembler: TextAssembler
    tokens: list[int]
    """Prompt and output."""
    prefill_tokens: int
    """How many of them come in chunks; those after them come one by one, as they were made."""
    automaton: Automaton | None = None
    """Of its grammar; the sampler follows it."""
    pool: Pool | None = None
    """Of its embedding, if that is what it is for."""
    computed: int = 0
    """How many of them have their cells; one less than all, but while it is replayed."""
    reused: int = 0
    """How many cells an earlier generation left for it."""
    restored_bytes: int = 0
    """Of those, what was copied back."""
    restored_ns: int = 0
    restored_from: Rung | None = None
    displaced_bytes: int = 0
    """Another conversation's cells, copied out of its slot for it."""
    displaced_ns: int = 0
    is_held: bool = False
    """It takes part in no step."""
    prefill_ns: int = 0
    decode_ns: int = 0
    share_ns: int = 0
    """Device time that was its own: of a step of n, an n-th."""

    def weight(self, at_ns: int) -> float:
        """Among others' steps."""
        has_token = self.output_tokens > 0
        return step_weight(self.spec.weight, None if has_token else self.spec.deadline_ns, at_ns)

    def start_over(self, *, is_exact: bool) -> None:
        """Its cells are lost.  In mode `exact` they are computed again as they came to be; else in
        chunks, which takes a tenth of the time.
        """
        self.computed = 0
        if self.pool is not None:
            self.pool = Pool(self.pool.pooling)
        if not is_exact:
            self.prefill_tokens = len(self.tokens)

    @property
    def is_prefilling(self) -> bool:
        return self.computed < self.prefill_tokens

    @property
    def output_tokens(self) -> int:
        return len(self.tokens) - len(self.spec.prompt)


@dataclass(slots=True, eq=False)
class Drawn:
    """What one generation got in one step."""

    generation: Generation
    token: int | None = None
    text: str = ""
    finish: FinishReason | None = None
    error: str | None = None
    traces: tuple[LogitsTrace, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    embedding: tuple[float, ...] = ()

    @property
    def is_news(self) -> bool:
        """Somebody waits to hear of it."""
        return self.token is not None or self.finish is not None or self.error is not None

    def step(self) -> TokenStep:
        """What the server hears of it."""
        one = self.generation
        is_over = self.finish is not None or self.error is not None
        is_first = one.output_tokens == len(one.spec.emitted) + 1
        return TokenStep(
            generation_id=one.spec.id,
            tokens=() if self.token is None else (self.token,),
            text=self.text,
            finish=self.finish,
            error=self.error,
            prefill_ns=one.prefill_ns if is_over else 0,
            decode_ns=one.decode_ns if is_over else 0,
            share_ns=one.share_ns if is_over else 0,
            reused_tokens=one.reused if is_first else 0,
            traces=self.traces,
            logprobs=self.logprobs,
            embedding=self.embedding,
            restored_bytes=one.restored_bytes if is_first else 0,
            restored_ns=one.restored_ns if is_first else 0,
            restored_from=one.restored_from if is_first else None,
            displaced_bytes=one.displaced_bytes if is_first else 0,
            displaced_ns=one.displaced_ns if is_first else 0,
        )
