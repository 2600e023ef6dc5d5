"""`serve`: from flags and files to a running server.  The composition root."""

import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

import typer

from repertory.cli.shared import Memory, StateDir, app, code_of, found_in
from repertory.config import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    Flags,
    is_yaml,
    read_environment,
    read_memory,
    serve_config,
)
from repertory.config.ports import listener_of
from repertory.domain.errors import ConfigError, RepertoryError
from repertory.live.facade import Service
from repertory.reports.prose import LogFormat, speaking

if TYPE_CHECKING:
    from repertory.gateway import Listener
    from repertory.gateway.doors.door import Guard

__all__ = ["serve"]


@app.command()
def serve(  # noqa: PLR0913  one for each flag
    source: Annotated[Path, typer.Argument(help="A folder of GGUF files, one file, or a YAML.")],
    host: Annotated[str | None, typer.Option(help=f"Default {DEFAULT_HOST}.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help=f"{DEFAULT_PORT}.")] = None,
    memory: Memory = None,
    state_dir: StateDir = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--fast", help="Same tokens whatever the company.")
    ] = None,
    log_format: Annotated[LogFormat, typer.Option(help="Of what is said on stderr.")] = "text",
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Without keys, let in whoever reaches the host.")
    ] = False,
) -> None:
    """Serve models at one OpenAI-compatible endpoint.

    A YAML is read again when it is edited, and on SIGHUP.
    """
    flags = Flags(host, port, memory, state_dir, exact)
    with speaking(log_format) as prose:
        try:
            code = _serve(source.expanduser().absolute(), flags, no_auth, prose.say)
        except RepertoryError as error:
            if log_format == "text":
                raise
            prose.fail(str(error))
            code = code_of(error)
    raise typer.Exit(code)


def _serve(source: Path, flags: Flags, no_auth: bool, say: Callable[[str], None]) -> int:
    from repertory.gateway import open_socket
    from repertory.gateway.doors.door import guard_of
    from repertory.live.compose import run_server
    from repertory.live.reload import Source, stamp

    # Memory is read once: an edit of the file must not change what was found at the start.
    environment, memory = read_environment(), read_memory()
    read = partial(serve_config, source, flags, environment, memory, partial(found_in, say))
    edited = Source(source, read, stamp(source)) if is_yaml(source) else None
    config = read()
    guard = guard_of(config.state_dir, config.host, no_auth)
    say(f"memory: {config.memory_story}")
    try:
        listening = open_socket(config.host, config.port)
    except ConfigError as error:
        owner = listener_of(config.port)
        raise ConfigError(
            f"{error}, or end {owner}, which has it" if owner else f"{error}"
        ) from None
    with listening:
        return run_server(config, partial(_endpoint, listening, guard), say, edited)


def _endpoint(listening: socket.socket, guard: "Guard", service: Service) -> "Listener":
    from repertory.gateway import Listener, build_app

    clock = time.time  # noqa: TID251  the composition root hands out the clock
    app = build_app(service, random=Random(secrets.randbits(128)), unix_s=clock, guard=guard)
    return Listener(app, listening, denied=app.denied)
