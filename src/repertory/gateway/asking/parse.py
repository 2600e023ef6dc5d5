"""From a request's bytes to an ask: the one place where OpenAI's values become ours."""

from collections.abc import Mapping
from random import Random
from typing import Any, NoReturn, TypeVar

from repertory.domain.errors import BadRequest
from repertory.domain.requests import PRIORITIES
from repertory.engines.contract import Sampling
from repertory.gateway.asking import fields
from repertory.gateway.asking.asks import Ask, Chat, Constraint, EmbeddingAsk, Prompt
from repertory.gateway.asking.constraints import constraint_of
from repertory.gateway.asking.decode import decode, too_deep
from repertory.gateway.asking.messages import messages_of
from repertory.gateway.asking.requests import (
    ChatBody,
    CompletionBody,
    EmbeddingBody,
    GenerationBody,
)
from repertory.gateway.asking.tools import tool_wish
from repertory.live.facade import GenerationOptions

__all__ = ["parse_chat", "parse_completion", "parse_embedding", "prompts_of", "refuse_own_names"]

_OWN_NAMES = ("messages", "tools", "self", "spec", "location")
"""Of the template's variables: those with a field of their own, and our own parameters."""

_MOST_CHOICES = 128
"""Of all prompts of one request, as OpenAI's bound of `n`: each is a sequence of its own."""
_MOST_INPUTS = 2048
"""OpenAI's bound."""


def parse_chat(body: bytes, random: Random) -> Ask:
    """The body of POST /v1/chat/completions.  `random` draws the seed nobody named."""
    chat = decode(body, ChatBody)
    try:
        return _chat(chat, random)
    except RecursionError:
        raise too_deep() from None


def _chat(chat: ChatBody, random: Random) -> Ask:
    _refuse(chat, fields.CHAT)
    if chat.top_logprobs is not None and not chat.logprobs:
        raise BadRequest("'top_logprobs' goes with 'logprobs': true only.", "top_logprobs")
    wish = tool_wish(chat)
    constraint = constraint_of(chat, chat.response_format)
    if wish is not None and constraint is not None:
        raise BadRequest(
            f"'{constraint.field}' goes not together with 'tools': the answer could not be a "
            "call. Send 'tool_choice': 'none' with it, or no tools.",
            constraint.field,
        )
    prompt = Chat(
        messages=messages_of(chat.messages),
        tools=wish,
        variables=_variables(chat),
        splits_reasoning=chat.reasoning_format != "none",
    )
    return _ask(
        chat,
        (prompt,),
        random,
        constraint=constraint,
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
    )


def _variables(chat: ChatBody) -> Mapping[str, Any]:
    """Of the template: what a client says of it goes before what follows from other fields."""
    variables: dict[str, Any] = {}
    if chat.reasoning_effort is not None:
        variables["reasoning_effort"] = chat.reasoning_effort
        if chat.reasoning_effort == "none":
            variables["enable_thinking"] = False
    given = chat.chat_template_kwargs or {}
    refuse_own_names(given)
    return {**variables, **given}


def refuse_own_names(variables: Mapping[str, Any]) -> None:
    for name in _OWN_NAMES:
        if name in variables:
            field = f"chat_template_kwargs.{name}"
            raise BadRequest(f"This variable has another way in, or none: {name!r}.", field)


def parse_completion(body: bytes, random: Random) -> Ask:
    """The body of POST /v1/completions."""
    completion = decode(body, CompletionBody)
    _refuse(completion, fields.COMPLETION)
    if completion.best_of is not None and completion.best_of != (completion.n or 1):
        raise BadRequest(
            "'best_of' must equal 'n': all generations are returned, none is ranked away.",
            "best_of",
        )
    if completion.echo and completion.logprobs is not None:
        raise BadRequest(
            "'echo' goes not together with 'logprobs': a prompt's log-probabilities are not "
            "computed.",
            "echo",
        )
    return _ask(
        completion,
        prompts_of(completion.prompt, "prompt"),
        random,
        constraint=constraint_of(completion),
        max_tokens=completion.max_tokens,
        logprobs=completion.logprobs,
    )


def parse_embedding(body: bytes) -> EmbeddingAsk:
    """The body of POST /v1/embeddings."""
    wanted = decode(body, EmbeddingBody)
    inputs = prompts_of(wanted.input, "input")
    if len(inputs) > _MOST_INPUTS:
        raise BadRequest(f"These are {len(inputs)} inputs; {_MOST_INPUTS} may come.", "input")
    options = GenerationOptions(
        max_tokens=1, sampling=Sampling(), wants_embedding=True, weight=_weight(wanted.priority)
    )
    is_base64 = wanted.encoding_format == "base64"
    return EmbeddingAsk(wanted.model, inputs, is_base64, wanted.dimensions, options)


def _refuse(body: GenerationBody, table: Mapping[str, fields.Field]) -> None:
    for name, field in table.items():
        value = getattr(body, name, None) if field.fate is fields.Fate.REFUSED else None
        if value and not (name == "modalities" and value == ["text"]):
            raise BadRequest(f"'{name}' is not served: {field.note}.", name)


def _ask(
    body: GenerationBody,
    prompts: tuple[Prompt, ...],
    luck: Random,
    *,
    constraint: Constraint | None,
    max_tokens: int | None,
    logprobs: int | None,
) -> Ask:
    if body.stream_options is not None and not body.stream:
        raise BadRequest("'stream_options' goes with 'stream': true only.", "stream_options")
    copies = body.n or 1
    if copies * len(prompts) > _MOST_CHOICES:
        raise BadRequest(
            f"{len(prompts)} prompts, {copies} times each, are more than the {_MOST_CHOICES} "
            "generations that one request may start.",
            "prompt" if copies == 1 else "n",
        )
    stop = body.stop or ()
    options = GenerationOptions(
        max_tokens=max_tokens,
        sampling=_sampling(body, luck),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        weight=_weight(body.priority),
    )
    wanted = body.stream_options
    return Ask(
        model=body.model,
        prompts=prompts,
        copies=copies,
        options=options,
        constraint=constraint,
        timeout_s=body.timeout,
        is_streaming=bool(body.stream),
        has_usage_chunk=bool(wanted and wanted.include_usage),
        has_progress=bool(wanted and wanted.include_progress),
        is_echo=isinstance(body, CompletionBody) and bool(body.echo),
    )


def _weight(priority: str | float | None) -> float | None:
    return PRIORITIES[priority] if isinstance(priority, str) else priority


def _sampling(body: GenerationBody, luck: Random) -> Sampling:
    neutral = Sampling()
    repetition = _given(body.repetition_penalty, body.repeat_penalty)
    return Sampling(
        temperature=_given(body.temperature, neutral.temperature),
        top_k=max(0, _given(body.top_k, neutral.top_k)),
        top_p=_given(body.top_p, neutral.top_p),
        min_p=_given(body.min_p, neutral.min_p),
        repetition_penalty=_given(repetition, neutral.repetition_penalty),
        presence_penalty=_given(body.presence_penalty, neutral.presence_penalty),
        frequency_penalty=_given(body.frequency_penalty, neutral.frequency_penalty),
        seed=luck.getrandbits(63) if body.seed is None else body.seed % 2**63,
        logit_bias=tuple(sorted((body.logit_bias or {}).items())),
    )


_Value = TypeVar("_Value")


def _given(value: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if value is None else value


def prompts_of(
    prompt: str | list[int | str | list[int]], field: str
) -> tuple[str | tuple[int, ...], ...]:
    """A text, token ids, or a list of either."""
    if isinstance(prompt, str):
        return (prompt,)
    if not prompt:
        _nothing(field)
    if all(isinstance(one, int) for one in prompt):
        return (tuple(one for one in prompt if isinstance(one, int)),)
    return tuple(_one_prompt(one, f"{field}[{at}]") for at, one in enumerate(prompt))


def _one_prompt(prompt: int | str | list[int], field: str) -> str | tuple[int, ...]:
    if isinstance(prompt, int):
        raise BadRequest(
            "This is a token id among whole prompts: send a text, a list of token ids, or a list "
            "of either.",
            field,
        )
    if isinstance(prompt, str):
        return prompt
    return tuple(prompt) if prompt else _nothing(field)


def _nothing(field: str) -> NoReturn:
    raise BadRequest("The prompt is empty.", field)
