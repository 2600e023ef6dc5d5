"""A device of a worker."""

from dataclasses import dataclass

from repertory.domain.errors import EngineError
from repertory.domain.specs import DeviceSpec, ModelSpec, Placement
from repertory.engines.llamacpp.context import ContextOptions
from repertory.engines.llamacpp.library import Accelerator
from repertory.engines.llamacpp.steps import StepLoop

__all__ = ["Device"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device of this worker, and the loop that steps on it."""

    spec: DeviceSpec
    loop: StepLoop
    options: ContextOptions
    accelerator: Accelerator | None = None

    def check_layers(self, spec: ModelSpec, placement: Placement) -> None:
        """Raise unless it can hold as many of the model's layers as it is to hold."""
        if placement.layers is None:
            return
        if self.accelerator is None:
            raise EngineError(f"{self.spec.id} is a set of cores: it holds whole models")
        if not 0 < placement.layers <= spec.layers:
            raise EngineError(f"{spec.name} has {spec.layers} layers, not {placement.layers}")
