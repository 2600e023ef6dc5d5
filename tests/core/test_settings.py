"""The operator's dial may be turned while requests run; so may what was said about a model."""

from dataclasses import replace

import pytest

from core.play import Play
from repertory.core.controller import Controller
from repertory.core.journal import decode_event, encode, read_lines
from repertory.domain.events import OperatorAsked, SettingsChanged, Wish
from repertory.domain.ladder import Phase, Rung
from repertory.domain.requests import OutcomeKind
from repertory.domain.settings import Favour, Settings
from worlds import GIB, World, llama_world, model


def contended(favour: Favour) -> Play:
    """Room for one; `a` serves and runs, then somebody asks for `b`."""
    play = Play(replace(llama_world(2, memory_gib=1.4), settings=Settings(favour=favour)))
    play.ask("a", 100, 1000)
    while not play.where:
        play.complete(min(play.pending))
    return play


def turn_s(play: Play) -> float:
    """For how long `a` goes on once `b` waits."""
    play.ask("b", 100, 16)
    (replica,) = [one for one in play.state.replicas.values() if one.claimed_by == "b"]
    return (replica.handover_at_ns - play.now_ns) / 1e9


def test_a_turned_dial_bounds_the_next_turn() -> None:
    """Latency hands over after 2 switches, throughput after 20."""
    still = turn_s(contended(Favour.LATENCY))
    play = contended(Favour.LATENCY)
    play.send(SettingsChanged(play.now_ns, Settings(favour=Favour.THROUGHPUT)))
    assert turn_s(play) > still
    verdict = play.decisions[-2].verdicts[0]
    assert (verdict.rule, verdict.choice) == ("settings", "favour throughput")
    assert "was latency" in verdict.why


def test_a_turn_under_way_keeps_its_length() -> None:
    play = contended(Favour.THROUGHPUT)
    before = turn_s(play)
    (replica,) = [one for one in play.state.replicas.values() if one.claimed_by == "b"]
    play.send(SettingsChanged(play.now_ns, Settings(favour=Favour.LATENCY)))
    assert (replica.handover_at_ns - play.now_ns) / 1e9 == before
    assert replica.phase is Phase.OPEN


def test_a_replay_takes_the_new_settings_from_the_log() -> None:
    play = contended(Favour.LATENCY)
    play.send(SettingsChanged(play.now_ns, Settings(favour=Favour.THROUGHPUT)))
    turn_s(play)
    lines = [encode(one) for one in play.decisions]
    again: list[bytes] = []
    controller = Controller(Settings(favour=Favour.LATENCY), lambda one: again.append(encode(one)))
    for entry in read_lines(lines):
        controller.handle(decode_event(entry))
    assert again == lines
    assert controller.state.settings.favour is Favour.THROUGHPUT


@pytest.mark.parametrize(
    "change",
    [
        {"aliases": ("other",)},
        {"ttl_s": 900.0},
        {"is_pinned": True},
        {"context_tokens": 2048},
        {"location": "elsewhere/a.gguf"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_model_that_is_told_otherwise_goes_on_serving(change: dict[str, object]) -> None:
    """Only other bytes or another layout unload it."""
    play = contended(Favour.BALANCED)
    (replica,) = play.state.models["a"].replicas.values()
    play.add(model("a", **change))
    assert (replica.rung, replica.retiring, len(replica.running)) == (Rung.SERVING, None, 1)
    assert not play.pending
    play.ask("a", 100, 16)
    assert len(replica.running) + len(play.state.models["a"].queue) == 2


def test_running_requests_of_a_changed_file_end_and_the_next_ones_get_the_new_file() -> None:
    play = contended(Favour.BALANCED)
    (old,) = play.state.models["a"].replicas.values()
    play.add(model("a", GIB // 2, digest="another"))
    (running,) = play.where
    assert old.running
    play.ask("a", 100, 16)
    play.finish(running)
    assert play.outcomes[running].kind is OutcomeKind.DONE
    while not play.where:
        play.complete(min(play.pending))
    (replica,) = play.state.models["a"].replicas.values()
    assert replica.spec.digest == "another"


def test_a_changed_alias_does_not_forget_that_a_model_was_asked_for() -> None:
    play = Play(World(llama_world(2, memory_gib=1.4).node, (model("a"), model("b"))))
    play.ask("a", 100, 1000)
    while not play.where:
        play.complete(min(play.pending))
    play.send(OperatorAsked(play.now_ns, "b", Wish.LOAD))
    assert play.state.models["b"].is_wanted
    play.add(model("b", aliases=("other",)))
    assert play.state.models["b"].is_wanted
