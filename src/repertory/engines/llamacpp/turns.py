"""One thread that does jobs one after another; a long one lets short ones in on its way."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

__all__ = ["Turns", "be_nice"]

_Answer = TypeVar("_Answer")
_NICENESS = 10


@dataclass(frozen=True, slots=True)
class _Job:
    subject: str
    run: Callable[[], Any]  # Any: each job has an answer of its own
    is_short: Callable[[], bool]
    future: "Future[Any]"


class Turns:
    """Jobs in the order of arrival, on one thread.

    1. One job runs at a time.
    2. A long job may let short ones in, at points of its choice; they run on the same thread, and
       let nobody in.
    3. Jobs about one subject keep their order.
    4. What a job let in is no part of what it took: `aside_ns` grows by the time of the others.
    5. What a job leaves to be done is done after its answer, and before the next job begins.
    """

    def __init__(self, name: str, begin: Callable[[], None] = lambda: None) -> None:
        """`begin` runs first, on the thread."""
        self.aside_ns = 0
        self.tidying = threading.Lock()
        """Held from an answer until what that job left is done."""
        self._left: list[Callable[[], None]] = []
        self._begin = begin
        self._waiting: deque[_Job] = deque()
        self._subjects: list[str] = []
        """Of the job that runs, and of the one that it let in."""
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(
        self, subject: str, run: Callable[[], _Answer], is_short: Callable[[], bool]
    ) -> "Future[_Answer]":
        """`is_short` is asked on the thread, when a long job lets others in."""
        future: Future[_Answer] = Future()
        with self._changed:
            self._waiting.append(_Job(subject, run, is_short, future))
            self._changed.notify()
        return future

    def leave(self, do: Callable[[], None]) -> None:
        """By the job that runs: whoever waits for its answer need not wait for this."""
        self._left.append(do)

    def let_in(self) -> bool:
        """By the job that runs: do what is short and waits.  Whether there was any."""
        if len(self._subjects) > 1:
            return False
        began_ns = time.monotonic_ns()
        job = self._next_short()
        if job is None:
            return False
        while job is not None:
            self._do(job)
            job = self._next_short()
        self.aside_ns += time.monotonic_ns() - began_ns
        return True

    def _next_short(self) -> _Job | None:
        with self._changed:
            waiting = tuple(self._waiting)
        passed = set(self._subjects)
        for job in waiting:
            if job.subject not in passed and job.is_short():
                with self._changed:
                    self._waiting.remove(job)
                return job
            passed.add(job.subject)
        return None

    def _run(self) -> None:
        self._begin()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                job = self._waiting.popleft()
            self._do(job)

    def _do(self, job: _Job) -> None:
        self._subjects.append(job.subject)
        try:
            answer = partial(job.future.set_result, job.run())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asked
            answer = partial(job.future.set_exception, error)
        with self.tidying:
            answer()
            while self._left:
                self._left.pop(0)()
        self._subjects.pop()


def be_nice() -> None:
    """By a thread whose work may wait for everybody else's."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
