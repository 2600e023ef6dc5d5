"""Who listens on a port of this machine, as far as the kernel shows it."""

import contextlib
import os
from pathlib import Path

__all__ = ["listener_of"]

_LISTENS = "0A"


def listener_of(port: int, proc: Path = Path("/proc")) -> str | None:
    """`process 4242 (python -m repertory serve models)`; None: nobody, or nobody we may see."""
    inodes = _listening(port, proc)
    if not inodes:
        return None
    for folder in sorted(proc.iterdir(), key=lambda one: one.name):
        if folder.name.isdigit() and not inodes.isdisjoint(_sockets(folder)):
            return f"process {folder.name} ({_command(folder)})"
    return None


def _listening(port: int, proc: Path) -> set[str]:
    """Inodes of sockets that listen there."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _sockets(folder: Path) -> set[str]:
    """What a process has open; nothing, where it is another user's or gone."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for one in os.listdir(folder / "fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                found.add(os.readlink(folder / "fd" / one))
    return found


def _command(folder: Path) -> str:
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "unknown"
    text = " ".join(b" ".join(words).decode("utf-8", "replace").split())
    return text[:120] or "unknown"
