"""What the brain's state looks like from outside: the rows of `ps`."""

from dataclasses import dataclass

from repertory.core.state import ModelState, ReplicaState, State
from repertory.domain.actions import Load
from repertory.domain.ladder import Rung
from repertory.domain.specs import ModelSpec, Placement
from repertory.live.facade import DeviceStatus, ModelStatus
from repertory.perf.bytes import kv_needs, placed_footprint, rest_footprint

__all__ = ["Expected", "device_status", "highest", "model_status"]


@dataclass(frozen=True, slots=True)
class Expected:
    """A transition under way, by its prediction."""

    began_ns: int
    takes_s: float

    def left_s(self, now_ns: int) -> float:
        return max(0.0, self.takes_s - (now_ns - self.began_ns) / 1e9)

    def share(self, now_ns: int) -> float:
        """Of it that should be done by now."""
        return 1.0 - self.left_s(now_ns) / self.takes_s if self.takes_s > 0.0 else 1.0


def model_status(
    state: State, model: ModelState, expected: Expected | None, tokens_per_s: float, now_ns: int
) -> ModelStatus:
    """One row of `ps`; `expected` is what is known of its highest replica's transition."""
    spec = model.spec
    replica = highest(model)
    eta_s = None
    if replica is not None and isinstance(replica.transition, Load):
        eta_s = expected.left_s(now_ns) if expected is not None else 0.0
    shape = replica.kv if replica is not None else None
    return ModelStatus(
        name=spec.name,
        aliases=spec.aliases,
        status=_status_word(model, replica),
        rung=(replica.rung if replica is not None else Rung.DISK).value,
        device=_place_text(spec, replica.placement) if replica is not None else "",
        is_pinned=model.is_pinned,
        context_tokens=spec.context_tokens,
        running=sum(len(one.running) for one in model.replicas.values()),
        waiting=len(model.queue),
        kv_sequences=shape.sequences if shape is not None else 0,
        kv_cells=shape.cells if shape is not None else 0,
        predicted_bytes=_predicted_bytes(spec, replica),
        measured_bytes=_measured_bytes(state, replica),
        weights_bytes=spec.weights_bytes,
        eta_s=eta_s,
        fault=model.fault or model.misfit,
        tokens_per_s=tokens_per_s,
    )


def highest(model: ModelState) -> ReplicaState | None:
    order = {Rung.SERVING: 0, Rung.DEVICE: 1, Rung.HOST: 2, Rung.DISK: 3}
    return min(model.replicas.values(), key=lambda one: (order[one.rung], one.id), default=None)


def _status_word(model: ModelState, replica: ReplicaState | None) -> str:
    if model.fault is not None:
        return "failed"
    if model.misfit is not None:
        return "too_large"
    if replica is None or (replica.rung is Rung.HOST and replica.transition is None):
        return "unloaded"
    if replica.rung is Rung.SERVING:
        return "loaded"
    if replica.transition is not None and replica.leaving is None:
        return "loading"
    return "sleeping" if replica.rung is Rung.DEVICE else "unloaded"


def _place_text(spec: ModelSpec, placement: Placement) -> str:
    devices = "+".join(placement.devices)
    if placement.layers is None:
        return devices
    return f"{devices} ({placement.layers} of {spec.layers} layers)"


def _predicted_bytes(spec: ModelSpec, replica: ReplicaState | None) -> int:
    if replica is None or replica.rung not in (Rung.DEVICE, Rung.SERVING):
        return 0
    placement = replica.placement
    foots = [placed_footprint(spec, placement)] * len(placement.devices)
    if placement.rest is not None:
        foots.append(rest_footprint(spec, placement))
    if replica.rung is not Rung.SERVING or replica.kv is None:
        return sum(foot.weights_bytes for foot in foots)
    return sum(foot.resting_bytes for foot in foots) + sum(
        kv_needs(spec, placement, replica.kv).values()
    )


def _measured_bytes(state: State, replica: ReplicaState | None) -> int | None:
    if replica is None or replica.rung not in (Rung.DEVICE, Rung.SERVING):
        return None
    return sum(ledger.held_by(replica.id) for ledger in state.ledgers_of(replica))


def device_status(state: State) -> tuple[DeviceStatus, ...]:
    return tuple(
        DeviceStatus(
            device.id,
            node.id,
            device.backend,
            ledger.budget_bytes,
            ledger.charged,
            ledger.peak,
        )
        for _, node in sorted(state.nodes.items())
        for device in node.devices
        for ledger in (state.devices[device.id],)
    )
