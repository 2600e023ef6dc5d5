"""What the work expected of a model takes at a place, and what it takes from others there."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from repertory.core.places.sites import (
    USUAL_CELLS,
    Site,
    fits_whole,
    is_faster_than_cores,
    place_on,
)
from repertory.core.places.splits import has_accelerators
from repertory.core.places.tiers import buffer_needs, fixed_needs, stretch
from repertory.core.state import ModelState, ReplicaState, State, Step
from repertory.domain.ladder import Rung
from repertory.domain.specs import Placement
from repertory.perf.bytes import kv_needs, most_layers, shape_for
from repertory.policy.objective import response_factor
from repertory.policy.places.lateness import Party, late_sum_s

__all__ = ["Expected"]

_MOST_BATCH = 4
"""Sequences of a step that answers are reckoned with, at the most (`core.costbook`)."""


class Expected:
    """Seconds until all answers of a residency are complete, summed over the answers: of one model,
    at one place after another, as of now.

    A model is offered dozens of ways at few places: what depends on the model alone is reckoned
    once, and what depends on the place, once for each.  Where there is nothing to choose between,
    the sum is spared.
    """

    __slots__ = (
        "_has_choice",
        "_is_whole",
        "_loads",
        "_model",
        "_parties",
        "_state",
        "_step",
        "_works_s",
    )

    def __init__(self, state: State, step: Step, model: ModelState) -> None:
        """It holds until anything changes."""
        self._state, self._step, self._model = state, step, model
        self._has_choice = has_accelerators(state)
        self._is_whole = self._has_choice and fits_whole(state, model)
        self._works_s: dict[Placement, float] = {}
        self._loads: dict[Placement, _Load] = {}
        self._parties: dict[Placement, Party] = {}

    def seconds(self, site: Site, gone: frozenset[str] = frozenset()) -> float:
        """`gone`: replicas that leave for it."""
        if not self._has_choice:
            return self._work_s(site)
        state, step, model = self._state, self._step, self._model
        if self._is_whole:
            return _answers_s(state, step, model, site, self._load(site), gone)
        return _late_s(state, step, model, site, self._party(site), gone)

    def alone_s(self, site: Site) -> float:
        """As if there were nobody else; a lower bound."""
        if not self._has_choice:
            return self._work_s(site)
        if self._is_whole:
            load = self._load(site)
            return load.answers * load.each_s
        own = self._party(site)
        return late_sum_s([own._replace(share=0.0)], own.alone_s, own.bytes)

    def _work_s(self, site: Site) -> float:
        where = site.placement
        found = self._works_s.get(where)
        if found is None:
            found = self._works_s[where] = _work_s(self._state, self._step, self._model, where)
        return found

    def _load(self, site: Site) -> "_Load":
        where, model = site.placement, self._model
        found = self._loads.get(where)
        if found is None:
            found = _load(self._state, self._step, model, where, len(model.queue))
            self._loads[where] = found
        return found

    def _party(self, site: Site) -> Party:
        where, model = site.placement, self._model
        found = self._parties.get(where)
        if found is None:
            found = _party(self._state, self._step, model, where, len(model.queue))
            self._parties[where] = found
        return found


def _work_s(state: State, step: Step, model: ModelState, where: Placement) -> float:
    """Seconds that the work expected during a residency there takes.

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
    work_s = requests * state.costs.work_s(spec, where, prompt, output)
    devices, turns = set(where.devices), 1
    for one in state.on_devices.values():
        if (one.running or one.transition is not None) and one.model != spec.name:
            turns += not devices.isdisjoint(one.placement.devices)
    return work_s * turns


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
    own: _Load,
    gone: frozenset[str],
) -> float:
    """Where places differ in speed: seconds that each answer takes, not seconds of the device, for
    those who wait feel the former; and what a slow one takes from the others of its device.

    A device that is shared answers in 1 / (1 - u) of the time that it would take alone, u being the
    share of its time that is asked for (processor sharing).
    """
    others = [*_others(state, step, model, site.placement, gone)]
    before = sum(one.share for one in others)
    alone, together = response_factor(before), response_factor(before + own.share)
    theirs_s = sum(one.answers * one.each_s for one in others) * (together - alone)
    return own.answers * own.each_s * together + theirs_s


def _late_s(
    state: State,
    step: Step,
    model: ModelState,
    site: Site,
    own: Party,
    gone: frozenset[str],
) -> float:
    """Where no accelerator holds all of it: what its own answers lose by being late, and those of
    the others by its being there (`policy.objective.late_s`).

    On an accelerator the others are all who are asked for and fit there, whether they are there now
    or not: a part slows them down for as long as it stays, and they do not stay away.
    """
    others, room = [], own.bytes
    if is_faster_than_cores(site.node, site.placement.devices):
        (device, *_), whole = site.placement.devices, replace(site.placement, layers=None)
        room = state.devices[device].budget_bytes
        for other in state.models.values():
            is_asked = other is not model and other.rate.per_s(step.at_ns) > 0.0
            if is_asked and fits_whole(state, other):
                others.append(_party(state, step, other, whole, 0))
    else:  # main memory holds them all
        own = own._replace(bytes=0)
        for one in _beside(state, model, site.placement, gone):
            party = _party(state, step, state.models[one.model], one.placement, len(one.running))
            others.append(party._replace(bytes=0))
    both_s = late_sum_s([own, *others], own.alone_s, room)
    return both_s - late_sum_s(others, own.alone_s, room)


def _party(state: State, step: Step, model: ModelState, where: Placement, waiting: int) -> Party:
    load, device = _load(state, step, model, where, waiting), where.devices[0]
    cells = shape_for(model.spec, 1, min(USUAL_CELLS, model.largest_cells))
    needs = fixed_needs(model, where, loads=True)[device]
    best = _load(state, step, model, _best(state, model, where), 0)
    return Party(
        answers=load.answers,
        per_s=model.rate.per_s(step.at_ns),
        each_s=load.each_s,
        share=load.share,
        switch_s=model.switch_ns / 1e9,
        alone_s=best.each_s + model.switch_ns / 1e9,
        bytes=needs + kv_needs(model.spec, where, cells)[device],
    )


def _best(state: State, model: ModelState, where: Placement) -> Placement:
    """All of its layers on an accelerator that is empty, or as many as find room there."""
    node = next(
        node
        for node in state.nodes.values()
        if where.devices[0] in [device.id for device in node.devices]
    )
    fast = [one.id for one in node.devices if one.backend != "cpu"]
    if not fast or len(where.devices) > 1:
        return where
    device = min(fast, key=lambda name: (-state.devices[name].budget_bytes, name))
    place = place_on(state, node, (device,), where.form)
    if place.rest is None or fits_whole(state, model):
        return place
    cells = shape_for(model.spec, 1, min(USUAL_CELLS, model.largest_cells))
    buffers = buffer_needs(model, place)[device]
    room, grown = state.devices[device].budget_bytes, stretch(model, place).there
    layers = most_layers(model.spec, cells, room, buffers, grown)
    return place.holding(layers) if 0 < layers < model.spec.layers else place


def _others(
    state: State, step: Step, model: ModelState, where: Placement, gone: frozenset[str]
) -> Iterator[_Load]:
    for one in _beside(state, model, where, gone):
        yield _load(state, step, state.models[one.model], one.placement, len(one.running))


def _beside(
    state: State, model: ModelState, where: Placement, gone: frozenset[str]
) -> Iterator[ReplicaState]:
    """Replicas of other models that take the time of the same devices."""
    for one in state.on_devices.values():
        is_there = one.rung in (Rung.DEVICE, Rung.SERVING) or one.transition is not None
        if one.model == model.spec.name or one.id in gone or not is_there:
            continue
        if not set(where.devices).isdisjoint(one.placement.devices):
            yield one


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
