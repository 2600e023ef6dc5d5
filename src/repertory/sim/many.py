"""Several runs at once, each in a process of its own, as many as there are cores.

A run is the same whichever process it is in, and however many run beside it.
"""

import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import BinaryIO, Protocol

from repertory.domain.errors import RepertoryError
from repertory.domain.workloads import Arrival, Origin, RunHeader
from repertory.sim.play import Played, Scenario, play
from repertory.sim.policies import POLICIES
from repertory.sim.sinks import HashSink, LogSink
from repertory.traces.runs import RunWriter, stream_run
from repertory.traces.summary import Slo, Summary, summarise

__all__ = ["Done", "Job", "Workload", "deaf_to_ctrl_c", "run_job", "run_many"]

_KIB = 1024
_LOOKS_S = 0.2
"""How long the parent waits for news before it looks again whether it is to stop."""


class Workload(Protocol):
    """What is asked; opened in the process that plays it."""

    @property
    def name(self) -> str: ...
    def __hash__(self) -> int: ...
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
    origin: Origin = Origin.SIMULATED
    """So that whoever keeps these figures beside measured ones can tell them apart."""


@dataclass(frozen=True, slots=True)
class _Failed:
    message: str


Progress = Callable[[str, float, int], None]
"""Told a job's name, its simulated time and its requests."""


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that begin here never hear it, not even while they begin: it reaches every process
    of a terminal, and the parent alone decides what it means.
    """
    resource_tracker.ensure_running()  # where it begins the signal is let through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_many(
    jobs: Sequence[Job],
    most: int,
    progress: Progress,
    is_stopped: Callable[[], bool] = lambda: False,
) -> list[Done]:
    """In the order of the jobs.  Stopped, all of them end early, and what they have is returned;
    those that had not begun are left out.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(jobs))
    running: dict[Connection, tuple[int, SpawnProcess]] = {}
    done: dict[int, Done] = {}
    is_ending = False
    try:
        while running or (waiting and not is_ending):
            if is_stopped() and not is_ending:
                is_ending = True
                for connection in running:
                    with suppress(OSError):  # it has ended, and its last word is on the way
                        connection.send("stop")
            while waiting and not is_ending and len(running) < most:
                at, job = waiting.pop(0)
                here, there = context.Pipe()
                process = context.Process(target=_child, args=(job, there))
                with deaf_to_ctrl_c():
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
    finally:
        for at, process in running.values():
            _kill(process, jobs[at])
    return [done[at] for at in sorted(done)]


def _kill(process: SpawnProcess, job: Job) -> None:
    """What it had written so far goes with it."""
    process.kill()
    process.join()
    for path in (job.run_path, job.log_path):
        if path is not None:
            with suppress(OSError):  # where it was to be there may be no folder
                _part_of(path).unlink()


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
        writer = RunWriter(stack.enter_context(_kept(job.run_path)), header)
        sink = HashSink()
        if job.log_path is not None:
            settings, believed = POLICIES[scenario.policy].settings, fleet.name
            if scenario.served is not None and scenario.policy == "repertory":
                settings, believed = scenario.served.settings, ""
            sink = LogSink(stack.enter_context(_kept(job.log_path)), settings, believed)

        def arrivals() -> Iterator[Arrival]:
            return job.workload.arrivals(scenario.seed)

        played = play(scenario, arrivals(), writer.add, sink, goes_on, arrivals)
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


@contextmanager
def _kept(path: Path) -> Iterator[BinaryIO]:
    """A file that has its name once it can be read: until then it has another, and after an error
    none.
    """
    if path.exists() and not path.is_file():  # a device, a pipe
        with path.open("wb") as file:
            yield file
        return
    part = _part_of(path)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")
