"""Workers as supervised children of the server, on this machine.

    async with LocalFleet(state_folder) as fleet:
        worker = fleet.keep(command, on_up=…, on_lost=…)

A worker that dies is started again, later each time, until too many deaths in a row open the
breaker.  Whoever leaves the block leaves no process behind; a server that is killed takes its
workers with it (`leash.py`), and where even that failed, the next server ends them (`identity.py`).
"""

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from repertory.fleet.child import Child, WorkerCommand, spawn
from repertory.fleet.identity import Reaped, hold_state, reap_orphans

__all__ = ["Backoff", "LocalFleet", "Loss", "RestartPolicy", "Worker", "WorkerCommand"]


LAST_WORDS_LINES = 5


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a worker that died is started again."""

    first_s: float = 0.2
    """Doubles with each death in a row."""
    longest_s: float = 10.0
    deaths: int = 5
    """More than so many within `window_s` open the breaker."""
    window_s: float = 60.0
    recovered_s: float = 5.0
    """A worker that was up so long did its work (it starts in one second, and generations go on):
    whatever ends it then, the next pause is the first one again."""
    breaker_s: float = 60.0
    """How long an open breaker keeps the worker down.  Then one more try: if that does not recover
    either, the breaker opens again."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker is gone, or did not start."""

    name: str
    reason: str
    """How it ended, its last words, and what follows."""
    retry_s: float
    """Seconds until it is started again."""


class Backoff:
    """The restart policy's memory of one worker's deaths.  Pure: times are given to it."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._recent_s: deque[float] = deque(maxlen=policy.deaths + 1)
        self._in_a_row = 0
        self.is_open = False

    def died(self, started_s: float, died_s: float) -> float:
        """The pause before the next start."""
        policy = self._policy
        has_recovered = died_s - started_s >= policy.recovered_s
        was_probing = self.is_open and not has_recovered
        if has_recovered:
            self._in_a_row = 0
            self._recent_s.clear()
        self._in_a_row += 1
        self._recent_s.append(died_s)
        crowded = (
            len(self._recent_s) > policy.deaths and died_s - self._recent_s[0] <= policy.window_s
        )
        self.is_open = was_probing or crowded
        if self.is_open:
            return policy.breaker_s
        doublings = min(self._in_a_row - 1, 32)
        return min(policy.longest_s, policy.first_s * 2.0**doublings)


Spawn = Callable[[WorkerCommand, Path], Awaitable[Child]]


class LocalFleet:
    """The workers of one server.  Entering raises `ConfigError` if another server has the folder.

    Time is the event loop's, so a loop of virtual time needs no real one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        policy: RestartPolicy | None = None,
        stop_bound_s: float = 5.0,
        spawn_child: Spawn = spawn,
    ) -> None:
        self._folder = folder
        self._policy = policy or RestartPolicy()
        self._stop_bound_s = stop_bound_s
        self._spawn = spawn_child
        self._stack = contextlib.AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._workers: dict[str, Worker] = {}
        self.reaped: tuple[Reaped, ...] = ()
        """Workers of an earlier server that were found alive at the start, and ended."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(hold_state(self._folder))
            bound_s = self._stop_bound_s
            self.reaped = tuple(
                await asyncio.to_thread(reap_orphans, self._folder, term_bound_s=bound_s)
            )
            await stack.enter_async_context(self._group)
            stack.callback(self._cancel_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def keep(
        self,
        command: WorkerCommand,
        *,
        on_up: Callable[[Child], None],
        on_lost: Callable[[Loss], None],
    ) -> "Worker":
        """Start a worker and keep it up.  `on_up` comes at each start, `on_lost` at each end that
        nobody asked for; an error in either ends the fleet."""
        name = command.name
        assert name.replace("-", "").replace("_", "").isalnum(), f"{name!r} names no file"
        assert name not in self._workers, f"{name!r} is kept already"
        worker = Worker(name, Backoff(self._policy), self._stop_bound_s)
        start = partial(self._spawn, command, self._folder)
        task = self._group.create_task(worker._keep(start, on_up, on_lost), name=f"keep {name}")
        task.add_done_callback(lambda _: self._workers.pop(name))
        worker._task = task
        self._workers[name] = worker
        return worker

    def _cancel_all(self) -> None:
        for worker in self._workers.values():
            worker._task.cancel()


class Worker:
    """A worker that is kept up."""

    _task: asyncio.Task[None]

    def __init__(self, name: str, backoff: Backoff, stop_bound_s: float) -> None:
        self.name = name
        self._backoff = backoff
        self._stop_bound_s = stop_bound_s
        self._child: Child | None = None
        self._verdict: str | None = None

    async def stop(self) -> None:
        """End it for good: its socket closes, SIGTERM, and SIGKILL after the bound."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def kill(self, verdict: str) -> None:
        """Kill a worker that is stuck; it is started again like one that died by itself."""
        if self._child is not None:
            self._verdict = verdict
            self._child.kill()

    def bound_log(self) -> None:
        """Keep its log from growing for ever."""
        if self._child is not None:
            self._child.bound_log()

    async def _keep(
        self,
        start: Callable[[], Awaitable[Child]],
        on_up: Callable[[Child], None],
        on_lost: Callable[[Loss], None],
    ) -> None:
        now_s = asyncio.get_running_loop().time
        while True:
            started_s = now_s()
            reason = await self._live(start, on_up)
            retry_s = self._backoff.died(started_s, now_s())
            outlook = f"starts again in {retry_s:g} s"
            if self._backoff.is_open:
                outlook = f"it died too often, so the breaker is open: {outlook}"
            on_lost(Loss(self.name, f"{reason}; {outlook}", retry_s))
            await asyncio.sleep(retry_s)

    async def _live(
        self, start: Callable[[], Awaitable[Child]], on_up: Callable[[Child], None]
    ) -> str:
        """One life of the worker; returns how it ended."""
        try:
            child = await start()
        except OSError as error:
            return f"did not start: {error.strerror}"
        self._child, self._verdict = child, None
        try:
            on_up(child)
            code = await child.wait()
            return _reason(code, self._verdict, child.last_words())
        finally:
            self._child = None
            await self._end(child)

    async def _end(self, child: Child) -> None:
        """Nothing of it is left afterwards, whether it ended by itself or is asked to now."""
        child.writer.close()
        child.terminate()
        try:
            async with asyncio.timeout(self._stop_bound_s):
                await child.wait()
        except BaseException as error:
            child.kill()
            if not isinstance(error, TimeoutError):
                raise
            await child.wait()


def _reason(code: int, verdict: str | None, last_words: str) -> str:
    if verdict is not None:
        how = f"killed by the server ({verdict})"
    elif code == -signal.SIGKILL:
        how = "killed by SIGKILL, not by us (out of memory?)"
    elif code < 0:
        how = f"killed by {_signal_name(-code)}"
    else:
        how = f"ended with exit code {code}"
    tail = " | ".join(last_words.splitlines()[-LAST_WORDS_LINES:])
    return f"{how}; its last words: {tail}" if tail else how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
