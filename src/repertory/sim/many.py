"""Several runs at once, each in a process of its own, as many as there are cores.

A run is the same whichever process it is in, and however many run beside it.
"""

import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from repertory.domain.errors import RepertoryError
from repertory.domain.workloads import Arrival, Origin, RunHeader
from repertory.sim.play import Played, Scenario, play
from repertory.sim.policies import POLICIES
from repertory.sim.sinks import HashSink, LogSink
from repertory.traces.runs import RunWriter, stream_run
from repertory.traces.summary import Slo, Summary, summarise

__all__ = ["Done", "Job", "Workload", "run_job", "run_many"]

_KIB = 1024
_LOOKS_S = 0.2
"""How long the parent waits for news before it looks at its own signals again."""


class Workload(Protocol):
    """What is asked; opened in the process that plays it."""

    @property
    def name(self) -> str: ...
    def arrivals(self, seed: int) -> Iterator[Arrival]: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One run, and where it is written."""

    scenario: Scenario
    workload: Workload
    run_path: Path
    log_path: Path | None
    """The decision log; None: only its hash is kept."""
    slo: Slo

    @property
    def name(self) -> str:
        return f"{self.scenario.policy} seed {self.scenario.seed}"


@dataclass(frozen=True, slots=True)
class Done:
    """A run that has ended, by itself or because it was stopped."""

    name: str
    policy: str
    seed: int
    run: str
    """Its file."""
    played: Played
    summary: Summary
    decisions: int
    digest: str
    """Of the whole decision log."""
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str


Progress = Callable[[str, float, int], None]
"""Told a job's name, its simulated time and its requests."""


def run_many(jobs: Sequence[Job], most: int, progress: Progress) -> list[Done]:
    """In the order of the jobs.  Ctrl-C ends all of them early, and what they have is returned;
    those that had not begun are left out.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    done: dict[int, Done] = {}
    is_stopped = False
    try:
        while running or (waiting and not is_stopped):
            try:
                while waiting and not is_stopped and len(running) < most:
                    at, job = waiting.pop(0)
                    here, there = context.Pipe()
                    process = context.Process(target=_child, args=(job, there))
                    process.start()
                    there.close()
                    running[here] = (at, process)
                for news in wait(list(running), _LOOKS_S):
                    assert isinstance(news, Connection)
                    at, process = running[news]
                    ended = _hear(news, process, jobs[at], progress)
                    if ended is not None:
                        done[at] = ended
                        del running[news]
            except KeyboardInterrupt:
                is_stopped = True
                for connection in running:
                    connection.send("stop")
    finally:
        for _, process in running.values():
            process.kill()
    return [done[at] for at in sorted(done)]


def _hear(news: Connection, process: SpawnProcess, job: Job, progress: Progress) -> Done | None:
    try:
        told = news.recv()
    except EOFError:
        process.join()
        raise RepertoryError(f"{job.name}: its process died ({process.exitcode})") from None
    if isinstance(told, _Failed):
        raise RepertoryError(f"{job.name}: {told.message}")
    if isinstance(told, Done):
        process.join()
        return told
    progress(job.name, *told)
    return None


def _child(job: Job, parent: Connection) -> None:
    """Ctrl-C reaches every process of a terminal; here the parent decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def goes_on(at_s: float, requests: int) -> bool:
        parent.send((at_s, requests))
        return not parent.poll()

    try:
        parent.send(run_job(job, goes_on))
    except (RepertoryError, OSError) as error:
        parent.send(_Failed(str(error)))


def run_job(job: Job, goes_on: Callable[[float, int], bool] = lambda at_s, requests: True) -> Done:
    """Here and now."""
    scenario = job.scenario
    fleet = scenario.fleet
    header = RunHeader(
        system=scenario.policy,
        origin=Origin.SIMULATED,
        workload=job.workload.name,
        seed=scenario.seed,
        fleet=fleet.words,
        devices=len(fleet.devices),
    )
    job.run_path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writer = RunWriter(stack.enter_context(job.run_path.open("wb")), header)
        sink = HashSink()
        if job.log_path is not None:
            settings, believed = POLICIES[scenario.policy].settings, fleet.name
            if scenario.served is not None and scenario.policy == "repertory":
                settings, believed = scenario.served.settings, ""
            sink = LogSink(stack.enter_context(job.log_path.open("wb")), settings, believed)

        def arrivals() -> Iterator[Arrival]:
            return job.workload.arrivals(scenario.seed)

        try:
            played = play(scenario, arrivals(), writer.add, sink, goes_on, arrivals)
        except RepertoryError as error:
            writer.remark(str(error))
            raise
        if not played.is_whole:
            writer.remark(f"interrupted after {played.requests} requests")
        digest = sink.digest()
    summary = summarise(stream_run(job.run_path), job.slo, max(played.last_s, 1e-9))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Done(
        job.name,
        scenario.policy,
        scenario.seed,
        str(job.run_path),
        played,
        summary,
        sink.decisions,
        digest,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * _KIB,
    )
