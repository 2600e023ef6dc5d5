"""What every endpoint shows: errors, models, health.  Outside this room nobody sees these shapes.

OpenAI's requests are in `asking/`, its answers in `telling/`.
"""

from msgspec import Struct

__all__ = [
    "ErrorBody",
    "ErrorDetail",
    "Health",
    "ModelCard",
    "ModelList",
    "ModelMemory",
    "ModelState",
    "WishTaken",
]


class ErrorDetail(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct):
    error: ErrorDetail


class ModelState(Struct):
    value: str
    """unloaded, loading, loaded, sleeping, failed (llama.cpp's words) or too_large."""
    rung: str
    eta_s: float | None
    fault: str | None


class ModelMemory(Struct):
    weights_bytes: int
    predicted_bytes: int
    measured_bytes: int | None


class ModelCard(Struct):
    """OpenAI's model object, and what an operator wants to know."""

    id: str
    object: str
    created: int
    owned_by: str
    aliases: tuple[str, ...]
    status: ModelState
    context_tokens: int
    memory: ModelMemory
    pinned: bool


class ModelList(Struct):
    object: str
    data: list[ModelCard]


class Health(Struct):
    status: str
    """ok, draining or unavailable."""
    worker: bool
    draining: bool
    faults: tuple[str, ...]
    running: int
    waiting: int
    uptime_s: float


class WishTaken(Struct):
    """An operator's wish is taken in; `GET /admin/ps` shows how it goes."""

    model: str
    wish: str
