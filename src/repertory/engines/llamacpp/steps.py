"""The step thread of one device: the only caller of `llama_decode` there.

libgomp makes a pool of threads per *calling* thread, hence the single caller; and models that
share a device share one loop, so that they take turns instead of fighting for its cores.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from repertory.domain.errors import EngineError
from repertory.engines.contract import Frame
from repertory.engines.llamacpp.serving import Serving
from repertory.engines.llamacpp.team import Team
from repertory.policy.share import Contender, Run, entry_ns, next_run

__all__ = ["Cores", "StepLoop"]

_log = logging.getLogger(__name__)
_EXIT_BROKEN = 70  # EX_SOFTWARE
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Cores:
    """The CPU cores that a device's step thread may use."""

    count: int
    ids: frozenset[int] | None = None
    """None: wherever the kernel puts it."""


class StepLoop:
    """Steps the serving replicas of one device; commands apply between steps."""

    def __init__(
        self,
        cores: Cores,
        emit: Callable[[Frame], None],
        is_moving: Callable[[], bool],
        name: str,
    ) -> None:
        self.steps = 0
        self._cores = cores
        self._team = Team(cores.count)
        self._emit = emit
        self._is_moving = is_moving
        self._serving: dict[str, Serving] = {}
        self._busy: frozenset[str] = frozenset()
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"step-{name}", daemon=True)
        self._thread.start()

    @property
    def threads(self) -> int:
        """Compute threads of the next step: a core is left to the mover while it works."""
        free = self._cores.count - 1 if self._is_moving() else self._cores.count
        return max(1, min(free, self._team.threads))

    def call(self, command: Callable[[], _Answer]) -> Future[_Answer]:
        """Run `command` on the step thread, between steps."""
        future: Future[_Answer] = Future()

        def apply() -> None:
            try:
                future.set_result(command())
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                future.set_exception(error)

        self._commands.append(apply)
        self._wake.set()
        return future

    def open(self, serving: Serving) -> None:
        """Step this replica from now on.  On the step thread."""
        self._serving[serving.name] = serving

    def shut(self, name: str) -> Serving:
        """Step this replica no more; it must be idle.  On the step thread."""
        serving = self.get(name)
        if not serving.is_idle:
            raise EngineError(f"replica {name} has generations running")
        return self._serving.pop(name)

    def get(self, name: str) -> Serving:
        """A serving replica.  On the step thread."""
        if name not in self._serving:
            raise EngineError(f"no replica {name} is serving on this device")
        return self._serving[name]

    def cancel(self, generation_id: str) -> None:
        """Forget a generation wherever it runs.  On the step thread."""
        for serving in self._serving.values():
            if serving.cancel(generation_id):
                return

    def hold(self, generation_id: str, is_held: bool) -> None:
        """Keep a generation out of the steps, or let it go on.  On the step thread."""
        for serving in self._serving.values():
            if serving.hold(generation_id, is_held):
                return

    def step_seconds(self) -> dict[str, float]:
        """Device time per replica so far.  From any thread: a snapshot."""
        return {one.name: one.total_ns / 1e9 for one in list(self._serving.values())}

    def close(self) -> None:
        """End the thread after its current step."""
        self._is_closed = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._cores.ids is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, self._cores.ids)
            while not self._is_closed:
                self._apply_commands()
                run = next_run(self._contenders())
                if run is None:
                    self._wait()
                else:
                    self._execute(run)
        except BaseException:  # noqa: BLE001 - ends the process, loudly
            # A worker that no longer steps must not look alive: its server restarts it.
            _log.critical("the step thread broke", exc_info=True)
            os._exit(_EXIT_BROKEN)

    def _apply_commands(self) -> None:
        for _ in range(len(self._commands)):  # those that come meanwhile wait for the next step
            self._commands.popleft()()

    def _wait(self) -> None:
        self._wake.wait()
        self._wake.clear()

    def _contenders(self) -> list[Contender]:
        busy = {name: one for name, one in self._serving.items() if one.has_work}
        floor_ns = entry_ns(one.used_ns for name, one in busy.items() if name in self._busy)
        for name, one in busy.items():
            if name not in self._busy:
                one.used_ns = floor_ns
        self._busy = frozenset(busy)
        return [Contender(one.name, one.used_ns, one.expected_ns) for one in busy.values()]

    def _execute(self, run: Run) -> None:
        """One step at least: commands that come one after another must not hold up the streams."""
        serving = self._serving[run.name]
        left: float = float("inf") if run.steps is None else run.steps
        is_going_on = True
        while is_going_on:
            began_ns, computed_ns = time.monotonic_ns(), time.thread_time_ns()
            told = serving.step(self.threads)
            now_ns = time.monotonic_ns()
            self._team.note(now_ns, now_ns - began_ns, time.thread_time_ns() - computed_ns)
            self.steps += 1
            left -= 1
            if told:
                self._emit(Frame(time.monotonic_ns(), told))
            is_wanted = left > 0 and serving.has_work
            is_going_on = is_wanted and not self._commands and not self._is_closed
