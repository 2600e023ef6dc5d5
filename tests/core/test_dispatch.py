"""Requests in, actions out: dispatch, admission, growth, ends."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.play import Play
from repertory.domain.actions import Activate, Cancel, Deactivate, Dispatch, Load, Resize
from repertory.domain.events import (
    Cancelled,
    DrainAsked,
    Finished,
    GenerationFailed,
    OperatorAsked,
    Wish,
)
from repertory.domain.requests import Fault, FinishReason, OutcomeKind, Request
from repertory.domain.settings import Settings
from repertory.domain.specs import WeightsForm
from worlds import GIB, World, llama_world, model, vllm_world

SETTINGS = Settings(prewarm=False)


@pytest.fixture
def play() -> Iterator[Play]:
    """Room for two of four models; every test ends with the invariants checked."""
    play = Play(replace(llama_world(), settings=SETTINGS))
    yield play
    play.end()


def kinds(play: Play) -> list[str]:
    return [type(one).__name__ for one in play.asked]


def test_a_request_of_an_idle_server_loads_activates_and_runs(play: Play) -> None:
    name = play.ask("a")
    assert kinds(play)[-1] == "Load"
    play.load_all()
    assert isinstance(play.asked[-1], Dispatch)
    play.finish(name)
    assert play.settled_by(name) == ["done"]


def test_no_request_of_an_open_replica_waits_behind_another_models_load(play: Play) -> None:
    play.ask("a")
    play.load_all()
    play.ask("b")
    assert play.pending, "b loads"
    second = play.ask("a")
    assert second in play.where, "a runs on at once"


def test_dispatch_goes_oldest_first_to_free_slots_only(play: Play) -> None:
    names = [play.ask("a") for _ in range(12)]
    play.load_all()
    slots = next(iter(play.copies.values())).kv
    assert slots is not None
    assert list(play.where) == names[: slots.sequences]


def test_an_unknown_model_is_refused_with_404(play: Play) -> None:
    name = play.ask("nobody")
    assert play.outcomes[name].status == 404


def test_a_request_over_the_context_is_refused_with_400_and_nothing_is_loaded(play: Play) -> None:
    name = play.ask("a", prompt=4096, output=1)
    assert play.outcomes[name].status == 400
    assert not play.pending


def huge_world() -> World:
    models = (model("huge", 4 * GIB), model("small", GIB // 2))
    return replace(llama_world(), models=models, settings=SETTINGS)


def test_a_model_that_fits_no_device_is_refused_with_503_and_the_arithmetic() -> None:
    play = Play(huge_world())
    refused = play.outcomes[play.ask("huge")]
    assert (refused.kind, refused.status, refused.retry_after_s) == (OutcomeKind.REFUSED, 503, None)
    assert refused.message.startswith("huge cannot be served: it needs 4,136 MiB = 4,096 MiB wei")
    assert refused.fault is Fault.OUT_OF_MEMORY
    assert "the largest device, dev0, has" in refused.message
    assert play.ask("small") not in play.outcomes
    play.end()


def test_who_came_before_the_worker_is_told_when_it_shows_that_nothing_fits() -> None:
    play = Play(huge_world())
    play.die()
    play.add(model("giant", 5 * GIB))
    known, unknown, small = play.ask("huge"), play.ask("giant"), play.ask("small")
    assert play.outcomes.keys() == {known}, "of the other nobody knows yet"
    play.up()
    assert play.outcomes[unknown].status == 503
    assert play.outcomes[unknown].message.startswith("giant cannot be served: it needs")
    assert play.outcomes[unknown].fault is Fault.OUT_OF_MEMORY
    play.end()
    assert play.outcomes[small].kind is OutcomeKind.DONE


def test_a_file_that_grew_too_large_is_told_of_and_one_that_shrank_is_served() -> None:
    play = Play(huge_world())
    spec = play.specs["small"]
    first = play.ask("small")
    play.load_all()
    late = [play.ask("small") for _ in range(40)]
    play.add(replace(spec, digest="grown", weights_bytes=4 * GIB))
    told = [name for name in late if name in play.outcomes]
    assert told, "those who wait are told"
    assert first not in play.outcomes, "what runs, runs to its end"
    assert all("cannot be served: it needs" in play.outcomes[name].message for name in told)
    assert play.state.models["small"].misfit is not None
    play.add(replace(spec, digest="shrunk"))
    assert play.state.models["small"].misfit is None
    again = play.ask("small")
    play.end()
    assert play.outcomes[again].kind is OutcomeKind.DONE


def test_a_full_queue_refuses_with_a_retry_after() -> None:
    play = Play(replace(llama_world(), settings=replace(SETTINGS, max_waiting=5)))
    names = [play.ask("a") for _ in range(6)]
    refused = play.outcomes[names[-1]]
    assert refused.status == 429
    assert refused.retry_after_s is not None
    assert refused.retry_after_s >= 1.0
    play.end()


def test_a_predicted_wait_beyond_max_queue_is_refused_with_the_excess_as_retry_after() -> None:
    play = Play(replace(llama_world(), settings=replace(SETTINGS, max_queue_s=5.0)))
    names = [play.ask("a", 3000, 1000) for _ in range(40)]
    refused = [play.outcomes[one] for one in names if one in play.outcomes]
    assert refused
    assert all(one.retry_after_s is not None and one.retry_after_s >= 1.0 for one in refused)
    waits = [one.retry_after_s for one in refused]
    assert waits == sorted(waits), "the longer the queue, the later"
    play.end()


def test_a_cancel_of_a_waiting_request_leaves_the_load_that_others_want(play: Play) -> None:
    first, second = play.ask("a"), play.ask("a")
    play.send(Cancelled(play.now_ns, first))
    play.load_all()
    assert second in play.where
    assert play.settled_by(first) == ["cancelled"]


def test_a_cancel_of_a_running_request_stops_it_and_frees_its_slot(play: Play) -> None:
    name = play.ask("a")
    play.load_all()
    actions = play.send(Cancelled(play.now_ns, name))
    assert any(isinstance(one, Cancel) for one in actions)
    assert not play.where


def test_events_of_ended_and_unknown_requests_change_nothing(play: Play) -> None:
    name = play.ask("a")
    play.load_all()
    play.finish(name)
    assert play.send(Cancelled(play.now_ns, name)) == []
    assert play.send(GenerationFailed(play.now_ns, "unknown", "why")) == []
    assert play.send(Finished(play.now_ns, name, FinishReason.STOP, 1, 1, 1)) == []


def test_kv_memory_grows_into_memory_that_nobody_needs(play: Play) -> None:
    play.ask("a")
    play.load_all()
    for _ in range(6):
        play.ask("a")
    assert any(isinstance(one, Resize) for one in play.pending.values())
    play.load_all()
    assert len(play.where) == 7


def test_growth_is_asked_for_again_in_a_smaller_size_when_the_larger_fails(play: Play) -> None:
    play.ask("a")
    play.load_all()
    for _ in range(6):
        play.ask("a")
    (action_id,) = play.pending
    failed = play.pending[action_id]
    assert isinstance(failed, Resize)
    play.fail(action_id, memory=True)
    again = [one for one in play.pending.values() if isinstance(one, Resize)]
    assert all(one.kv.tokens < failed.kv.tokens for one in again)


def test_a_request_longer_than_the_slots_drains_the_replica_which_reopens_with_longer_ones() -> (
    None
):
    """vLLM-like: KV memory is fixed by `activate`, here to short slots by a full device."""
    node = llama_world().node
    fixed = replace(node, capabilities=replace(node.capabilities, kv_resizable=True))
    tight = (model("a", GIB, max_sequences=1), model("b", GIB + 300 * (1 << 20), max_sequences=1))
    play = Play(World(fixed, tight, SETTINGS))
    first = play.ask("a", 100, 16)
    play.load_all()
    other = play.ask("b", 100, 16)
    play.load_all()
    long = play.ask("a", 3000, 1000)
    play.finish(first)
    play.finish(other)
    play.settle(timers=True)
    assert play.settled_by(first, other, long) == ["done"] * 3
    shapes = [one.kv for one in play.asked if isinstance(one, (Activate, Resize))]
    assert any(kv.cells >= 4000 for kv in shapes)
    play.end()


def test_a_drained_server_refuses_new_requests_and_serves_what_is_in(play: Play) -> None:
    running, waiting = play.ask("a"), play.ask("b")
    play.load_all()
    play.send(DrainAsked(play.now_ns))
    late = play.ask("a")
    assert play.outcomes[late].status == 503
    play.settle(timers=True)
    assert play.settled_by(running, waiting) == ["done", "done"]


def test_a_failed_generation_settles_once_and_frees_its_slot(play: Play) -> None:
    name = play.ask("a")
    play.load_all()
    play._leave(name)
    play.send(GenerationFailed(play.now_ns, name, "no"))
    assert play.settled_by(name) == ["failed"]


def test_requests_of_one_token_and_one_cell_are_served(play: Play) -> None:
    name = play.ask("a", prompt=1, output=1)
    play.load_all()
    play.finish(name)
    assert play.settled_by(name) == ["done"]


def test_a_tensor_parallel_model_takes_its_share_of_both_devices() -> None:
    play = Play(replace(vllm_world(), settings=SETTINGS))
    play.ask("a")
    (load,) = [one for one in play.pending.values() if isinstance(one, Load)]
    assert load.placement.devices == ("dev0", "dev1")
    play.load_all()
    first, second = play.state.devices.values()
    assert first.charged == second.charged > 0
    play.end()


def test_an_arrival_twice_is_our_bug() -> None:
    play = Play(replace(llama_world(), settings=SETTINGS))
    play.ask("a")
    with pytest.raises(AssertionError, match="arrived twice"):
        play.arrive(Request("r00000", "a", 1, 1))


def test_nothing_is_deactivated_without_need(play: Play) -> None:
    for name in ("a", "b"):
        play.ask(name)
        play.load_all()
    play.settle()
    assert not any(isinstance(one, Deactivate) for one in play.asked)


def test_what_comes_up_before_anybody_asks_comes_up_for_somebody() -> None:
    """An operator's load took the form that loads quickest and computes slowest."""
    spec = model("a", repacked_bytes=GIB)
    play = Play(replace(llama_world(), models=(spec,), settings=SETTINGS))
    play.send(OperatorAsked(play.now_ns, "a", Wish.LOAD))
    play.load_all()
    replica = next(iter(play.state.replicas.values()))
    assert replica.placement.form is WeightsForm.REPACKED
    play.end()


def test_what_a_form_has_taught_is_what_the_next_wait_is_reckoned_with() -> None:
    """Learned under the form that runs, and asked for under another, nothing was ever learned."""
    spec = model("a", repacked_bytes=GIB)
    play = Play(replace(llama_world(), models=(spec,), settings=SETTINGS))
    first = play.ask("a", output=64)
    play.load_all()
    replica = next(iter(play.state.replicas.values()))
    law_s = play.state.costs.work_s(spec, replica.placement, 100, 64)
    play.send(Finished(play.now_ns, first, FinishReason.STOP, 64, 10**9, 500 * 10**9))
    waits = play.state.requests[play.ask("a", output=64)]
    assert replica.placement.form is WeightsForm.REPACKED
    assert waits.work_ns > 50 * law_s * 1e9
    play.end()
