"""What this machine's processes really hold: PSS, read from the kernel."""

from pathlib import Path

__all__ = ["process_bytes"]


def process_bytes(pid: int | str = "self") -> int:
    """PSS of a process: its own pages, and its share of those it shares.  0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
