"""A live server of scripts: what `Service` promises, without engines."""

import asyncio
import difflib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from repertory.domain.decisions import Decision
from repertory.domain.errors import BadRequest, ContextExceeded, UnknownModel
from repertory.domain.events import Wish
from repertory.domain.requests import FinishReason
from repertory.domain.specs import ModelSpec
from repertory.engines.contract import GrammarKind
from repertory.live.facade import (
    DeviceStatus,
    GenerationOptions,
    ModelStatus,
    Piece,
    Progress,
    ServiceStatus,
    Stage,
)

Step = Piece | BaseException | asyncio.Event | float | Progress
"""A part of the answer, a failure, something to wait for, seconds to wait, or how far it is."""

HELLO: tuple[Step, ...] = (
    Piece("Hel", (1,)),
    Piece("", (2,)),
    Piece("lo ✓", (3, 4)),
    Piece("!", (5,), FinishReason.STOP),
)


def spec(name: str, aliases: tuple[str, ...] = (), context_tokens: int = 64) -> ModelSpec:
    return ModelSpec(
        name=name,
        digest=f"digest of {name}",
        location=f"{name}.gguf",
        weights_bytes=50_000_000,
        layers=8,
        kv_bytes_per_token=4096,
        context_tokens=context_tokens,
        buffers_bytes=10_000_000,
        aliases=aliases,
    )


def model_status(name: str, status: str = "unloaded", rung: str = "disk") -> ModelStatus:
    return ModelStatus(
        name=name,
        aliases=(),
        status=status,
        rung=rung,
        device="cpu0",
        is_pinned=False,
        context_tokens=64,
        running=1,
        waiting=2,
        kv_sequences=4,
        kv_cells=64,
        predicted_bytes=60_000_000,
        measured_bytes=None if rung == "disk" else 61_000_000,
        weights_bytes=50_000_000,
        tokens_per_s=12.5,
    )


STATUS = ServiceStatus(
    is_ready=True,
    is_draining=False,
    faults=(),
    models=(model_status("coder", "loaded", "serving"), model_status("writer")),
    devices=(DeviceStatus("cpu0", "local", "cpu", 2**30, 2**28, 2**29),),
    waiting=2,
    running=1,
    overhead_bytes=150_000_000,
    process_bytes=300_000_000,
    memory_bytes=2**31,
    tokens_per_s=12.5,
    uptime_s=3.0,
)


class FakeGeneration:
    def __init__(self, number: int, model: str, prompt: tuple[int, ...], steps: Sequence[Step]):
        self.id = f"r{number}"
        self.model = model
        self.prompt_tokens = len(prompt)
        self.reused_tokens = 0
        self.steps = steps
        self.taken = 0
        first = steps[0] if steps else None
        self.at = first if isinstance(first, Progress) else Progress(Stage.PREFILL)
        self.closed = asyncio.Event()
        self.comes_at_once = False

    @property
    def has_more(self) -> bool:
        following = self.steps[self.taken : self.taken + 1]
        return self.comes_at_once and bool(following) and isinstance(following[0], Piece)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        self.reused_tokens = 2
        for step in self.steps:
            self.taken += 1
            match step:
                case Piece():
                    yield step
                case Progress():
                    self.at = step
                case BaseException():
                    raise step
                case asyncio.Event():
                    await step.wait()
                case float():
                    await asyncio.sleep(step)

    def progress(self) -> Progress:
        return self.at

    async def aclose(self) -> None:
        self.closed.set()


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _embedded(vector: tuple[float, ...]) -> Piece:
    return Piece("", (), FinishReason.STOP, embedding=vector)


@dataclass
class Asked:
    """What reached `generate`."""

    model: str
    prompt: tuple[int, ...]
    options: GenerationOptions
    generation: FakeGeneration


@dataclass
class FakeService:
    """One token per UTF-8 byte.  Raises `refusal` at admission; plays `steps` otherwise.

    Wants of embeddings get (number of tokens, first token, 0.5).  A grammar is `kind:text`.
    """

    steps: Sequence[Step] = HELLO
    scripts: list[Sequence[Step]] = field(default_factory=list)
    """Taken one after the other by the first generations; `steps` afterwards."""
    comes_at_once: bool = False
    """Pieces are there before they are asked for."""
    refusal: BaseException | None = None
    refuses_after: int = 0
    """So many generations are admitted before the refusal."""
    template: str = ""
    opens: str = ""
    """What the template puts at the end of a prompt."""
    current: ServiceStatus = STATUS
    specs: tuple[ModelSpec, ...] = (
        spec("coder", ("gpt-4o-mini",)),
        spec("writer"),
        spec("org/deep", context_tokens=1 << 20),
    )
    asked: list[Asked] = field(default_factory=list)
    wishes: list[tuple[str, Wish]] = field(default_factory=list)
    listeners: list[Callable[[Decision], None]] = field(default_factory=list)
    admitted: asyncio.Event = field(default_factory=asyncio.Event)
    rendered: list[Sequence[Mapping[str, Any]]] = field(default_factory=list)
    variables: list[Mapping[str, Any]] = field(default_factory=list)
    spaced: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by `listening` when a space or comment was sent ahead of an answer."""

    def resolve(self, name: str) -> ModelSpec:
        for each in self.specs:
            if name in (each.name, *each.aliases):
                return each
        near = difflib.get_close_matches(name, [each.name for each in self.specs])
        raise UnknownModel(f"There is no model {name!r}; near names: {', '.join(near) or 'none'}.")

    async def render(
        self, spec: ModelSpec, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        self.rendered.append(messages)
        self.variables.append(extra)
        if messages[0]["role"] == "function":
            raise BadRequest("The template of this model knows no role 'function'.", "messages")
        text = "".join(f"{m['role']}:{m['content']}" for m in messages)
        return tuple((text + self.opens).encode())

    async def tokenize(self, spec: ModelSpec, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    async def detokenize(self, spec: ModelSpec, tokens: Sequence[int]) -> str:
        if any(token > 255 for token in tokens):
            raise BadRequest("Token ids end at 255.", "tokens")
        return bytes(tokens).decode(errors="replace")

    async def grammar(self, spec: ModelSpec, kind: GrammarKind, text: str) -> str:
        if kind is GrammarKind.GBNF and "root" not in text:
            raise BadRequest("The grammar has no rule 'root'.")
        if kind is GrammarKind.JSON_SCHEMA and not isinstance(_json_or_none(text), dict):
            raise BadRequest("The schema is no JSON object.")
        return f"{kind.value}:{text}"

    def chat_template(self, spec: ModelSpec) -> str:
        return self.template

    async def generate(
        self, spec: ModelSpec, prompt: tuple[int, ...], options: GenerationOptions
    ) -> FakeGeneration:
        if self.refusal is not None and len(self.asked) >= self.refuses_after:
            raise self.refusal
        room = spec.context_tokens - len(prompt)
        if room < (options.max_tokens or 1):
            raise ContextExceeded(
                f"{len(prompt)} prompt tokens + {options.max_tokens or 1} to generate are more "
                f"than the context of {spec.context_tokens}."
            )
        steps = self.scripts.pop(0) if self.scripts else self.steps
        if options.wants_embedding:
            vector = (float(len(prompt)), float(prompt[0]), 0.5)
            steps = (*self.steps_before(steps), _embedded(vector))
        generation = FakeGeneration(len(self.asked) + 1, spec.name, prompt, steps)
        generation.comes_at_once = self.comes_at_once
        self.asked.append(Asked(spec.name, prompt, options, generation))
        self.admitted.set()
        return generation

    @staticmethod
    def steps_before(steps: Sequence[Step]) -> Sequence[Step]:
        """What happens before an answer, without the answer."""
        return [step for step in steps if not isinstance(step, Piece)]

    async def wish(self, name: str, wish: Wish) -> None:
        self.wishes.append((name, wish))

    def status(self) -> ServiceStatus:
        return self.current

    def subscribe(self, listener: Callable[[Decision], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def change(self, **changes: Any) -> None:
        self.current = replace(self.current, **changes)
