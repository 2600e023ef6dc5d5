"""How quick replicas of a model are: to the next first token, and with all their slots full."""

from repertory.core.state import ModelState, ReplicaState, RequestRecord, State
from repertory.domain.ladder import RequestState
from repertory.domain.specs import Placement

__all__ = ["answers_per_s", "computed_ahead_s", "first_s", "own_pace", "sharers"]


def answers_per_s(state: State, model: ModelState, where: Placement, slots: int) -> float:
    """Of usual requests, or shorter ones if the head is, so many at once; others who have work on
    those devices take turns.
    """
    costs, spec, head = state.costs, model.spec, model.oldest
    prompt, output = round(model.usual_prompt_tokens), model.output.median_tokens
    if head is not None:
        output = min(output, head.request.max_tokens)
    slots = max(1, slots)
    step_s = costs.step_s(spec, where, slots, slots * (prompt + output / 2.0))
    each_s = costs.work_s(spec, where, prompt, 0) + output * step_s / slots
    return 1.0 / max(1e-9, each_s * (1 + len(sharers(state, model, where))))


def sharers(state: State, model: ModelState, where: Placement) -> list[ReplicaState]:
    """Replicas of others with work there."""
    devices = set(where.devices)
    return [
        one
        for one in state.busy.values()
        if one.model != model.spec.name and not devices.isdisjoint(one.placement.devices)
    ]


def own_pace(state: State, model: ModelState, but: ReplicaState | None = None) -> float:
    """Of all its open replicas together; `but`: without that one."""
    return sum(
        answers_per_s(state, model, one.placement, one.slots)
        for one in model.replicas.values()
        if one.is_open and one is not but
    )


def first_s(state: State, record: RequestRecord, replica: ReplicaState) -> float:
    """Its prompt and those before it, in turns with the others who have work there."""
    own_s = state.costs.work_s(replica.spec, replica.placement, record.request.prompt_tokens, 0)
    model = state.models[replica.model]
    turns = 1 + len(sharers(state, model, replica.placement))
    return (own_s + computed_ahead_s(state, replica)) * turns


def computed_ahead_s(state: State, replica: ReplicaState) -> float:
    """By the law: the prompts that are there already and have no token.  Where tokens are made
    again one by one, all do that in the same steps.
    """
    begun = [one for one in replica.running.values() if one.state is RequestState.PREFILLING]
    if not begun:
        return 0.0
    one_by_one = state.node_of(replica).capabilities.exact_resume
    there = state.costs.resuming(replica.spec, replica.placement, one_by_one=one_by_one)
    ahead_s = 0.0
    for one in begun:
        ahead_s += there.replay_s(one.request.prompt_tokens, 0 if one_by_one else one.made_tokens)
    return ahead_s
