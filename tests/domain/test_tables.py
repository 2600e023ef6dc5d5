"""Tables are total where they must be, and illegal steps tell their story."""

import pytest

from repertory.domain.actions import Drop, Load, Stage, Transition, edge_of
from repertory.domain.events import EVENT_KINDS, Cancelled, Event, Finished, Timer, order, subject
from repertory.domain.ladder import (
    REQUEST_STEPS,
    TRANSITIONS,
    Edge,
    IllegalTransition,
    RequestState,
    RequestStep,
    Rung,
    destination,
    next_state,
)
from repertory.domain.requests import FinishReason, Request
from repertory.domain.settings import Favour, Settings


def test_every_edge_is_walked_from_somewhere_and_every_rung_is_reached() -> None:
    assert {edge for _, edge in TRANSITIONS} == set(Edge)
    assert set(TRANSITIONS.values()) == set(Rung)


def test_every_transition_has_its_edge() -> None:
    names = {edge_of(kind(1, "r", "m", "n")) for kind in (Stage, Drop)}
    assert names == {Edge.STAGE, Edge.DROP}
    assert len(Transition.__args__) == len(Edge)
    assert Load in Transition.__args__


def test_an_illegal_edge_tells_the_story() -> None:
    with pytest.raises(IllegalTransition, match="no edge 'activate' from rung 'disk': why"):
        destination(Rung.DISK, Edge.ACTIVATE, "why")


def test_a_request_settles_from_everywhere_once() -> None:
    open_states = set(RequestState) - {RequestState.SETTLED}
    settling = {state for state, step in REQUEST_STEPS if step is RequestStep.SETTLE}
    assert settling == open_states
    with pytest.raises(IllegalTransition, match="settled"):
        next_state(RequestState.SETTLED, RequestStep.SETTLE)


def test_events_of_one_instant_have_a_total_order_releases_before_claims() -> None:
    finished = Finished(5, "b", FinishReason.STOP, 1, 1, 1)
    events: list[Event] = [Timer(5, "t"), Cancelled(5, "a"), finished, Timer(4, "z")]
    got = [(one.at_ns, subject(one)) for one in sorted(events, key=order)]
    assert got == [(4, "z"), (5, "b"), (5, "a"), (5, "t")]


def test_the_union_of_events_and_their_ranks_agree() -> None:
    assert set(EVENT_KINDS) == set(Event.__args__)


def test_cells_are_prompt_and_answer() -> None:
    assert Request("r", "m", 100, 28).cells == 128


def test_the_dial() -> None:
    assert [Settings(one).switches_per_turn for one in Favour] == [2.0, 5.0, 20.0]
