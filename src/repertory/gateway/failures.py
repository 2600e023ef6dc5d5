"""Errors in OpenAI's shape: whose fault, what now."""

import math
from dataclasses import dataclass

import msgspec

from repertory.domain.errors import (
    ClientError,
    ContextExceeded,
    DeadlineMissed,
    EngineError,
    LoadFailed,
    OutOfMemory,
    Overloaded,
    Quarantined,
    RepertoryError,
    UnknownModel,
    WorkerGone,
)
from repertory.gateway.wire import ErrorBody, ErrorDetail

__all__ = ["Failure", "TimedOut", "failure_of", "http_failure", "unforeseen"]


class TimedOut(ClientError):
    """The client gave its answer so many seconds, and they are over."""

    status = 504
    kind = "timeout_error"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The answer was not complete {timeout_s:g} s after it began to be computed, which is "
            "the 'timeout' of this request.",
            "timeout",
        )


_CODES: dict[type[RepertoryError], str] = {
    UnknownModel: "model_not_found",
    ContextExceeded: "context_length_exceeded",
    Overloaded: "rate_limit_exceeded",
    DeadlineMissed: "deadline_exceeded",
    LoadFailed: "load_failed",
    OutOfMemory: "out_of_memory",
    Quarantined: "quarantined",
    WorkerGone: "worker_gone",
    EngineError: "engine_failed",
    TimedOut: "timeout",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A refusal or an error, ready to be sent."""

    status: int
    body: bytes
    retry_after_s: int | None = None
    is_refusal: bool = False
    """Nothing was begun."""
    is_final: bool = False
    """Official clients try again after a 5xx; here that would only cost the time that lacks."""

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return headers | {"x-should-retry": "false"} if self.is_final else headers

    @property
    def event(self) -> bytes:
        """For a stream that has begun.  No `[DONE]` follows: the answer is not complete."""
        return b"event: error\ndata: " + self.body + b"\n\n"

    @property
    def outcome(self) -> str:
        """The word of the metrics for it."""
        if self.is_refusal or self.status == 429:
            return "refused"
        if self.status == TimedOut.status:
            return "timed_out"
        return "client_error" if self.status < 500 else "failed"


def failure_of(error: RepertoryError, prompt_field: str | None = None) -> Failure:
    """`prompt_field` is what the prompt is called in this dialect."""
    field = error.field if isinstance(error, ClientError) else None
    if field == "prompt":
        field = prompt_field or field
    if isinstance(error, ContextExceeded):
        field = field or prompt_field
    if isinstance(error, UnknownModel):
        field = field or "model"
    retry_after_s = (
        max(1, math.ceil(error.retry_after_s)) if isinstance(error, Overloaded) else None
    )
    status = error.status
    if not isinstance(error, ClientError | EngineError):
        status = 500
    code = _CODES.get(type(error))
    is_late = isinstance(error, DeadlineMissed)
    body = _body(str(error), error.kind, field, code)
    return Failure(status, body, retry_after_s, is_refusal=is_late, is_final=is_late)


def http_failure(status: int, message: str, code: str | None = None) -> Failure:
    """What HTTP itself has to say: no such path, wrong method, body too large."""
    return Failure(status, _body(message, "invalid_request_error", None, code))


def unforeseen() -> Failure:
    """Our bug.  It is raised on, so that the log has the story; the client does not need it."""
    message = "An internal error of the server, not of your request. Its log has the details."
    return Failure(500, _body(message, "server_error", None, "internal_error"))


def _body(message: str, kind: str, field: str | None, code: str | None) -> bytes:
    return msgspec.json.encode(ErrorBody(ErrorDetail(message, kind, field, code)))
