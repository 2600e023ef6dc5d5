"""Running work that makes way: who is stopped for whom, and when it comes back."""

from itertools import islice

from repertory.core.costbook import RESUME_KEYS
from repertory.core.ledger import Charge
from repertory.core.places.sites import need_bytes
from repertory.core.places.victims import turn_end_ns
from repertory.core.requests.comparing import begin_pause
from repertory.core.requests.queueing import dues_of, heaviest, in_line, requeue
from repertory.core.requests.serving import leave_replica, lose, switch_grounds
from repertory.core.state import ModelState, ReplicaState, RequestRecord, State, Step
from repertory.domain.actions import Preempt
from repertory.domain.decisions import Cause, Option, Verdict
from repertory.domain.events import Preempted
from repertory.domain.ladder import Edge, Phase, RequestState, Rung
from repertory.perf.costs import Grounds
from repertory.perf.known import Resuming
from repertory.perf.profiles import ACTIVATE, LOAD_KEYS
from repertory.policy.objective import MISS_PENALTY_S, Due, aged_weight, at_risk
from repertory.policy.requests.line import band
from repertory.policy.requests.preempt import (
    Stake,
    Stop,
    expected_left,
    grown_weight,
    has_paid,
    one_for_all,
    worth_stopping,
)

__all__ = ["considered", "press", "press_own", "take_preempted"]

_AHEAD_TOKENS = 128
"""Steps grow with what is made: half of a usual answer is taken to be there."""
_MOST_STOPS = 4
"""Of a model's own generations, for its own requests, at one event: it bounds the work."""


def press(state: State, step: Step, claimant: ModelState) -> None:
    """Stop what runs on the replicas that a waiting model has claimed, where that is worth it.

    A replica's turn protects it from those who weigh as much as its own work: so a switch pays for
    itself.  Who weighs more need not wait for the turn's end, and whose deadline depends on it
    weighs more by that.
    """
    if not claimant.claims:
        return
    for replica_id in sorted(claimant.claims):
        replica = state.replicas[replica_id]
        if replica.model == claimant.spec.name or replica.rung is not Rung.SERVING:
            continue  # its own longer slots: what runs there has been waited for by its own
        if replica.transition is not None or not replica.running:
            continue
        running = replica.running.values()
        if any(one.is_stopping or one.is_suspect for one in running):
            continue
        own = max([_weight(one) for one in running])
        is_its_turn = step.at_ns < replica.handover_at_ns
        if is_its_turn and heaviest(claimant) + _risked(state, step, claimant) <= own:
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


def press_own(state: State, step: Step, model: ModelState) -> None:
    """All slots are taken, and more are not to be had now: who waits and weighs a class more than
    what runs has the slot of the lightest, if that saves more than it costs.

    There is no switch to pay for, only the resume, so the sums alone decide.  A request for which
    one is stopping already waits for that one.
    """
    running = [one for each in model.replicas.values() for one in each.running.values()]
    if not running:
        return
    if band(min([one.request.weight for one in running])) >= band(heaviest(model)):
        return
    coming = sum(one.is_stopping for one in running)
    for at, head in enumerate(islice(in_line(state, model, step.at_ns), _MOST_STOPS)):
        if at < coming:
            continue
        found = _lightest(model, head)
        if found is None:
            return
        replica, victim = found
        stop = _weigh_own(state, step, replica, victim, head)
        if stop is None or stop.saved <= stop.lost:
            return
        victim.is_stopping = True
        step.actions.append(Preempt(victim.request.id, replica.id, replica.node_id))
        who = f"{victim.request.id} makes way for {head.request.id}"
        why = (
            f"all slots of {replica.id} are taken, the first would be free in "
            f"{stop.drain_s:.3g} s; a resume takes {stop.penalty_s:.3g} s"
        )
        grounds = _own_grounds(state, replica)
        step.verdicts.append(_verdict(stop, model.spec.name, who, why, grounds, None))


def _lightest(model: ModelState, head: RequestRecord) -> tuple[ReplicaState, RequestRecord] | None:
    """Of what could make way for `head`: the lightest, and of those the one that began last."""
    found = [
        (replica, one)
        for replica in model.replicas.values()
        if _is_full(model, replica) and replica.kv and head.request.cells <= replica.kv.cells
        for one in replica.running.values()
        if _makes_way(one, head)
    ]
    return min(
        found,
        key=lambda pair: (_weight(pair[1]), -pair[1].dispatched_ns, pair[1].request.id),
        default=None,
    )


def _is_full(model: ModelState, replica: ReplicaState) -> bool:
    """It serves, has no free slot and gets no other ones now; its generations can go on."""
    if replica.kv is None or not replica.is_open or replica.transition is not None:
        return False
    is_same = replica.spec.digest == model.spec.digest
    return is_same and len(replica.running) == replica.kv.sequences


def _makes_way(one: RequestRecord, head: RequestRecord) -> bool:
    """It is of a lighter class, and still weighs less once it was stopped: else it would have its
    slot back at once.  Here every stop counts: slots of its own model become free anyway, and soon.
    """
    if one.is_stopping or one.is_suspect or band(one.request.weight) >= band(head.request.weight):
        return False
    return grown_weight(one.request.weight, one.preemptions + 1) < head.request.weight


def _weigh_own(
    state: State, step: Step, replica: ReplicaState, victim: RequestRecord, head: RequestRecord
) -> Stop | None:
    """Until some slot is free anyway takes the work of one request: so often one of them ends.

    The resume counts for the victim alone: its cells are mostly found, or its tokens are made again
    in the steps of those that run anyway.
    """
    own = _stake(state, step, victim, _there(state, replica))
    gap_s = replica.running_ns / 1e9 / len(replica.running)
    waited_s = (step.at_ns - head.since_ns) / 1e9
    weight = aged_weight(_weight(head), _weight(head) * waited_s, state.settings.max_wait_s)
    dues = () if head.due_ns is None else (Due(head.request.weight, head.due_ns - step.at_ns),)
    stake = own._replace(left_s=min(own.left_s, gap_s))
    return worth_stopping(weight, [stake], 0.0, head.work_ns / 1e9, 0.0, dues)


def _own_grounds(state: State, replica: ReplicaState) -> Grounds:
    """There is no switch to pay: the resume is the whole of the penalty."""
    where = replica.placement
    return state.costs.grounds(replica.spec, where, RESUME_KEYS[where.form])


def take_preempted(state: State, step: Step, event: Preempted) -> None:
    """It waits again, with what it has made; unless its model is not to be had any more."""
    record = state.requests.get(event.request_id)
    if record is None or record.replica_id is None:
        return
    replica = state.replicas[record.replica_id]
    model = state.models[replica.model]
    record.is_stopping = False
    record.preemptions += 1
    record.unpaid_stops += not _has_paid(step, record)
    record.made_tokens = event.made_tokens
    if record.state is RequestState.DECODING:
        record.made_by = replica.spec.digest
    leave_replica(state, step, record, event.share_ns)
    requeue(state, step, model, [record])
    is_of_another_file = record.made_by not in (None, model.spec.digest)
    if model.is_removed or model.fault is not None or is_of_another_file:
        why = f"{model.spec.name} was removed or replaced while this request was preempted"
        lose(state, step, record, why)


def _has_paid(step: Step, record: RequestRecord) -> bool:
    began_ns = record.taken_up_ns
    if began_ns is None:
        return False
    return has_paid((began_ns - record.dispatched_ns) / 1e9, (step.at_ns - began_ns) / 1e9)


def _weigh(state: State, step: Step, claimant: ModelState, replica: ReplicaState) -> Stop | None:
    if not replica.running:
        return None
    if replica.spec.digest != state.models[replica.model].spec.digest:
        return None  # no other file could go on with its tokens
    now_s = step.at_ns / 1e9
    waited_s = max(0.0, claimant.queued_weight * now_s - claimant.queued_weight_since)
    weight = aged_weight(claimant.queued_weight, waited_s, state.settings.max_wait_s)
    stays = _weights_stay(state, claimant, replica)
    back_s = replica.activate_s + (0.0 if stays else replica.reload_s)
    stakes = _held_against(state, step, claimant, replica)
    # All that waits may go before what is stopped: where there is much of it, stopping shuffles.
    # But for its own model's queue: what was stopped goes before that (`policy.requests.line`).
    queued_ns = state.queued_ns - state.models[replica.model].queued_ns
    there_s = _leaving_s(state, replica, stays) + claimant.switch_ns / 1e9
    work_s, dues = queued_ns / 1e9 / len(state.devices), dues_of(claimant, since_ns=step.at_ns)
    found = worth_stopping(weight, stakes, there_s, work_s, back_s, dues)
    if found is None:
        return None
    # How far off the moves may be; the resumes were measured on their own.
    error = _error(state, replica, stays) * (there_s + back_s) / max(found.penalty_s, 1e-9)
    return found._replace(error=error)


def _held_against(
    state: State, step: Step, claimant: ModelState, replica: ReplicaState
) -> list[Stake]:
    """What those who wait are compared with.

    1. What is not lighter than all of them has aged by what it had waited before it ran.
    2. Against who is a class above, one stands for all, and goes on with what its replica takes in.
    """
    own, theirs = heaviest(claimant), max([_weight(one) for one in replica.running.values()])
    if own <= theirs:
        return _stakes(state, step, replica, ages=True)
    stakes = _stakes(state, step, replica)
    if band(theirs) >= band(own):
        return stakes
    one = one_for_all(stakes)
    return [one._replace(left_s=one.left_s + _takes_in_s(state, step, claimant, replica))]


def _takes_in_s(state: State, step: Step, claimant: ModelState, replica: ReplicaState) -> float:
    """So long it goes on for certain to take in its own, whose end is waited for too: until its
    turn's end, for the minimum residency at the most.

    The whole turn, which may be ten times as long, is a guess: the storm of 100 models stopped a
    third more by it, at no less harm (docs/decisions/priorities.md).
    """
    model, settings = state.models[replica.model], state.settings
    if replica.phase is not Phase.OPEN or not model.queue:
        return 0.0
    end_ns = replica.handover_at_ns
    if replica.claimed_by is None:
        end_ns = turn_end_ns(state, replica, claimant)
    left_s = max(0, end_ns - step.at_ns) / 1e9
    return min(left_s, settings.min_residency_s, model.queued_ns / 1e9)


def _ageing(state: State, record: RequestRecord) -> float:
    """What had waited before it ran has aged like those who wait now: else an overload, where
    everybody is old, would stop everybody in turn.  Who weighs more is not held up by it.
    """
    waited_s = max(0, record.dispatched_ns - record.since_ns) / 1e9
    return aged_weight(1.0, waited_s, state.settings.max_wait_s)


def _weights_stay(state: State, claimant: ModelState, replica: ReplicaState) -> bool:
    """The claimant finds room in what the victim's KV memory leaves (Yildiz 2026, feature 6)."""
    need, name = need_bytes(state, claimant), replica.id
    for one in state.ledgers_of(replica):
        left = one.available_bytes + one.of(name, Charge.KV) + one.of(name, Charge.BUFFERS)
        if left < need:
            return False
    return True


def _leaving_s(state: State, replica: ReplicaState, stays: bool) -> float:
    """Until the victim's memory is free; with what is copied out, as that was measured."""
    spec, where, costs = replica.spec, replica.placement, state.costs
    closing_s = costs.free_s(spec, where, Edge.DEACTIVATE)
    return closing_s if stays else closing_s + costs.free_s(spec, where, Edge.UNLOAD)


def _error(state: State, replica: ReplicaState, stays: bool) -> float:
    """Of the largest part of the penalty: the victim's way back."""
    spec, where, costs = replica.spec, replica.placement, state.costs
    if stays and replica.kv is not None:
        return costs.grounds(spec, where, ACTIVATE).error
    return costs.grounds(spec, where, LOAD_KEYS[where.form, Rung.HOST]).error


def _risked(state: State, step: Step, claimant: ModelState) -> float:
    """What deadlines add to its weight: each counts as having waited for its penalty."""
    max_wait_s = state.settings.max_wait_s
    risked = at_risk(dues_of(claimant), step.at_ns, claimant.switch_ns / 1e9, max_wait_s)
    return risked * MISS_PENALTY_S / max_wait_s


def _stakes(state: State, step: Step, replica: ReplicaState, *, ages: bool = False) -> list[Stake]:
    """Of all that runs there: they would be taken up one after the other, as they were before.

    `ages`: each counts for more by what it had waited before it ran.
    """
    one_by_one = state.node_of(replica).capabilities.exact_resume
    found: list[Stake] = []
    there, ahead_s = _there(state, replica), 0.0
    for record in replica.running.values():
        own = _stake(state, step, record, there, ahead_s, _ageing(state, record) if ages else 1.0)
        found.append(own)
        if one_by_one:
            ahead_s += there[0].seconds(record.request.prompt_tokens, 0)
        else:
            ahead_s = own.resume_s
    return found


def _there(state: State, replica: ReplicaState) -> tuple[Resuming, float]:
    """What all that runs there is weighed by: its resumes, and seconds of a step of all of it."""
    spec, where, running = replica.spec, replica.placement, replica.running
    company = sum([one.request.prompt_tokens + one.made_tokens for one in running.values()])
    context = company + len(running) * _AHEAD_TOKENS
    one_by_one = state.node_of(replica).capabilities.exact_resume
    resuming = state.costs.resuming(spec, where, one_by_one=one_by_one)
    return resuming, state.costs.step_s(spec, where, len(running), context)


def _stake(
    state: State,
    step: Step,
    record: RequestRecord,
    there: tuple[Resuming, float],
    ahead_s: float = 0.0,
    ageing: float = 1.0,
) -> Stake:
    """What a running generation would lose by being stopped: six features in a few sums.

    How far it is, is told by the time that it has run: tokens do not pass through the brain.
    `ahead_s`: of those that would be taken up before it.
    """
    (resuming, token_s), request = there, record.request
    prompt, before = request.prompt_tokens, record.made_tokens
    elapsed_s = (step.at_ns - record.dispatched_ns) / 1e9
    begun_s = resuming.seconds(prompt, before, record.ahead_s)
    made = before + max(0, round((elapsed_s - begun_s) / max(token_s, 1e-9)))
    made = min(made, request.max_tokens)
    usual = state.models[request.model].output.beyond(made)
    left_s = expected_left(usual, request.max_tokens, made) * token_s
    left_s += max(0.0, begun_s - elapsed_s)
    resume_s = ahead_s + resuming.seconds(prompt, made)
    return Stake(request.id, _weight(record) * ageing, left_s, resume_s, _due_s(step, record))


def _due_s(step: Step, record: RequestRecord) -> float | None:
    """Until its deadline; None if it has none, or missed it, or has its first token."""
    deadline_ns = record.request.deadline_ns
    if deadline_ns is None or record.state is RequestState.DECODING:
        return None
    return (deadline_ns - step.at_ns) / 1e9 if deadline_ns > step.at_ns else None


def _weight(record: RequestRecord) -> float:
    return grown_weight(record.request.weight, record.unpaid_stops)


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
    pause.predicted_s, pause.grounds = found.penalty_s, switch_grounds(state, claimant, replica)
    who = f"{len(replica.running)} generations of {replica.id} make way for {name}"
    why = (
        f"they would go on for {found.drain_s:.3g} s; a switch there and back takes "
        f"{found.penalty_s:.3g} s"
    )
    step.verdicts.append(_verdict(found, replica.model, who, why, pause.grounds, Cause.ROOM))


def _verdict(
    found: Stop, model: str, choice: str, why: str, grounds: Grounds, cause: Cause | None
) -> Verdict:
    return Verdict(
        rule="preempt",
        subject=model,
        choice=choice,
        why=why,
        options=_options(found),
        predicted_s=found.penalty_s,
        basis=grounds.basis,
        error=grounds.error,
        cause=cause,
    )
