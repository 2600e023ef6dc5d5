"""From an ask to the generations that answer it.

1. The model is found, and what its chat template says of itself.
2. How tools are offered and called: in the template's own format where that is known and a call
   may be made; described by us, and held to by a schema, where a call must be made; described by
   us otherwise.
3. What every answer is held to becomes a grammar.
4. The prompts become tokens.
5. All generations are admitted, or none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from repertory.domain.errors import BadRequest
from repertory.domain.specs import ModelSpec
from repertory.gateway.account import Account
from repertory.gateway.answering.jobs import Generating
from repertory.gateway.asking.asks import Ask, Chat, Constraint, Prompt, ToolWish
from repertory.gateway.asking.decode import too_deep
from repertory.gateway.asking.tools import call_constraint, described, without_tool_roles
from repertory.gateway.reading import Reader, TemplateMarks, marks_of
from repertory.gateway.reading.calls import Calls
from repertory.gateway.reading.formats import DESCRIBED, CallFormat
from repertory.gateway.reading.thinking import OPENING, Thinking
from repertory.gateway.telling.chat_form import ChatForm
from repertory.gateway.telling.completion_form import CompletionForm
from repertory.gateway.telling.form import Form, Heading
from repertory.live.facade import Generation, GenerationOptions, Service

__all__ = ["Admission", "Way", "way_of"]

_TAIL_TOKENS = 16
"""Enough to see whether a prompt ends in the opening mark of thinking."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one chat is put to its model, and how the answer is read."""

    chat: Chat
    """With tools only if the template is to show them."""
    wish: ToolWish | None
    constraint: Constraint | None
    call_format: CallFormat | None
    thinks: bool

    @property
    def has_marks(self) -> bool:
        """The answer is read by marks, which may be special tokens."""
        return self.thinks or self.call_format not in (None, DESCRIBED)

    async def render(self, service: Service, spec: ModelSpec) -> tuple[int, ...]:
        """The prompt's tokens, by the model's own template."""
        variables: dict[str, Any] = dict(self.chat.variables or {})
        if self.chat.tools is not None:
            variables["tools"] = list(self.chat.tools.tools)
        try:
            prompt = await service.render(spec, self.chat.messages, **variables)
        except RecursionError:
            raise too_deep() from None
        return _not_empty(prompt, "messages")


class Admission:
    """Takes in requests for text."""

    def __init__(self, service: Service, luck: Random, unix_s: Callable[[], float]) -> None:
        self._service = service
        self._luck = luck
        self._unix_s = unix_s

    async def chat(self, ask: Ask, account: Account) -> Generating:
        spec = self._find(ask, account)
        [asked] = ask.prompts
        assert isinstance(asked, Chat)
        way = way_of(asked, ask.constraint, self._service.chat_template(spec))
        grammar = await self._grammar(spec, way.constraint)
        prompt = await way.render(self._service, spec)
        has_opened = way.thinks and await self._is_thinking(spec, prompt)
        options = replace(ask.options, shows_specials=way.has_marks)
        generations = await self._admit(spec, [prompt], ask, _held_to(options, grammar), account)
        readers = [_reader(way, has_opened) for _ in generations]
        heading = self._heading("chatcmpl", generations, ask)
        form = ChatForm(heading, readers, ask.options.logprobs is not None, self._luck)
        return _generating(generations, form, ask, account, "messages")

    async def completion(self, ask: Ask, account: Account) -> Generating:
        spec = self._find(ask, account)
        grammar = await self._grammar(spec, ask.constraint)
        prompts = [await self._tokens(spec, prompt) for prompt in ask.prompts]
        echoes = [""] * len(prompts)
        if ask.is_echo:
            echoes = [await self._text(spec, prompt) for prompt in ask.prompts]
        options = _held_to(ask.options, grammar)
        generations = await self._admit(spec, prompts, ask, options, account)
        heading = self._heading("cmpl", generations, ask)
        copied = [echo for echo in echoes for _ in range(ask.copies)]
        form = CompletionForm(heading, copied, ask.options.logprobs is not None)
        return _generating(generations, form, ask, account, "prompt")

    def _find(self, ask: Ask, account: Account) -> ModelSpec:
        spec = self._service.resolve(ask.model)
        account.model = spec.name
        return spec

    async def _grammar(self, spec: ModelSpec, constraint: Constraint | None) -> str:
        if constraint is None:
            return ""
        try:
            return await self._service.grammar(spec, constraint.kind, constraint.text)
        except BadRequest as error:
            raise BadRequest(f"Invalid '{constraint.field}': {error}", constraint.field) from error

    async def _tokens(self, spec: ModelSpec, prompt: Prompt) -> tuple[int, ...]:
        assert not isinstance(prompt, Chat)
        tokens = await self._service.tokenize(spec, prompt) if isinstance(prompt, str) else prompt
        return _not_empty(tokens, "prompt")

    async def _text(self, spec: ModelSpec, prompt: Prompt) -> str:
        assert not isinstance(prompt, Chat)
        if isinstance(prompt, str):
            return prompt
        try:
            return await self._service.detokenize(spec, prompt)
        except BadRequest as error:
            raise BadRequest(str(error), "prompt") from error

    async def _is_thinking(self, spec: ModelSpec, prompt: tuple[int, ...]) -> bool:
        tail = await self._service.detokenize(spec, prompt[-_TAIL_TOKENS:])
        return tail.rstrip().endswith(OPENING)

    async def _admit(
        self,
        spec: ModelSpec,
        prompts: Sequence[tuple[int, ...]],
        ask: Ask,
        options: GenerationOptions,
        account: Account,
    ) -> list[Generation]:
        """All, prompt by prompt, or none."""
        generations: list[Generation] = []
        try:
            for prompt in prompts:
                for copy in range(ask.copies):
                    generation = await self._service.generate(spec, prompt, _copy(options, copy))
                    generations.append(generation)
        except BaseException:
            for generation in generations:
                await generation.aclose()
            raise
        for at, generation in enumerate(generations):
            account.admit(generation, is_copy=at % ask.copies > 0)
        return generations

    def _heading(self, kind: str, generations: Sequence[Generation], ask: Ask) -> Heading:
        return Heading(
            f"{kind}-{generations[0].id}", ask.model, int(self._unix_s()), ask.has_usage_chunk
        )


def way_of(chat: Chat, constraint: Constraint | None, template: str) -> Way:
    """Step 2."""
    try:
        return _way(chat, constraint, marks_of(template))
    except RecursionError:
        raise too_deep() from None


def _way(chat: Chat, constraint: Constraint | None, marks: TemplateMarks) -> Way:
    wish = chat.tools
    call_format = None
    if wish is not None and not wish.is_required and marks.call_format is not None:
        call_format = marks.call_format
    elif wish is not None:
        chat = replace(described(chat, wish, marks.takes_system), tools=None)
        call_format = DESCRIBED
        constraint = call_constraint(wish) if wish.is_required else None
    elif not marks.knows_tools:
        chat = replace(chat, messages=tuple(without_tool_roles(chat.messages)))
    if constraint is not None:
        # What is held to a grammar from its first token cannot think first.
        chat = replace(chat, variables={"enable_thinking": False, **(chat.variables or {})})
    thinks = marks.thinks and chat.splits_reasoning and constraint is None
    return Way(chat, wish, constraint, call_format, thinks)


def _reader(way: Way, has_opened: bool) -> Reader | None:
    thinking = Thinking(has_opened) if way.thinks else None
    calls = None
    if way.call_format is not None and way.wish is not None:
        most = way.wish.most or way.call_format.most
        calls = Calls(way.call_format, way.wish.names, most)
    return None if thinking is None and calls is None else Reader(thinking, calls)


def _held_to(options: GenerationOptions, grammar: str) -> GenerationOptions:
    if not grammar:
        return options
    return replace(options, sampling=replace(options.sampling, grammar=grammar))


def _copy(options: GenerationOptions, copy: int) -> GenerationOptions:
    """Each copy draws with a seed of its own, the first one with the one that was named."""
    if copy == 0:
        return options
    seed = (options.sampling.seed + copy) % 2**63
    return replace(options, sampling=replace(options.sampling, seed=seed))


def _generating(
    generations: Sequence[Generation], form: Form, ask: Ask, account: Account, prompt_field: str
) -> Generating:
    return Generating(
        generations,
        form,
        account,
        prompt_field=prompt_field,
        has_usage_event=ask.has_usage_chunk,
        timeout_s=ask.timeout_s,
    )


def _not_empty(tokens: tuple[int, ...], field: str) -> tuple[int, ...]:
    if not tokens:
        raise BadRequest("The prompt holds no token.", field)
    return tokens
