"""`profile`: what everything costs on this machine, measured ahead of its first use."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from repertory.cli.shared import (
    FAILURE,
    NOT_FOUND,
    Json,
    Memory,
    StateDir,
    app,
    fail,
    found_in,
    state_folder,
    table,
)
from repertory.config import Flags, read_environment, read_memory, serve_config
from repertory.domain.errors import WorkerGone
from repertory.live.options import ServeConfig
from repertory.reports.figures import seconds_text

if TYPE_CHECKING:
    from repertory.domain.readings import Readings
    from repertory.live.catalogue import Look
    from repertory.live.profile_files import Profiles
    from repertory.profiler.campaign import Campaign, Ended
    from repertory.profiler.stand import Stand
    from repertory.profiler.subjects import Subject

__all__ = ["profile"]


@app.command()
def profile(  # noqa: PLR0913  one for each flag
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Names in the source, or files; default: all."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer points: a minute or two.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(help="A folder of GGUF files, one file, or a YAML; default: where we are."),
    ] = None,
    memory: Memory = None,
    state_dir: StateDir = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--fast", help="Of which mode; each has its own costs.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing; show what was measured.")
    ] = False,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw curves and tables into this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure what models cost here: loads, contexts, steps, preemption.

    What was interrupted goes on when it is run again, and what was measured is not measured twice.
    A server may serve meanwhile; then figures are noisier.
    """
    flags = Flags(memory_bytes=memory, state_dir=state_dir, is_exact=exact)
    if show:
        offered = None if source is None else _digests(_look(_config([], source, flags)))
        found = _shown(models or [], state_folder(state_dir), bool(exact), offered)
    else:
        found = _measured(models or [], source, flags, quick)
    if json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        _tell(found)
    if plots is not None:
        _draw(found, plots)


def _draw(found: "Sequence[Readings]", folder: Path) -> None:
    from repertory.reports.curves import draw

    try:
        for path in draw(found, folder):
            _say(f"drawn: {path}")
    except OSError as error:
        fail(FAILURE, f"{error.filename or folder}: cannot be written: {error.strerror}")


def _say(words: str) -> None:
    typer.echo(words, err=True)


def _shown(
    models: Sequence[str], state_dir: Path, is_exact: bool, offered: Mapping[str, str] | None
) -> "list[Readings]":
    """`offered`: digests by name, where a source was named; else nobody knows which file counts."""
    from repertory.live.profile_files import identity_of, profiles_folder, read_profiles

    here = identity_of("", is_exact=is_exact)
    profiles: Profiles = read_profiles(profiles_folder(state_dir), here, offered)
    for one in (*profiles.refused, *profiles.replaced):
        _say(f"not used: {one.path.name}: {one.reason}")
    found = sorted(profiles.readings.values(), key=lambda one: (one.model, one.identity.digest))
    versions = Counter(one.model for one in found)
    for name in (name for name, count in sorted(versions.items()) if count > 1):
        _say(f"{name}: several versions of its file were measured; --source tells which counts")
    if models:
        found = [one for one in found if one.model in models]
    if not found:
        fail(NOT_FOUND, "no profile of that; measure one: repertory profile MODEL")
    return found


def _look(config: ServeConfig) -> "Look":
    from repertory.live.catalogue import Catalogue

    return Catalogue(config.models, config.folders, config.is_exact).look()


def _digests(look: "Look") -> dict[str, str]:
    """Of the files on offer, by the name of the model."""
    return {name: offer.spec.digest for name, offer in sorted(look.offers.items())}


def _measured(
    models: Sequence[str], source: Path | None, flags: Flags, is_quick: bool
) -> "list[Readings]":
    from repertory.profiler.plan import points_for
    from repertory.profiler.worker import profiler_config, subject_of

    config = _config(models, source, flags)
    look = _look(config)
    look.check()
    subjects = {name: subject_of(offer) for name, offer in sorted(look.offers.items())}
    wanted = list(subjects) if not models else [_named(one, look.names, subjects) for one in models]
    for name in sorted(look.excluded):
        if not models or name in models:
            _say(f"not measured: {name}: {look.excluded[name]}")
    if not wanted:
        fail(NOT_FOUND, "none of these models can be measured")
    if len(subjects) == 1:
        _say("there is no other model to give way to, so no preemption is measured")
    points = points_for(is_quick)
    _name_replaced(config, _digests(look))
    chosen = [subjects[name] for name in dict.fromkeys(wanted)]
    run = _Run(chosen, list(subjects.values()), config.is_exact, config.state_dir)
    try:
        return asyncio.run(run.all(profiler_config(config, chosen, points), is_quick))
    except KeyboardInterrupt:
        fail(FAILURE, "interrupted; the same command goes on from here")
    except WorkerGone as gone:
        raise WorkerGone(
            f"{gone}\nwhat was measured is kept, and the same command goes on from here"
        ) from None


def _name_replaced(config: ServeConfig, offered: Mapping[str, str]) -> None:
    """Profiles of another version of a file that is here: what they say, they say of that one."""
    from repertory.live.profile_files import identity_of, profiles_folder, read_profiles

    here = identity_of("", is_exact=config.is_exact)
    for one in read_profiles(profiles_folder(config.state_dir), here, offered).replaced:
        _say(f"stale, not used: {one.path.name}: {one.reason}")


def _config(models: Sequence[str], source: Path | None, flags: Flags) -> ServeConfig:
    """Of the source, with the files that were named besides."""
    environment, memory = read_environment(), read_memory()
    files = [Path(one).expanduser().absolute() for one in models if _is_file(one)]
    if source is None:
        source = Path() if len(files) < len(models) or not files else files.pop(0)
    read = partial(serve_config, flags=flags, environment=environment, reading=memory)
    config = read(source, discover=partial(found_in, _say))
    named = list(config.models)
    known = {one.path for one in named}
    for file in files:
        more = read(file, discover=partial(found_in, _say)).models
        named += [one for one in more if one.path not in known]
    folders = config.folders if len(named) == len(config.models) else ()
    return replace(config, models=tuple(named), folders=folders)


def _is_file(word: str) -> bool:
    return Path(word).suffix.lower() == ".gguf"


def _named(word: str, names: Mapping[str, str], subjects: "dict[str, Subject]") -> str:
    """By name, alias or file."""
    if word in names:
        return names[word]
    path = str(Path(word).expanduser().absolute())
    for name, one in subjects.items():
        if one.spec.location == path or Path(path).stem in one.spec.aliases:
            return name
    return fail(NOT_FOUND, f"there is no model {word!r}; there are {', '.join(subjects) or 'none'}")


@dataclass(frozen=True, slots=True)
class _Run:
    """All that one command measures."""

    subjects: "list[Subject]"
    others: "list[Subject]"
    is_exact: bool
    state_dir: Path

    async def all(self, config: ServeConfig, is_quick: bool) -> "list[Readings]":
        from repertory.profiler.worker import open_stand

        async with open_stand(config, self.subjects) as stand:
            campaigns = [self._begun(one, stand, is_quick) for one in self.subjects]
            await _run(stand, campaigns)
            return [one.file.readings for one in campaigns]

    def _begun(self, subject: "Subject", stand: "Stand", is_quick: bool) -> "Campaign":
        from repertory.live.profile_files import file_of, identity_of, profiles_folder
        from repertory.profiler.campaign import begun
        from repertory.profiler.plan import items_for, points_for
        from repertory.profiler.worker import worker_core_time

        spec = subject.spec
        identity = identity_of(spec.digest, is_exact=self.is_exact)
        path = file_of(profiles_folder(self.state_dir), spec.name, identity)
        items = items_for(subject, self.others, stand.node, points_for(is_quick))
        campaign = begun(path, subject, identity, items)
        campaign.core_time = worker_core_time
        if campaign.stale is not None:
            _say(f"{spec.name}: stale, measured anew: {path.name}: {campaign.stale}")
        if not campaign.left:
            _say(f"{spec.name}: nothing to measure; all of it is in {path}")
        elif len(campaign.left) < len(items):
            _say(f"{spec.name}: {len(items) - len(campaign.left)} of {len(items)} are there")
        return campaign


async def _run(stand: "Stand", campaigns: "Sequence[Campaign]") -> None:
    """With a bar that tells what is left."""
    total = sum(item.expected_s for one in campaigns for item in one.left)
    if not total:
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        for one in campaigns:
            before_s = stand.now_s
            count = len(one.left)
            await one.run(stand, partial(_told, one, bar.update, task, bar.console.print))
            if count:
                took = seconds_text(stand.now_s - before_s)
                name = one.file.readings.model
                bar.console.print(
                    f"{name}: {count - len(one.left)} measured in {took}: {one.path}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )


def _told(
    campaign: "Campaign",
    update: Callable[..., None],
    task: Any,
    say: Callable[..., None],
    ended: "Ended",
) -> None:
    """A bar counts what was expected, not what it took."""
    name = campaign.file.readings.model
    update(task, advance=ended.item.expected_s, description=f"{name}: {ended.item.name}")
    if ended.trouble is not None:
        words = f"{name}: {ended.item.name}: not measured: {ended.trouble}"
        say(words, highlight=False, markup=False, soft_wrap=True)


def _tell(found: "Sequence[Readings]") -> None:
    from repertory.reports.profiles import COLUMNS, rows_of

    table(COLUMNS, [row for one in found for row in rows_of(one)])
    for one in found:
        for note in one.notes:
            _say(f"{one.model}: {note}")
