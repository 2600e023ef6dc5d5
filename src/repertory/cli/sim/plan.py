"""`plan`: which fleet to get for a workload, found by simulating some."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from repertory.cli.shared import FAILURE, CtrlC, Json, app, fail, table
from repertory.cli.sim.fleet import Part, Source, source_of
from repertory.config.catalog import Offered, read_catalog
from repertory.config.fleet import models_of, read_models
from repertory.domain.errors import ConfigError
from repertory.domain.fleets import Fleet, Machine
from repertory.domain.specs import ModelSpec
from repertory.reports.figures import seconds_text

if TYPE_CHECKING:
    from repertory.sim.planning.bounds import Bounds
    from repertory.sim.planning.judging import Trial
    from repertory.sim.planning.search import Choice, Offer, Plan, Planner
    from repertory.sim.planning.stretches import Asked
    from repertory.sim.planning.trials import Cost, Task
    from repertory.traces.summary import Slo

__all__ = ["plan"]

_PROBED = 1000
"""Requests of the run that says how long the others will take."""
_PROBED_FLEET = 2
"""It is on a fleet so many times as large as the smallest: that one would be late from the start,
and answer nobody.
"""


@app.command()
def plan(  # noqa: PLR0913  one for each flag
    catalog: Annotated[Path, typer.Option(help="A YAML of what can be had, and its prices.")],
    workload: Annotated[
        str, typer.Option(help="A file in the workload format, or a recipe, such as week.")
    ] = "week",
    models: Annotated[
        Path | None, typer.Option(help="A YAML of models; default: the recipe's.")
    ] = None,
    slo: Annotated[str, typer.Option(help="What must be met.")] = "ttft_p99<2s,tpot_p99<100ms",
    policy: Annotated[str, typer.Option(help="Who decides.")] = "repertory",
    seed: Annotated[int, typer.Option(min=0, help="Of the first run of each fleet.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each fleet; doubled if unsure.")] = 3,
    requests: Annotated[
        int, typer.Option(min=100, help="So many of the workload, where it is busiest.")
    ] = 20_000,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Thin a recipe to so many requests per second.")
    ] = None,
    days: Annotated[
        str | None, typer.Option(metavar="A-B", help="Of a recipe, only these days.")
    ] = None,
    max_devices: Annotated[int, typer.Option(min=1, help="The largest fleet to look at.")] = 64,
    mixes: Annotated[bool, typer.Option("--mixes", help="Fleets of two types, too.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Where published traces are, for recipes made of them.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it starts.")] = False,
    json: Json = False,
) -> None:
    """Find the cheapest fleets on which a workload meets an objective, by simulating them.

    Says before it starts how many simulations that can take, and how long.  Ctrl-C: the best so
    far.  The same seed finds the same plan.
    """
    from repertory.sim.planning.bounds import Bounds
    from repertory.sim.planning.search import Offer, Planner
    from repertory.sim.planning.trials import terms_of
    from repertory.sim.policies import check_policy
    from repertory.traces.summary import parse_slo

    check_policy(policy)
    aim = parse_slo(slo)
    offered = read_catalog(catalog)
    source = source_of(workload, data, Part(None, rate, days))
    if source.path is not None and models is None:
        raise ConfigError(f"a file of requests needs --models, a YAML of the models in {workload}")
    known = None if models is None else read_models(models)
    asked = _busiest(source, seed, requests)
    study = _Study({one.gpu.name: one for one in offered}, known, source, asked, aim, policy)
    if source.is_fixed and seeds > 1:
        _say(f"every seed plays the same requests of {source.name}: one run of each fleet")
        seeds = 1
    bounds = Bounds(study.fleet, asked, aim)
    planner = Planner(
        offers=tuple(
            Offer(one.gpu.name, one.usd_per_h, one.counts(max_devices)) for one in offered
        ),
        wanted=tuple(term.share for term in terms_of(aim)),
        seeds=range(seed, seed + seeds),
        is_enough=bounds.is_enough,
        most_devices=max_devices,
        has_mixes=mixes,
    )
    excluded = _excluded(bounds, planner)
    _say_stretch(study, excluded)
    _say_refused(study, bounds, planner)
    _say_cold(study, bounds, planner)
    about = _say_cost(study, planner)
    if sys.stdin.isatty() and not yes and not json:
        typer.confirm("Go on?", default=True, abort=True, err=True)
    found = _search(study, planner, about, hidden=json)
    _tell(study, found, excluded, json=json)


@dataclass(frozen=True, slots=True)
class _Study:
    """What fleets are tried for."""

    offered: Mapping[str, Offered]
    models: tuple[ModelSpec, ...] | None
    """None: the recipe's."""
    source: Source
    asked: "Asked"
    slo: "Slo"
    policy: str

    def fleet(self, choice: "Choice") -> Fleet:
        machines = [one for name, count in choice.parts for one in self._machines(name, count)]
        fleet = Fleet(choice.words, tuple(machines), self.models or ())
        if self.models is None:
            sizes = [(one.name, one.parameters) for one in self.source.recipe().models]
            fleet = replace(fleet, models=models_of(sizes, fleet))
        return fleet

    def _machines(self, name: str, count: int) -> tuple[Machine, ...]:
        """Of a number that makes no whole nodes (a bound asks for one device): the next larger."""
        offered = self.offered[name]
        while not (machines := offered.machines(count)):
            count += 1
        return machines

    def task(self, choice: "Choice", load: float, seed: int) -> "Task":
        from repertory.sim.planning.trials import Task
        from repertory.sim.play import Scenario

        stretch = replace(self.asked.stretch, load=load)
        scenario = Scenario(self.fleet(choice), self.policy, seed)
        return Task(scenario, stretch, self.asked.counted, self.slo)


def _busiest(source: Source, seed: int, requests: int) -> "Asked":
    """Of a recipe with days, runs begin on the day of the stretch: what came before is not made."""
    from repertory.sim.planning.stretches import busiest
    from repertory.traces.streams import DAY_S

    asked = busiest(source, seed, requests)
    if source.path is not None or (recipe := source.recipe()).replay_s is not None:
        return asked
    first, last = source.part.chosen_days() or recipe.days
    passed = min(int(asked.stretch.begin_s // DAY_S), last - first)
    part = replace(source.part, days=f"{first + passed}-{last}")
    begin_s = asked.stretch.begin_s - passed * DAY_S
    stretch = replace(asked.stretch, workload=replace(source, part=part), begin_s=begin_s)
    return replace(asked, stretch=stretch)


def _excluded(bounds: "Bounds", planner: "Planner") -> dict[str, str]:
    """Types that alone can never do, and why; an error if nothing is left to try."""
    found = {}
    for offer in planner.offers:
        why = bounds.exclusion(offer, planner.most_devices)
        if why is not None:
            found[offer.name] = why
    if len(found) == len(planner.offers) and not planner.has_mixes:
        lines = [f"{name}: {why}" for name, why in found.items()]
        raise ConfigError("no type of the catalogue can do alone:\n" + "\n".join(lines))
    return found


def _say_stretch(study: _Study, excluded: Mapping[str, str]) -> None:
    """On stderr, as all that is said before: stdout is the plan's."""
    asked = study.asked
    _say(
        f"{asked.stretch.requests:,} of {asked.whole_requests:,} requests of {study.source.name}, "
        f"where it is busiest: {seconds_text(asked.stretch.span_s)} of "
        f"{seconds_text(asked.whole_s)}; the first tenth warms up and does not count"
    )
    for name, why in excluded.items():
        _say(f"not alone: {name}: {why}")


def _say_refused(study: _Study, bounds: "Bounds", planner: "Planner") -> None:
    """What is longer than its model's context is refused by any fleet, and counts as late."""
    offer = next(one for one in planner.offers if one.counts)
    refused = bounds.refused(_any_of(offer))
    if not refused:
        return
    asked = study.asked.stretch.requests
    words = (
        f"{refused:,} of {asked:,} requests are longer than their model's context; any fleet "
        "refuses them, and they count as late"
    )
    allowed = 1.0 - max(planner.wanted)
    if refused > allowed * asked:
        raise ConfigError(
            f"{words}: more than the {allowed:.2%} that may be; give the models more context, or "
            "leave those requests out"
        )
    _say(words)


def _say_cold(study: _Study, bounds: "Bounds", planner: "Planner") -> None:
    """Types of which a node is still reading files when answers begin to count."""
    warm_s, read_s = study.asked.stretch.warm_s, {}
    for offer in planner.offers:
        if offer.counts:
            fleet = bounds.fleet(_any_of(offer))
            asked = [spec for spec in fleet.models if spec.name in study.asked.models]
            disk_bytes_per_s = fleet.machines[0].disk_bytes_per_s
            read_s[offer.name] = sum(spec.weights_bytes for spec in asked) / disk_bytes_per_s
    cold = [f"{name} {seconds_text(one)}" for name, one in read_s.items() if one > warm_s]
    if cold:
        _say(
            f"the warm-up of {seconds_text(warm_s)} is shorter than one node takes to read every "
            f"model that is asked for ({', '.join(cold)}): first reads count, which they would not "
            "in a longer stretch (--requests); a faster disk shortens them"
        )


def _any_of(offer: "Offer") -> "Choice":
    from repertory.sim.planning.search import Choice

    return Choice(((offer.name, offer.counts[0]),))


def _say_cost(study: _Study, planner: "Planner") -> int:
    """About how many runs there will be."""
    from repertory.sim.planning.outlook import most_trials, outlook
    from repertory.sim.planning.search import first_choices

    choices = first_choices(planner)
    if not choices:
        raise ConfigError("no fleet within --max-devices can do; see the reasons above")
    cores = _cores()
    about, most = outlook(planner, cores), most_trials(planner)
    costs = {choice.parts[0][0]: _cost(study, choice, planner.seeds[0]) for choice in choices}
    runs_s = {name: cost.request_s * study.asked.stretch.requests for name, cost in costs.items()}
    arrivals_s = max(cost.arrivals_s for cost in costs.values()) * len(planner.seeds)
    total_s = arrivals_s + about.more_turns * median(runs_s.values())
    total_s += sum(about.turns[name] * run_s for name, run_s in runs_s.items())
    names = ", ".join(f"{name} {count}" for name, count in most.items() if count)
    _say(
        f"about {about.trials} simulations of up to {seconds_text(max(runs_s.values()))}, in all "
        f"some {seconds_text(total_s)} on {cores} cores; at most {sum(most.values())} ({names})"
    )
    return about.trials


def _cost(study: _Study, smallest: "Choice", seed: int) -> "Cost":
    from repertory.sim.planning.trials import cost_of

    parts = tuple((name, _PROBED_FLEET * count) for name, count in smallest.parts)
    return cost_of(study.task(replace(smallest, parts=parts), 1.0, seed), _PROBED)


def _search(study: _Study, planner: "Planner", about: int, *, hidden: bool) -> "Plan":
    from repertory.sim.planning.search import Search
    from repertory.sim.planning.trials import Crew

    shown = (TextColumn("{task.completed} runs"), BarColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with (
        CtrlC() as ctrl_c,
        Crew(_cores(), lambda: ctrl_c.is_pressed) as crew,
        Progress(
            *shown, TimeElapsedColumn(), console=console, transient=True, disable=hidden
        ) as bar,
    ):
        task = bar.add_task("", total=about)

        def tell(plan: "Plan") -> None:
            best = plan.best
            words = "none meets it so far"
            if best is not None:
                words = f"best so far {best.choice.words}, {best.usd_per_h:.2f} USD/h"
            total = max(about, plan.trials + 1)
            bar.update(task, completed=plan.trials, total=total, description=words)

        def ask(choice: "Choice", load: float, seeds: Sequence[int]) -> "Sequence[Trial]":
            return crew.run([study.task(choice, load, seed) for seed in seeds])

        search = Search(planner, ask, tell)
        try:
            return search.run()
        except KeyboardInterrupt:
            return search.plan


def _tell(study: _Study, found: "Plan", excluded: Mapping[str, str], *, json: bool) -> None:
    from repertory.reports.capacity import columns, conclusions, rows
    from repertory.sim.planning.trials import terms_of

    terms = terms_of(study.slo)
    said = conclusions(found, terms, [term.share for term in terms])
    if json:
        whole = {
            "origin": "simulated",
            "workload": study.source.name,
            "slo": str(study.slo),
            "policy": study.policy,
            "stretch": {
                "requests": study.asked.stretch.requests,
                "span_s": study.asked.stretch.span_s,
                "of_requests": study.asked.whole_requests,
            },
            "excluded": excluded,
            "said": said,
            "plan": found,
        }
        typer.echo(msgspec.json.encode(whole).decode())
    else:
        typer.echo(f"simulated; {study.policy}; SLO {study.slo}")
        table(columns(terms), rows(found, terms))
        for line in said:
            typer.echo(line)
    if not found.is_whole:
        fail(FAILURE, f"interrupted after {found.trials} runs: this is a part of the plan")
    if found.best is None:
        raise typer.Exit(FAILURE)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _say(words: str) -> None:
    typer.echo(words, err=True)
