"""One tree that answers *whose fault, what now*.

RepertoryError
├── ClientError        the request is wrong, or we are too busy for it: HTTP 4xx
│   ├── UnknownModel       404, with near names
│   ├── BadRequest         400, names the field
│   ├── ContextExceeded    400, names the field and the arithmetic
│   └── Overloaded         429, with the seconds after which to try again
├── EngineError        a model, a file or a worker failed: HTTP 5xx
│   ├── LoadFailed         503, the reason of the engine
│   ├── OutOfMemory        503, the bytes that were asked for
│   ├── Quarantined        503, the file killed a process before
│   └── WorkerGone         503, the worker died under this request
└── ConfigError        the operator's: file, line, and what to write instead
"""

from typing import ClassVar

__all__ = [
    "BadRequest",
    "ClientError",
    "ConfigError",
    "ContextExceeded",
    "EngineError",
    "LoadFailed",
    "OutOfMemory",
    "Overloaded",
    "Quarantined",
    "RepertoryError",
    "UnknownModel",
    "WorkerGone",
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


class EngineError(RepertoryError):
    """The engine failed; the server goes on.

    `is_permanent`: the file itself is at fault; without it, trying again may help.
    """

    status = 503
    kind = "engine_error"

    def __init__(self, message: str, is_permanent: bool = False) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


class LoadFailed(EngineError):
    """The file is at fault: it cannot be read, or not as a model.  Trying again cannot help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, is_permanent=True)


class OutOfMemory(EngineError):
    """An allocation failed; a smaller placement or an eviction may help."""


class Quarantined(EngineError):
    """This file killed a process before; replace it or lift the quarantine."""

    def __init__(self, message: str) -> None:
        super().__init__(message, is_permanent=True)


class WorkerGone(EngineError):
    """The worker died while it ran this request."""


class ConfigError(RepertoryError):
    """The operator's configuration is wrong; the message holds file:line and a fix."""
