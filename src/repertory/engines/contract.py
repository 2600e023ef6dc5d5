"""What every engine does, one object per worker.

`testing.check_engine` is the executable form of this page: every engine passes it for the
capabilities that it claims.  Transitions of one worker may be asked for concurrently; an engine
queues what it cannot do at once.  All methods may raise the `EngineError` family of
`domain.errors`; a transition that raises leaves the replica on the rung where it stood.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from repertory.domain.actions import (
    Activate,
    Deactivate,
    Drop,
    Load,
    Resize,
    Stage,
    Unload,
)
from repertory.domain.events import Measured
from repertory.domain.ladder import Rung
from repertory.domain.requests import FinishReason
from repertory.domain.specs import ModelSpec, NodeSpec

__all__ = [
    "Engine",
    "Frame",
    "GenerationSpec",
    "GrammarKind",
    "LogitsTrace",
    "ModelDescription",
    "Ranked",
    "Sampling",
    "TokenLogprob",
    "TokenStep",
    "WorkerStats",
]


class GrammarKind(Enum):
    """What a client wrote its constraint in."""

    JSON_SCHEMA = "json_schema"
    GBNF = "gbnf"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn.  Names, ranges and neutral values as in llama.cpp and OpenAI.

    Randomness is a pure function of (seed, position of the token in the sequence): a generation
    that continues elsewhere continues with the same draws.
    """

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    """Drawn by the server at admission when the client names none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit) before anything else; ids ascend."""
    grammar: str = ""
    """GBNF whose root derives every text that may be drawn, its end included.  Empty: any text.

    As in llama.cpp, a draw that the grammar forbids is drawn again among what it allows.
    """


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """One generation, complete: any worker can run it from this alone."""

    id: str
    prompt: tuple[int, ...]
    """Token ids of the rendered prompt; never empty."""
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    """The text ends before the first of these; it is not part of the output."""
    ignore_eos: bool = False
    trace_logits: bool = False
    """Report a `LogitsTrace` per token (exactness tests and probes)."""
    logprobs: int | None = None
    """Report a `TokenLogprob` per token, with so many of the likeliest; None: none."""
    shows_specials: bool = False
    """Special tokens appear in the text (formats of tool calls are made of them)."""
    wants_embedding: bool = False
    """Nothing is generated: the prompt's embedding comes with the finish.  `max_tokens` is 1."""
    emitted: tuple[int, ...] = ()
    """What it has made already, on another worker or before it was stopped: it goes on after these
    tokens, and neither they nor their text are told again.  `max_tokens` counts them.

    With the fields above this is all of its state: draws, penalties, stop strings, half characters
    and the place in a grammar are functions of the tokens so far.
    """
    weight: float = 1.0
    """What it weighs among others' steps (`policy.requests.share`); changes no token."""
    deadline_ns: int | None = None
    """When its first token is wanted, by the clock of `Frame.at_ns`."""


@dataclass(frozen=True, slots=True)
class LogitsTrace:
    """Fingerprint of the logits that one token was drawn from."""

    digest: str
    """Of the whole row's bytes: equal digests, bit-equal logits."""
    sample: tuple[float, ...]
    """32 evenly spaced logits, to say how far two unequal rows are apart."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A token and how likely it was, by the model alone: before bias, penalties and filters."""

    token: int
    piece: bytes
    """Its bytes, specials shown; perhaps half a character."""
    logprob: float
    """Natural logarithm."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The token that was drawn, and the likeliest at its place, likeliest first."""

    drawn: Ranked
    top: tuple[Ranked, ...]


class TokenStep(Struct, frozen=True, array_like=True):
    """What one generation got in one frame.

    One crosses the socket for each token.  Measured: 0.5 us to make, write and read one; 2.3 as a
    dataclass, which is a map of names on the wire.
    """

    generation_id: str
    tokens: tuple[int, ...]
    text: str
    """Text that is safe to send: never half a character, never part of a stop string."""
    finish: FinishReason | None = None
    error: str | None = None
    """The engine gave this generation up; nothing follows."""
    prefill_ns: int = 0
    """With `finish`: compute this generation took part in, before and after its first token."""
    decode_ns: int = 0
    reused_tokens: int = 0
    """With the first token: of what came before it, tokens that were not computed again."""
    traces: tuple[LogitsTrace, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `tokens`, if they were asked for."""
    embedding: tuple[float, ...] = ()
    """With `finish`, if it was asked for; of length 1 (L2)."""
    is_preempted: bool = False
    """It was preempted: it goes on where it is submitted next, after all that was told by now."""
    share_ns: int = 0
    """With `finish` and when preempted: device time that was its own, of a step of n an n-th."""
    restored_bytes: int = 0
    """With the first token: KV that was copied back for it, where it had been saved."""
    restored_ns: int = 0
    """What that took, reading it from the disk included."""
    restored_from: Rung | None = None
    """`HOST` or `DISK`; None: nothing was copied back."""
    displaced_bytes: int = 0
    """With the first token: KV of another conversation that was copied out of its slot."""
    displaced_ns: int = 0
    """What that took."""


class Frame(Struct, frozen=True, array_like=True):
    """All that one step of a worker produced, or a few short ones, in order."""

    at_ns: int
    """The worker's monotonic clock; on one machine the same clock as the server's."""
    steps: tuple[TokenStep, ...]


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model file's facts, read without loading its weights."""

    digest: str
    architecture: str
    weights_bytes: int
    repacked_bytes: int
    layers: int
    kv_bytes_per_token: int
    trained_context_tokens: int
    vocabulary_tokens: int
    buffers_bytes: int
    """Predicted, for one full batch; an upper bound."""
    chat_template: str = ""
    """Jinja source; empty: the file has none."""
    is_embedding_only: bool = False
    takes_whole_prompts: bool = False
    """A prompt is computed in one batch, so `buffers_bytes` grows with the context offered."""
    bos_token: int | None = None
    head_bytes: int = 0
    """How its bytes lie where some of its layers are on an accelerator: `ModelSpec` says more."""
    kept_bytes: int = 0
    layers_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """A worker's own account, read now."""

    pss_bytes: int
    anonymous_bytes: int
    mapped_file_bytes: int
    overhead_bytes: int
    """Memory of the worker that belongs to no replica (interpreter, library, vocabularies)."""
    compute_threads: int
    steps: int
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of device time so far, per replica."""


class Engine(Protocol):
    """One worker: the devices of one node, many models' weights, one step loop per device."""

    async def probe(self) -> NodeSpec:
        """Devices, budgets and capabilities."""
        ...

    async def describe(self, location: str) -> ModelDescription:
        """Facts of a model file, without loading it."""
        ...

    async def render(
        self, location: str, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        """Token ids of a chat, by the file's own template.  `ClientError` if it refuses them.

        `extra` are template variables (`tools`, `enable_thinking`): wire values, hence `Any`.
        """
        ...

    async def tokenize(self, location: str, text: str) -> tuple[int, ...]:
        """Token ids of plain text, with the special tokens that the file asks for."""
        ...

    async def detokenize(self, location: str, tokens: Sequence[int]) -> str:
        """Text of token ids, specials shown; bytes that are no UTF-8 become U+FFFD."""
        ...

    async def grammar(self, location: str, kind: GrammarKind, text: str) -> str:
        """GBNF that generations of this model can be held to, from a client's JSON schema or GBNF.

        `BadRequest` (without a field) says what is wrong with it: not JSON, a construct that no
        grammar expresses, an undefined rule, left recursion, too large.
        """
        ...

    async def stage(self, action: Stage, spec: ModelSpec) -> Measured: ...

    async def load(self, action: Load, spec: ModelSpec) -> Measured: ...

    async def activate(self, action: Activate) -> Measured: ...

    async def resize(self, action: Resize) -> Measured: ...

    async def deactivate(self, action: Deactivate) -> Measured: ...

    async def unload(self, action: Unload) -> Measured: ...

    async def drop(self, action: Drop) -> Measured: ...

    async def submit(self, replica_id: str, spec: GenerationSpec) -> None:
        """Start a generation on a serving replica; its tokens come on `outputs`."""
        ...

    async def cancel(self, generation_id: str) -> None:
        """Stop a generation at the next step; unknown or ended ones are no error."""
        ...

    async def preempt(self, generation_id: str) -> None:
        """Stop a generation at the next step and free its slot, for it to be submitted again.

        All that it has made is told first, then a step that `is_preempted`; its KV is kept as long
        as the engine has room for it.  Of unknown or ended ones nothing is told, and that is no
        error.
        """
        ...

    async def hold(self, generation_id: str, is_held: bool) -> None:
        """From the next step on, keep a generation out of all steps; or let it go on.

        A held one keeps its slot and its KV, through a resize too, and may be cancelled; it goes
        on with the tokens that it would have had.  Unknown or ended ones are no error; calls about
        one generation apply in the order in which they were made.
        """
        ...

    def outputs(self) -> AsyncIterator[Frame]:
        """The one stream of frames of this worker; ends when the worker is gone."""
        ...

    async def stats(self) -> WorkerStats: ...

    async def close(self) -> None: ...
