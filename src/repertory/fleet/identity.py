"""Who our worker processes are, in a way that outlives the server: a folder of small files.

A process id alone names nobody for long, since ids are used again.  Id, start time and boot
together name one process for ever; nothing else is ever killed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repertory.domain.errors import ConfigError

__all__ = [
    "ProcessIdentity",
    "Reaped",
    "forget_worker",
    "hold_state",
    "identify",
    "reap_orphans",
    "remember_worker",
]


@contextlib.contextmanager
def hold_state(folder: Path) -> Iterator[None]:
    """Keep the state folder to one server; the kernel lets go of it when the server is gone."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot keep state here: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
            raise ConfigError(
                f"{folder}: the server with process id {owner} works on this state folder; "
                "stop it, or give this one another with --state-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, and no other one before or after it."""

    pid: int
    started_ticks: int
    """Since boot, as `/proc/PID/stat` tells it."""
    boot: str
    command_digest: str
    """Of its argument list: for whoever reads the file; two runs of one command are alike."""


def identify(pid: int, command: Sequence[str] = ()) -> ProcessIdentity | None:
    """The process that has this id now; None where there is none, or no `/proc`."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The second field, the program's name, may hold blanks and brackets.
        started_ticks = int(state.rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
    digest = hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()
    return ProcessIdentity(pid, started_ticks, boot, digest)


def remember_worker(folder: Path, name: str, identity: ProcessIdentity) -> None:
    """Write `workers/NAME.json`, whole or not at all."""
    path = _record(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(identity), indent=1) + "\n")
    os.replace(unfinished, path)


def forget_worker(folder: Path, name: str) -> None:
    _record(folder, name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Reaped:
    """A worker of an earlier server that was still alive, and how it ended."""

    name: str
    pid: int
    signal_name: str


def reap_orphans(folder: Path, *, term_bound_s: float = 5.0) -> list[Reaped]:
    """End what a crashed server left behind, and clear its records.  Blocks within the bound.

    All are asked to end at once (SIGTERM); those that have not after the bound are killed.
    Call it with the state folder held: nobody else's workers are recorded there then.
    """
    records = sorted((folder / "workers").glob("*.json"))
    with contextlib.ExitStack() as stack:
        alive = [
            (path.stem, identity.pid, handle)
            for path in records
            if (identity := _parse(path)) and (handle := _open_if_same(identity)) is not None
        ]
        for _, _, handle in alive:
            stack.callback(os.close, handle)
            _send(handle, signal.SIGTERM)
        deadline_s = time.monotonic() + term_bound_s
        reaped = []
        for name, pid, handle in alive:
            how = signal.SIGTERM
            if not _ended(handle, deadline_s - time.monotonic()):
                how = signal.SIGKILL
                _send(handle, how)
                _ended(handle, term_bound_s)
            reaped.append(Reaped(name, pid, how.name))
    for path in records:
        path.unlink(missing_ok=True)
    return reaped


def _record(folder: Path, name: str) -> Path:
    return folder / "workers" / f"{name}.json"


def _parse(path: Path) -> ProcessIdentity | None:
    """What an earlier server wrote; None where it is not what we write."""
    try:
        fields = json.loads(path.read_text())
        identity = ProcessIdentity(**fields)
    except (OSError, ValueError, TypeError):
        return None
    kinds = (identity.pid, identity.started_ticks, identity.boot)
    matches = [type(value) for value in kinds] == [int, int, str] and identity.pid > 1
    return identity if matches else None


def _open_if_same(identity: ProcessIdentity) -> int | None:
    """A handle on that very process.  Opened first and compared then, so that it cannot become
    another one in between."""
    try:
        handle = os.pidfd_open(identity.pid)
    except OSError:
        return None
    now = identify(identity.pid)
    is_same = now and (now.started_ticks, now.boot) == (identity.started_ticks, identity.boot)
    if is_same and not _ended(handle, 0.0):  # one that ended may wait for its parent for long
        return handle
    os.close(handle)
    return None


def _send(handle: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, what)


def _ended(handle: int, bound_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0.0, bound_s) * 1000))
