"""`simulate --fleet`: a workload on a fleet that need not exist, under several policies."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from repertory.cli.shared import FAILURE, USAGE, CtrlC, fail, table
from repertory.config import read_environment
from repertory.config.fleet import models_of, read_fleet, read_models
from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet
from repertory.domain.workloads import Arrival
from repertory.reports.figures import bytes_text, seconds_text

if TYPE_CHECKING:
    from repertory.sim.many import Done, Job
    from repertory.sim.served import Served
    from repertory.sim.world import Read
    from repertory.traces.recipes import Recipe
    from repertory.traces.summary import Slo

__all__ = ["Part", "Source", "Wanted", "read_profiles", "simulate_fleet", "source_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """Of a workload, how much is played."""

    requests: int | None
    rate_per_s: float | None
    days: str | None

    def chosen_days(self) -> tuple[int, int] | None:
        if self.days is None:
            return None
        first, _, last = self.days.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise ConfigError(f"--days {self.days!r} is no range; write it like 7-13, or 7")
        return int(first), int(last or first)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the flags say, one field for each."""

    fleet: Path
    workload: str
    part: Part
    policy: str
    models: Path | None
    seed: int
    seeds: int
    jitter: float
    profiles: Path | None
    slo: str
    log: Path | None
    out: Path
    data: Path | None
    json: bool


def simulate_fleet(wanted: Wanted) -> None:
    """Raises `ConfigError` for what is wrong with the files and the flags."""
    from repertory.sim.many import Job
    from repertory.sim.play import Scenario
    from repertory.traces.summary import parse_slo

    source = source_of(wanted.workload, wanted.data, wanted.part)
    served = _served(wanted.fleet)
    chosen = served.fleet if served is not None else read_fleet(wanted.fleet)
    chosen = _peopled(chosen, wanted, source)
    names = _policies(wanted.policy)
    read = read_profiles(wanted.profiles, chosen)
    if served is not None:
        read = {**served.read, **read}
    slo = parse_slo(wanted.slo)
    if wanted.log is not None and len(names) * wanted.seeds > 1:
        fail(USAGE, "one --log is of one run: choose one policy and one seed")
    jobs = [
        Job(
            Scenario(chosen, name, number, wanted.jitter, read, served),
            source,
            wanted.out / _file_name(source, name, number),
            wanted.log,
            slo,
        )
        for name in names
        for number in range(wanted.seed, wanted.seed + wanted.seeds)
    ]
    done = _run(jobs, source, hidden=wanted.json)
    if wanted.json:
        typer.echo(msgspec.json.encode(done).decode())
    else:
        _tell(done, slo)
    if len(done) < len(jobs) or not all(one.played.is_whole for one in done):
        fail(FAILURE, f"interrupted: {_parts(done, len(jobs))}")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a recipe by its name: both are opened where they are played."""

    name: str
    path: Path | None
    data: Path | None
    part: Part

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        if self.path is not None:
            from repertory.traces.recipes import open_file

            return open_file(self.path, _say, requests=self.part.requests)
        days, rate_per_s = self.part.chosen_days(), self.part.rate_per_s
        recipe = self.recipe()
        return recipe.arrivals(seed, days=days, rate_per_s=rate_per_s, requests=self.part.requests)

    def recipe(self) -> "Recipe":
        return _recipe(self.name, self.data)

    @property
    def is_fixed(self) -> bool:
        """Every seed plays the very same requests."""
        is_whole = self.part.rate_per_s is None
        return self.path is not None or (is_whole and self.recipe().replay_s is not None)

    def expected(self) -> float | None:
        """About how many requests there will be; None: nobody knows before."""
        most = self.part.requests
        if self.path is not None:
            return most
        whole = self.recipe().expected_requests(self.part.chosen_days(), self.part.rate_per_s)
        return whole if most is None else min(whole, most)


@lru_cache(maxsize=4)
def _recipe(name: str, data: Path | None) -> "Recipe":
    """Some read all of their data to know how much it is."""
    from repertory.traces.recipes import find_recipe

    return find_recipe(name, data)


def _say(words: str) -> None:
    typer.echo(words, err=True)


def source_of(workload: str, data: Path | None, part: Part) -> Source:
    from repertory.traces.recipes import is_file_name

    if is_file_name(workload):
        if part.rate_per_s is not None or part.days is not None:
            raise ConfigError("--rate and --days choose of a recipe; a file is played as it is")
        path = Path(workload).expanduser()
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file")
        return Source(path.stem, path, None, part)
    source = Source(workload.lower(), None, data or read_environment().data_dir, part)
    source.expected()  # what is wrong with it is said now
    return source


def _served(path: Path) -> "Served | None":
    """A decision log stands for the server that wrote it."""
    if path.suffix != ".jsonl":
        return None
    from repertory.sim.served import served

    try:
        with path.open("rb") as lines:
            return served(lines, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _peopled(fleet: Fleet, wanted: Wanted, source: Source) -> Fleet:
    """With the models of the file that was named, its own, or the recipe's: the first there are."""
    path = wanted.fleet
    if wanted.models is not None:
        fleet = replace(fleet, models=read_models(wanted.models))
    elif not fleet.models and source.path is None:
        sizes = [(one.name, one.parameters) for one in source.recipe().models]
        fleet = replace(fleet, models=models_of(sizes, fleet))
    if not fleet.models:
        raise ConfigError(
            f"{path} names no models, and --models neither; a file of requests needs them"
        )
    from repertory.sim.world import unfit

    misfits = unfit(fleet)
    if misfits:
        raise ConfigError(
            "\n".join(f"on fleet {fleet.name} ({fleet.words}), {one}" for one in misfits)
        )
    return fleet


def _policies(text: str) -> list[str]:
    from repertory.sim.policies import check_policy

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        check_policy(name)
    return names


def read_profiles(folder: Path | None, fleet: Fleet) -> "Read":
    """What was measured counts for the models of that digest, on devices of that name."""
    if folder is None:
        return {}
    from repertory.live.profile_files import ProfileFile, read_file

    known = {spec.digest for spec in fleet.models}
    read = {}
    for path in sorted(folder.glob("*.json")):
        found = read_file(path)
        if not isinstance(found, ProfileFile):
            typer.echo(f"not used: {path.name}: {found.reason}", err=True)
        elif found.readings.identity.digest in known:
            for device in fleet.devices:
                for one in found.readings.devices:
                    if device.id.rpartition("/")[2] == one.device:
                        read[found.readings.identity.digest, device.id] = one
    if not read:
        raise ConfigError(
            f"{folder}: no profile there is of a model of the fleet on a device of it"
        )
    return read


def _file_name(source: Source, policy: str, seed: int) -> str:
    return f"{source.name}-{policy.replace(':', '-')}-{seed}.jsonl"


def _run(jobs: "Sequence[Job]", source: Source, *, hidden: bool) -> "list[Done]":
    from repertory.sim.many import run_many

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} requests, {task.fields[at]} simulated"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with (
        CtrlC() as ctrl_c,
        Progress(*columns, console=console, transient=True, disable=hidden) as bar,
    ):
        tasks = {
            job.name: bar.add_task(job.name, total=source.expected(), at="0 s", start=False)
            for job in jobs
        }

        def progress(name: str, at_s: float, requests: int) -> None:
            bar.start_task(tasks[name])
            bar.update(tasks[name], completed=requests, at=seconds_text(at_s))

        cores = len(os.sched_getaffinity(0))
        return run_many(jobs, cores, progress, lambda: ctrl_c.is_pressed)


def _tell(done: "Sequence[Done]", slo: "Slo") -> None:
    columns = ["POLICY", "SEED", "REQUESTS", "DONE", "TTFT p50", "p95", "p99", "TPOT p50", "p99"]
    columns += ["IN SLO", "GOODPUT", "DECISIONS"]
    rows = []
    for one in done:
        total = one.summary.total
        times = [total.ttft.p50_s, total.ttft.p95_s, total.ttft.p99_s]
        times += [total.tpot.p50_s, total.tpot.p99_s]
        rows.append(
            (
                one.policy,
                str(one.seed),
                f"{total.requests:,}",
                _percent(total.done / total.requests if total.requests else None),
                *("-" if each is None else seconds_text(each) for each in times),
                _percent(total.met_share),
                f"{total.goodput_per_s:.3g}/s",
                one.digest[:12],
            )
        )
    typer.echo(f"simulated times; SLO {slo}")
    table(columns, rows)
    for one in done:
        used = f"{seconds_text(one.cpu_s)} of one core, {bytes_text(one.peak_bytes)}"
        typer.echo(f"{one.run}: {seconds_text(one.played.end_s)} simulated, {used}")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _parts(done: "Sequence[Done]", jobs: int) -> str:
    parts = [one for one in done if not one.played.is_whole]
    words = [f"{one.run} ends after {one.played.requests:,} requests" for one in parts]
    if len(done) < jobs:
        words.append(f"{jobs - len(done)} of {jobs} runs did not begin")
    return "; ".join(words)
