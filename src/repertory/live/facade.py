"""What the gateway may ask of the live server: a typed face, so that it can be tested alone."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from repertory.domain.decisions import Decision
from repertory.domain.events import Wish
from repertory.domain.requests import FinishReason
from repertory.domain.specs import ModelSpec
from repertory.engines.contract import GrammarKind, LogitsTrace, Sampling, TokenLogprob

__all__ = [
    "DeviceStatus",
    "Generation",
    "GenerationOptions",
    "ModelStatus",
    "Piece",
    "Progress",
    "Service",
    "ServiceStatus",
    "Stage",
]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """A client's wishes, parsed."""

    max_tokens: int | None
    """None: min(context - prompt, 4096)."""
    sampling: Sampling
    """`sampling.seed` is what the client named, or drawn by the gateway."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    trace_logits: bool = False
    logprobs: int | None = None
    """How many of the likeliest tokens to name beside each; None: no probabilities."""
    shows_specials: bool = False
    wants_embedding: bool = False
    """The prompt's embedding instead of an answer; `max_tokens` is not looked at."""
    weight: float | None = None
    """`Request.weight`; None: the model's own."""
    key: str = ""
    """The name of the caller's API key; empty without keys."""
    first_token_by_s: float | None = None
    """When the first token is wanted, on the running loop's clock; None: nobody said."""


class Piece(Struct, frozen=True):
    """A part of an answer.  The last one has `finish`.

    One is made for each token: 0.16 us; a frozen dataclass takes 1.2.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    traces: tuple[LogitsTrace, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    embedding: tuple[float, ...] = ()


class Stage(Enum):
    """How far an answer is."""

    QUEUED = "queued"
    """Its model is not being loaded yet, or has no free slot."""
    LOADING = "loading"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of an answer that has not begun."""

    stage: Stage
    place: int | None = None
    """In the queue of its model, from 1; None once it runs."""
    share: float | None = None
    """Of the load under way, by its prediction; 0 to 1."""
    eta_s: float | None = None
    """Predicted seconds until the model is loaded."""


class Generation(Protocol):
    """A running answer.  Iterate to its end, or `aclose` to cancel it.

    Iterating may be cancelled at any await; `aclose` afterwards frees what it held.
    """

    id: str
    model: str
    prompt_tokens: int
    reused_tokens: int

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Raises `EngineError` where the engine gave up, or where the server stops."""
        ...

    @property
    def has_more(self) -> bool:
        """The next piece is there already: iterating on waits for nothing."""
        ...

    def progress(self) -> Progress:
        """How far it is, now."""
        ...

    async def aclose(self) -> None:
        """Cancel it.  Harmless after a normal end, after an error, and twice."""
        ...


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One row of `ps`."""

    name: str
    aliases: tuple[str, ...]
    status: str
    """unloaded, loading, loaded, sleeping (weights on the device, no KV), failed, or too_large (for
    every device, however empty).  The last two have a `fault`."""
    rung: str
    device: str
    is_pinned: bool
    context_tokens: int
    running: int
    waiting: int
    kv_sequences: int
    kv_cells: int
    predicted_bytes: int
    """What the ledger reserved when the replica was brought up."""
    measured_bytes: int | None
    """What was read back; None while nothing is loaded."""
    weights_bytes: int
    eta_s: float | None = None
    """For `loading`: predicted seconds that are left."""
    fault: str | None = None
    tokens_per_s: float = 0.0
    """Output over the last seconds."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device's ledger."""

    id: str
    node_id: str
    backend: str
    budget_bytes: int
    charged_bytes: int
    peak_charged_bytes: int


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """Everything `ps` and `/health` show."""

    is_ready: bool
    """A worker is up and requests can be served."""
    is_draining: bool
    faults: tuple[str, ...]
    """Reasons for not being healthy: a lost worker, a model that cannot load."""
    models: tuple[ModelStatus, ...]
    devices: tuple[DeviceStatus, ...]
    waiting: int
    running: int
    overhead_bytes: int
    """Server and worker processes, without replicas."""
    process_bytes: int
    """PSS of all processes, sampled last."""
    memory_bytes: int
    """The operator's budget for all of it."""
    tokens_per_s: float
    uptime_s: float
    log_dropped: int = 0
    """Decisions that the log could not take."""


class Service(Protocol):
    """The live server."""

    def resolve(self, name: str) -> ModelSpec:
        """The model of that name or alias; `UnknownModel` with near names otherwise."""
        ...

    async def render(
        self, spec: ModelSpec, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        """Token ids of a chat (wire values, hence `Any`); `BadRequest` if the template refuses.

        A worker that is starting is waited for, here and in `tokenize`.
        """
        ...

    async def tokenize(self, spec: ModelSpec, text: str) -> tuple[int, ...]: ...

    async def detokenize(self, spec: ModelSpec, tokens: Sequence[int]) -> str:
        """`BadRequest` (field "tokens") for ids outside of the vocabulary."""
        ...

    async def grammar(self, spec: ModelSpec, kind: GrammarKind, text: str) -> str:
        """GBNF for `Sampling.grammar`; `BadRequest` without a field if there is none."""
        ...

    def chat_template(self, spec: ModelSpec) -> str:
        """The model's own template (Jinja source); empty if it has none."""
        ...

    async def generate(
        self, spec: ModelSpec, prompt: tuple[int, ...], options: GenerationOptions
    ) -> Generation:
        """Admit a request.  A model that only makes embeddings does not generate: `BadRequest`
        (field "model").  `ContextExceeded`, `Overloaded` or `DeadlineMissed` at once, nothing is
        loaded for it.

        Ids outside of the model's vocabulary are a `BadRequest` (field "prompt").  May be
        cancelled at any await: the request is then over, and nobody else's load with it.
        """
        ...

    async def wish(self, name: str, wish: Wish) -> None:
        """An operator's wish; returns when it is taken in, not when it is done."""
        ...

    def status(self) -> ServiceStatus: ...

    def subscribe(self, listener: Callable[[Decision], None]) -> Callable[[], None]:
        """Call `listener` with every decision from now on; returns how to stop."""
        ...
