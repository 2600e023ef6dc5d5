"""The server's status as clients and operators see it."""

from repertory.gateway.wire import Health, ModelCard, ModelList, ModelMemory, ModelState
from repertory.live.facade import ModelStatus, ServiceStatus

__all__ = ["health_of", "is_healthy", "model_card", "model_list"]


def model_card(model: ModelStatus, created: int) -> ModelCard:
    return ModelCard(
        id=model.name,
        object="model",
        created=created,
        owned_by="repertory",
        aliases=model.aliases,
        status=ModelState(model.status, model.rung, model.eta_s, model.fault),
        context_tokens=model.context_tokens,
        memory=ModelMemory(model.weights_bytes, model.predicted_bytes, model.measured_bytes),
        pinned=model.is_pinned,
    )


def model_list(status: ServiceStatus, created: int) -> ModelList:
    return ModelList("list", [model_card(model, created) for model in status.models])


def is_healthy(status: ServiceStatus) -> bool:
    """A server that drains answers what it has and wants no more: balancers must look elsewhere."""
    return status.is_ready and not status.is_draining


def health_of(status: ServiceStatus) -> Health:
    word = "ok" if status.is_ready else "unavailable"
    return Health(
        status="draining" if status.is_draining else word,
        worker=status.is_ready,
        draining=status.is_draining,
        faults=status.faults,
        running=status.running,
        waiting=status.waiting,
        uptime_s=status.uptime_s,
    )
