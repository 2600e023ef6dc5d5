"""One tree that answers *whose fault, what now*.

RepertoryError
├── ClientError        the request is wrong, or we are too busy for it: HTTP 4xx
│   ├── UnknownModel       404, with near names
│   ├── BadRequest         400, names the field
│   ├── ContextExceeded    400, names the field and the arithmetic
│   ├── Overloaded         429, with the seconds after which to try again
│   └── DeadlineMissed     504, the first token cannot come when it is wanted
├── EngineError        a model, a file or a worker failed: HTTP 5xx
│   ├── LoadFailed         503, the reason of the engine
│   ├── OutOfMemory        503, the bytes that were asked for
│   ├── Quarantined        503, the file killed a process before
│   └── WorkerGone         503, the worker died under this request
└── ConfigError        the operator's: file, line, and what to write instead
"""

from typing import ClassVar

from repertory.domain.requests import Fault

__all__ = [
    "BadRequest",
    "ClientError",
    "ConfigError",
    "ContextExceeded",
    "DeadlineMissed",
    "EngineError",
    "LoadFailed",
    "OutOfMemory",
    "Overloaded",
    "Quarantined",
    "RepertoryError",
    "UnknownModel",
    "WorkerGone",
    "engine_error",
]


class RepertoryError(Exception):
    """Every error that we raise on purpose."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"


class ClientError(RepertoryError):
    """The client can do something about it.  `field` names the part of the body at fault."""

    status = 400
    kind = "invalid_request_error"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(ClientError):
    """No model of that name; the message holds the near names."""

    status = 404


class BadRequest(ClientError):
    """The body cannot be understood; `field` says where."""


class ContextExceeded(ClientError):
    """Prompt and answer do not fit into the model's context."""


class Overloaded(ClientError):
    """The queue is longer than the operator allows.  Try again after `retry_after_s`."""

    status = 429
    kind = "rate_limit_error"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineMissed(ClientError):
    """The first token is wanted before it can come.  Nothing was begun."""

    status = 504
    kind = "timeout_error"


class EngineError(RepertoryError):
    """The engine failed; the server goes on.  `fault` says what did, also where only words go."""

    status = 503
    kind = "engine_error"
    fault: ClassVar[Fault] = Fault.ENGINE


class LoadFailed(EngineError):
    """The file is at fault: it cannot be read, or not as a model.  Trying again cannot help."""

    fault = Fault.LOAD_FAILED


class OutOfMemory(EngineError):
    """An allocation failed; a smaller placement or an eviction may help."""

    fault = Fault.OUT_OF_MEMORY


class Quarantined(EngineError):
    """This file killed a process before; replace it or lift the quarantine."""

    fault = Fault.QUARANTINED


class WorkerGone(EngineError):
    """The worker died while it ran this request."""

    fault = Fault.WORKER_GONE


class ConfigError(RepertoryError):
    """The operator's configuration is wrong; the message holds file:line and a fix."""


_ENGINE_ERRORS: dict[Fault, type[EngineError]] = {
    kind.fault: kind for kind in (EngineError, LoadFailed, OutOfMemory, Quarantined, WorkerGone)
}


def engine_error(fault: Fault, message: str) -> EngineError:
    """The error that a fault was before it went where only events go."""
    return _ENGINE_ERRORS[fault](message)
