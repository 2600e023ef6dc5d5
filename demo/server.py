"""`repertory serve` as a child, and what can be seen of it from outside."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import psutil

from repertory.live.facade import ServiceStatus

__all__ = ["Memory", "ServerFailed", "running_server", "sample_memory", "watch_status"]

_START_S = 60.0
_STOP_S = 20.0
_URL = re.compile(r"at (http://\S+)/v1")


class ServerFailed(Exception):
    """The server did not start, or ended by itself."""


@dataclass(slots=True)
class Memory:
    """PSS of the server and all its children."""

    now_bytes: int = 0
    peak_bytes: int = 0
    samples: int = 0


@dataclass(slots=True)
class Server:
    process: asyncio.subprocess.Process
    log: Path
    url: str = ""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self) -> None:
        """Raises when the server ends while it should serve."""
        await self._ended.wait()
        raise ServerFailed(f"the server ended by itself; its last words:\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    async def read(self, greeted: asyncio.Future[str]) -> None:
        """Its messages go to a file; the greeting names its port."""
        assert self.process.stderr is not None
        with self.log.open("w") as log:
            async for line in self.process.stderr:
                text = line.decode(errors="replace")
                log.write(text)
                log.flush()
                if (found := _URL.search(text)) and not greeted.done():
                    greeted.set_result(found[1])
        self._ended.set()
        if not greeted.done():
            greeted.set_exception(ServerFailed(f"no server:\n{self.last_words()}"))


@contextlib.asynccontextmanager
async def running_server(command: Sequence[str], log: Path) -> AsyncIterator[Server]:
    """Started, greeted, and stopped whatever happens.

    It has a session of its own: a Ctrl-C in the terminal is ours, and we then end it.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "repertory", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    server = Server(process, log)
    greeted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(server.read(greeted))
    try:
        async with asyncio.timeout(_START_S):
            server.url = await greeted
        yield server
    finally:
        await _stop(process)
        await reading


async def _stop(process: asyncio.subprocess.Process) -> None:
    """It drains on the first signal, stops on the second, and is killed when it heeds neither."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S / 2):
                await process.wait()
                return
    await process.wait()


async def watch_status(url: str, every_s: float) -> AsyncIterator[ServiceStatus]:
    """`/admin/ps`, as `repertory ps` reads it."""
    async with aiohttp.ClientSession(trust_env=False) as session:
        while True:
            async with session.get(f"{url}/admin/ps") as reply:
                yield msgspec.json.decode(await reply.read(), type=ServiceStatus)
            await asyncio.sleep(every_s)


async def sample_memory(pid: int, memory: Memory, every_s: float = 0.1) -> None:
    """Ten times a second, by the kernel's own count and not by the server's."""
    loop = asyncio.get_running_loop()
    next_s = loop.time()
    while True:
        memory.now_bytes = await asyncio.to_thread(_family_bytes, pid)
        memory.peak_bytes = max(memory.peak_bytes, memory.now_bytes)
        memory.samples += 1
        next_s = max(next_s + every_s, loop.time())
        await asyncio.sleep(next_s - loop.time())


def _family_bytes(pid: int) -> int:
    total_bytes = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                total_bytes += process.memory_full_info().pss
    return total_bytes
