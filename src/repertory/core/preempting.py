"""Running work that makes way: who is stopped for whom, and when it comes back."""

from repertory.core.comparing import begin_pause
from repertory.core.serving import leave_replica, lose, requeue, switch_basis
from repertory.core.state import ModelState, ReplicaState, RequestRecord, State, Step
from repertory.domain.actions import Preempt
from repertory.domain.decisions import Cause, Option, Verdict
from repertory.domain.events import Preempted
from repertory.domain.ladder import Phase, RequestState, Rung
from repertory.policy.objective import aged_weight
from repertory.policy.preempt import (
    Stake,
    Stop,
    expected_left,
    grown_weight,
    worth_stopping,
)

__all__ = ["considered", "press", "take_preempted"]

_AHEAD_TOKENS = 128
"""Steps grow with what is made: half of a usual answer is taken to be there."""


def press(state: State, step: Step, claimant: ModelState) -> None:
    """Stop what runs on the replicas that a waiting model has claimed, where that is worth it.

    A replica's turn protects it from those who weigh as much as its own work: so a switch pays for
    itself.  Who weighs more need not wait for the turn's end.
    """
    head = claimant.oldest
    if head is None:
        return
    for replica_id in sorted(claimant.claims):
        replica = state.replicas[replica_id]
        if replica.model == claimant.spec.name or replica.rung is not Rung.SERVING:
            continue  # its own longer slots: what runs there has been waited for by its own
        if replica.transition is not None or not replica.running:
            continue
        if any(one.is_stopping or one.is_suspect for one in replica.running.values()):
            continue
        heaviest = max(_weight(one) for one in replica.running.values())
        if step.at_ns < replica.handover_at_ns and head.request.weight <= heaviest:
            continue
        found = _weigh(state, step, claimant, replica)
        if found is not None and found.is_worth_it:
            _stop(state, step, claimant, replica, found)


def considered(
    state: State, step: Step, claimant: ModelState, replica: ReplicaState
) -> tuple[Option, ...]:
    """For the record of a turn that is bounded: to wait for its work's end, or to stop it now."""
    found = _weigh(state, step, claimant, replica)
    return () if found is None else _options(found)[::-1]


def take_preempted(state: State, step: Step, event: Preempted) -> None:
    """It waits again, with what it has made; unless its model is not to be had any more."""
    record = state.requests.get(event.request_id)
    if record is None or record.replica_id is None:
        return
    replica = state.replicas[record.replica_id]
    model = state.models[replica.model]
    record.is_stopping = False
    record.preemptions += 1
    record.made_tokens = event.made_tokens
    if record.state is RequestState.DECODING:
        record.made_by = replica.spec.digest
    leave_replica(state, step, record)
    requeue(state, step, model, [record])
    is_of_another_file = record.made_by not in (None, model.spec.digest)
    if model.is_removed or model.fault is not None or is_of_another_file:
        why = f"{model.spec.name} was removed or replaced while this request was preempted"
        lose(state, step, record, why)


def _weigh(state: State, step: Step, claimant: ModelState, replica: ReplicaState) -> Stop | None:
    if replica.spec.digest != state.models[replica.model].spec.digest:
        return None  # no other file could go on with its tokens
    now_s = step.at_ns / 1e9
    waited_s = max(0.0, claimant.queued_weight * now_s - claimant.queued_weight_since)
    weight = aged_weight(claimant.queued_weight, waited_s, state.settings.max_wait_s)
    back_s = replica.activate_s + replica.reload_s
    stakes = [_stake(state, step, replica, one) for one in replica.running.values()]
    # All that waits may go before what is stopped: where there is much of it, stopping shuffles.
    there_s, work_s = claimant.switch_ns / 1e9, state.queued_ns / 1e9 / len(state.devices)
    return worth_stopping(weight, stakes, there_s, work_s, back_s)


def _stake(state: State, step: Step, replica: ReplicaState, record: RequestRecord) -> Stake:
    """What a running generation would lose by being stopped: six features in a few sums.

    How far it is, is told by the time that it has run: tokens do not pass through the brain.
    """
    request, spec, where, costs = record.request, replica.spec, replica.placement, state.costs
    one_by_one = state.node_of(replica).capabilities.exact_resume
    prompt, before, batch = request.prompt_tokens, record.made_tokens, len(replica.running)
    company = sum(one.request.prompt_tokens + one.made_tokens for one in replica.running.values())
    token_s = costs.step_s(spec, where, batch, company + batch * _AHEAD_TOKENS)
    elapsed_s = (step.at_ns - record.dispatched_ns) / 1e9
    begun_s = costs.resume_s(spec, where, prompt, before, one_by_one=one_by_one)
    made = before + max(0, round((elapsed_s - begun_s) / max(token_s, 1e-9)))
    made = min(made, request.max_tokens)
    usual = state.models[replica.model].output.beyond(made)
    left_s = expected_left(usual, request.max_tokens, made) * token_s
    left_s += max(0.0, begun_s - elapsed_s)
    resume_s = costs.resume_s(spec, where, prompt, made, one_by_one=one_by_one)
    return Stake(request.id, _weight(record), left_s, resume_s)


def _weight(record: RequestRecord) -> float:
    return grown_weight(record.request.weight, record.preemptions)


def _options(found: Stop) -> tuple[Option, Option]:
    """Each with the harm of those who wait meanwhile."""
    return (
        Option("preempt", found.lost, found.penalty_s, 0),
        Option("wait for their end", found.saved, found.drain_s, 0),
    )


def _stop(
    state: State, step: Step, claimant: ModelState, replica: ReplicaState, found: Stop
) -> None:
    """It admits nothing more, and gives its memory to the claimant when all have stopped."""
    replica.phase = Phase.DRAINING
    replica.handover_at_ns = min(replica.handover_at_ns, step.at_ns)
    step.touched[replica.model] = None
    for record in replica.running.values():
        record.is_stopping = True
        step.actions.append(Preempt(record.request.id, replica.id, replica.node_id))
    name = claimant.spec.name
    pause = begin_pause(state, step, name, replica)
    pause.predicted_s, pause.basis = found.penalty_s, switch_basis(state, claimant, replica)
    step.verdicts.append(
        Verdict(
            rule="preempt",
            subject=replica.model,
            choice=f"{len(replica.running)} generations of {replica.id} make way for {name}",
            why=(
                f"they would go on for {found.drain_s:.3g} s; a switch there and back takes "
                f"{found.penalty_s:.3g} s"
            ),
            options=_options(found),
            predicted_s=found.penalty_s,
            basis=pause.basis,
            cause=Cause.ROOM,
        )
    )
