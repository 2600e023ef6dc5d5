"""Counting tokens, in vLLM's shape: no model is loaded for it."""

from typing import Any

from msgspec import to_builtins

from repertory.domain.errors import BadRequest
from repertory.gateway.answering.admission import way_of
from repertory.gateway.asking.asks import Chat, ToolWish
from repertory.gateway.asking.decode import decode, too_deep
from repertory.gateway.asking.messages import messages_of
from repertory.gateway.asking.parse import refuse_own_names
from repertory.gateway.asking.requests import DetokenizeBody, TokenizeBody
from repertory.gateway.telling.shapes import Detokenized, Tokenized
from repertory.live.facade import Service

__all__ = ["detokenize", "tokenize"]


async def tokenize(service: Service, body: bytes) -> Tokenized:
    """POST /tokenize: of a prompt, or of a chat as its model's template writes it."""
    wanted = decode(body, TokenizeBody)
    if (wanted.prompt is None) == (wanted.messages is None):
        raise BadRequest("One of 'prompt' and 'messages' is needed.", "prompt")
    spec = service.resolve(wanted.model)
    if wanted.messages is not None:
        try:
            chat = _chat(wanted)
        except RecursionError:
            raise too_deep() from None
        way = way_of(chat, None, service.chat_template(spec))
        tokens = await way.render(service, spec)
    else:
        if wanted.add_special_tokens is False:
            raise BadRequest(
                "Prompts are tokenized here as they are for a completion: with the special "
                "tokens that the model's file asks for.",
                "add_special_tokens",
            )
        tokens = await service.tokenize(spec, wanted.prompt or "")
    return Tokenized(len(tokens), spec.context_tokens, tokens)


def _chat(wanted: TokenizeBody) -> Chat:
    variables: dict[str, Any] = dict(wanted.chat_template_kwargs or {})
    refuse_own_names(variables)
    if wanted.add_generation_prompt is not None:
        variables["add_generation_prompt"] = wanted.add_generation_prompt
    tools = tuple(to_builtins(tool) for tool in wanted.tools or ())
    wish = ToolWish(tools, is_required=False, most=None) if tools else None
    return Chat(messages_of(wanted.messages or ()), wish, variables)


async def detokenize(service: Service, body: bytes) -> Detokenized:
    """POST /detokenize."""
    wanted = decode(body, DetokenizeBody)
    spec = service.resolve(wanted.model)
    return Detokenized(await service.detokenize(spec, wanted.tokens))
