"""Requests on replicas: dispatch, grow, hand over, settle."""

from itertools import islice

from repertory.core.moves.moving import begin_resize
from repertory.core.places.victims import turn_end_ns
from repertory.core.requests.comparing import forget_victim
from repertory.core.requests.pace import computed_ahead_s, first_s
from repertory.core.requests.queueing import (
    charge_measured,
    charge_predicted,
    dequeue,
    first_of,
    in_line,
)
from repertory.core.state import ModelState, ReplicaState, RequestRecord, State, Step
from repertory.domain.actions import Dispatch, Settle, WakeAt
from repertory.domain.decisions import Cause, Option, Verdict
from repertory.domain.ladder import Phase, RequestStep, Rung
from repertory.domain.requests import Fault, Outcome, OutcomeKind
from repertory.domain.specs import KvShape, Placement
from repertory.perf.bytes import kv_needs, shape_for
from repertory.perf.costs import Grounds
from repertory.perf.profiles import LOAD_KEYS
from repertory.policy.requests.dispatch import Slot, choose_replica
from repertory.policy.requests.line import band

__all__ = [
    "claim",
    "close_if_due",
    "end_trial",
    "leave_replica",
    "lose",
    "reopen",
    "serve",
    "settle",
    "switch_grounds",
    "wake_at",
]

_LOOK_AHEAD = 16
"""How far behind a head that does not fit others may overtake: bounds the work per event."""


def serve(state: State, step: Step, model: ModelState) -> None:
    """Dispatch what waits to open replicas, in the order of `policy.requests.line`; ask for larger
    KV memory if short.
    """
    was_short = model.spec.name in state.short
    state.short.pop(model.spec.name, None)
    if not model.queue:
        return
    if model.claims:
        _spare_own(state, step, model)
    open_replicas = [
        replica
        for replica in model.replicas.values()
        if replica.is_open and not close_if_due(state, step, replica)
    ]
    if not open_replicas:
        return
    _fill_slots(state, step, model, open_replicas)
    if model.queue and not (state.trials and _is_held_back(state, step, model, open_replicas)):
        _grow(state, step, model, open_replicas)
        # Others are asked for room when slots begin to lack, and again whenever the queue has
        # doubled, for what slots would save grows with it.
        is_due = not was_short or len(model.queue).bit_count() == 1
        if model.spec.name in state.short and is_due:
            step.short[model.spec.name] = None


def _fill_slots(
    state: State, step: Step, model: ModelState, open_replicas: list[ReplicaState]
) -> None:
    waiting = islice(in_line(state, model, step.at_ns), _LOOK_AHEAD)
    is_worth_it = False
    while model.queue:
        free = [one for one in open_replicas if len(one.running) < one.slots]
        if not free:
            break
        is_worth_it = is_worth_it or _may_fit(model, free)
        record = next(waiting, None) if is_worth_it else None
        if record is None:
            break
        startable = free
        if record.is_suspect:
            startable = [one for one in free if _may_start(state, record, one)]
        if not startable:
            break  # nobody takes the slot of a suspect that waits for its trial
        chosen = _slot_for(state, record, startable)
        if chosen is not None:
            _dispatch(state, step, model, record, chosen)
            is_worth_it = False


def _may_fit(model: ModelState, free: list[ReplicaState]) -> bool:
    """Somebody in sight is short enough for a free slot: else nobody needs to be ranked."""
    longest = max([one.kv.cells for one in free if one.kv], default=0)
    waiting = model.queue
    for line in model.lines.values():
        for ticket in line[:_LOOK_AHEAD]:
            if waiting[ticket.name].request.cells <= longest:
                return True
    return False


def _spare_own(state: State, step: Step, model: ModelState) -> None:
    """A replica that drains for longer slots need not, once its head fits after all."""
    head = first_of(state, model, step.at_ns)
    for replica_id in list(model.claims):
        replica = state.replicas[replica_id]
        is_own = replica.model == model.spec.name and replica.leaving is None
        if is_own and head and replica.kv and head.request.cells <= replica.kv.cells:
            del model.claims[replica_id]
            reopen(state, step, replica)
            step.has_room = True


def _may_start(state: State, record: RequestRecord, replica: ReplicaState) -> bool:
    """Suspects are tried one by one: a node has one of them on trial at a time."""
    return not record.is_suspect or replica.node_id not in state.trials


def _is_held_back(
    state: State, step: Step, model: ModelState, open_replicas: list[ReplicaState]
) -> bool:
    """It is not for a lack of slots that the head waits, but for its trial."""
    head = first_of(state, model, step.at_ns)
    return head is not None and any(
        not _may_start(state, head, one)
        and one.kv is not None
        and len(one.running) < one.slots
        and head.request.cells <= one.kv.cells
        for one in open_replicas
    )


def end_trial(state: State, step: Step, record: RequestRecord) -> None:
    """It made a token, or it ended: whoever waits for a trial of its own may have it."""
    record.is_suspect, record.strikes = False, ()
    if not state.trials:
        return
    node_id = next((node for node, one in state.trials.items() if one == record.request.id), None)
    if node_id is None:
        return
    del state.trials[node_id]
    for name, model in state.models.items():
        if any(one.is_suspect for one in model.queue.values()):
            step.touched[name] = None


def _slot_for(state: State, record: RequestRecord, free: list[ReplicaState]) -> ReplicaState | None:
    """The replica that takes it, among those with a free slot."""
    cells = record.request.cells
    fitting = [one for one in free if one.kv and cells <= one.kv.cells]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    chosen = choose_replica(
        [Slot(one.id, one.running_ns / 1e9, first_s(state, record, one)) for one in fitting]
    )
    return next(one for one in fitting if one.id == chosen)


def _dispatch(
    state: State, step: Step, model: ModelState, record: RequestRecord, replica: ReplicaState
) -> None:
    record.walk(RequestStep.DISPATCH)
    model.served_ns[band(record.request.weight)] = step.at_ns
    charge_predicted(state, record)
    dequeue(state, model, record)
    record.is_returned = False
    record.replica_id = replica.id
    record.ahead_s = computed_ahead_s(state, replica)
    replica.running[record.request.id] = record
    state.busy[replica.id] = replica
    replica.running_ns += record.work_ns
    record.company = len(replica.running)
    record.dispatched_ns, record.taken_up_ns = step.at_ns, None
    if record.is_suspect:
        state.trials[replica.node_id] = record.request.id
    step.actions.append(Dispatch(record.request.id, replica.id, replica.node_id))


def leave_replica(
    state: State, step: Step, record: RequestRecord, share_ns: int | None = None
) -> None:
    """A running request ended: its slot is free, and perhaps its replica idle.

    `share_ns`: the device time that it had; where nobody says, what it can have had since it began,
    and no more than was predicted.
    """
    assert record.replica_id is not None
    replica = state.replicas[record.replica_id]
    if share_ns is None:
        elapsed_ns = step.at_ns - record.dispatched_ns
        share_ns = min(record.charged_ns, elapsed_ns // len(replica.running))
    charge_measured(state, record, share_ns)
    del replica.running[record.request.id]
    replica.running_ns -= record.work_ns
    step.touched[replica.model] = None
    if not replica.running:
        del state.busy[replica.id]
        replica.idle_since_ns = step.at_ns
        if replica.phase is Phase.DRAINING or not state.models[replica.model].queue:
            step.has_room = True


def settle(
    state: State,
    step: Step,
    record: RequestRecord,
    outcome: Outcome,
    share_ns: int | None = None,
) -> None:
    """The one outcome of a request; whatever still knows it forgets it."""
    record.walk(RequestStep.SETTLE)
    if record.replica_id is None:
        model = state.models[record.request.model]
        dequeue(state, model, record)
        step.touched[record.request.model] = None
    else:
        leave_replica(state, step, record, share_ns)
    end_trial(state, step, record)
    if state.pauses:
        forget_victim(state, step, record.request.id)
    del state.requests[record.request.id]
    step.actions.append(Settle(outcome))


def lose(state: State, step: Step, record: RequestRecord, why: str) -> None:
    """It had a worker, and cannot go on."""
    outcome = Outcome(record.request.id, OutcomeKind.FAILED, why, None, 503, Fault.WORKER_GONE)
    settle(state, step, record, outcome)


def wake_at(state: State, step: Step, at_ns: int, name: str) -> None:
    """Ask for a timer, unless the same or an earlier one of that name is under way."""
    due_ns = state.timers.get(name)
    if due_ns is not None and step.at_ns < due_ns <= at_ns:
        return
    state.timers[name] = at_ns
    step.actions.append(WakeAt(at_ns, name))


def claim(
    state: State,
    step: Step,
    replica: ReplicaState,
    claimant: ModelState,
    why: str,
    options: tuple[Option, ...] = (),
) -> None:
    """Another model (or its own longer slots) waits for this memory: bound its turn."""
    assert replica.claimed_by is None
    replica.claimed_by = claimant.spec.name
    replica.handover_at_ns = turn_end_ns(state, replica, claimant)
    claimant.claims[replica.id] = None
    grounds = switch_grounds(state, claimant, replica)
    step.verdicts.append(
        Verdict(
            rule="drain",
            subject=replica.model,
            choice=f"{replica.id} hands over to {claimant.spec.name}",
            why=f"{why}; it goes on for {_turn_s(step, replica):.3g} s",
            options=options,
            predicted_s=_turn_s(step, replica) + replica.running_ns / 1e9,
            basis=grounds.basis,
            error=grounds.error,
            cause=Cause.SLOTS if claimant.spec.name == replica.model else Cause.ROOM,
        )
    )
    if not close_if_due(state, step, replica) and step.at_ns < replica.handover_at_ns:
        wake_at(state, step, replica.handover_at_ns, f"handover:{replica.id}")


def switch_grounds(state: State, claimant: ModelState, replica: ReplicaState) -> Grounds:
    """Where the seconds of a claimant's switch into this memory come from: what a turn's length and
    a preemption's penalty rest on.
    """
    source = Rung.HOST if claimant.replicas else Rung.DISK
    where = Placement(replica.placement.devices)
    return state.costs.grounds(claimant.spec, where, LOAD_KEYS[where.form, source])


def _turn_s(step: Step, replica: ReplicaState) -> float:
    return max(0, replica.handover_at_ns - step.at_ns) / 1e9


def close_if_due(state: State, step: Step, replica: ReplicaState) -> bool:
    """A claimed replica whose turn is over stops admitting; true if it did so now."""
    if (
        replica.claimed_by is None
        or replica.phase is Phase.DRAINING
        or replica.rung is not Rung.SERVING
        or step.at_ns < replica.handover_at_ns
    ):
        return False
    replica.phase = Phase.DRAINING
    step.touched[replica.model] = None
    if not replica.running:
        step.has_room = True
    return True


def reopen(state: State, step: Step, replica: ReplicaState) -> None:
    """Its memory is not needed after all: it admits again."""
    replica.claimed_by = None
    if replica.leaving is None and replica.retiring is None:
        replica.phase = Phase.OPEN
        step.touched[replica.model] = None


def _grow(state: State, step: Step, model: ModelState, open_replicas: list[ReplicaState]) -> None:
    """More or longer KV slots for a queue that does not fit.

    1. A larger context class into memory that nobody needs.
    2. Else it is short of slots: others may make room for them (`core.places.placing`).
    3. If the head is longer than the slots, the replica drains and reopens with longer ones,
       unless they are found before that.
    """
    head = first_of(state, model, step.at_ns)
    assert head is not None
    cells = head.request.cells
    replica = open_replicas[0]
    if len(open_replicas) > 1:
        replica = min(
            open_replicas,
            key=lambda one: (one.kv is None or cells > one.kv.cells, one.running_ns, one.id),
        )
    if replica.transition is not None or replica.kv is None:
        return
    if step.at_ns < model.not_before_ns:
        wake_at(state, step, model.not_before_ns, f"retry:{model.spec.name}")
        return
    rooms = _rooms_to_grow(state, replica)
    is_too_short = cells > replica.kv.cells
    if is_too_short or _holds(rooms, replica, replica.kv):
        shape = _larger(model, replica, rooms, head)
        if shape is not None:
            why = f"{len(replica.running)} run and {len(model.queue)} wait"
            begin_resize(state, step, replica, shape, why)
            return
    if replica.claimed_by in (None, model.spec.name):
        state.short[model.spec.name] = None
    if is_too_short and replica.claimed_by is None:
        why = f"a request of {cells} tokens does not fit {replica.kv.cells} cells"
        claim(state, step, replica, model, why)


def _rooms_to_grow(state: State, replica: ReplicaState) -> dict[str, int]:
    """Bytes by pool that nobody has or was promised: old and new KV memory are held together."""
    if not state.node_of(replica).capabilities.kv_resizable:
        return dict.fromkeys(replica.placement.pools, 0)
    return {pool: state.devices[pool].spare_bytes for pool in replica.placement.pools}


def _holds(rooms: dict[str, int], replica: ReplicaState, kv: KvShape) -> bool:
    for pool, size in kv_needs(replica.spec, replica.placement, kv).items():
        if size > rooms[pool]:
            return False
    return True


def _larger(
    model: ModelState, replica: ReplicaState, rooms: dict[str, int], head: RequestRecord
) -> KvShape | None:
    """The largest class up to what the queue asks for that holds what runs, and fits."""
    held = replica.kv
    assert held is not None
    longest = max([one.request.cells for one in islice(model.queue.values(), _LOOK_AHEAD)])
    wanted = shape_for(model.spec, len(replica.running) + len(model.queue), longest)
    shapes = _halved(wanted.sequences, held.sequences, max(wanted.cells, held.cells))
    if head.request.cells > held.cells:
        shapes += _for_a_long_head(model, replica, held, head)
    for shape in shapes:
        fails = model.failed_kv_tokens is not None and shape.tokens >= model.failed_kv_tokens
        if shape != held and not fails and _holds(rooms, replica, shape):
            return shape
    return None


def _halved(sequences: int, least: int, cells: int) -> list[KvShape]:
    shapes = []
    while sequences >= least:
        shapes.append(KvShape(sequences, cells))
        sequences //= 2
    return shapes


def _for_a_long_head(
    model: ModelState, replica: ReplicaState, held: KvShape, head: RequestRecord
) -> list[KvShape]:
    """A head that needs longer slots may have fewer of them: else it waits for all others' end.

    As many as it takes, whatever the classes; or as many as run, and the next that ends makes room.
    """
    cells = shape_for(model.spec, 1, head.request.cells).cells
    taken = len(replica.running)
    counts = {held.sequences, min(taken + 1, model.spec.max_sequences), max(1, taken)}
    return [KvShape(count, cells) for count in sorted(counts, reverse=True)]
