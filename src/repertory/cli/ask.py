"""`ps` and `why`: what a server does, and why it did it."""

import urllib.error
import urllib.request
from http.client import HTTPException
from itertools import chain
from typing import Annotated

import msgspec
import typer

from repertory.cli.shared import (
    FAILURE,
    NOT_FOUND,
    UNREACHABLE,
    USAGE,
    Json,
    StateDir,
    app,
    fail,
    state_folder,
    table,
)
from repertory.config import DEFAULT_HOST, DEFAULT_PORT, read_environment
from repertory.live.facade import ServiceStatus
from repertory.reports.log_files import decisions, read_runs
from repertory.reports.ps import DEVICE_COLUMNS, MODEL_COLUMNS, device_row, model_row, notes
from repertory.reports.story import render
from repertory.reports.why import explain, near_subjects

__all__ = ["ps", "why"]


@app.command()
def ps(
    url: Annotated[str | None, typer.Option(help="The server's, if not the default.")] = None,
    json: Json = False,
) -> None:
    """Show where every model stands."""
    server = url or _default_url()
    body = _fetch(f"{server.rstrip('/')}/admin/ps")
    if json:
        typer.echo(body.decode())
        return
    try:
        status = msgspec.json.decode(body, type=ServiceStatus)
    except msgspec.DecodeError as error:
        fail(FAILURE, f"{server} answers, but not like this version's server: {error}")
    table(MODEL_COLUMNS, [model_row(model) for model in status.models])
    typer.echo()
    table(DEVICE_COLUMNS, [device_row(device) for device in status.devices])
    typer.echo()
    for line in notes(status):
        typer.echo(line)


def _default_url() -> str:
    """Where a server started with the same environment listens."""
    environment = read_environment()
    host = environment.host or DEFAULT_HOST
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    bracketed = f"[{reachable}]" if ":" in reachable else reachable
    return f"http://{bracketed}:{environment.port or DEFAULT_PORT}"


def _fetch(url: str) -> bytes:
    """No proxy: the server is this machine's or a neighbour."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    key = read_environment().api_key
    try:
        asked = urllib.request.Request(url)
        if key is not None:
            asked.add_unredirected_header("Authorization", f"Bearer {key}")
        with opener.open(asked, timeout=10) as reply:
            body: bytes = reply.read()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (401, 403):
            wanted = "no key was sent" if key is None else "this key may not"
            fail(
                FAILURE,
                f"{url} answers {error.code}: {wanted}; set REPERTORY_API_KEY to an "
                f"admin's (repertory keys add NAME --admin)",
            )
        fail(FAILURE, f"{url} answers {error.code}; is it a Repertory server?")
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        fail(UNREACHABLE, f"no server at {url} ({reason}); start one, or give its --url")
    except ValueError as error:
        fail(USAGE, f"{url!r} is no URL: {error}")
    return body


@app.command()
def why(
    subject: Annotated[str, typer.Argument(help="A request's id, or a model's name.")],
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Explain every load, eviction and refusal, with what was predicted and measured.

    Of several runs of the server, the latest that knows the subject is told.
    """
    folder = state_folder(state_dir)
    runs = read_runs(folder)
    if not runs:
        fail(NOT_FOUND, f"no decision log in {folder}; did the server have another --state-dir?")
    stories = (explain(decisions(run), subject) for run in reversed(runs))
    story = next((one for one in stories if one is not None), None)
    if story is None:
        near = near_subjects(decisions(chain(*runs)), subject)
        hint = f"; near names: {', '.join(near)}" if near else ""
        fail(NOT_FOUND, f"the decision log has nothing about {subject!r}{hint}")
    if json:
        typer.echo(msgspec.json.encode(story).decode())
        return
    for line in render(story):
        typer.echo(line)
