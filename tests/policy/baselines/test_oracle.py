"""Belady's rule loads least, and nobody is lost under any rule."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from repertory.domain.events import Arrived
from repertory.domain.ladder import Rung
from repertory.domain.requests import OutcomeKind
from repertory.domain.settings import Settings
from repertory.domain.specs import DeviceSpec, ModelSpec
from repertory.engines.fake import llama_like
from repertory.policy.baselines.lru_count import LruCount
from repertory.policy.baselines.ollama import Ollama
from repertory.policy.baselines.oracle import Oracle
from repertory.policy.baselines.reactive import Reactive
from repertory.policy.baselines.sharing import Sharing
from repertory.policy.baselines.static import Static
from repertory.policy.baselines.token_level import TokenLevel
from repertory.policy.baselines.view import Rule
from tests.policy.baselines.playing import asked, load_s, play, room_for, small

MODELS = [small(name) for name in "abcdef"]


def times_of(events: list[Arrived]) -> dict[str, list[int]]:
    times: dict[str, list[int]] = {}
    for event in events:
        times.setdefault(event.request.model, []).append(event.at_ns)
    return times


def oracle_of(events: list[Arrived]) -> Oracle:
    return Oracle(times_of(events), load_s, slots=4)


def switch_s(spec: ModelSpec, device: DeviceSpec) -> float:
    return load_s(spec, device, Rung.HOST)


RULES: dict[str, Callable[[list[Arrived]], Rule | Settings]] = {
    "lru-count": lambda events: LruCount(most=3),
    "ollama": lambda events: Ollama(slots=4),
    "reactive": lambda events: Reactive(load_s, slots=4),
    "token-level": lambda events: TokenLevel(lambda *_: 0.01, switch_s, slots=4),
    "static": lambda events: Static({"a": 2.0, "b": 1.0}, slots=4),
    "sharing": lambda events: Sharing({"a": 2.0, "b": 1.0}, lambda *_: 0.1, slots=4),
    "oracle": oracle_of,
    "ours": lambda events: Settings(),
}
ON_DEMAND = ["lru-count", "ollama", "reactive", "token-level", "ours"]


@given(some.lists(some.sampled_from("abcdef"), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None)
def test_of_equal_sizes_and_one_by_one_no_rule_loads_less(names: list[str]) -> None:
    events = [asked(10 * at, f"r{at:02d}", name) for at, name in enumerate(names)]
    least = len(play(oracle_of(events), room_for(3), MODELS, iter(events)).loads)
    for name in ON_DEMAND:
        loads = len(play(RULES[name](events), room_for(3), MODELS, iter(events)).loads)
        assert least <= loads, name


def test_what_is_known_to_come_is_loaded_in_time() -> None:
    events = [asked(0, "r0", "a"), asked(10, "r1", "b"), asked(20, "r2", "a")]
    played = play(oracle_of(events), room_for(1), MODELS, events)
    assert max(played.first_s["r1"], played.first_s["r2"]) < 0.05


def test_what_comes_after_an_hour_is_not_known() -> None:
    rule = oracle_of([asked(7200, "r0", "a")])
    assert rule.next_ns("a", 0) == float("inf")
    assert rule.next_ns("a", round(3700e9)) == 7200e9


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_every_request_has_one_outcome_under_every_rule(name: str, seed: int) -> None:
    luck = random.Random(seed)
    at_s, events = 0.0, []
    for count in range(120):
        at_s += luck.choice([0.0, 0.05, 0.3, 2.0])
        model = luck.choices("abcdef", [32, 16, 8, 4, 2, 1])[0]
        events.append(asked(at_s, f"r{count:03d}", model, luck.choice([1, 8, 60])))
    node = llama_like([room_for(2, "dev0"), room_for(1, "dev1")])
    played = play(RULES[name](events), node, MODELS, iter(events))
    assert set(played.outcomes) == {event.request.id for event in events}
    done = [one for one in played.outcomes.values() if one.kind is OutcomeKind.DONE]
    assert set(played.first_s) >= {one.request_id for one in done}
