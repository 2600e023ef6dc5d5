"""A plan of capacity as rows and sentences.  All its times are simulated."""

from collections.abc import Sequence
from statistics import median

from repertory.reports.figures import seconds_text
from repertory.sim.planning.evidence import Limit
from repertory.sim.planning.judging import Trial
from repertory.sim.planning.search import Judged, Plan
from repertory.sim.planning.trials import Term

__all__ = ["columns", "conclusions", "limit_text", "rows", "term_text"]

_WAITED = {
    Limit.MEMORY: "waited most for room: their model had none and was not on its way",
    Limit.DISK: "waited most for their model's first read from a disk",
    Limit.HOST_MEMORY: "waited most for a model that was read from a disk again",
    Limit.LOADS: "waited most for a model that came from main memory or was opened",
    Limit.SLOTS: "waited most for a free slot of their model",
    Limit.COMPUTE: "waited most for the steps that computed them",
}


def columns(terms: Sequence[Term]) -> list[str]:
    names = [f"{term.name} (of {seconds_text(term.limit_s)})" for term in terms]
    return ["FLEET", "USD/h", "SLO", *names, "BUSY", "SEEDS", "LIMITED BY"]


def rows(plan: Plan, terms: Sequence[Term]) -> list[list[str]]:
    return [
        [
            one.choice.words,
            f"{one.usd_per_h:.2f}",
            one.standing.value,
            *(term_text(one.trials, at, term) for at, term in enumerate(terms)),
            f"{100 * one.evidence.busy_share:.0f} %",
            str(len(one.trials)),
            limit_text(one),
        ]
        for one in plan.tried
    ]


def term_text(trials: Sequence[Trial], at: int, term: Term) -> str:
    """The quantile in the middle seed, and the range; of a run that was cut, what is known."""
    times = [trial.at_s[at] for trial in trials if not trial.is_cut]
    known = sorted(time_s for time_s in times if time_s is not None)
    if len(known) < len(trials):
        met = min(trial.met[at] for trial in trials)
        return f"{'over' if met < term.share else 'not over'} it, {100 * met:.1f} % in time"
    if len(known) == 1 or known[0] == known[-1]:
        return seconds_text(known[0])
    return f"{seconds_text(median(known))} ({seconds_text(known[0])} to {seconds_text(known[-1])})"


def limit_text(judged: Judged) -> str:
    evidence = judged.evidence
    limit = evidence.limit
    return "-" if limit is None else f"{limit.value} ({_late_share(judged, limit)})"


def _late_share(judged: Judged, limit: Limit) -> str:
    late = judged.evidence.late_by_limit
    return f"{100 * late[limit] / sum(late.values()):.0f} % of late answers"


def conclusions(plan: Plan, terms: Sequence[Term], wanted: Sequence[float]) -> list[str]:
    """What a reader needs who reads nothing else."""
    best = plan.best
    if best is None:
        return _unreached(plan, terms, wanted)
    margins = [
        f"{term.name} {term_text(best.trials, at, term)} of {seconds_text(term.limit_s)}"
        for at, term in enumerate(terms)
    ]
    said = [f"cheapest: {best.choice.words}, {best.usd_per_h:.2f} USD/h: {'; '.join(margins)}"]
    if plan.holds_load is not None:
        said.append(_margin(plan.holds_load, plan.breaks))
    said.append(f"at its own load {_evidence(best)}")
    larger = [one for one in plan.tried if best.choice.is_within(one.choice) and not one.is_met]
    said += [
        f"note: {one.choice.words} was tried too and {one.standing.value}: near the edge, more is "
        "not always better"
        for one in larger
    ]
    said += [
        f"{name}: nothing tried; the fewest that could do cost no less" for name in plan.too_dear
    ]
    return said


def _margin(holds_load: float, breaks: Judged | None) -> str:
    if breaks is None:
        return f"holds at {holds_load:.2f} x the load, the most that was tried"
    limit = breaks.evidence.limit
    what = "nothing was late" if limit is None else f"{limit.value}: {_says(breaks, limit)}"
    return f"holds until {holds_load:.2f} x the load; then runs out of {what}"


def _says(judged: Judged, limit: Limit) -> str:
    """Slots of busy devices count as compute, and are still what was waited for."""
    late, waited = judged.evidence.late, _WAITED[limit]
    if limit is Limit.COMPUTE and late.get(Limit.SLOTS, 0) > late.get(Limit.COMPUTE, 0):
        busy = f"{100 * judged.evidence.busy_share:.0f} %"
        waited = f"{_WAITED[Limit.SLOTS]}, on devices that compute {busy} of the time"
    return f"{_late_share(judged, limit)} {waited}"


def _evidence(judged: Judged) -> str:
    evidence = judged.evidence
    mean_s = evidence.loading_s / evidence.loads if evidence.loads else 0.0
    loads = f"{evidence.loads} loads" + (f" of {seconds_text(mean_s)}" if mean_s else "")
    return (
        f"devices compute {100 * evidence.busy_share:.0f} % of the time; a model that was asked "
        f"for had no room in {100 * evidence.crowded_share:.1f} % of it; {loads} in all runs"
    )


def _unreached(plan: Plan, terms: Sequence[Term], wanted: Sequence[float]) -> list[str]:
    if not plan.tried:
        return ["nothing was tried"]
    best = max(plan.tried, key=lambda one: (one.reach(wanted), -one.usd_per_h, one.choice))
    margins = [f"{term.name}: {term_text(best.trials, at, term)}" for at, term in enumerate(terms)]
    said = [
        f"no fleet that was tried meets it; nearest: {best.choice.words}, "
        f"{best.usd_per_h:.2f} USD/h: {'; '.join(margins)}"
    ]
    limit = best.evidence.limit
    if limit is not None:
        said.append(f"what limits it is {limit.value}: {_says(best, limit)}; {_HELP[limit]}")
    return said


_HELP = {
    Limit.MEMORY: "more devices (--max-devices) or ones with more memory",
    Limit.DISK: "a faster disk, or a looser TTFT: each model is read once at its first request",
    Limit.HOST_MEMORY: "more host_memory, or a faster disk",
    Limit.LOADS: "faster links, or devices with room for more models at once",
    Limit.SLOTS: "models with more max_sequences, or devices with more memory",
    Limit.COMPUTE: "faster devices, or a looser objective: more of the same may not help",
}
