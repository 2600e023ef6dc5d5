"""The step loop of one device: the only caller of `llama_decode` there.

Models that share a device share one loop, so that they never fight for its cores.  On two cores,
two models with work run side by side: two *lanes*, each with one core.  A decode step waits for
memory more than it computes, and a second thread gains it little.  Measured, ms per step of one
sequence:

    models            in turns, two threads each    side by side, one thread each
    300M and 1.1B     23.2 and 49.0                 19.4 and 43.8
    50M and 1.1B       5.2 and 49.0                  3.9 and 46.5
    two 300M          23.2 and 23.2                 16.3 and 17.0

And a long prompt of one model no longer holds up the tokens of another.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from repertory.domain.errors import EngineError
from repertory.engines.contract import Frame, TokenStep
from repertory.engines.llamacpp.serving import Serving
from repertory.engines.llamacpp.team import Team
from repertory.policy.requests.share import QUANTUM_NS, Contender, StepKind, entry_ns, next_run

__all__ = ["Cores", "StepLoop"]

_log = logging.getLogger(__name__)
_EXIT_BROKEN = 70  # EX_SOFTWARE
_LANES = 2
"""One for each core of two, with one thread each.  Lanes of more threads have a pool each, for
ever, and libgomp hardly spins where pools hold more threads than there are cores: a 50M takes 1.5
times as long.  Larger sets of cores take turns until that is solved."""
_TELLING_NS = 8_000_000
"""Tokens go out so often at most, but for a first and a last one: nobody reads faster than that,
and each telling wakes two processes, on cores that compute.  Steps of a 50M take 2.5 ms."""
_ALL = ""
"""In place of a replica's name."""
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Cores:
    """The CPU cores that a device's steps may use."""

    count: int
    ids: frozenset[int] | None = None
    """None: wherever the kernel puts it."""


@dataclass(frozen=True, slots=True)
class _Command:
    """Something to do between two steps of a replica, or of all."""

    replica: str
    """Or `_ALL`."""
    apply: Callable[[], None]


class StepLoop:
    """Steps the serving replicas of one device; commands apply between steps.

    What a lane does, a step or a command, is *under way*; there is never more than one of a
    replica, and a command for all runs alone.
    """

    def __init__(
        self,
        cores: Cores,
        emit: Callable[[Frame], None],
        is_moving: Callable[[], bool],
        name: str,
    ) -> None:
        lanes = _LANES if cores.count == _LANES else 1
        self._cores = cores
        self._team = Team(cores.count)
        self._emit = emit
        self._is_moving = is_moving
        self._one_speaker = threading.Lock()
        self._changed = threading.Condition()
        """Guards what follows; notified when more may be done."""
        self._serving: dict[str, Serving] = {}
        self._busy: frozenset[str] = frozenset()
        self._commands: deque[_Command] = deque()
        self._under_way: dict[str, int] = {}
        """Threads that compute, by replica."""
        self._is_wanted = False
        """A replica has more than its share of the cores, and another waits."""
        self._is_closed = False
        self._stepped = [0] * lanes
        self._threads = [
            threading.Thread(
                target=self._run, args=(lane,), name=f"step-{name}.{lane}", daemon=True
            )
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def steps(self) -> int:
        """Steps so far."""
        return sum(self._stepped)

    @property
    def threads(self) -> int:
        """Compute threads of a step that is alone: a core is left to the mover while it works."""
        return max(1, min(self._free_cores, self._team.threads))

    @property
    def _free_cores(self) -> int:
        return max(1, self._cores.count - 1) if self._is_moving() else self._cores.count

    def call(self, command: Callable[[], _Answer], replica: str = _ALL) -> Future[_Answer]:
        """Run `command` between two steps of a replica, or between all steps."""
        future: Future[_Answer] = Future()

        def apply() -> None:
            try:
                future.set_result(command())
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                future.set_exception(error)

        with self._changed:
            self._commands.append(_Command(replica, apply))
            self._changed.notify_all()
        return future

    def at_once(self, command: Callable[[], _Answer], replica: str = _ALL) -> _Answer:
        """Like `call`, and waited for; where no step is under way, the caller does it himself.

        For what computes nothing (libgomp keeps a pool of threads for each thread that computes):
        of two threads on idle cores, each takes 0.1 ms to wake the other.
        """
        with self._changed:
            mine = self._under_way if replica == _ALL else self._under_way.keys() & {_ALL, replica}
            is_free = not mine and not self._commands
            if is_free:
                self._under_way[replica] = 0
        if not is_free:
            return self.call(command, replica).result()
        try:
            return command()
        finally:
            self._end(replica)

    def open(self, serving: Serving) -> None:
        """Step this replica from now on."""
        with self._changed:
            self._serving[serving.name] = serving

    def shut(self, name: str) -> Serving:
        """Step this replica no more; it must be idle.  By a command for it."""
        serving = self.get(name)
        if not serving.is_idle:
            raise EngineError(f"replica {name} has generations running")
        with self._changed:
            return self._serving.pop(name)

    def get(self, name: str) -> Serving:
        """A serving replica.  To be changed by commands for it."""
        serving = self._serving.get(name)
        if serving is None:
            raise EngineError(f"no replica {name} is serving on this device")
        return serving

    def cancel(self, generation_id: str) -> None:
        """Forget a generation wherever it runs.  By a command for all."""
        for serving in self._serving.values():
            if serving.cancel(generation_id):
                return

    def interrupt(self, generation_id: str) -> None:
        """End the step that computes it, before `preempt` is called for.  From any thread.

        A step met by the server's work for that very request takes five times its time, and who
        is to be stopped wants none of it.  What is asked for too early holds up no more than the
        moment until the command is there; asked for after it, it would never end.
        """
        for serving in list(self._serving.values()):
            serving.interrupt(generation_id)

    def preempt(self, generation_id: str) -> None:
        """Free its slot, and tell that it may be submitted again.  By a command for all: what it
        has made by now was told at the end of its last turn.
        """
        for serving in self._serving.values():
            serving.context.interrupt.withdraw()
        for serving in self._serving.values():
            share_ns = serving.share_ns(generation_id)
            if share_ns is None:
                continue
            serving.cancel(generation_id)
            with self._one_speaker:
                step = TokenStep(generation_id, (), "", is_preempted=True, share_ns=share_ns)
                self._emit(Frame(time.monotonic_ns(), (step,)))

    def hold(self, generation_id: str, is_held: bool) -> None:
        """Keep a generation out of the steps, or let it go on.  By a command for all."""
        for serving in self._serving.values():
            if serving.hold(generation_id, is_held):
                return

    def step_seconds(self) -> dict[str, float]:
        """Device time per replica so far.  From any thread: a snapshot."""
        return {one.name: one.total_ns / 1e9 for one in list(self._serving.values())}

    def close(self) -> None:
        """End the lanes after their current steps."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, lane: int) -> None:
        try:
            if self._cores.ids is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, self._cores.ids)
            while (work := self._await_work(lane)) is not None:
                work()
        except BaseException:  # noqa: BLE001 - ends the process, loudly
            # A worker that no longer steps must not look alive: its server restarts it.
            _log.critical("a step thread broke", exc_info=True)
            os._exit(_EXIT_BROKEN)

    def _await_work(self, lane: int) -> Callable[[], None] | None:
        """What this lane does next; None: it ends."""
        with self._changed:
            while not self._is_closed:
                work = self._next_work(lane)
                if work is not None:
                    return work
                self._changed.wait()
        return None

    def _next_work(self, lane: int) -> Callable[[], None] | None:
        """The first command that may run now, or a turn of some replica.

        Commands for one replica keep their order.  Before one for all, nothing else begins; it may
        compute, and does so in the first lane, for the sake of libgomp's pools.
        """
        if _ALL in self._under_way:
            return None
        awaited: set[str] = set()
        for index, command in enumerate(self._commands):
            name = command.replica
            if name == _ALL and (self._under_way or lane):
                return None
            if name in self._under_way or name in awaited:
                awaited.add(name)
                continue
            del self._commands[index]
            self._under_way[name] = 0
            return partial(self._apply, command)
        return self._next_turn(lane, awaited)

    def _next_turn(self, lane: int, awaited: set[str]) -> Callable[[], None] | None:
        busy = {
            name: one
            for name, one in self._serving.items()
            if name in self._under_way or one.has_work
        }
        self._enter(busy)
        free_cores = self._free_cores
        sharing = max(1, min(len(busy), len(self._threads), free_cores))
        if lane >= sharing:  # libgomp makes a pool of threads for each caller: no more than needed
            return None
        ready = [
            Contender(name, one.used_ns, one.expected_ns)
            for name, one in busy.items()
            if name not in self._under_way and name not in awaited and one.has_work
        ]
        run = next_run(ready)
        if run is None:
            return None
        share = free_cores // sharing
        threads = min(share, self._team.threads)
        if sum(self._under_way.values()) + threads > free_cores:
            self._is_wanted = any(one > share for one in self._under_way.values())
            return None
        serving, steps = busy[run.name], run.steps
        if steps is None and len(busy) > 1:
            steps = max(1, QUANTUM_NS // max(1, serving.expected_ns))
        self._under_way[run.name] = threads
        return partial(self._take_turn, lane, serving, steps, threads, sharing)

    def _enter(self, busy: dict[str, Serving]) -> None:
        """Who becomes busy starts level with those who are."""
        floor_ns = entry_ns(one.used_ns for name, one in busy.items() if name in self._busy)
        for name, one in busy.items():
            if name not in self._busy:
                one.used_ns = floor_ns
        self._busy = frozenset(busy)

    def _apply(self, command: _Command) -> None:
        command.apply()
        self._end(command.replica)

    def _take_turn(
        self, lane: int, serving: Serving, steps: int | None, threads: int, sharing: int
    ) -> None:
        """One step at least: commands that come one after another must not hold up the streams."""
        left: float = float("inf") if steps is None else steps
        news: list[TokenStep] = []
        told_ns = 0
        is_going_on, has_begun = True, False
        while is_going_on:
            if sharing == 1:
                threads = self._under_way[serving.name] = self.threads
                if has_begun and threads > 1 and serving.next is StepKind.DECODE:
                    threads -= 1  # for the server and the client, who carry a first token out
            began_ns, computed_ns = time.monotonic_ns(), time.thread_time_ns()
            told = serving.step(threads, sharing)
            now_ns = time.monotonic_ns()
            if threads == self._team.threads:
                self._team.note(now_ns, now_ns - began_ns, time.thread_time_ns() - computed_ns)
            self._stepped[lane] += 1
            left -= 1
            is_free = not self._commands and not self._is_wanted and not self._is_closed
            is_going_on = left > 0 and is_free and serving.has_work
            has_begun = bool(told) and serving.last is StepKind.PREFILL
            news += told
            if news and (
                not is_going_on
                or now_ns - told_ns >= _TELLING_NS
                or serving.last is StepKind.PREFILL
                or any(one.finish or one.error for one in told)
            ):
                told_ns = now_ns
                with self._one_speaker:  # frames of all lanes in the order of their times
                    self._emit(Frame(time.monotonic_ns(), tuple(news)))
                news = []
        self._end(serving.name)

    def _end(self, name: str) -> None:
        with self._changed:
            del self._under_way[name]
            self._is_wanted = False
            self._changed.notify_all()
