"""`simulate`: what a system would do with a workload, under virtual time."""

from pathlib import Path
from typing import Annotated

import typer

from repertory.cli.shared import USAGE, Json, app, fail
from repertory.cli.simulate_vllm import simulate_vllm

__all__ = ["simulate"]


@app.command()
def simulate(  # noqa: PLR0913  one for each flag
    workload: Annotated[Path, typer.Option(help="Requests, one JSON object per line.")],
    engine: Annotated[str, typer.Option(help="Which engine alone: vllm.")],
    gpu: Annotated[str, typer.Option(help="A profiled GPU, such as rtx_pro_6000.")],
    model_config: Annotated[Path, typer.Option(help="A model's config.json.")],
    profiles: Annotated[Path, typer.Option(help="The folder with profiles of GPUs.")],
    tp: Annotated[int, typer.Option(min=1, help="GPUs that share each layer.")] = 1,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="As vLLM's.")] = 256,
    max_num_batched_tokens: Annotated[int, typer.Option(min=1, help="As vLLM's.")] = 2048,
    num_gpu_blocks_override: Annotated[
        int | None, typer.Option(min=2, help="As vLLM's; default: what memory has room for.")
    ] = None,
    link_gb_s: Annotated[
        float | None,
        typer.Option(min=0.1, help="Between GPUs, where slower than in the profiled machine."),
    ] = None,
    json: Json = False,
) -> None:
    """Say when each request would begin and end on one vLLM engine.

    Kernel times come from profiles of the GPU, the order of work from vLLM's scheduler.
    """
    from repertory.sim.vllm.play import Setup

    if engine != "vllm":
        fail(USAGE, f"--engine {engine!r}: only vllm is simulated by itself")
    link = None if link_gb_s is None else link_gb_s * 1e9
    setup = Setup(gpu, tp, max_num_seqs, max_num_batched_tokens, num_gpu_blocks_override, link)
    simulate_vllm(setup, profiles, model_config, workload, json)
