"""A report with known laws in it, as a machine that obeys them would leave it."""

from gpucheck.costs.found import Costs, Cycle
from gpucheck.costs.summary import summarise
from gpucheck.costs.wanted import layers_to_try, share_there
from gpucheck.result import Item, Machine, Report
from gpucheck.shapes import SHAPES

from repertory.domain.readings import LinkReading, StepReading
from repertory.domain.specs import WeightsForm
from repertory.perf.offload import OffloadLaw
from repertory.perf.profiles import Law

MACHINE = Machine(
    cpu="a CPU",
    cores=16,
    memory_bytes=128 << 30,
    kernel="6.1",
    python="3.12.3",
    gpu="a GPU",
    driver="580",
    compute_capability="9.0",
    gpu_memory_bytes=80 << 30,
    nvcc="13.0",
)
DECODE = OffloadLaw(Law(6e-3, 2e-7), Law(60e-3, 4e-6), 3e-4)
PREFILL = OffloadLaw(Law(2e-4, 2e-9), Law(4e-3, 2e-9), 0.0)


def steps(model: str, pace: float = 1.0) -> list[Item]:
    """The items of an offload curve; a model of another `pace` takes so many times as long."""
    shape = SHAPES[model]
    items = []
    for layers in layers_to_try(shape):
        share = share_there(shape, layers)
        there = None if layers == shape.layers else layers
        read = [
            StepReading(
                decode=is_decode,
                form=WeightsForm.PLAIN,
                layers=there,
                share=share,
                batch=1,
                tokens=1 if is_decode else length,
                context_tokens=length if is_decode else 0,
                seconds=_repeats(law.seconds(share, length) * pace * (1 if is_decode else length)),
            )
            for is_decode, law in ((True, DECODE), (False, PREFILL))
            for length in shape.lengths
        ]
        items.append(Item(model, f"offload-{layers}", costs=Costs(steps=read)))
    return items


def _repeats(seconds: float) -> tuple[float, ...]:
    return (0.99 * seconds, seconds, 1.02 * seconds)


def cycle(claimant: str, point_tokens: int, *, load_s: float, stays: bool = False) -> Cycle:
    """KV at 10 GB/s out and 15 back."""
    kv_bytes = 131_072 * point_tokens
    moved_s = 0.0 if stays else kv_bytes / 1e10
    return Cycle(
        claimant=claimant,
        point_tokens=point_tokens,
        stays=stays,
        kv_bytes=kv_bytes,
        step_s=0.006,
        out_s=moved_s,
        close_s=0.0 if stays else 0.01,
        unload_s=0.0 if stays else 0.05,
        kept_bytes=0,
        tolerance_bytes=32 << 20,
        claimant_up_s=2.0,
        claimant_run_s=0.3,
        claimant_down_s=0.1,
        load_s=0.0 if stays else load_s,
        context_s=0.0 if stays else 0.04,
        in_s=moved_s / 1.5,
        first_token_s=0.008,
        logits_apart_share=0.0,
    )


def interruption(victim: str, claimant: str, *, load_s: float = 1.2, by_token_s: float = 0) -> Item:
    """All nine points, and three at which the victim stays."""
    points = SHAPES[victim].points
    cycles = [cycle(claimant, at, load_s=load_s + at * by_token_s) for at in points]
    cycles += [cycle(claimant, at, load_s=0.0, stays=True) for at in (points[0], points[-1])]
    return Item(victim, f"preempt-for-{claimant}", costs=Costs(cycles=cycles))


def link(model: str) -> Item:
    ways = {"flat, pageable": 9e9, "flat, pinned": 50e9, "per tensor, pinned": 45e9}
    read = [
        LinkReading(what, how, 1 << 30, _repeats((1 << 30) / speed))
        for how, speed in ways.items()
        for what in ("device in", "device out")
    ]
    return Item(
        model,
        "link",
        costs=Costs(links=[*read, LinkReading("disk read", "buffered", 1 << 30, (0.5,))]),
    )


def report(items: list[Item]) -> Report:
    return Report(
        is_complete=True,
        missing=[],
        failures=[],
        device="cuda",
        machine=MACHINE,
        built=[],
        build_seconds=[],
        made={},
        items=items,
        costs=summarise(items),
    )


def full_report() -> Report:
    """Three models as published curves have them: rho 10 and what is slower by a factor."""
    items = [one for model, pace in (("8b-q4_0", 1), ("14b-q4_0", 2)) for one in steps(model, pace)]
    items += [
        link("8b-q4_0"),
        interruption("8b-q4_0", "8b-q4_0"),
        interruption("8b-q4_0", "14b-q4_0", load_s=1.25),
        interruption("14b-q4_0", "8b-q4_0", load_s=2.1),
    ]
    return report(items)
