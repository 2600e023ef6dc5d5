"""Who gets memory, who gives it, and when: batching, aging, eviction, pins, wishes, the window."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.play import Play, other_file
from repertory.domain.actions import Activate, Deactivate, Drop, Load, Unload
from repertory.domain.events import ModelRemoved, OperatorAsked, PlanReady, Wish
from repertory.domain.ladder import Phase, Rung
from repertory.domain.plans import Plan, Prewarm
from repertory.domain.settings import Favour, Settings
from worlds import GIB, MIB, World, llama_world, model, vllm_world

SETTINGS = Settings(prewarm=False)


def one_room(**changes: object) -> World:
    """Room for one of three."""
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]  # test data
    return replace(llama_world(models=3, memory_gib=1.6), settings=settings)


@pytest.fixture
def play() -> Iterator[Play]:
    play = Play(one_room())
    yield play
    play.end()


def bring_up(play: Play, name: str) -> None:
    request = play.ask(name)
    play.load_all()
    play.finish(request)


def wish(play: Play, name: str, what: Wish) -> None:
    play.send(OperatorAsked(play.now_ns, name, what))


def up(play: Play) -> list[str]:
    return sorted(one.model for one in play.copies.values() if one.rung is Rung.SERVING)


def test_an_idle_replica_gives_way_at_once_where_its_own_next_request_is_far(play: Play) -> None:
    bring_up(play, "a")
    play.ask("b")
    assert [type(one) for one in play.pending.values()] == [Deactivate]


def test_an_idle_replica_stays_for_min_residency_where_its_own_next_request_is_near(
    play: Play,
) -> None:
    requests = [play.ask("a") for _ in range(4)]
    play.load_all()
    for request in requests:
        play.finish(request)
    play.ask("b")
    assert not play.pending, "a just opened"
    play.pass_s(SETTINGS.min_residency_s)
    assert [type(one) for one in play.pending.values()] == [Deactivate]


@pytest.mark.parametrize(
    ("favour", "switches"), [(Favour.LATENCY, 2), (Favour.BALANCED, 5), (Favour.THROUGHPUT, 20)]
)
def test_a_serving_replica_goes_on_for_a_switch_seconds_after_another_waits(
    favour: Favour, switches: int
) -> None:
    play = Play(one_room(favour=favour, min_residency_s=0.01))
    play.ask("a", 100, 1000)
    play.load_all()
    play.pass_s(1.0)
    wanted_ns = play.now_ns
    play.ask("b")
    (replica,) = play.state.replicas.values()
    switch_ns = play.state.models["b"].switch_ns
    assert abs(replica.handover_at_ns - wanted_ns - switches * switch_ns) <= 2
    assert replica.phase is Phase.OPEN
    assert play.ask("a") in play.where, "it goes on admitting its own"
    play.pass_s((replica.handover_at_ns - play.now_ns) / 1e9)
    assert replica.phase is Phase.DRAINING
    assert play.ask("a") not in play.where, "then it stops"
    play.end()


def test_however_overdue_the_others_are_a_replica_has_its_service_batch(play: Play) -> None:
    play.ask("a", 100, 1000)
    play.load_all()
    play.ask("b")
    play.ask("c")
    play.pass_s(30.0)
    play.ask("a")
    play.finish(next(iter(play.where)))
    play.load_all()
    opened = next(one for one in play.state.replicas.values() if one.rung is Rung.SERVING)
    assert opened.phase is Phase.OPEN
    assert opened.handover_at_ns > play.now_ns


def test_endless_load_on_a_cannot_starve_b(play: Play) -> None:
    """B waits at most max_wait + drain of A + its own switch."""
    play.ask("a", 100, 100)
    play.load_all()
    play.pass_s(5.0)
    wanted = play.ask("b")
    since_ns = play.now_ns
    for _ in range(400):
        if wanted in play.where:
            break
        play.ask("a", 100, 100)
        play.pass_s(0.1)
        for name in sorted(play.where)[:1]:
            play.finish(name)
        play.load_all()
    assert wanted in play.where
    assert (play.now_ns - since_ns) / 1e9 <= SETTINGS.max_wait_s + 2.0
    running_ns = play.now_ns
    assert running_ns > since_ns


def test_past_max_wait_the_longest_waiting_model_is_next(play: Play) -> None:
    play.ask("a", 100, 1000)
    play.load_all()
    play.ask("c", 3000, 1000)
    play.pass_s(1.0)
    for _ in range(10):
        play.ask("b", 8, 1)
    play.pass_s(SETTINGS.max_wait_s)
    play.finish(next(iter(play.where)))
    play.load_all()
    assert up(play) == ["c"], "b is shorter and has more requests, c waited longer"


def test_the_least_loss_per_byte_is_evicted() -> None:
    play = Play(replace(llama_world(models=3), settings=SETTINGS))
    for name in ("a", "b", "b", "b", "b"):
        bring_up(play, name)
        play.pass_s(2.0)
    play.ask("c")
    victims = {one.model for one in play.pending.values() if isinstance(one, Deactivate)}
    assert victims == {"a"}, "b is asked for four times as often"
    play.end()


def test_a_victim_whose_room_turns_out_unneeded_is_spared() -> None:
    play = Play(one_room())
    bring_up(play, "a")
    play.pass_s(2.0)
    name = play.ask("b")
    (down,) = play.pending
    play.send_cancel(name)
    play.complete(down)
    assert not play.pending
    assert [one.rung for one in play.copies.values()] == [Rung.DEVICE], "its weights stay"
    play.end()


def test_a_pinned_model_is_never_evicted_and_who_waits_for_it_is_told(play: Play) -> None:
    wish(play, "a", Wish.PIN)
    play.load_all()
    name = play.ask("b")
    play.pass_s(SETTINGS.max_queue_s + 1.0)
    assert up(play) == ["a"]
    assert play.settled_by(name) == ["failed"]
    assert "pinned" in play.outcomes[name].message


def test_a_pin_takes_a_replica_back_that_drains_for_another(play: Play) -> None:
    play.ask("a", 100, 1000)
    play.load_all()
    play.ask("b")
    play.pass_s(SETTINGS.max_wait_s)
    (replica,) = play.state.replicas.values()
    assert replica.phase is Phase.DRAINING
    wish(play, "a", Wish.PIN)
    assert replica.phase is Phase.OPEN
    assert play.ask("a") in play.where


def test_an_operators_pin_outlives_a_new_announcement_but_not_a_spec_that_unpins(
    play: Play,
) -> None:
    wish(play, "a", Wish.PIN)
    play.load_all()
    play.add(replace(play.specs["a"], ttl_s=99.0))
    assert play.state.models["a"].is_pinned
    play.add(replace(play.specs["a"], is_pinned=True))
    play.pass_s(2.0)
    play.ask("b")
    assert not play.pending
    play.add(replace(play.specs["a"], is_pinned=False))
    assert play.pending, "b may have its memory now"


def test_unpinned_it_may_go(play: Play) -> None:
    wish(play, "a", Wish.PIN)
    play.load_all()
    play.pass_s(2.0)
    play.ask("b")
    assert not play.pending
    wish(play, "a", Wish.UNPIN)
    assert play.pending


def test_an_operators_load_brings_it_up_and_an_unload_lets_running_work_finish(play: Play) -> None:
    wish(play, "a", Wish.LOAD)
    play.load_all()
    assert up(play) == ["a"]
    name = play.ask("a")
    wish(play, "a", Wish.UNLOAD)
    assert not play.pending
    play.finish(name)
    play.load_all()
    assert [one.rung for one in play.copies.values()] == [Rung.HOST]


def test_an_unload_of_a_sleeper_gives_its_residue_back() -> None:
    play = Play(replace(vllm_world(), settings=SETTINGS))
    bring_up(play, "b")
    wish(play, "b", Wish.UNLOAD)
    play.load_all()
    assert any(isinstance(one, Drop) for one in play.asked)
    assert not play.copies
    play.end()


def test_a_load_wish_takes_an_unload_back_that_has_not_begun(play: Play) -> None:
    name = play.ask("a")
    play.load_all()
    wish(play, "a", Wish.UNLOAD)
    wish(play, "a", Wish.LOAD)
    play.finish(name)
    assert not play.pending
    assert up(play) == ["a"]


def test_idle_for_its_time_to_live_a_replica_goes() -> None:
    play = Play(World(llama_world().node, (model("a", ttl_s=3.0),), SETTINGS))
    bring_up(play, "a")
    play.pass_s(2.9)
    assert not play.pending
    play.pass_s(0.1)
    play.load_all()
    assert [one.rung for one in play.copies.values()] == [Rung.HOST]
    play.end()


def test_a_way_down_that_fails_is_tried_again_without_a_storm_of_timers() -> None:
    play = Play(World(llama_world().node, (model("a", ttl_s=3.0),), SETTINGS))
    bring_up(play, "a")
    play.pass_s(3.0)
    play.fail(next(iter(play.pending)))
    before = len(play.decisions)
    play.pass_s(0.6)
    assert len(play.decisions) - before <= 3
    play.load_all()
    assert [one.rung for one in play.copies.values()] == [Rung.HOST]
    play.end()


def test_another_file_of_the_same_name_retires_the_old_replica_even_while_it_loads(
    play: Play,
) -> None:
    name = play.ask("a")
    play.add(other_file(play.specs["a"], 2))
    play.load_all()
    assert name in play.where
    (copy,) = [one for one in play.copies.values() if one.rung is Rung.SERVING]
    assert copy.spec.digest.endswith("#2")


def test_a_models_rate_is_over_the_time_since_it_was_first_announced(play: Play) -> None:
    play.pass_s(86_400.0)
    play.add(model("d"))
    play.ask("d")
    first = play.state.models["d"].rate.per_s(play.now_ns)
    assert first == pytest.approx(1 / 60, rel=0.05), "not one in a day"
    play.pass_s(60.0)
    play.add(replace(play.specs["d"], ttl_s=99.0))
    assert play.state.models["d"].rate.per_s(play.now_ns) == pytest.approx(1 / 120, rel=0.1)


def test_requests_too_long_for_a_changed_spec_are_told(play: Play) -> None:
    name = play.ask("a", 3000, 100)
    play.add(replace(play.specs["a"], context_tokens=1024))
    assert play.settled_by(name) == ["failed"]


def test_a_removed_model_runs_to_its_end_and_leaves_nothing(play: Play) -> None:
    running = play.ask("a")
    play.load_all()
    play.send(ModelRemoved(play.now_ns, "a"))
    refused = play.ask("a")
    assert play.outcomes[refused].status == 404
    play.finish(running)
    play.load_all()
    assert play.settled_by(running) == ["done"]
    assert "a" not in play.state.models


def test_a_prewarmed_replica_whose_device_cannot_give_kv_moves() -> None:
    """Its weights stand beside a pinned model on dev0; dev1 is free."""
    world = llama_world(models=2, memory_gib=2.3, devices=2)
    models = (model("a", GIB), model("p", GIB + 192 * MIB, is_pinned=True))
    play = Play(replace(world, models=models, settings=replace(SETTINGS, prewarm=True)))
    play.load_all()
    place = next(iter(play.state.replicas.values())).placement
    play.state.open_problem = 1
    play.send(PlanReady(play.now_ns, Plan(1, (Prewarm("a", place, "as the test wants"),))))
    play.load_all()
    name = play.ask("a")
    play.load_all()
    assert name in play.where
    play.end()


class TestWindow:
    """The slow clock: Solve, PlanReady, and what became of the memory meanwhile."""

    @pytest.fixture
    def play(self) -> Iterator[Play]:
        """`a` was used and unloaded; the window's problem is open."""
        play = Play(llama_world(memory_gib=4.0))
        play.ask("a")
        play.load_all()
        play.finish(next(iter(play.where)))
        wish(play, "a", Wish.UNLOAD)
        play.load_all()
        play.pass_s(play.world.settings.window_s)
        assert play.problems
        yield play
        play.end()

    def test_a_plan_loads_a_prewarmed_replica_that_a_later_request_activates(
        self, play: Play
    ) -> None:
        play.answer()
        (load,) = play.pending.values()
        assert isinstance(load, Load)
        play.load_all()
        assert [one.rung for one in play.copies.values()] == [Rung.DEVICE]
        play.ask("a")
        (action,) = play.pending.values()
        assert isinstance(action, Activate)

    def test_a_stale_plan_is_passed_over(self, play: Play) -> None:
        play.send(PlanReady(play.now_ns, Plan(99, ())))
        assert play.state.open_problem is not None
        assert not play.pending

    def test_a_model_that_came_up_meanwhile_is_passed_over(self, play: Play) -> None:
        play.ask("a")
        before = len(play.pending)
        play.answer()
        assert len(play.pending) == before

    def test_memory_that_is_gone_meanwhile_is_not_prewarmed(self, play: Play) -> None:
        for name in ("b", "c", "d"):
            wish(play, name, Wish.LOAD)
            play.load_all()
        play.answer()
        assert not play.pending
        why = [one.why for one in play.decisions[-1].verdicts if one.rule == "prewarm"]
        assert len(why) == 1
        assert "free bytes" in why[0]

    def test_a_model_removed_meanwhile_is_passed_over(self, play: Play) -> None:
        play.send(ModelRemoved(play.now_ns, "a"))
        play.answer()
        assert not play.pending


@pytest.mark.parametrize(("prompt", "expected"), [(8, "plain"), (1500, "repacked")])
def test_repacked_weights_are_loaded_when_much_is_to_be_computed(
    prompt: int, expected: str
) -> None:
    spec = model("a", 600 * MIB, repacked_bytes=590 * MIB)
    play = Play(World(llama_world(memory_gib=4.0).node, (spec,), SETTINGS))
    play.ask("a", prompt, 8)
    (load,) = [one for one in play.pending.values() if isinstance(one, Load)]
    assert load.placement.form.value == expected
    play.end()


@pytest.mark.parametrize(("others", "expected"), [((), "plain"), (("b", "c"), "repacked")])
def test_where_others_keep_the_device_busy_repacked_weights_are_worth_their_load_sooner(
    others: tuple[str, ...], expected: str
) -> None:
    """Each second of work takes as many as there are replicas with work, and a load does not."""
    models = (model("a", 600 * MIB, repacked_bytes=590 * MIB), model("b"), model("c"))
    play = Play(World(llama_world(memory_gib=6.0).node, models, SETTINGS))
    for name in others:
        play.ask(name, 100, 1000)
        play.load_all()
    play.ask("a", 16, 8)
    (load,) = [one for one in play.pending.values() if isinstance(one, Load)]
    assert load.placement.form.value == expected
    play.end()


def test_host_memory_full_a_replica_drops_to_the_disk() -> None:
    world = vllm_world()
    node = replace(world.node, host_memory_bytes=GIB // 4)
    play = Play(replace(world, node=node, settings=SETTINGS))
    for name in ("c", "b", "d"):
        bring_up(play, name)
    play.pass_s(2.0)
    wish(play, "b", Wish.UNLOAD)
    play.load_all()
    assert any(isinstance(one, Drop) for one in play.asked)
    assert not any(isinstance(one, Unload) for one in play.asked)
    play.end()


def test_what_weighs_less_than_the_busy_ones_lose_claims_them_when_it_is_overdue(
    play: Play,
) -> None:
    play.ask("a", 100, 1000)
    play.load_all()
    play.ask("b", 100, 16, 1e-4)
    (busy,) = [one for one in play.state.replicas.values() if one.model == "a"]
    play.pass_s(SETTINGS.max_wait_s - 1.0)
    assert busy.claimed_by is None, "waiting costs it less than a's reload"
    play.pass_s(1.0)
    assert busy.claimed_by == "b", "who is overdue is next, whatever that costs"


def test_a_queue_that_has_doubled_is_weighed_again(play: Play) -> None:
    play.ask("a", 100, 1000)
    play.load_all()
    (busy,) = [one for one in play.state.replicas.values() if one.model == "a"]
    counts = 0
    while busy.claimed_by is None:
        play.ask("b", 100, 16, 1e-3)
        counts += 1
        assert counts < 1000
    assert counts > 1
    assert counts.bit_count() == 1
    assert play.now_ns < SETTINGS.max_wait_s * 1e9, "before it is overdue"


def test_the_busy_one_that_is_asked_for_less_hands_over_where_many_wait() -> None:
    """Both would reload in the same time; while it is away, more requests wait for the hot one."""
    world = llama_world(models=3, memory_gib=2.6)
    play = Play(replace(world, settings=SETTINGS))
    for name in ("a", *"b" * 12):
        play.ask(name, 100, 1000)
    play.load_all()
    by_model = {one.model: one for one in play.state.replicas.values()}
    assert set(by_model) == {"a", "b"}
    for name in list(play.where)[1:]:
        play.finish(name)
    play.ask("b", 100, 1000)
    play.state.absence.count(play.now_ns, 50.0, SETTINGS.use_soon_floor_s)
    play.ask("c", 100, 16, 100.0)
    assert (by_model["a"].claimed_by, by_model["b"].claimed_by) == ("c", None)
    play.end()


def away_s(play: Play, at_ns: int) -> float:
    return play.state.absence.seconds(at_ns, SETTINGS.use_soon_floor_s)


def test_how_long_models_wait_until_they_serve_is_known(play: Play) -> None:
    assert away_s(play, play.now_ns) == 0.0
    bring_up(play, "a")
    play.ask("a", 100, 1000, 50.0)
    play.load_all()
    play.ask("b")
    play.pass_s(5.0)
    before_s = away_s(play, play.now_ns)
    play.finish(next(iter(play.where)))
    play.load_all()
    assert up(play) == ["b"]
    assert away_s(play, play.now_ns) >= before_s + 0.1 * (5.0 - before_s), "it waited for over 5 s"


def test_of_how_long_models_waited_half_is_forgotten_in_every_use_soon_floor(play: Play) -> None:
    """First loads of a cold start say nothing of an hour later."""
    floor_s = SETTINGS.use_soon_floor_s
    play.state.absence.count(0, 80.0, floor_s)
    times_ns = [round(halves * floor_s * 1e9) for halves in (0, 1, 2)]
    assert [away_s(play, at_ns) for at_ns in times_ns] == [8.0, 4.0, 2.0]
    assert away_s(play, 60 * times_ns[1]) < 1e-9
