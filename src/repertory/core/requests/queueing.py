"""Who waits, in which order, and what each API key has had.

A model's queue is kept twice: by arrival, for whoever has waited longest (`ModelState.oldest`), and
in lines of requests that are alike, whose heads `policy.requests.line` compares for the next slot.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice

from repertory.core.state import (
    ModelState,
    RequestRecord,
    State,
    Step,
)
from repertory.core.tickets import Alike, KeyState, Ticket
from repertory.domain.ladder import RequestState, RequestStep
from repertory.domain.requests import Request
from repertory.policy.objective import Due
from repertory.policy.requests.fairness import ahead_ns, lifted_ns
from repertory.policy.requests.line import Place, Standing, band, first_standing, standing

__all__ = [
    "aged_since_ns",
    "ahead_share",
    "charge_measured",
    "charge_predicted",
    "dequeue",
    "dues_of",
    "enqueue",
    "first_of",
    "heaviest",
    "in_line",
    "requeue",
]

_LOOK_AHEAD = 64
"""How far into a line anybody looks: bounds the work per event."""
_MOST_DUES = 8
"""Deadlines of a model that are looked at: bounds the work per event."""


def enqueue(state: State, model: ModelState, record: RequestRecord) -> None:
    """To the end of its model's queue, with the sums that aging and admission need."""
    model.queue[record.request.id] = record
    _count_in(state, model, record)


def requeue(state: State, step: Step, model: ModelState, returned: list[RequestRecord]) -> None:
    """To the head of the queue, in the order in which they were dispatched.

    A stream that stands still has waited since now; who has seen no token yet, since it arrived.
    """
    for record in returned:
        record.is_stopping = False
        if record.state is RequestState.DECODING:
            record.since_ns = step.at_ns
        record.walk(RequestStep.RETURN)
        record.replica_id = None
        _count_in(state, model, record)
    model.queue = {one.request.id: one for one in returned} | model.queue


def dequeue(state: State, model: ModelState, record: RequestRecord) -> None:
    """Out of the queue, wherever it stands."""
    weight = record.request.weight
    state.heads.clear()
    del model.queue[record.request.id]
    model.queued_ns -= record.work_ns
    model.queued_weight -= weight
    model.queued_weight_since -= weight * record.since_ns / 1e9
    if not model.queue:
        model.queued_weight = model.queued_weight_since = 0.0
    state.waiting -= 1
    state.queued_ns -= record.work_ns
    assert record.place is not None, f"{record.request.id} does not wait"
    alike, ticket = record.place
    record.place = None
    line = model.lines[alike]
    del line[bisect_left(line, ticket)]
    if not line:
        del model.lines[alike]
    _count_out(state, record)


def _count_in(state: State, model: ModelState, record: RequestRecord) -> None:
    weight = record.request.weight
    state.heads.clear()
    model.queued_ns += record.work_ns
    model.queued_weight += weight
    model.queued_weight_since += weight * record.since_ns / 1e9
    state.waiting += 1
    state.queued_ns += record.work_ns
    record.place = alike, ticket = _placed(record)
    insort(model.lines.setdefault(alike, []), ticket)
    name, key = record.request.key, _key(state, record.request.key)
    if not key.waiting:
        key.used_ns = _lifted_ns(state, name)
    key.waiting += 1
    class_ = band(weight)
    key.queued_ns[class_] = key.queued_ns.get(class_, 0) + record.work_ns


def _count_out(state: State, record: RequestRecord) -> None:
    name, class_ = record.request.key, band(record.request.weight)
    key = state.keys[name]
    key.waiting -= 1
    key.queued_ns[class_] -= record.work_ns
    if not key.queued_ns[class_]:
        del key.queued_ns[class_]
    if not key.waiting:
        if not any(one.waiting for one in state.keys.values()):
            state.level_ns = key.used_ns
        _forget_idle(state, name)


def in_line(state: State, model: ModelState, at_ns: int) -> Iterator[RequestRecord]:
    """Those who wait, next first.  Those that were yielded before may leave meanwhile, nobody else;
    what that changes in their keys' accounts counts for those after them.
    """
    lines = model.lines
    if len(lines) == 1:
        (line,) = lines.values()
        for ticket in line[:_LOOK_AHEAD]:
            yield model.queue[ticket.name]
        return
    head = first_of(state, model, at_ns)
    if head is None:
        return
    assert head.place is not None
    alike, gap_s = head.place[0], _gap_of(model) if _has_deadlines(model) else 0.0
    yield head
    passed = dict.fromkeys(lines, 0)
    if head.request.id in model.queue:
        passed[alike] = 1
    heads = _standings(state, model, at_ns, gap_s, passed)
    while (first := first_standing(heads.values())) is not None:
        yield model.queue[first.name]
        if first.name in model.queue:
            alike = next(one for one, head in heads.items() if head is first)
            del heads[alike]
            passed[alike] += 1
            heads |= _standings(state, model, at_ns, gap_s, {alike: passed[alike]})
        else:
            heads = _standings(state, model, at_ns, gap_s, passed)


def _standings(
    state: State, model: ModelState, at_ns: int, gap_s: float, places: Mapping[Alike, int]
) -> dict[Alike, Standing]:
    """Of those at these places of the lines."""
    found = {}
    lines, keys, served_ns = model.lines, state.keys, model.served_ns
    max_wait_s = state.settings.max_wait_s
    for alike, at in places.items():
        line = lines.get(alike, ())
        if at < len(line):
            begin_ns, began_ns, since_ns, name = line[at]
            weight, key, stopped, has_begun, is_returned, has_deadline = alike
            place = Place(
                name,
                weight,
                since_ns,
                keys[key].used_ns,
                began_ns if has_begun else None,
                is_returned,
                stopped,
                begin_ns if has_deadline else None,
                served_ns.get(band(weight), 0),
            )
            found[alike] = standing(place, at_ns, max_wait_s, gap_s)
    return found


def first_of(state: State, model: ModelState, at_ns: int) -> RequestRecord | None:
    """Who is next; None: nobody waits."""
    lines = model.lines
    if len(lines) == 1:
        (line,) = lines.values()
        return model.queue[line[0].name]
    known = state.heads.get(model.spec.name)
    if known is not None:
        return known
    has_deadlines = _has_deadlines(model)
    gap_s = _gap_of(model) if has_deadlines else 0.0
    first = first_standing(_standings(state, model, at_ns, gap_s, dict.fromkeys(lines, 0)).values())
    if first is None:
        return None
    head = model.queue[first.name]
    if not has_deadlines:  # those look at what runs besides, which changes elsewhere
        state.heads[model.spec.name] = head
    return head


def heaviest(model: ModelState) -> float:
    """Of those who wait."""
    return max([alike.weight for alike in model.lines], default=0.0)


def dues_of(model: ModelState, *, since_ns: int = 0) -> tuple[Due, ...]:
    """Those who wait with a deadline, the first ones; times count from `since_ns`."""
    found: list[Due] = []
    for alike, line in model.lines.items():
        if alike.has_deadline:
            ahead = islice(line, _MOST_DUES)
            found += [Due(alike.weight, ticket.begin_ns - since_ns) for ticket in ahead]
    return tuple(found)


def aged_since_ns(state: State, model: ModelState) -> int | None:
    """Since when its oldest request has waited, as its turn counts it: later by what its key is
    ahead of the one that has had least of all that wait.
    """
    head = model.oldest
    if head is None or len(state.keys) < 2:
        return head.since_ns if head is not None else None
    least_ns = min((one.used_ns for one in state.keys.values() if one.waiting), default=0)
    return min(
        min(ticket.since_ns for ticket in line[:1]) + state.keys[alike.key].used_ns - least_ns
        for alike, line in model.lines.items()
    )


def ahead_share(state: State, request: Request) -> float:
    """Of all work that waits, the share that is done before a new request begins.

    1. All that weighs a class more, nothing of what weighs less.
    2. Of its own class what its key has waiting already, and of other keys no more than is fair.
    """
    if not state.queued_ns:
        return 1.0
    own = band(request.weight)
    if len(state.keys) == 1 and request.key in state.keys:  # nobody to share with
        queued_ns = state.keys[request.key].queued_ns
        ahead = [work_ns for class_, work_ns in queued_ns.items() if class_ >= own]
        return sum(ahead) / state.queued_ns
    used = {name: one.used_ns for name, one in state.keys.items()}
    used[request.key] = _lifted_ns(state, request.key)
    peers = {name: one.queued_ns.get(own, 0) for name, one in state.keys.items()}
    heavier_ns = sum(
        work_ns
        for one in state.keys.values()
        for class_, work_ns in one.queued_ns.items()
        if class_ > own
    )
    return (heavier_ns + ahead_ns(request.key, peers, used)) / state.queued_ns


def charge_predicted(state: State, record: RequestRecord) -> None:
    """It begins: its key is taken to have had what it is predicted to need."""
    key = _key(state, record.request.key)
    record.charged_ns = record.work_ns
    state.heads.clear()
    key.used_ns += record.charged_ns
    key.running += 1


def charge_measured(state: State, record: RequestRecord, share_ns: int) -> None:
    """Its run is over: what it really had, in place of what was predicted."""
    key = state.keys[record.request.key]
    state.heads.clear()
    key.used_ns += share_ns - record.charged_ns
    record.charged_ns = 0
    key.running -= 1
    _forget_idle(state, record.request.key)


def _key(state: State, name: str) -> KeyState:
    key = state.keys.get(name)
    if key is None:
        key = state.keys[name] = KeyState()
    return key


def _lifted_ns(state: State, name: str) -> int:
    """What a key counts as having had when it waits."""
    key = state.keys.get(name)
    if key is not None and key.waiting:
        return key.used_ns
    others = {}
    if len(state.keys) > (key is not None):
        others = {other: one.used_ns for other, one in state.keys.items() if one.waiting}
    return lifted_ns(key.used_ns if key is not None else 0, others, state.level_ns)


def _forget_idle(state: State, name: str) -> None:
    """Who would be lifted to the level anyway needs no account."""
    key = state.keys[name]
    if not key.waiting and not key.running and key.used_ns <= state.level_ns:
        del state.keys[name]


def _gap_of(model: ModelState) -> float:
    """Until some slot is free, about; only deadlines ask for it."""
    return min(
        (
            one.running_ns / 1e9 / len(one.running)
            for one in model.replicas.values()
            if one.is_open and one.running
        ),
        default=0.0,
    )


def _has_deadlines(model: ModelState) -> bool:
    return any(alike.has_deadline for alike in model.lines)


def _placed(record: RequestRecord) -> tuple[Alike, Ticket]:
    request, due_ns, has_begun = record.request, record.due_ns, record.has_begun
    alike = Alike(
        request.weight,
        request.key,
        record.unpaid_stops,
        has_begun,
        record.is_returned,
        due_ns is not None,
    )
    began_ns = record.dispatched_ns if has_begun else 0
    return alike, Ticket(due_ns or 0, began_ns, record.since_ns, request.id)
