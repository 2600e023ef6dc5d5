"""`simulate`: what a system would do with a workload, under virtual time."""

from pathlib import Path
from typing import Annotated

import typer

from repertory.cli.shared import USAGE, Json, app, fail
from repertory.cli.sim.fleet import Part, Wanted, simulate_fleet
from repertory.cli.sim.vllm import simulate_vllm

__all__ = ["simulate"]

_SLO = "ttft_p99<2s,tpot_p99<100ms"
_OF_FLEETS = ("policy", "models", "seeds", "requests", "rate", "days", "jitter", "log")
_OF_ENGINES = (
    "gpu",
    "model_config",
    "tp",
    "max_num_seqs",
    "max_num_batched_tokens",
    "num_gpu_blocks_override",
    "link_gb_s",
)


@app.command()
def simulate(  # noqa: PLR0913  one for each flag
    context: typer.Context,
    fleet: Annotated[
        Path | None,
        typer.Option(
            help="A fleet.yaml: machines, and models if it likes; or a server's decisions.jsonl."
        ),
    ] = None,
    workload: Annotated[
        str, typer.Option(help="A file in the workload format, or a recipe, such as sg-20 or week.")
    ] = "week",
    policy: Annotated[
        str, typer.Option(metavar="P[,P]...", help="Who decides; several are compared.")
    ] = "repertory",
    models: Annotated[
        Path | None, typer.Option(help="A YAML of models; default: the fleet's, or the recipe's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals, jitter and failures.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds, from that one on.")] = 1,
    requests: Annotated[int | None, typer.Option(min=1, help="End after so many requests.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Thin a recipe to so many requests per second.")
    ] = None,
    days: Annotated[
        str | None, typer.Option(metavar="A-B", help="Of a recipe, only these days.")
    ] = None,
    jitter: Annotated[
        float, typer.Option(min=0, max=1, help="Moves take longer or shorter by about so much.")
    ] = 0.0,
    profiles: Annotated[
        Path | None,
        typer.Option(help="A folder of files by `repertory profile`; of one engine, of GPUs'."),
    ] = None,
    slo: Annotated[str, typer.Option(help="What a good answer is.")] = _SLO,
    log: Annotated[
        Path | None, typer.Option(help="Write the decision log of the one run to this file.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for run files.")] = Path(
        "runs"
    ),
    data: Annotated[
        Path | None, typer.Option(help="Where published traces are, for recipes made of them.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="No fleet, but one engine alone: vllm; flags from here on.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="A profiled GPU, such as rtx_pro_6000.")] = "",
    model_config: Annotated[Path | None, typer.Option(help="A model's config.json.")] = None,
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
    """Play a workload on a fleet in virtual time, and tell what became of its requests.

    The same brain decides as in the server.  The same seed gives the same bytes.  With --engine
    vllm: when each request would begin and end on one vLLM engine, by profiles of its GPU.
    """
    if engine is not None:
        if engine != "vllm":
            fail(USAGE, f"--engine {engine!r}: only vllm is simulated by itself")
        if not gpu or model_config is None or profiles is None or fleet is not None:
            fail(USAGE, "--engine vllm needs --gpu, --model-config and --profiles, and no --fleet")
        _refuse(context, _OF_FLEETS, "of fleets; one engine plays the whole of a file")
        from repertory.sim.vllm.play import Setup

        link = None if link_gb_s is None else link_gb_s * 1e9
        setup = Setup(gpu, tp, max_num_seqs, max_num_batched_tokens, num_gpu_blocks_override, link)
        simulate_vllm(setup, profiles, model_config, Path(workload), json)
        return
    if fleet is None:
        fail(USAGE, "on which fleet?  --fleet FILE names one (docs/simulate.md has an example)")
    _refuse(context, _OF_ENGINES, "of one engine alone, with --engine vllm")
    part = Part(requests, rate, days)
    simulate_fleet(
        Wanted(
            fleet=fleet,
            workload=workload,
            part=part,
            policy=policy,
            models=models,
            seed=seed,
            seeds=seeds,
            jitter=jitter,
            profiles=profiles,
            slo=slo,
            log=log,
            out=out,
            data=data,
            json=json,
        )
    )


def _refuse(context: typer.Context, names: tuple[str, ...], words: str) -> None:
    """A flag that would change nothing is not taken: its user believes that it does."""
    given = [
        "--" + name.replace("_", "-")
        for name in names
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        fail(USAGE, f"{', '.join(given)}: {words}")
