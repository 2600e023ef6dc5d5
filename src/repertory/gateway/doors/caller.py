"""Who asks, and the live server as they may see it.

The door names the caller before any endpoint runs; the endpoints get a `SeenService` and nothing
else.  So an endpoint cannot forget to ask: names that the caller may not use do not resolve.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from repertory.domain.decisions import Decision
from repertory.domain.errors import UnknownModel
from repertory.domain.events import Wish
from repertory.domain.specs import ModelSpec
from repertory.engines.contract import GrammarKind
from repertory.live.facade import (
    Generation,
    GenerationOptions,
    ModelStatus,
    Service,
    ServiceStatus,
)

__all__ = ["CALLER", "NOBODY", "OPERATOR", "Caller", "SeenService"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who passed the door."""

    key: str
    """The name of their key; empty without one."""
    models: frozenset[str] | None = None
    """Names or aliases that they may use; None: all."""

    def may_use(self, name: str, aliases: Sequence[str]) -> bool:
        return self.models is None or name in self.models or not self.models.isdisjoint(aliases)


OPERATOR = Caller("")
"""Whoever reaches a server that needs no keys."""
NOBODY = Caller("", frozenset())
"""Without a key where keys are needed: balancers that ask for health."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=OPERATOR)


class SeenService:
    """`live.facade.Service` with the current caller's eyes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def resolve(self, name: str) -> ModelSpec:
        """A model that exists for others is as unknown as one that does not exist."""
        caller = CALLER.get()
        if caller.models is None:
            return self._service.resolve(name)
        try:
            spec = self._service.resolve(name)
        except UnknownModel:
            spec = None
        if spec is None or not caller.may_use(spec.name, spec.aliases):
            raise UnknownModel(
                f"There is no model {name!r} for this key; GET /v1/models lists those it may use.",
                "model",
            )
        return spec

    async def render(
        self, spec: ModelSpec, messages: Sequence[Mapping[str, Any]], **extra: Any
    ) -> tuple[int, ...]:
        return await self._service.render(spec, messages, **extra)

    async def tokenize(self, spec: ModelSpec, text: str) -> tuple[int, ...]:
        return await self._service.tokenize(spec, text)

    async def detokenize(self, spec: ModelSpec, tokens: Sequence[int]) -> str:
        return await self._service.detokenize(spec, tokens)

    async def grammar(self, spec: ModelSpec, kind: GrammarKind, text: str) -> str:
        return await self._service.grammar(spec, kind, text)

    def chat_template(self, spec: ModelSpec) -> str:
        return self._service.chat_template(spec)

    async def generate(
        self, spec: ModelSpec, prompt: tuple[int, ...], options: GenerationOptions
    ) -> Generation:
        key = CALLER.get().key
        return await self._service.generate(
            spec, prompt, replace(options, key=key) if key else options
        )

    async def wish(self, name: str, wish: Wish) -> None:
        await self._service.wish(name, wish)

    def status(self) -> ServiceStatus:
        """Models of others are left out, with what is wrong with them and how many wait."""
        status, caller = self._service.status(), CALLER.get()
        if caller.models is None:
            return status
        models = tuple(one for one in status.models if caller.may_use(one.name, one.aliases))
        return replace(
            status,
            models=models,
            faults=_faults_of(status, models),
            running=sum(one.running for one in models),
            waiting=sum(one.waiting for one in models),
        )

    def subscribe(self, listener: Callable[[Decision], None]) -> Callable[[], None]:
        return self._service.subscribe(listener)


def _faults_of(status: ServiceStatus, models: Sequence[ModelStatus]) -> tuple[str, ...]:
    """Faults read `name: why`."""
    names = {one.name for one in models}
    return tuple(fault for fault in status.faults if fault.partition(": ")[0] in names)
