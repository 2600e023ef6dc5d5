"""The server's status as rows for a terminal."""

from collections.abc import Sequence

from repertory.live.facade import DeviceStatus, ModelStatus, ServiceStatus
from repertory.reports.figures import bytes_text, seconds_text

__all__ = ["DEVICE_COLUMNS", "MODEL_COLUMNS", "device_row", "model_row", "notes"]

MODEL_COLUMNS = (
    *("MODEL", "STATUS", "RUNG", "DEVICE", "PREDICTED", "MEASURED"),
    *("KV", "RUNNING", "WAITING", "PIN", "TOKENS/S"),
)
DEVICE_COLUMNS = ("DEVICE", "BACKEND", "BUDGET", "CHARGED", "FREE", "PEAK")


def model_row(model: ModelStatus) -> Sequence[str]:
    """KV is sequences x cells, as in the context classes."""
    status = model.status
    if model.eta_s is not None:
        status += f" ({seconds_text(model.eta_s)} left)"
    return (
        model.name,
        status,
        model.rung,
        model.device or "-",
        bytes_text(model.predicted_bytes or None),
        bytes_text(model.measured_bytes),
        f"{model.kv_sequences}x{model.kv_cells}" if model.kv_sequences else "-",
        str(model.running),
        str(model.waiting),
        "pinned" if model.is_pinned else "",
        f"{model.tokens_per_s:.1f}",
    )


def device_row(device: DeviceStatus) -> Sequence[str]:
    return (
        f"{device.node_id}/{device.id}",
        device.backend,
        bytes_text(device.budget_bytes),
        bytes_text(device.charged_bytes),
        bytes_text(device.budget_bytes - device.charged_bytes),
        bytes_text(device.peak_charged_bytes),
    )


def notes(status: ServiceStatus) -> list[str]:
    """What the tables do not say: the whole, and what is wrong."""
    lines = [
        f"{status.running} running, {status.waiting} waiting, {status.tokens_per_s:.1f} tokens/s, "
        f"up {seconds_text(status.uptime_s)}",
        f"memory: processes {bytes_text(status.process_bytes)} of {bytes_text(status.memory_bytes)}"
        f" (overhead {bytes_text(status.overhead_bytes)})",
    ]
    if status.is_draining:
        lines.append("draining: no new requests are taken")
    elif not status.is_ready:
        lines.append("not ready: no worker is up")
    if status.log_dropped:
        lines.append(f"decision log: {status.log_dropped} decisions could not be written")
    faults = [*status.faults]
    faults += [f"{model.name}: {model.fault}" for model in status.models if model.fault]
    lines += [f"fault: {fault}" for fault in dict.fromkeys(faults)]
    return lines
