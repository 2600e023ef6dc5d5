"""The environment: the only module that reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repertory.domain.errors import ConfigError

__all__ = ["Environment", "read_environment"]


@dataclass(frozen=True, slots=True)
class Environment:
    """REPERTORY_HOST, REPERTORY_PORT, REPERTORY_STATE_DIR, REPERTORY_API_KEY, REPERTORY_DATA; and
    where state belongs by default.
    """

    host: str | None
    port: int | None
    state_dir: Path | None
    default_state_dir: Path
    api_key: str | None = field(default=None, repr=False)
    """What commands show a server that needs a key."""
    data_dir: Path | None = None
    """Where published traces are."""


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Empty variables count as not set."""
    found = os.environ if variables is None else variables
    port = found.get("REPERTORY_PORT")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"REPERTORY_PORT must be a port from 0 to 65535, not {port!r}")
    state_dir = found.get("REPERTORY_STATE_DIR")
    data_dir = found.get("REPERTORY_DATA")
    state_home = found.get("XDG_STATE_HOME") or "~/.local/state"
    return Environment(
        host=found.get("REPERTORY_HOST") or None,
        port=int(port) if port else None,
        state_dir=Path(state_dir).expanduser() if state_dir else None,
        default_state_dir=Path(state_home).expanduser() / "repertory",
        api_key=found.get("REPERTORY_API_KEY") or None,
        data_dir=Path(data_dir).expanduser() if data_dir else None,
    )
