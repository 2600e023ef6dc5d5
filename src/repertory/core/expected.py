"""What the work expected of a model takes at a place, and what it takes from others there."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from repertory.core.sites import Site, fits_whole, is_faster_than_cores
from repertory.core.splits import has_accelerators
from repertory.core.state import ModelState, State, Step
from repertory.domain.ladder import Rung
from repertory.domain.specs import Placement
from repertory.policy.objective import response_factor

__all__ = ["expected_s"]

_MOST_BATCH = 4
"""Sequences of a step that answers are reckoned with, at the most (`core.costbook`)."""


def expected_s(
    state: State,
    step: Step,
    model: ModelState,
    site: Site,
    gone: frozenset[str] = frozenset(),
    *,
    is_alone: bool = False,
) -> float:
    """Seconds until all answers of a residency there are complete, summed over the answers.

    `gone`: replicas that leave for it.  `is_alone`: as if there were nobody else; a lower bound.
    Where there is nothing to choose between, the sum is spared.
    """
    if has_accelerators(state):
        return _answers_s(state, step, model, site, gone, is_alone=is_alone)
    return _work_s(state, step, model, site)


def _work_s(state: State, step: Step, model: ModelState, site: Site) -> float:
    """Seconds that the work expected during a residency at that site takes.

    1. Repacked weights load slower and compute faster (worker.md, Memory): counting the work
       beside the switch lets the least harm choose.
    2. A device that others keep busy is shared: each second of work takes as many as there are
       replicas with work.  What is on its way up comes up for somebody, and will have work.
    3. What comes up before anybody asks, for an operator or by a forecast, comes up for somebody:
       one request, at least.
    """
    spec = model.spec
    if not spec.repacked_bytes and len(state.devices) == 1:
        return 0.0
    soon_s = state.settings.use_soon_floor_s
    requests = max(1.0, len(model.queue) + model.rate.per_s(step.at_ns) * soon_s)
    head, prompt, output = model.oldest, 0, model.output.median_tokens
    if head is not None:
        prompt, output = head.request.prompt_tokens, min(output, head.request.max_tokens)
    work_s = requests * state.costs.work_s(spec, site.placement, prompt, output)
    devices = set(site.placement.devices)
    sharing = sum(
        1
        for one in state.on_devices.values()
        if (one.running or one.transition is not None)
        and one.model != spec.name
        and not devices.isdisjoint(one.placement.devices)
    )
    return work_s * (1 + sharing)


class _Load(NamedTuple):
    """What a model asks of a device."""

    answers: float
    """Until the horizon."""
    each_s: float
    """Of an answer with the device to itself."""
    share: float
    """Of the device's time."""


def _answers_s(
    state: State,
    step: Step,
    model: ModelState,
    site: Site,
    gone: frozenset[str],
    *,
    is_alone: bool,
) -> float:
    """Where places differ in speed: seconds that each answer takes, not seconds of the device, for
    those who wait feel the former; and what a slow one takes from the others of its device.

    A device that is shared answers in 1 / (1 - u) of the time that it would take alone, u being the
    share of its time that is asked for (processor sharing).
    """
    own = _load(state, step, model, site.placement, len(model.queue))
    if is_alone:
        return own.answers * own.each_s
    others, turns_s = [*_others(state, step, model, site.placement, gone)], 0.0
    if is_faster_than_cores(site.node, site.placement.devices) and not fits_whole(state, model):
        for other in _missing(state, step, model, gone):
            others.append(_load(state, step, other, replace(site.placement, layers=None), 0))
            turns_s += _turns_s(state, step, model, other)
    before = sum(one.share for one in others)
    alone, together = response_factor(before), response_factor(before + own.share)
    theirs_s = sum(one.answers * one.each_s for one in others) * (together - alone)
    return own.answers * own.each_s * together + theirs_s + turns_s


def _others(
    state: State, step: Step, model: ModelState, where: Placement, gone: frozenset[str]
) -> Iterator[_Load]:
    for one in state.on_devices.values():
        is_there = one.rung in (Rung.DEVICE, Rung.SERVING) or one.transition is not None
        if one.model == model.spec.name or one.id in gone or not is_there:
            continue
        if not set(where.devices).isdisjoint(one.placement.devices):
            yield _load(state, step, state.models[one.model], one.placement, len(one.running))


def _missing(
    state: State, step: Step, model: ModelState, gone: frozenset[str]
) -> Iterator[ModelState]:
    """Who is not there now, and comes back: a part of what never fits takes the device's steps for
    as long as it stays, and those who are asked for do not stay away.
    """
    for other in state.models.values():
        is_there = any(
            one.id not in gone and (one.rung in (Rung.DEVICE, Rung.SERVING) or one.transition)
            for one in other.replicas.values()
        )
        if other is model or is_there or other.rate.per_s(step.at_ns) <= 0.0:
            continue
        if fits_whole(state, other):
            yield other


def _turns_s(state: State, step: Step, model: ModelState, other: ModelState) -> float:
    """Switches there and back: of two that cannot both be there, asked for at rates a and b, one
    comes after the other a b / (a + b) times a second.
    """
    rate, theirs = model.rate.per_s(step.at_ns), other.rate.per_s(step.at_ns)
    if rate <= 0.0:
        return 0.0  # nobody has asked: an operator did
    turns = state.settings.rate_half_life_s * rate * theirs / (rate + theirs)
    return turns * (model.switch_ns + other.switch_ns) / 1e9


def _load(state: State, step: Step, model: ModelState, where: Placement, waiting: int) -> _Load:
    """1. What waits, and what is expected to come until the horizon; one at the least: what comes
       up before anybody asks comes up for somebody.
    2. So many tokens as usual, or as the head wants.
    """
    spec, costs = model.spec, state.costs
    soon_s = state.settings.rate_half_life_s
    rate = model.rate.of_late_per_s(step.at_ns)  # a place is slow for as long as it is used
    head, output = model.oldest, model.output.median_tokens
    prompt = round(model.usual_prompt_tokens)
    if head is not None:
        prompt, output = head.request.prompt_tokens, min(output, head.request.max_tokens)
    batch = min(_MOST_BATCH, max(1, waiting))
    context = batch * (prompt + output / 2.0)
    each_s = costs.work_s(spec, where, prompt, 0) + output * costs.step_s(
        spec, where, batch, context
    )
    return _Load(
        max(1.0, waiting + rate * soon_s), each_s, rate * costs.work_s(spec, where, prompt, output)
    )
