"""Who gets how much of a contended device: API keys by measured work, requests by priority."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from shares import Played, percentile, play

from repertory.domain.events import Arrived, order
from repertory.domain.requests import PRIORITIES, Request
from repertory.domain.settings import Settings
from repertory.policy.requests.fairness import jain
from repertory.policy.requests.share import QUANTUM_NS
from worlds import MIB, World, llama_world

BATCH = PRIORITIES["batch"]
SECONDS = 300.0
MODEST = ("ann", "bob", "cat")


def world(models: int = 1, **changes: object) -> World:
    """Room for one model and some of its KV memory; nobody is refused."""
    settings = replace(Settings(prewarm=False, max_queue_s=1e6), **changes)  # type: ignore[arg-type]
    return replace(llama_world(models, memory_gib=1.6), settings=settings)


def small() -> World:
    """A model whose prompts take no longer than a quantum, and slots that batches fill."""
    chosen = world()
    spec = replace(chosen.models[0], weights_bytes=32 * MIB, buffers_bytes=8 * MIB)
    device = replace(chosen.node.devices[0], memory_bytes=560 * MIB)
    return replace(chosen, models=(spec,), node=replace(chosen.node, devices=(device,)))


def pair() -> World:
    """Two such models, and room for one of them with slots that batches fill."""
    chosen = world(2)
    changes = {"weights_bytes": 64 * MIB, "buffers_bytes": 8 * MIB, "kv_bytes_per_token": 8192}
    specs = tuple(replace(one, **changes) for one in chosen.models)  # type: ignore[arg-type]
    device = replace(chosen.node.devices[0], memory_bytes=100 * MIB)
    return replace(chosen, models=specs, node=replace(chosen.node, devices=(device,)))


def arrivals(
    name: str, per_s: float, luck: random.Random, sizes: tuple[int, int], **request: object
) -> Iterator[Arrived]:
    """Poisson."""
    at_s, count = 0.0, 0
    while (at_s := at_s + luck.expovariate(per_s)) < SECONDS:
        count += 1
        prompt, output = (max(1, round(luck.uniform(0.5, 1.5) * size)) for size in sizes)
        fields = {"model": "a", **request}
        made = Request(f"{name}{count:05d}", prompt_tokens=prompt, max_tokens=output, **fields)  # type: ignore[arg-type]
        yield Arrived(round(at_s * 1e9), made)


def together(*streams: Iterator[Arrived]) -> list[Arrived]:
    return sorted((one for stream in streams for one in stream), key=order)


def contended(played: Played) -> float:
    """Jain's index of what the keys had while all of them kept the device busy."""
    had = played.work_s(30.0, SECONDS)
    assert len(had) == 1 + len(MODEST), had
    return jain(had)


@pytest.mark.parametrize("weight", [1.0, BATCH])
def test_equal_keys_get_equal_measured_work_whoever_floods(weight: float) -> None:
    """One sends ten times what the three others do, who each want more than their part.

    First come first served, its index would be 0.41.
    """
    luck = random.Random(5)
    modest = [arrivals(key, 0.12, luck, (200, 60), key=key, weight=weight) for key in MODEST]
    flood = arrivals("flood", 1.2, luck, (200, 60), key="flood", weight=weight)
    assert contended(play(world(), together(flood, *modest))) >= 0.9


def test_long_requests_of_one_key_count_by_their_work_and_not_by_their_number() -> None:
    luck = random.Random(6)
    modest = [arrivals(key, 0.4, luck, (50, 20), key=key) for key in MODEST]
    flood = arrivals("flood", 0.3, luck, (1000, 300), key="flood")
    assert contended(play(world(), together(flood, *modest))) >= 0.9


def test_a_key_that_rested_has_no_credit() -> None:
    """It comes late, and is not served alone until it has caught up."""
    luck = random.Random(7)
    early = arrivals("early", 1.0, luck, (200, 60), key="early")
    late = (one for one in arrivals("late", 1.0, luck, (200, 60), key="late"))
    late = (one for one in late if one.at_ns > 150e9)
    had = play(world(), together(early, late)).work_s(155.0, SECONDS)
    assert jain(had) >= 0.9


def test_keys_of_different_models_take_turns_within_max_wait() -> None:
    """Nobody's requests are passed over for ever, whatever the keys have had."""
    luck = random.Random(8)
    flood = arrivals("flood", 0.8, luck, (200, 60), key="flood", model="a")
    modest = arrivals("ann", 0.05, luck, (200, 20), key="ann", model="b")
    settings = Settings()
    played = play(world(2), together(flood, modest))
    turn_s = settings.min_residency_s + 5 * 2.0
    assert max(played.ttfts("ann")) <= settings.max_wait_s + turn_s + 10.0
    assert len(played.ttfts("ann")) == sum(name.startswith("ann") for name in played.requests)


def test_interactive_requests_do_not_feel_a_batch_load_beyond_what_the_machine_can_do() -> None:
    """p95 of the time to the first token: 1.2 x its value alone + one quantum."""

    def asked(luck: random.Random) -> Iterator[Arrived]:
        return arrivals("now", 0.5, luck, (100, 10), key="desk")

    alone = play(small(), together(asked(random.Random(1))))
    batch = arrivals("batch", 12.0, random.Random(2), (100, 100), key="night", weight=BATCH)
    beside = play(small(), together(asked(random.Random(1)), batch))
    assert max(beside.ended_s.values()) > 1.4 * SECONDS, "one and a half times what it can do"
    assert beside.ttft_s.keys() == beside.requests.keys(), "the batch work completes"
    bar_s = 1.2 * percentile(alone.ttfts("now"), 0.95) + QUANTUM_NS / 1e9
    assert percentile(beside.ttfts("now"), 0.95) <= bar_s
    assert max(beside.stops.values(), default=0) <= 3, "0.1 x 2^4 is more than 1"


def test_interactive_requests_for_another_model_feel_one_switch_of_it() -> None:
    """p95 of the time to the first token: 1.2 x its value alone + one quantum + one switch."""

    def asked(luck: random.Random) -> Iterator[Arrived]:
        return arrivals("now", 0.4, luck, (32, 8), key="desk", model="b")

    alone = play(pair(), together(asked(random.Random(1)))).ttfts("now")
    turns = [Request(f"turn{at}", "ab"[at % 2], 32, 8, key="desk") for at in range(8)]
    switches = play(pair(), [Arrived(at * 20 * 10**9, one) for at, one in enumerate(turns)])
    switch_s = percentile(switches.ttfts("turn"), 0.5) - percentile(alone, 0.5)
    batch = arrivals("batch", 11.0, random.Random(2), (64, 96), key="night", weight=BATCH)
    beside = play(pair(), together(asked(random.Random(1)), batch))
    assert max(beside.ended_s.values()) > 1.4 * SECONDS, "one and a half times what it can do"
    assert beside.ttft_s.keys() == beside.requests.keys(), "the batch work completes"
    bar_s = 1.2 * percentile(alone, 0.95) + QUANTUM_NS / 1e9 + switch_s
    assert percentile(beside.ttfts("now"), 0.95) <= bar_s
