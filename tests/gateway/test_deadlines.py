"""When a first token is wanted, and what a client hears where it cannot come: the HTTP of it."""

from typing import Any

import pytest
from asgi_client import CHAT, EMBED, PLAIN, Client, Reply, app_of, chat_body, run_virtually
from fake_service import FakeService

from repertory.domain.actions import Settle
from repertory.domain.decisions import Decision
from repertory.domain.errors import DeadlineMissed
from repertory.domain.events import Arrived, Event, Finished, FirstToken, Timer
from repertory.domain.requests import FinishReason, Outcome, OutcomeKind, Request
from repertory.gateway.asking.deadline import DEADLINE_HEADER
from repertory.gateway.observe.decisions import DecisionMetrics

BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat_body(),
    PLAIN: {"model": "coder", "prompt": "hi"},
    EMBED: {"model": "coder", "input": "hi"},
}
REFUSAL = "its first token is wanted within 0.1 s and is predicted after 0.7 s at best"


def ask(service: FakeService, path: str, deadline: str | None, **fields: Any) -> Reply:
    headers = {} if deadline is None else {DEADLINE_HEADER: deadline}
    client = Client(app_of(service), headers=headers)
    return run_virtually(client.post(path, BODIES[path] | fields))


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("deadline", ["250", "0", "-3", " 20 "])
def test_it_counts_from_the_arrival_of_the_request(path: str, deadline: str) -> None:
    """The virtual clock stands at zero then; one that has passed is passed on to be refused."""
    service = FakeService()
    assert ask(service, path, deadline).status == 200
    assert service.asked[0].options.first_token_by_s == int(deadline) / 1e3


@pytest.mark.parametrize("path", BODIES)
def test_nobody_needs_one(path: str) -> None:
    service = FakeService()
    assert ask(service, path, None).status == 200
    assert service.asked[0].options.first_token_by_s is None


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("deadline", ["", "soon", "1.5", "1e3", "9" * 10, "٣"])
def test_it_is_a_whole_number_of_milliseconds(path: str, deadline: str) -> None:
    headers = {DEADLINE_HEADER: deadline}
    client = Client(app_of(FakeService()), headers=headers)
    reply = run_virtually(client.post(path, BODIES[path]))
    assert reply.status == 400
    assert reply.json["error"]["param"] == DEADLINE_HEADER


@pytest.mark.parametrize("path", BODIES)
def test_what_cannot_come_in_time_is_refused_with_the_reason(path: str) -> None:
    """And official clients are told that trying again is no use."""
    reply = ask(FakeService(refusal=DeadlineMissed(REFUSAL)), path, "100")
    assert reply.status == 504
    assert reply.headers["x-should-retry"] == "false"
    assert reply.json["error"] == {
        "message": REFUSAL,
        "type": "timeout_error",
        "param": None,
        "code": "deadline_exceeded",
    }


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("priority", "weight"),
    [("interactive", 1.0), ("batch", 0.1), (0.01, 0.01), (10, 10.0), (None, None)],
)
def test_every_endpoint_takes_a_priority(path: str, priority: object, weight: object) -> None:
    service = FakeService()
    assert ask(service, path, None, priority=priority).status == 200
    assert service.asked[0].options.weight == weight


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("priority", ["urgent", 0, 0.009, 10.1, True, [1]])
def test_every_endpoint_refuses_other_priorities_by_name(path: str, priority: object) -> None:
    reply = ask(FakeService(), path, None, priority=priority)
    assert reply.status == 400
    assert reply.json["error"]["param"] == "priority"


def end(at_ns: int, kind: OutcomeKind, status: int | None = None) -> tuple[Event, Settle]:
    return Timer(at_ns, "t"), Settle(Outcome("r", kind, status=status))


@pytest.mark.parametrize(
    ("token_ns", "last", "word"),
    [
        (10, end(99, OutcomeKind.DONE), "met"),
        (11, end(99, OutcomeKind.DONE), "missed"),
        (None, end(10, OutcomeKind.DONE), "met"),  # an embedding
        (None, end(11, OutcomeKind.DONE), "missed"),
        (None, end(11, OutcomeKind.CANCELLED), "missed"),
        (None, end(5, OutcomeKind.CANCELLED), None),
        (None, end(5, OutcomeKind.FAILED, 503), None),
        (None, end(0, OutcomeKind.REFUSED, 504), "refused"),
        (None, end(0, OutcomeKind.REFUSED, 429), None),
    ],
)
def test_what_became_of_it_is_counted(
    token_ns: int | None, last: tuple[Event, Settle], word: str | None
) -> None:
    metrics = DecisionMetrics(lambda: 0.0)
    metrics.take(Decision(1, Arrived(0, Request("r", "coder", 7, 9, 1.0, "ci", 10)), (), ()))
    if token_ns is not None:
        metrics.take(Decision(2, FirstToken(token_ns, "r"), (), ()))
    event, action = last
    metrics.take(Decision(3, event, (action,), ()))
    counted = {labels: one.value for labels, one in metrics.deadlines.items()}
    assert counted == ({} if word is None else {("coder", "ci", word): 1})


def test_who_has_none_is_not_counted() -> None:
    metrics = DecisionMetrics(lambda: 0.0)
    metrics.take(Decision(1, Arrived(0, Request("r", "coder", 7, 9)), (), ()))
    finished = Finished(9, "r", FinishReason.LENGTH, 9, 1, 1)
    metrics.take(Decision(2, finished, (Settle(Outcome("r", OutcomeKind.DONE)),), ()))
    assert not list(metrics.deadlines.items())
