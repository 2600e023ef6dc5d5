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
    """One row of `ps`; `expected` is what is known of its highest replica's transition.

    Bytes and slots are of all its replicas together; the word is the highest one's.
    """
    spec = model.spec
    replica = highest(model)
    eta_s = None
    if replica is not None and isinstance(replica.transition, Load):
        eta_s = expected.left_s(now_ns) if expected is not None else 0.0
    up = [one for one in model.replicas.values() if one.rung in (Rung.DEVICE, Rung.SERVING)]
    up.sort(key=lambda one: (one.rung is not Rung.SERVING, one.id))
    shown = up or ([replica] if replica is not None else [])
    shapes = [one.kv for one in shown if one.kv is not None]
    measured = [_measured_bytes(state, one) for one in up]
    return ModelStatus(
        name=spec.name,
        aliases=spec.aliases,
        status=_status_word(model, replica),
        rung=(replica.rung if replica is not None else Rung.DISK).value,
        device=", ".join(_place_text(spec, one.placement) for one in shown),
        is_pinned=model.is_pinned,
        context_tokens=spec.context_tokens,
        running=sum(len(one.running) for one in model.replicas.values()),
        waiting=len(model.queue),
        kv_sequences=sum(shape.sequences for shape in shapes),
        kv_cells=max((shape.cells for shape in shapes), default=0),
        predicted_bytes=sum(_predicted_bytes(spec, one) for one in up),
        measured_bytes=sum(measured) if measured else None,
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


def _predicted_bytes(spec: ModelSpec, replica: ReplicaState) -> int:
    placement = replica.placement
    foots = [placed_footprint(spec, placement)] * len(placement.devices)
    if placement.rest is not None:
        foots.append(rest_footprint(spec, placement))
    if replica.rung is not Rung.SERVING or replica.kv is None:
        return sum(foot.weights_bytes for foot in foots)
    return sum(foot.resting_bytes for foot in foots) + sum(
        kv_needs(spec, placement, replica.kv).values()
    )


def _measured_bytes(state: State, replica: ReplicaState) -> int:
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
