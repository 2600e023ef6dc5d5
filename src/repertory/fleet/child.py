"""One worker process: started on a leash, spoken to over a socket, its words in a log file."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from repertory.fleet.identity import forget_worker, identify, remember_worker
from repertory.fleet.leash import leashed

__all__ = ["Child", "WorkerCommand", "spawn"]

_log = logging.getLogger(__name__)

LOG_BYTES = 8 * 2**20
"""A log longer than this becomes `NAME.log.1`; the one before it is dropped."""
LOG_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """How to start a worker."""

    name: str
    """Names its files, too: letters, digits, `-` and `_`."""
    arguments: tuple[str, ...]
    """`{fd}` in any of them becomes the number of the worker's end of the socket."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of the server's own."""


class Child(Protocol):
    """A running worker, as supervision sees it; tests bring their own."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def wait(self) -> int:
        """The exit code; negative is the signal that killed it."""
        ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def last_words(self) -> str:
        """The end of what this run wrote to its log."""
        ...

    def bound_log(self) -> None:
        """Cut the log if it has grown too long."""
        ...


async def spawn(command: WorkerCommand, folder: Path) -> Child:
    """Start a worker with its log and its identity under the state folder."""
    ours, theirs = socket.socketpair()
    with theirs:
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        fd = theirs.fileno()
        arguments = [argument.replace("{fd}", str(fd)) for argument in command.arguments]
        try:
            with _open_log(folder / "logs" / f"{command.name}.log") as log:
                process = await asyncio.create_subprocess_exec(
                    *leashed(arguments),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log.file,
                    stderr=log.file,
                    pass_fds=(fd,),
                    env={**os.environ, **command.environment},
                    start_new_session=True,  # Ctrl-C in the server's terminal is the server's
                )
        except BaseException:
            writer.close()
            raise
    child = _Process(command.name, folder, log, process, reader, writer)
    try:
        if identity := identify(process.pid, command.arguments):
            remember_worker(folder, command.name, identity)
    except OSError:
        writer.close()
        child.kill()
        raise
    return child


class _Log:
    """An open log file, and where this run's words begin in it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.begin = os.fstat(file.fileno()).st_size


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[_Log]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            os.replace(path, path.with_name(path.name + ".1"))
    with open(path, "ab", buffering=0, opener=_private) as file:
        yield _Log(path, file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _Process:
    """A real child."""

    def __init__(
        self,
        name: str,
        folder: Path,
        log: _Log,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = process.pid
        self.reader = reader
        self.writer = writer
        self._name = name
        self._folder = folder
        self._log = log
        self._process = process
        self._is_cleared = False

    async def wait(self) -> int:
        code = await self._process.wait()
        if not self._is_cleared:  # once and at once: the id may soon be another's
            self._is_cleared = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # what a crashed worker left of its group
            forget_worker(self._folder, self._name)
        return code

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def bound_log(self) -> None:
        """The worker writes to the end of the file, wherever that is: so it may be copied and
        emptied under it.  Words of that very instant may be lost.  A full disk costs the copy."""
        log = self._log
        try:
            if log.path.stat().st_size <= LOG_BYTES:
                return
            with contextlib.suppress(OSError):
                shutil.copyfile(log.path, log.path.with_name(log.path.name + ".1"))
            os.truncate(log.path, 0)
            log.begin = 0
        except OSError as error:
            _log.warning("%s cannot be cut: %s", log.path, error)

    def last_words(self) -> str:
        with open(self._log.path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log.begin, end - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
