"""How a worker is started: the server's, and the one that is measured."""

import json
import sys

from repertory.engines.llamacpp import ENVIRONMENT
from repertory.fleet.child import WorkerCommand
from repertory.live.options import ServeConfig

__all__ = ["NODE", "worker_command"]

NODE = "local"


def worker_command(config: ServeConfig) -> WorkerCommand:
    """How a worker is started; its fleet lives in the same state folder."""
    arguments = [sys.executable, "-m", "repertory.engines.llamacpp.worker"]
    arguments += ["--socket", "{fd}", "--node", NODE, "--devices", _devices_json(config)]
    arguments += ["--state-dir", str(config.state_dir)]
    arguments += ["--saved-kv-bytes", str(config.saved_kv_bytes)]
    arguments += ["--saved-kv-disk-bytes", str(config.saved_kv_disk_bytes)]
    for endpoint in config.rpc:
        arguments += ["--rpc", endpoint]
    if config.is_exact:
        arguments.append("--exact")
    return WorkerCommand("worker", tuple(arguments), ENVIRONMENT)


def _devices_json(config: ServeConfig) -> str:
    """Budgets are corrected when the worker's own memory is known (`_budgeted`)."""
    if config.devices is None:
        return json.dumps([{"id": "cpu0", "memory_bytes": config.memory_bytes}])
    return json.dumps(
        [
            {
                "id": one.id,
                "memory_bytes": one.memory_bytes or config.memory_bytes,
                "cores": list(one.cores) or None,
                "backend": "cpu" if one.cores else "accelerator",
            }
            for one in config.devices
        ]
    )
