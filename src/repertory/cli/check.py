"""`doctor` and `config`: what is wrong, or will be, before a server starts."""

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from repertory.cli.shared import (
    FAILURE,
    USAGE,
    Json,
    Memory,
    StateDir,
    app,
    fail,
    found_in,
    group,
    table,
)
from repertory.config import (
    Flags,
    is_yaml,
    read_environment,
    read_memory,
    schema_text,
    serve_config,
)
from repertory.domain.errors import ConfigError

__all__ = ["check_config", "doctor", "print_schema"]

_config = group("config", "The configuration.")


@app.command()
def doctor(
    source: Annotated[
        Path | None, typer.Argument(help="What would be served: a folder, a file, a YAML.")
    ] = None,
    memory: Memory = None,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Say what this machine has, what will not work, and what will be slow and why.

    Exit code 1: something will not work.
    """
    from repertory.doctor import examine

    flags = Flags(memory_bytes=memory, state_dir=state_dir)
    discover = partial(found_in, lambda _: None)  # what is excluded is a finding
    report = examine(source, flags, read_environment(), read_memory(), discover)
    if json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        table(["PART", "WHAT", "FOUND"], [(one.part, one.name, one.value) for one in report.facts])
        for finding in report.findings:
            typer.echo(f"\n{finding.level.value}: {finding.what}\n  -> {finding.advice}")
        if not report.findings:
            typer.echo("\nnothing is wrong, and nothing is known to be slow")
    raise typer.Exit(0 if report.is_fit else FAILURE)


@_config.command("schema")
def print_schema() -> None:
    """Print the JSON schema of the configuration: for editors, and for programs that write one."""
    typer.echo(schema_text(), nl=False)


@_config.command("check")
def check_config(
    file: Annotated[Path, typer.Argument(help="A YAML.")],
    memory: Memory = None,
) -> None:
    """Say everything that `serve` would refuse or warn of.  Exit code 2: it would refuse."""
    from repertory.live.catalogue import Catalogue
    from repertory.live.fit import expected_room, pinned_misfit, warnings

    if not is_yaml(file):
        fail(USAGE, f"{file}: not a .yaml file; only those need a check")
    flags = Flags(memory_bytes=memory)
    echo = partial(typer.echo, err=True)
    config = serve_config(file, flags, read_environment(), read_memory(), partial(found_in, echo))
    look = Catalogue(config.models, config.folders, config.is_exact).look()
    look.check()
    room = expected_room(config)
    specs = [offer.spec for _, offer in sorted(look.offers.items())]
    misfit = pinned_misfit(look.pinned, room) if room is not None else None
    if misfit is not None:
        raise ConfigError(misfit)
    for name, reason in sorted(look.excluded.items()):
        typer.echo(f"warning: {name} will not be served: {reason}")
    for words in warnings(specs, look.pinned, room) if room is not None else ():
        typer.echo(f"warning: {words}")
    names = ", ".join(sorted(look.offers)) or "none that can be served"
    typer.echo(f"{file}: fine: {names}; memory {config.memory_story}")
