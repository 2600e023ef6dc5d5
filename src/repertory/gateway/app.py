"""The HTTP application.  The only module that imports starlette."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from repertory.domain.errors import RepertoryError, UnknownModel
from repertory.domain.events import Wish
from repertory.gateway.account import Account
from repertory.gateway.answer import Answer, Waiting
from repertory.gateway.answering.admission import Admission
from repertory.gateway.answering.embeddings import Embeddings
from repertory.gateway.answering.jobs import Generating
from repertory.gateway.answering.tokens import detokenize, tokenize
from repertory.gateway.asking.asks import Ask, EmbeddingAsk
from repertory.gateway.asking.deadline import DEADLINE_HEADER, first_token_by_s
from repertory.gateway.asking.parse import parse_chat, parse_completion, parse_embedding
from repertory.gateway.doors.caller import SeenService
from repertory.gateway.doors.door import Door, Guard
from repertory.gateway.failures import Failure, failure_of, http_failure, unforeseen
from repertory.gateway.metrics import METRICS_TYPE, Metrics
from repertory.gateway.views import health_of, is_healthy, model_card, model_list
from repertory.gateway.wire import WishTaken
from repertory.live.facade import Service

__all__ = ["Limits", "build_app", "routes_of"]

_Take = Callable[[bytes, float | None, Account], Awaitable[Answer]]
"""Body, by when the first token is wanted, account."""
_Asked = TypeVar("_Asked", Ask, EmbeddingAsk)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request."""

    body_bytes: int = 8 * 2**20
    """Two million tokens of text: more than any context that this engine offers."""
    waiting: Waiting = field(default_factory=Waiting)


def build_app(
    service: Service,
    *,
    random: Random,
    unix_s: Callable[[], float],
    limits: Limits | None = None,
    guard: Guard | None = None,
) -> Door:
    """The whole endpoint.  `random` draws seeds nobody named; `unix_s` dates the answers."""
    guard = guard or Guard()
    metrics = Metrics(service.status, unix_s, guard.names)
    service.subscribe(metrics.decisions.take)
    seen = SeenService(service)
    endpoint = _Endpoint(seen, random, unix_s, metrics, limits or Limits())
    app = Starlette(
        routes=_routes(endpoint),
        exception_handlers={
            RepertoryError: _on_repertory_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_client_gone,
            Exception: _on_bug,
        },
    )
    door = Door(app, guard, metrics)
    metrics.key_requests = door.running
    return door


def routes_of(door: Door) -> list[tuple[str, str]]:
    """Method and path of every route behind the door."""
    assert isinstance(door.app, Starlette)
    return [
        (method, route.path)
        for route in door.app.routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


def _routes(endpoint: "_Endpoint") -> Sequence[Route]:
    return [
        Route("/v1/chat/completions", endpoint.chat, methods=["POST"]),
        Route("/v1/completions", endpoint.completion, methods=["POST"]),
        Route("/v1/embeddings", endpoint.embedding, methods=["POST"]),
        *(
            Route(path, call, methods=["POST"])
            for prefix in ("", "/v1")  # vLLM has them at the root, clients' base URLs end in /v1
            for path, call in (
                (f"{prefix}/tokenize", endpoint.tokenize),
                (f"{prefix}/detokenize", endpoint.detokenize),
            )
        ),
        Route("/v1/models", endpoint.models),
        Route("/v1/models/{name:path}", endpoint.model),
        Route("/health", endpoint.health),
        Route("/metrics", endpoint.metrics),
        Route("/admin/ps", endpoint.ps),
        Route("/admin/models/{name:path}/{wish:str}", endpoint.wish, methods=["POST"]),
    ]


class _Endpoint:
    def __init__(
        self,
        service: Service,
        random: Random,
        unix_s: Callable[[], float],
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._service = service
        self._random = random
        self._admission = Admission(service, random, unix_s)
        self._metrics = metrics
        self._limits = limits
        self._began_unix_s = int(unix_s())

    async def chat(self, request: Request) -> ASGIApp:
        return await self._answer(request, self._take_chat, "messages")

    async def completion(self, request: Request) -> ASGIApp:
        return await self._answer(request, self._take_completion, "prompt")

    async def embedding(self, request: Request) -> ASGIApp:
        return await self._answer(request, self._take_embedding, "input")

    async def tokenize(self, request: Request) -> Response:
        return _json(await tokenize(self._service, await self._body(request)))

    async def detokenize(self, request: Request) -> Response:
        return _json(await detokenize(self._service, await self._body(request)))

    async def models(self, _: Request) -> Response:
        return _json(model_list(self._service.status(), self._began_unix_s))

    async def model(self, request: Request) -> Response:
        name = self._service.resolve(request.path_params["name"]).name
        for model in self._service.status().models:
            if model.name == name:
                return _json(model_card(model, self._began_unix_s))
        raise UnknownModel(f"The model {name!r} was just removed.")

    async def health(self, _: Request) -> Response:
        status = self._service.status()
        return _json(health_of(status), 200 if is_healthy(status) else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._metrics.page(), headers={"content-type": METRICS_TYPE})

    async def ps(self, _: Request) -> Response:
        return _json(self._service.status())

    async def wish(self, request: Request) -> Response:
        try:
            wish = Wish(request.path_params["wish"])
        except ValueError:
            known = ", ".join(wish.value for wish in Wish)
            raise HTTPException(404, f"No such wish; there are {known}.") from None
        name = self._service.resolve(request.path_params["name"]).name
        await self._service.wish(name, wish)
        return _json(WishTaken(name, wish.value), 202)

    async def _answer(self, request: Request, take: _Take, prompt_field: str) -> ASGIApp:
        now_s = asyncio.get_running_loop().time
        account, arrived_s = Account(self._metrics, now_s), now_s()
        try:
            by_s = first_token_by_s(request.headers.get(DEADLINE_HEADER), arrived_s)
            return await take(await self._body(request), by_s, account)
        except RepertoryError as error:
            failure = failure_of(error, prompt_field)
            account.close(failure.outcome, failure.status)
            return _failure(failure)
        except HTTPException as error:
            account.close("client_error", error.status_code)
            raise
        except ClientDisconnect:
            account.close("cancelled", 499)
            raise
        except Exception:
            account.close("failed", 500)
            raise

    async def _take_chat(self, body: bytes, by_s: float | None, account: Account) -> Answer:
        ask = _due(parse_chat(body, self._random), by_s)
        return self._carried(await self._admission.chat(ask, account), ask, account)

    async def _take_completion(self, body: bytes, by_s: float | None, account: Account) -> Answer:
        ask = _due(parse_completion(body, self._random), by_s)
        return self._carried(await self._admission.completion(ask, account), ask, account)

    async def _take_embedding(self, body: bytes, by_s: float | None, account: Account) -> Answer:
        ask = _due(parse_embedding(body), by_s)
        spec = self._service.resolve(ask.model)
        account.model = spec.name
        job = Embeddings(self._service, spec, ask, account)
        return Answer(job, account, self._limits.waiting)

    def _carried(self, job: Generating, ask: Ask, account: Account) -> Answer:
        return Answer(
            job,
            account,
            self._limits.waiting,
            is_streaming=ask.is_streaming,
            has_progress=ask.has_progress,
        )

    async def _body(self, request: Request) -> bytes:
        limit = self._limits.body_bytes
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise HTTPException(413, f"The body is larger than {limit} bytes.")
        return bytes(body)


def _due(ask: _Asked, by_s: float | None) -> _Asked:
    if by_s is None:
        return ask
    return replace(ask, options=replace(ask.options, first_token_by_s=by_s))


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _failure(failure: Failure) -> Response:
    return Response(failure.body, failure.status, failure.headers, "application/json")


async def _on_repertory_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RepertoryError)
    return _failure(failure_of(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """No such path, wrong method, body too large."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"There is no {request.url.path!r} here.",
        405: f"{request.url.path!r} does not take {request.method}.",
    }
    is_plain = error.detail in ("Not Found", "Method Not Allowed")
    message = messages[error.status_code] if is_plain else error.detail
    response = _failure(http_failure(error.status_code, message))
    response.headers.update(error.headers or {})
    return response


async def _on_client_gone(_: Request, __: Exception) -> Response:
    """Left while it was still sending: nobody reads this."""
    return Response(status_code=499)


async def _on_bug(_: Request, __: Exception) -> Response:
    return _failure(unforeseen())
