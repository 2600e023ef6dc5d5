"""`keys`: who may come in."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from repertory.cli.shared import NOT_FOUND, USAGE, Json, StateDir, fail, group, state_folder, table

if TYPE_CHECKING:
    from repertory.gateway.doors.keys import Key

__all__ = ["add_key", "list_keys", "remove_key"]

_keys = group("keys", "API keys.")


@_keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="What metrics and logs call it.")],
    models: Annotated[
        str | None, typer.Option(help="The models it may use, with commas between; default: all.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/UNIT", help="Requests per s, min, h or d: 60/min.")
    ] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="Requests at a time.")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may do everything.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Make a key and show it once; a running server knows it at once."""
    from repertory.gateway.doors.keys import Key, add_key, read_keys

    allowed = None if models is None else tuple(filter(None, models.split(",")))
    if allowed == ():
        fail(USAGE, "--models names no model; leave it out to allow all")
    if admin and (allowed or rate or concurrent):
        fail(USAGE, "an admin key may do everything: no --models, --rate or --concurrent with it")
    path = _keys_file(state_dir)
    now = int(time.time())  # noqa: TID251  a key is dated by who makes it
    token = add_key(path, Key(name, "", "", "", now, admin, allowed, rate, concurrent))
    typer.echo(token)
    typer.echo("This is the only time that it is shown.", err=True)
    if not any(key.admin for key in read_keys(path)):
        why = "/admin and `repertory ps` need an admin key now, and there is none"
        typer.echo(f"{why}: repertory keys add NAME --admin", err=True)


@_keys.command("list")
def list_keys(state_dir: StateDir = None, json: Json = False) -> None:
    """List the keys and what they may do."""
    from repertory.gateway.doors.keys import read_keys

    keys = read_keys(_keys_file(state_dir))
    if json:
        rows = [
            {
                "name": key.name,
                "admin": key.admin,
                "models": key.models,
                "rate": key.rate,
                "concurrent": key.concurrent,
                "created": key.created,
            }
            for key in keys
        ]
        typer.echo(msgspec.json.encode(rows).decode())
        return
    columns = ["NAME", "KIND", "MODELS", "RATE", "CONCURRENT", "CREATED"]
    table(columns, [_key_row(key) for key in keys])


@_keys.command("remove")
def remove_key(
    name: Annotated[str, typer.Argument(help="The key's name.")], state_dir: StateDir = None
) -> None:
    """Revoke a key; answers under way end as they would have."""
    from repertory.gateway.doors.keys import remove_key

    path = _keys_file(state_dir)
    left = remove_key(path, name)
    if left is None:
        fail(NOT_FOUND, f"there is no key {name!r} in {path}")
    if not left:
        typer.echo(f"No key is left, so nobody may come in. To need none, delete {path}", err=True)


def _keys_file(state_dir: Path | None) -> Path:
    from repertory.gateway.doors.keys import KEYS_FILE

    return state_folder(state_dir) / KEYS_FILE


def _key_row(key: "Key") -> Sequence[str]:
    return (
        key.name,
        "admin" if key.admin else "API",
        "all" if key.models is None else ",".join(key.models),
        key.rate or "-",
        "-" if key.concurrent is None else str(key.concurrent),
        datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d"),
    )
