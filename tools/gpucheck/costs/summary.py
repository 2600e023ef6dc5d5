"""What the readings of all items say together: laws, the preemption table, and its two questions.

The fit is `repertory.perf.offload`'s, which needs numpy; so does all measuring (contexts, model
files), so the report is never without it.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean, median

from gpucheck.costs.found import Curve, Cycle, Interruption, Summary
from gpucheck.costs.names import claimant_of, kind_of
from gpucheck.result import Item
from repertory.domain.readings import StepReading, spread, typical_s
from repertory.perf.offload import Point, fit

__all__ = ["costs_table", "point_of", "summarise"]

_MATTERS_SHARE = 0.10
"""A cost depends on something that changes it by more: what a scheduler's margin hides."""

_LONG_PROMPT_TOKENS = 500
"""Four chunks, the last one nearly full."""
_RUN_TOKENS = 7000
"""Of the interrupted generation in Yildiz 2026; ours ends at the last point."""


def summarise(items: Sequence[Item]) -> Summary:
    interruptions = [row for item in items for row in _interruptions(item)]
    return Summary(_curves(items), interruptions, _answers(interruptions))


def _curves(items: Sequence[Item]) -> list[Curve]:
    """One for each model and kind of step that was measured at two shares at least."""
    found = []
    for model in dict.fromkeys(item.model for item in items):
        steps = [one for item in items if item.model == model for one in item.costs.steps]
        for is_decode in (True, False):
            curve = _curve(model, [one for one in steps if one.decode is is_decode])
            found += [] if curve is None else [curve]
    return found


def point_of(step: StepReading) -> Point:
    """A step as the law wants it: seconds per token, at the length of its context or prompt."""
    length = step.context_tokens if step.decode else step.tokens
    return Point(step.share, length, typical_s(step.seconds) / step.tokens)


def _shares(steps: Sequence[StepReading]) -> int:
    return len({one.share for one in steps})


def _curve(model: str, steps: Sequence[StepReading]) -> Curve | None:
    """Prompts with nothing on the device are apart: there the cores compute them; from one layer
    on a GPU computes the others' long steps too, and their weights are sent to it for each.  So are
    short ones, if there are others: a chunk that is not full costs much the same."""
    used = [one for one in steps if one.decode or one.share > 0.0]
    long = [one for one in used if one.decode or one.tokens >= _LONG_PROMPT_TOKENS]
    used = long if _shares(long) > 1 else used
    if _shares(used) < 2:
        return None
    fitted = fit([point_of(one) for one in used])
    law = fitted.law
    return Curve(
        model=model,
        kind="decode" if used[0].decode else "prefill",
        device_fixed_s=law.device.fixed_s,
        device_per_token_s=law.device.per_unit_s,
        host_fixed_s=law.host.fixed_s,
        host_per_token_s=law.host.per_unit_s,
        crossing_s=law.crossing_s,
        residual=fitted.residual,
        points=fitted.points,
        spread=median(spread(one.seconds) for one in used),
    )


def _interruptions(item: Item) -> list[Interruption]:
    if kind_of(item.name) != "preempt":
        return []
    by_stay = [[one for one in item.costs.cycles if one.stays is stays] for stays in (False, True)]
    claimant = claimant_of(item.name)
    return [_row(item.model, claimant, cycles) for cycles in by_stay if cycles]


def _row(victim: str, claimant: str, cycles: Sequence[Cycle]) -> Interruption:
    overheads = [one.overhead_s for one in cycles]
    overhead_s = fmean(overheads)

    def share(seconds: Iterable[float]) -> float:
        return fmean(seconds) / overhead_s if overhead_s else 0.0

    load_s = fmean(one.load_s + one.context_s for one in cycles)
    step_s = median(one.step_s for one in cycles)
    points = [one.point_tokens for one in cycles]
    slope = _slope(points, overheads)
    rise_s = slope * (points[-1] - points[0])
    flat = [one - slope * point for one, point in zip(overheads, points, strict=True)]
    scatter_s = 2.0 * median(abs(one - median(flat)) for one in flat)
    return Interruption(
        victim=victim,
        claimant=claimant,
        stays=cycles[0].stays,
        points=len(cycles),
        overhead_s=overhead_s,
        least_s=min(overheads),
        most_s=max(overheads),
        swap_share=share(one.swap_s for one in cycles),
        kv_share=share(one.kv_s for one in cycles),
        out_s=fmean(one.out_s for one in cycles),
        unload_s=fmean(one.close_s + one.unload_s for one in cycles),
        load_s=load_s,
        in_s=fmean(one.in_s for one in cycles),
        first_token_s=fmean(one.first_token_s for one in cycles),
        claimant_s=fmean(one.claimant_up_s + one.claimant_down_s for one in cycles),
        steps_per_load=load_s / step_s,
        added_share=overhead_s / (_RUN_TOKENS * step_s),
        by_point_share=rise_s / overhead_s if overhead_s else 0.0,
        scatter_share=scatter_s / overhead_s if overhead_s else 0.0,
        last_point_tokens=points[-1],
        last_kv_bytes=cycles[-1].kv_bytes,
        last_out_s=cycles[-1].out_s,
        last_in_s=cycles[-1].in_s,
        memory_came_back=all(one.came_back for one in cycles),
        logits_apart_share=max(one.logits_apart_share for one in cycles),
    )


def _slope(places: Sequence[int], values: Sequence[float]) -> float:
    """The middle of the slopes of all pairs: one outlier among nine points does not tilt it."""
    pairs = combinations(zip(places, values, strict=True), 2)
    slopes = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs]
    return median(slopes) if slopes else 0.0


def _answers(rows: Sequence[Interruption]) -> list[str]:
    """Yildiz 2026 finds a fixed cost per model and hardware; is it so here?"""
    moved = [row for row in rows if not row.stays]
    answers = [
        f"{row.victim} for {row.claimant}: the cost "
        f"{_depends(row.by_point_share, row.scatter_share)} on the point "
        f"({row.by_point_share:+.1%} of {row.overhead_s:.3f} s from the first to the last, "
        f"all within {row.least_s:.3f} ... {row.most_s:.3f} s; KV is {row.kv_share:.1%} of it)"
        for row in moved
    ]
    for victim in dict.fromkeys(row.victim for row in moved):
        mine = [row for row in moved if row.victim == victim]
        if len(mine) < 2:
            continue
        means = [row.overhead_s for row in mine]
        apart = (max(means) - min(means)) / fmean(means)
        told = ", ".join(f"{row.claimant} {row.overhead_s:.3f} s" for row in mine)
        verdict = _depends(apart, max(row.scatter_share for row in mine))
        answers.append(
            f"{victim}: the cost {verdict} on the other model ({told}: {apart:.1%} apart)"
        )
    return answers


def _depends(change: float, scatter: float) -> str:
    if abs(change) <= _MATTERS_SHARE:
        return "does not depend"
    if abs(change) <= scatter:
        return f"scatters too much ({scatter:.1%}) to say whether it depends"
    return "depends"


def costs_table(summary: Summary) -> str:
    """Curves, interruptions, KV and answers as text."""
    parts = (_curve_lines(summary.curves), _swap_lines(summary.interruptions))
    kv = _kv_lines([row for row in summary.interruptions if not row.stays])
    return "\n".join([*(line for part in parts for line in part), *kv, *summary.answers])


def _curve_lines(curves: Sequence[Curve]) -> list[str]:
    head = (
        f"{'model':9} {'steps':8} {'rho':>7} {'device ms':>10} {'host ms':>10} "
        f"{'crossing ms':>12} {'residual':>9} {'spread':>7} {'points':>7}"
    )
    lines = [head] if curves else []
    for one in curves:
        rho = f"{one.host_fixed_s / one.device_fixed_s:7.2f}" if one.device_fixed_s else " " * 7
        lines.append(
            f"{one.model:9} {one.kind:8} {rho} {one.device_fixed_s * 1e3:10.3f} "
            f"{one.host_fixed_s * 1e3:10.3f} {one.crossing_s * 1e3:12.3f} "
            f"{one.residual:9.1%} {one.spread:7.1%} {one.points:7}"
        )
    return lines


def _swap_lines(rows: Sequence[Interruption]) -> list[str]:
    head = (
        f"{'victim':9} {'for':9} {'':6} {'total s':>8} {'swap':>6} {'KV':>6} {'added':>7} "
        f"{'KV out':>8} {'unload':>8} {'load':>8} {'KV in':>8} {'1st tok':>8} {'other':>8} "
        f"{'steps/load':>11}"
    )
    lines = [head] if rows else []
    for row in rows:
        seconds = (row.out_s, row.unload_s, row.load_s, row.in_s, row.first_token_s, row.claimant_s)
        cells = " ".join(f"{one:8.4f}" for one in seconds)
        lines.append(
            f"{row.victim:9} {row.claimant:9} {'stays' if row.stays else 'leaves':6} "
            f"{row.overhead_s:8.4f} {row.swap_share:6.1%} {row.kv_share:6.1%} "
            f"{row.added_share:+7.2%} {cells} {row.steps_per_load:11.1f}"
        )
    return lines


def _kv_lines(rows: Sequence[Interruption]) -> list[str]:
    head = (
        f"{'victim':9} {'for':9} {'at':>6} {'KV MB':>9} {'KB/token':>9} {'out ms':>8} {'in ms':>8}"
    )
    lines = [head] if rows else []
    for row in rows:
        grows = row.last_kv_bytes / row.last_point_tokens / 1e3
        lines.append(
            f"{row.victim:9} {row.claimant:9} {row.last_point_tokens:6} "
            f"{row.last_kv_bytes / 1e6:9.1f} {grows:9.1f} {row.last_out_s * 1e3:8.2f} "
            f"{row.last_in_s * 1e3:8.2f}"
        )
    return lines
