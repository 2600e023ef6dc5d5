"""k of n layers on the asymmetric pair: the curve, its law from two points, and what is chosen.

A sweep over wide steps, round by round so that a machine that drifts does so for all of them alike;
medians.  The law is fitted to few and all of the layers, and held against the others.  Goodput of a
trace on that very curve is the simulator's, and says so.
"""

import asyncio
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.checks import Check, at_least, at_most
from bench.costs.curves import SHAPES, Shape, goodput
from bench.costs.pair import baseline, running_pair
from bench.serve.models import folder_of
from bench.serve.run import Run
from repertory.domain.specs import KvShape, ModelSpec
from repertory.engines.gguf.files import describe_file
from repertory.engines.llamacpp import CHUNK_TOKENS
from repertory.perf.bytes import most_layers, share_there
from repertory.perf.divided import divided_s, here_s, prompt_share
from repertory.perf.profiles import UNWAITED_TOKENS
from repertory.policy.places.offload import by_harm, fully_or_evict, offload_always

__all__ = ["offload"]

_MODEL = "300m-a"
_PROMPT, _OUTPUT = 256, 33
_REPEATS = 7
_STEPS = (0, 4, 8, 12, None)
"""Layers on the device; None: all.  A quarter of a model more each time."""
_ERROR = 0.06
_ROOMS = (0.4, 0.6, 0.8)
"""Of the weights, what the device has room for when k is chosen."""
_CELLS = KvShape(1, 1024)


@dataclass(frozen=True)
class _Read:
    """Medians at one number of layers."""

    layers: int | None
    share: float
    prefill_s: float
    decode_s: float


def offload(run: Run) -> list[Check]:
    spec = _spec(folder_of((_MODEL,), run.root, run.say) / f"{_MODEL}.gguf")
    reads = asyncio.run(_sweep(run, spec, baseline(run.peers)))
    run.keep("offload", [asdict(one) for one in reads])
    return [*_errors(run, spec, reads), *_choices(spec, reads), *_goodputs(run, spec, reads)]


def _spec(path: Path) -> ModelSpec:
    facts = describe_file(path, batch_tokens=CHUNK_TOKENS)
    return ModelSpec(
        name=_MODEL,
        digest=facts.digest,
        location=str(path),
        weights_bytes=facts.weights_bytes,
        layers=facts.layers,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        context_tokens=facts.trained_context_tokens,
        buffers_bytes=facts.buffers_bytes,
        head_bytes=facts.head_bytes,
        kept_bytes=facts.kept_bytes,
        layers_bytes=facts.layers_bytes,
    )


async def _sweep(run: Run, spec: ModelSpec, library: Path) -> list[_Read]:
    found: dict[int | None, list[tuple[float, float]]] = {layers: [] for layers in _STEPS}
    async with running_pair(library) as pair:
        served = {layers: await pair.serve(spec, layers) for layers in _STEPS}
        for _ in range(_REPEATS + 1):
            for layers, replica in served.items():
                found[layers].append(await pair.answer(replica, _PROMPT, _OUTPUT))
    reads = []
    for layers, answers in found.items():
        kept = answers[1:]  # the first one faults pages in
        prefill_s, decode_s = (statistics.median(one) for one in zip(*kept, strict=True))
        share = 0.0 if layers == 0 else share_there(spec, layers)
        reads.append(_Read(layers, share, prefill_s, decode_s))
        run.say(f"{layers} layers: prefill {prefill_s:.3f} s, step {1000 * decode_s:.1f} ms")
    return reads


def _errors(run: Run, spec: ModelSpec, reads: list[_Read]) -> list[Check]:
    """From two measured points; the others were not seen.

    The two are the fewest layers on the device and all of them.  With none, another device computes
    and nothing crosses over: that point is no part of this curve.
    """
    checks = []
    head = spec.head_bytes / (spec.head_bytes + spec.all_layers_bytes)
    for kind, chunks in (("decode", 1.0), ("prefill", _PROMPT / UNWAITED_TOKENS)):
        shares = [one.share if kind == "decode" else prompt_share(one.share, head) for one in reads]
        seconds = [float(getattr(one, f"{kind}_s")) for one in reads]
        (_, few, *between, _), (_, few_s, *between_s, all_s) = shares, seconds
        host_s = here_s(few, all_s, few_s, chunks)
        errors = [
            divided_s(share, all_s, host_s, 0.0, chunks) / measured_s - 1.0
            for share, measured_s in zip(between, between_s, strict=True)
        ]
        rho = host_s / all_s
        run.say(f"{kind}: rho {rho:.1f}, errors {[f'{one:+.3f}' for one in errors]}")
        name, worst = f"pair: {kind} at a held-out k, largest error", max(map(abs, errors))
        checks.append(at_most(name, "", worst, _ERROR))
        checks.append(at_least(f"pair: {kind}, host to device (rho)", "", rho, 1.5))
    return checks


def _choices(spec: ModelSpec, reads: list[_Read]) -> list[Check]:
    """For each room: the steps at the chosen k against the best of the sweep that has room."""
    worst = 1.0
    by_layers = {spec.layers if one.layers is None else one.layers: one for one in reads}
    for share in _ROOMS:
        room = round(share * spec.weights_bytes) + spec.buffers_bytes
        most = most_layers(spec, _CELLS, room, spec.buffers_bytes)
        fitting = {count: one.decode_s for count, one in by_layers.items() if count <= most}
        worst = min(worst, min(fitting.values()) / fitting[max(fitting)])
    return [at_least("pair: speed at the chosen k to the best of the sweep", "", worst, 0.9)]


def _goodputs(run: Run, spec: ModelSpec, reads: list[_Read]) -> list[Check]:
    """In the simulator, on the measured curve: three such models, room for 1.6."""
    slow, fast = reads[0], reads[-1]
    rho = slow.decode_s / fast.decode_s
    shape = Shape(
        spec.weights_bytes,
        spec.layers,
        spec.head_bytes,
        spec.kv_bytes_per_token,
        fast.decode_s,
        rho,
        SHAPES["300M q8_0"].load_s,
    )
    ours = goodput(shape, by_harm)
    checks = []
    for rule in (fully_or_evict, offload_always):
        theirs = goodput(shape, rule)
        words = rule.__name__.replace("_", " ")
        run.say(f"simulated goodput on this curve: ours {ours:.2f}, {words} {theirs:.2f} tokens/s")
        name = f"simulated goodput on the pair's curve, to {words}"
        checks.append(at_least(name, "", ours / theirs, 1.0))
    return checks
