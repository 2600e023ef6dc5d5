"""`models`: files on disk, listed and made."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress

from repertory.cli.shared import NOT_FOUND, USAGE, Json, fail, group, table
from repertory.reports.figures import bytes_text

__all__ = ["list_models", "make_models"]

_models = group("models", "Model files.")


@_models.command("list")
def list_models(
    folder: Annotated[Path, typer.Argument(help="Where GGUF files are.")], json: Json = False
) -> None:
    """List the models of a folder, and the files that are none."""
    from repertory.engines.gguf.files import discover

    found = discover(folder.expanduser())
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    rows = [
        (
            model.name,
            model.description.architecture,
            bytes_text(model.description.weights_bytes),
            str(model.description.layers),
            str(model.description.trained_context_tokens),
            f"{bytes_text(model.description.kv_bytes_per_token)}/token",
            "embeddings" if model.description.is_embedding_only else "text",
        )
        for model in found.models
    ]
    table(["MODEL", "ARCHITECTURE", "WEIGHTS", "LAYERS", "CONTEXT", "KV", "MAKES"], rows)
    for each in found.excluded:
        typer.echo(f"not a model: {each.location}: {each.reason}", err=True)
    if not found.models:
        fail(NOT_FOUND, f"no GGUF model in {folder}")


@_models.command("make")
def make_models(
    arch: Annotated[Literal["llama", "qwen3"], typer.Option(help="Its shape.")] = "llama",
    size: Annotated[Literal["tiny", "50m", "300m", "1b"], typer.Option(help="Weights.")] = "50m",
    weights: Annotated[
        Literal["f16", "q8_0", "q4_0"], typer.Option("--type", help="How weights are stored.")
    ] = "q8_0",
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file, or a folder for it.")
    ] = None,
) -> None:
    """Make a model with random weights and a working tokenizer: for tests and demonstrations."""
    from repertory.engines.gguf.make import make_model

    name = f"{arch}-{size}-{weights}-{seed}"
    path = (out or Path()).expanduser()
    if path.is_dir():
        path /= f"{name}.gguf"
    elif not path.parent.is_dir():
        fail(USAGE, f"{path.parent}: there is no such folder")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(path.name)
        written_bytes = make_model(
            path,
            arch=arch,
            size=size,
            weights=weights,
            seed=seed,
            name=name,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"{path}  {bytes_text(written_bytes)} of weights")
