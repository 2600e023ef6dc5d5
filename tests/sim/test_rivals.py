"""Rules of other systems on whole workloads: what theory guarantees, and what they were told."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleets import every, fleet, machine
from repertory.core.rivals.rival import Rival
from repertory.domain.actions import Dispatch, Load, Preempt
from repertory.domain.decisions import Decision
from repertory.domain.errors import ConfigError
from repertory.domain.events import Arrived
from repertory.domain.fleets import Fleet
from repertory.domain.requests import Request
from repertory.domain.workloads import Arrival, Ending, RequestRecord
from repertory.sim.driver import Simulation
from repertory.sim.play import Scenario, play
from repertory.sim.policies import POLICIES, Means, brain_of
from repertory.sim.rivals import RULES, Knowledge
from repertory.sim.world import World
from repertory.traces.recipes import find_recipe
from worlds import GIB, MIB, model

ON_DEMAND = ("lru-count", "ollama", "reactive", "token-level", "repertory")


def played(
    scenario: Scenario, arrivals: Sequence[Arrival]
) -> tuple[list[RequestRecord], list[Decision]]:
    records, log = list[RequestRecord](), list[Decision]()
    play(scenario, arrivals, records.append, log.append, again=lambda: arrivals)
    return sorted(records, key=lambda one: one.request_id), log


def loads(log: Sequence[Decision]) -> list[Load]:
    return [one for each in log for one in each.actions if isinstance(one, Load)]


def equals(names: Sequence[str], devices: int) -> Fleet:
    """Models of one size, two to a device with all of their slots."""
    specs = tuple(model(name, 9 * GIB, buffers_bytes=64 * MIB, max_sequences=4) for name in names)
    return replace(fleet(machine("box", devices)), models=specs)


def one_by_one(recipe: str, seed: int, requests: int) -> list[Arrival]:
    """Of a recipe, only those that come 20 s after the one before, and short."""
    kept: list[Arrival] = []
    for arrival in find_recipe(recipe).arrivals(seed, rate_per_s=0.5):
        if not kept or arrival.at_s >= kept[-1].at_s + 20.0:
            kept.append(replace(arrival, prompt_tokens=64, output_tokens=16))
        if len(kept) == requests:
            break
    return kept


@pytest.mark.parametrize("recipe", ["mux-16", "week"])
@pytest.mark.parametrize("devices", [1, 3])
def test_of_equal_sizes_and_one_by_one_no_rule_loads_less_than_the_oracle(
    recipe: str, devices: int
) -> None:
    arrivals = one_by_one(recipe, devices, 120)
    chosen = equals([one.name for one in find_recipe(recipe).models], devices)
    counts = {
        policy: len(loads(played(Scenario(chosen, policy), arrivals)[1]))
        for policy in ("oracle", *ON_DEMAND)
    }
    assert counts["oracle"] == min(counts.values()), counts


def test_of_equal_sizes_and_one_by_one_more_devices_never_make_the_oracle_load_more() -> None:
    """Belady's rule is a stack algorithm."""
    arrivals = one_by_one("mux-16", 0, 120)
    names = [one.name for one in find_recipe("mux-16").models]
    counts = [
        len(loads(played(Scenario(equals(names, devices), "oracle"), arrivals)[1]))
        for devices in (1, 2, 4, 8)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == len({one.model for one in arrivals}), "all fit: each once"


@pytest.mark.parametrize("policy", ["static", "sharing", "lru-count", "oracle"])
def test_where_all_models_fit_nothing_is_switched(policy: str) -> None:
    arrivals = every(0.05, 400, 4)
    records, log = played(Scenario(equals(["m0", "m1", "m2", "m3"], 2), policy), arrivals)
    models = [one.model for one in loads(log)]
    assert sorted(models) == ["m0", "m1", "m2", "m3"]
    assert all(one.ending is Ending.DONE for one in records)


@given(
    gaps=st.lists(st.sampled_from([0.0, 0.02, 0.3]), min_size=10, max_size=120),
    names=st.lists(st.integers(0, 3), min_size=120, max_size=120),
    devices=st.integers(1, 3),
)
@settings(max_examples=15, deadline=None)
def test_static_offers_no_less_with_one_device_more(
    gaps: list[float], names: list[int], devices: int
) -> None:
    """Models of one size: who was offered still is, on as many replicas or more."""
    at_s, arrivals = 0.0, list[Arrival]()
    for gap_s, name in zip(gaps, names, strict=False):
        at_s += gap_s
        arrivals.append(Arrival(at_s, f"m{name}", 20, 30))
    done, replicas = [], []
    for count in (devices, devices + 1):
        chosen = equals(["m0", "m1", "m2", "m3"], count)
        records, log = played(Scenario(chosen, "static"), arrivals)
        done.append({one.request_id for one in records if one.ending is Ending.DONE})
        found = [one.model for one in loads(log)]
        replicas.append({name: found.count(name) for name in found})
    assert done[0] <= done[1]
    assert all(count <= replicas[1][name] for name, count in replicas[0].items())


@given(
    drawn=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.4, 3.0, 40.0]), st.integers(0, 3)),
        min_size=5,
        max_size=80,
    ),
    name=st.sampled_from(["lru-count", "ollama", "reactive", "sharing", "static"]),
)
@settings(max_examples=40, deadline=None)
def test_who_is_not_asked_would_have_wanted_nothing(
    drawn: list[tuple[float, int]], name: str
) -> None:
    """But for the oracle, to which the next request is nearer at every moment."""
    at_s, arrivals = 0.0, list[Arrival]()
    for gap_s, number in drawn:
        at_s += gap_s
        arrivals.append(Arrival(at_s, f"m{number}", 64, 200))
    chosen = fleet(machine("box", 1))
    done = [_done(chosen, name, arrivals, is_always_asked=asked) for asked in (False, True)]
    assert done[0] == done[1]


def _done(
    chosen: Fleet, name: str, arrivals: Sequence[Arrival], *, is_always_asked: bool
) -> list[tuple[int, str]]:
    """Loads, dispatches and stops, with their times."""
    found: list[tuple[int, str]] = []

    def record(decision: Decision) -> None:
        found.extend(
            (decision.event.at_ns, f"{type(action).__name__} {action.replica_id}")
            for action in decision.actions
            if isinstance(action, (Load, Dispatch, Preempt))
        )

    world = World(chosen, 0, 0.0, {})
    rule = RULES[name](Knowledge(chosen, world.profile, lambda: arrivals))
    rule.minds_tokens = rule.minds_tokens or is_always_asked
    brain = Rival(rule, record)
    simulation = Simulation(brain, world.workers(), worker=world.worker)
    simulation.start(chosen.models)
    simulation.run(
        Arrived(round(one.at_s * 1e9), Request(f"r{at}", one.model, 64, 200))
        for at, one in enumerate(arrivals)
    )
    brain.check()
    return found


def test_a_policy_that_knows_its_workload_has_to_read_it_twice() -> None:
    scenario = Scenario(fleet(machine()), "static")
    with pytest.raises(ConfigError, match="it has to be read twice"):
        play(scenario, every(0.3, 10), lambda _: None)


@pytest.mark.parametrize("policy", RULES)
def test_the_same_seed_gives_the_same_decisions_under_every_rule(policy: str) -> None:
    scenario = Scenario(fleet(machine("a", 1), machine("b", 2)), policy, seed=3, jitter=0.2)
    once, again = (played(scenario, every(0.3, 100))[1] for _ in range(2))
    assert once == again


def test_habits_are_of_the_whole_workload() -> None:
    arrivals = [Arrival(0.0, "m0", 10, 30), Arrival(2.0, "m1", 5, 5), Arrival(4.0, "m0", 20, 50)]
    chosen = fleet(machine())
    known = Knowledge(chosen, World(chosen, 0, 0.0, {}).profile, lambda: arrivals)
    assert known.rates_per_s == {"m0": 0.5, "m1": 0.25}
    assert (known.habits["m0"].prompt_tokens, known.habits["m0"].output_tokens) == (15, 40)
    assert list(known.times_ns["m0"]) == [0, 4_000_000_000]


def test_children_are_counted_as_models_of_mean_size_that_fit() -> None:
    """A little over 11 GiB each with all of their slots: one to 22 GiB, three to 44."""
    chosen = fleet(machine("a", 1), machine("b", 2))
    known = Knowledge(chosen, World(chosen, 0, 0.0, {}).profile, list)
    assert known.most_children() == {"a": 1, "b": 3}


def test_every_policy_has_a_brain() -> None:
    chosen = fleet(machine())
    world = World(chosen, 0, 0.0, {})
    for name in POLICIES:
        brain_of(name, Means(lambda _: None, world.profile, chosen, list))


def test_what_is_on_its_way_up_comes_up_for_somebody_and_will_have_work() -> None:
    """Our own brain: the next one goes to the device that is empty."""
    arrivals = [Arrival(at * 0.01, f"m{at}", 64, 16) for at in range(2)]
    _, log = played(Scenario(equals(["m0", "m1"], 2), "repertory"), arrivals)
    assert len({one.placement.devices for one in loads(log)}) == 2


@pytest.mark.parametrize("policy", ["oracle", "reactive", "lru-count", "static"])
def test_of_equal_places_the_roomiest_is_taken(policy: str) -> None:
    arrivals = [Arrival(at * 0.2, f"m{at}", 64, 16) for at in range(2)]
    _, log = played(Scenario(equals(["m0", "m1"], 2), policy), arrivals)
    assert len({one.placement.devices for one in loads(log)}) == 2
