"""What each rule is known for, in the words of its docstring."""

import random

import pytest

from repertory.domain.events import Arrived, Event, Finished, WorkerLost
from repertory.domain.ladder import Rung
from repertory.domain.requests import Fault, OutcomeKind
from repertory.domain.specs import DeviceSpec
from repertory.engines.fake import llama_like, vllm_like
from repertory.perf.bytes import kv_bytes
from repertory.policy.baselines.lru_count import LruCount
from repertory.policy.baselines.ollama import Ollama
from repertory.policy.baselines.reactive import Reactive
from repertory.policy.baselines.sharing import Sharing
from repertory.policy.baselines.static import Static
from repertory.policy.baselines.token_level import TokenLevel, turns_s
from repertory.policy.baselines.view import full_slots
from tests.policy.baselines.playing import Played, asked, load_s, play, room_for, small, timed
from tests.worlds import MIB

A, B, C, D = (small(name) for name in "abcd")
TIMED = timed(load=0.15, warm=0.15, step=0.0165)


def test_lru_count_lets_a_short_request_wait_for_a_long_one_as_llama_server_was_measured_to() -> (
    None
):
    """6.76 s: a 4-token request behind a 400-token generation of another model (facts.md)."""
    events = [asked(0, "long", "a", tokens=400), asked(0.2, "short", "b", tokens=4)]
    played = play(LruCount(most=1), room_for(4), [A, B], events, TIMED)
    assert played.first_s["short"] == pytest.approx(6.76, rel=0.05)


def test_lru_count_goes_by_count_whatever_anything_weighs() -> None:
    events = [asked(at, f"r{at}", name) for at, name in enumerate("abca")]
    assert len(play(LruCount(most=2), room_for(8), [A, B, C], events).loads) == 4
    assert len(play(LruCount(most=3), room_for(8), [A, B, C], events).loads) == 3


def test_lru_count_ends_the_least_recently_used_child_that_has_nothing_to_do() -> None:
    events = [
        asked(0, "r0", "a"),
        asked(1, "r1", "b", tokens=900),  # busy for 15 s
        asked(2, "r2", "a"),
        asked(3, "r3", "c"),  # b was used before a, but is busy: a goes
        asked(4, "r4", "b"),
    ]
    played = play(LruCount(most=2), room_for(8), [A, B, C], events, TIMED)
    assert [load.model for load in played.loads] == ["a", "b", "c"]


def test_ollama_holds_up_all_other_loads_behind_one_and_lets_loaded_models_pass() -> None:
    """`b` needs what `a` holds, which is busy; `c` would find room, and waits behind `b`."""
    big = small("b", weights_bytes=250 * MIB)
    events = [
        asked(0, "a1", "a", tokens=200),
        asked(1, "b1", "big"),
        asked(1.1, "c1", "c"),
    ]
    events.insert(2, asked(1.05, "a2", "a"))
    big = small("big", weights_bytes=280 * MIB)
    played = play(Ollama(slots=4), room_for(4), [A, big, C], events, TIMED)
    order = [load.model for load in played.loads]
    assert order[:2] == ["a", "big"]
    assert played.first_s["c1"] > played.first_s["b1"] > 2.0
    alone = play(Ollama(slots=4), room_for(4), [A, C], [events[0], events[-1]], TIMED)
    assert alone.first_s["c1"] < 0.5


def test_ollama_takes_four_fifths_of_what_is_free_and_no_more() -> None:
    events = [asked(0, "a1", "a"), asked(1, "b1", "b"), asked(2, "a2", "a")]
    need = 72 * MIB
    tight = DeviceSpec("dev0", round(need + need / 0.8) - MIB, cores=2)
    roomy = DeviceSpec("dev0", round(need + need / 0.8) + MIB, cores=2)
    assert len(play(Ollama(slots=4), tight, [A, B], events).loads) == 3
    assert len(play(Ollama(slots=4), roomy, [A, B], events).loads) == 2


def test_ollama_lets_the_idle_go_after_five_minutes() -> None:
    within = [asked(0, "a1", "a"), asked(299, "a2", "a")]
    after = [asked(0, "a1", "a"), asked(302, "a2", "a")]
    assert len(play(Ollama(), room_for(2), [A], within).loads) == 1
    assert len(play(Ollama(), room_for(2), [A], after).loads) == 2


def test_ollama_turns_the_513th_pending_request_away() -> None:
    events = [asked(0, "a1", "a", tokens=900)]
    events += [asked(1 + at / 1000, f"b{at:03d}", "b") for at in range(514)]
    played = play(Ollama(), room_for(1), [A, B], events, TIMED)
    refused = [one for one in played.outcomes.values() if one.kind is OutcomeKind.REFUSED]
    assert [one.request_id for one in refused] == ["b512", "b513"]


def test_static_offers_the_popular_and_turns_the_others_away() -> None:
    """94 % of the models get 1.35 % of the requests (Aegaeon, SOSP'25): all that is turned away."""
    models = [small(f"m{at:02d}") for at in range(50)]
    rates = {spec.name: 0.9865 / 3 for spec in models[:3]}
    rates |= {spec.name: 0.0135 / 47 for spec in models[3:]}
    names = random.Random(1).choices(list(rates), list(rates.values()), k=4000)
    events = [asked(1 + at, f"r{at:04d}", name) for at, name in enumerate(names)]
    played = play(Static(rates, slots=4), room_for(3), models, events)
    refused = sum(one.kind is OutcomeKind.REFUSED for one in played.outcomes.values())
    assert refused / len(events) == pytest.approx(0.0135, rel=0.25)
    assert len(played.loads) == 3


def test_static_gives_what_is_left_to_who_has_most_requests_per_replica() -> None:
    node = llama_like([room_for(1, f"dev{at}") for at in range(4)])
    played = play(Static({"a": 3.0, "b": 1.0}, slots=4), node, [A, B], [asked(1, "r", "a")])
    assert sorted(load.model for load in played.loads) == ["a", "a", "a", "b"]


def test_reactive_starts_where_it_starts_soonest_by_the_times_of_serverless_llm() -> None:
    """Qwen3-32B on an H100: 1.25 s from memory, 3.22 s from the disk (its repository's runs)."""
    times = timed(load=3.22, warm=1.25, step=0.02)

    def by_tier(spec: object, device: object, source: Rung) -> float:
        return 1.25 if source is Rung.HOST else 3.22

    nodes = [
        vllm_like([room_for(1, f"dev{at}")], f"node{at}", asleep_residue_bytes=0) for at in range(2)
    ]
    rule = Reactive(by_tier, slots=4)
    events = [
        asked(0, "a1", "a"),
        asked(20, "a2", "a"),  # asleep on node0: there
        asked(40, "b1", "b"),  # on node0, by name
        asked(40.1, "a3", "a"),  # 3.1 s of b's load and 1.25 there, 3.22 on node1: there
    ]
    played = play(rule, nodes, [A, B], events, times)
    assert [load.node_id for load in played.loads] == ["node0", "node0", "node0", "node1"]
    assert played.first_s["a1"] == pytest.approx(3.22, abs=0.05)
    assert played.first_s["a2"] == pytest.approx(1.25, abs=0.05)
    assert played.first_s["a3"] == pytest.approx(3.22, abs=0.05)


def test_reactive_starts_more_when_more_wait_than_slots_are_on_their_way() -> None:
    node = llama_like([room_for(1, f"dev{at}") for at in range(3)])
    events: list[Event] = [asked(0, f"r{at}", "a", tokens=500) for at in range(9)]
    assert len(play(Reactive(load_s, slots=4), node, [A], events).loads) == 3


def test_sharing_divides_kv_memory_by_rate_and_what_a_token_takes() -> None:
    thick = small("b", kv_bytes_per_token=2048, max_sequences=64)
    thin = small("a", max_sequences=64)
    rule = Sharing({"a": 3.0, "b": 0.5}, lambda spec, device: 0.1, slots=64)
    played = play(rule, room_for(3), [thin, thick], [asked(1, "r", "a")])
    assert sorted(load.model for load in played.loads) == ["a", "b"]
    slots = {
        one.model: one.kv.sequences
        for each in played.log
        for one in each.actions
        if type(one).__name__ == "Activate"
    }
    held = {
        spec.name: (slots[spec.name] - 1) * kv_bytes(spec, full_slots(spec, 1))
        for spec in (thin, thick)
    }
    assert held["a"] / held["b"] == pytest.approx(3.0, rel=0.2)


def test_sharing_puts_models_where_the_throughput_grows_most() -> None:
    """The two busy ones apart, though all four would fit on one device."""
    node = llama_like([room_for(4, f"dev{at}") for at in range(2)])
    rates = {"a": 8.0, "b": 8.0, "c": 0.1, "d": 0.1}
    rule = Sharing(rates, lambda spec, device: 0.1, slots=4)
    played = play(rule, node, [A, B, C, D], [asked(1, "r", "a")])
    where = {load.model: load.placement.devices for load in played.loads}
    assert where["a"] != where["b"]


def test_turns_are_as_long_as_the_paper_says() -> None:
    """In a round of turns each model makes a token per alpha times the accepted time, no turn is
    longer than 4 s, and where there is time to spare alpha is one half.
    """
    slacks = {"a": 4.0, "b": 8.0}
    turns = turns_s(0.5, slacks)
    alpha = max(0.5 / (4.0 * 4.0) + 1 / 4 + 1 / 8, 0.5)
    round_s = 0.5 + sum(turns.values())
    for name, slack in slacks.items():
        tokens = turns[name] * slack  # per accepted time
        assert round_s / tokens == pytest.approx(alpha)
    crowded = turns_s(0.5, dict.fromkeys("abcd", 1.5))
    assert max(crowded.values()) == pytest.approx(4.0)


def test_at_token_level_models_take_turns_and_nobody_waits_for_anothers_end() -> None:
    events = [asked(0, "a1", "a", tokens=600), asked(0.5, "b1", "b", tokens=600)]
    rule = TokenLevel(lambda *_: 0.0165, lambda *_: 0.15, slots=4)
    played = play(rule, room_for(1), [A, B], events, TIMED)
    lone = play(LruCount(most=1), room_for(1), [A, B], events, TIMED)
    assert played.first_s["b1"] < 4.5 < 9 < lone.first_s["b1"]
    assert len(played.loads) > 3
    assert all(one.kind is OutcomeKind.DONE for one in played.outcomes.values())


def test_a_worker_that_dies_takes_what_ran_there_with_it() -> None:
    nodes = [llama_like([room_for(1, f"dev{at}")], f"node{at}") for at in range(2)]
    events: list[Event] = [
        asked(0, "a1", "a", tokens=600),
        WorkerLost(2_000_000_000, "node0", "killed"),
        asked(3, "a2", "a"),
    ]
    played = play(LruCount(most=1), nodes, [A], events, TIMED)
    assert played.outcomes["a1"].fault is Fault.WORKER_GONE
    assert played.outcomes["a2"].kind is OutcomeKind.DONE
    assert played.loads[-1].node_id == "node1"


def test_what_can_never_fit_is_refused() -> None:
    huge = small("h", weights_bytes=900 * MIB)
    played = play(LruCount(), room_for(2), [huge], [asked(0, "h1", "h")])
    assert played.outcomes["h1"].kind is OutcomeKind.REFUSED
    assert "no device can ever hold h" in played.outcomes["h1"].message


def test_at_token_level_devices_are_divided_among_widths_by_load() -> None:
    """Of eight devices a model that spans two gets half of the load's share in pairs."""
    wide = small("w", devices_per_replica=2, weights_bytes=128 * MIB)
    node = llama_like([room_for(1, f"dev{at}") for at in range(8)])
    rule = TokenLevel(lambda *_: 0.0165, lambda *_: 0.15, slots=4)
    events = [asked(0, "w1", "w", 90), asked(0.1, "a1", "a", 90), asked(0.2, "b1", "b", 90)]
    played = play(rule, node, [wide, A, B], events, TIMED)
    where = {load.model: load.placement.devices for load in played.loads}
    assert where == {"w": ("dev0", "dev1"), "a": ("dev2",), "b": ("dev3",)}
    assert len(played.loads) == 3, "nobody takes turns"


def test_at_token_level_what_is_left_to_no_width_is_shared() -> None:
    wide = small("w", devices_per_replica=2, weights_bytes=128 * MIB)
    node = llama_like([room_for(1, f"dev{at}") for at in range(2)])
    rule = TokenLevel(lambda *_: 0.0165, lambda *_: 0.15, slots=4)
    played = play(rule, node, [wide, A], [asked(0, "w1", "w"), asked(1, "a1", "a")], TIMED)
    assert all(one.kind is OutcomeKind.DONE for one in played.outcomes.values())


def test_at_token_level_as_many_models_are_active_as_aegaeon_says() -> None:
    """100 models, 0.037 requests a second each, 16.79 s of service: 46.55 active models on average
    (SOSP'25), where each has a device; more would be needed by whoever gives one to each for good.
    """
    models = [small(f"m{at:02d}", max_sequences=16, context_tokens=2048) for at in range(100)]
    device_bytes = 4 * room_for(1).memory_bytes
    node = llama_like([DeviceSpec(f"dev{at:02d}", device_bytes, cores=2) for at in range(100)])
    luck, at_s, events = random.Random(7), 0.0, list[Event]()
    while at_s < 1200.0:
        at_s += luck.expovariate(100 * 0.037)
        name = f"m{luck.randrange(100):02d}"
        events.append(asked(at_s, f"r{len(events):05d}", name, tokens=1018, prompt=1))
    rule = TokenLevel(lambda *_: 0.0165, lambda *_: 0.0, slots=16)
    played = play(rule, node, models, events, timed(load=0.0, warm=0.0, step=0.0165))
    assert mean_active(played, 100.0, 1200.0) == pytest.approx(46.55, rel=0.03)


def mean_active(played: Played, begin_s: float, end_s: float) -> float:
    """Models with a request, on average over a span of time."""
    under_way: dict[str, int] = {}
    model_of: dict[str, str] = {}
    area, last_s = 0.0, begin_s
    for one in played.log:
        at_s = min(max(one.event.at_ns / 1e9, begin_s), end_s)
        area += (at_s - last_s) * sum(count > 0 for count in under_way.values())
        last_s = at_s
        if isinstance(one.event, Arrived):
            name = model_of[one.event.request.id] = one.event.request.model
            under_way[name] = under_way.get(name, 0) + 1
        elif isinstance(one.event, Finished):
            under_way[model_of[one.event.request_id]] -= 1
    return area / (end_s - begin_s)
