"""A workload on a fleet: nobody is lost, nothing is over budget, and the same seed is the same."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleets import every, fleet, machine
from repertory.domain.errors import ConfigError
from repertory.domain.events import Arrived
from repertory.domain.fleets import Fleet, Outage
from repertory.domain.requests import Request
from repertory.domain.workloads import Arrival, Ending, RequestRecord
from repertory.engines.node_model import NodeModel
from repertory.sim.driver import Simulation
from repertory.sim.play import Played, Scenario, play
from repertory.sim.policies import POLICIES, Means, brain_of
from repertory.sim.sinks import HashSink
from repertory.sim.world import World, unfit
from worlds import GIB, model

ARRIVALS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.01, 0.4, 3.0]),
        st.integers(0, 3),
        st.integers(1, 3000),
        st.integers(1, 300),
        st.sampled_from(["", "batch", "3.5"]),
        st.sampled_from([None, 0.5, 20.0]),
    ),
    min_size=1,
    max_size=40,
)


OUTLASTS = [(gap_s, 0, 1, 1, "", None) for gap_s in [0.0] * 9 + [3.0]]
"""The last of them comes when the machine of its model has failed and is back."""


def arrivals_from(drawn: Sequence[tuple[float, int, int, int, str, float | None]]) -> list[Arrival]:
    made, at_s = list[Arrival](), 0.0
    for gap_s, name, prompt, output, priority, deadline_s in drawn:
        at_s += gap_s
        made.append(
            Arrival(at_s, f"m{name}", prompt, output, priority=priority, deadline_s=deadline_s)
        )
    return made


def played(
    scenario: Scenario, arrivals: Sequence[Arrival]
) -> tuple[Played, list[RequestRecord], HashSink]:
    records, sink = list[RequestRecord](), HashSink()
    result = play(scenario, arrivals, records.append, sink, again=lambda: arrivals)
    return result, records, sink


FLEETS = {
    "llama": fleet(machine()),
    "vllm": fleet(machine(is_vllm=True)),
    "two machines": fleet(machine("a", 1), machine("b", 2)),
    "fails": fleet(
        replace(machine("a", 1), outages=(Outage(1.0, 2.0), Outage(9.0, 0.5))), machine("b", 1)
    ),
}


@given(drawn=ARRIVALS, name=st.sampled_from(sorted(FLEETS)), policy=st.sampled_from(list(POLICIES)))
@example(drawn=OUTLASTS, name="fails", policy="sharing")
@settings(max_examples=40, deadline=None)
def test_every_request_has_one_end_and_times_in_order(
    drawn: list[tuple[float, int, int, int, str, float | None]], name: str, policy: str
) -> None:
    arrivals = arrivals_from(drawn)
    result, records, _ = played(Scenario(FLEETS[name], policy), arrivals)
    assert result.is_whole
    assert result.requests == len(arrivals)
    assert sorted(one.request_id for one in records) == [
        f"r{number:08d}" for number in range(1, len(arrivals) + 1)
    ]
    for one in records:
        assert one.ending in (Ending.DONE, Ending.REFUSED, Ending.FAILED)
        times = [one.at_s, one.started_s, one.first_token_s, one.finished_s]
        known = [round(at_s * 1e9) for at_s in times if at_s is not None]
        assert known == sorted(known)
        if one.ending is Ending.DONE:
            assert len(known) == 4
            assert one.output_tokens == arrivals[int(one.request_id[1:]) - 1].output_tokens


@given(drawn=ARRIVALS, name=st.sampled_from(sorted(FLEETS)), policy=st.sampled_from(list(POLICIES)))
@settings(max_examples=25, deadline=None)
def test_memory_is_never_over_budget(
    drawn: list[tuple[float, int, int, int, str, float | None]], name: str, policy: str
) -> None:
    """By the workers' own account, after every step of the brain."""
    chosen, arrivals = FLEETS[name], arrivals_from(drawn)
    world = World(chosen, 0, 0.0, {})
    workers = world.workers()

    def record(_: object) -> None:
        for worker in workers:
            for device in worker.node.devices:
                assert worker.device_bytes(device.id) <= device.memory_bytes

    def again(node: object) -> NodeModel:
        workers.append(world.worker(node))  # type: ignore[arg-type]  # as the simulation gives it
        return workers[-1]

    brain = brain_of(policy, Means(record, world.profile, chosen, lambda: arrivals))
    simulation = Simulation(brain, workers, worker=again)
    simulation.start(chosen.models)
    simulation.run(
        Arrived(round(one.at_s * 1e9), Request(f"r{at}", one.model, one.prompt_tokens, 300))
        for at, one in enumerate(arrivals)
        if one.prompt_tokens <= 3000
    )


@pytest.mark.parametrize("name", FLEETS)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    scenario = Scenario(FLEETS[name], "repertory", seed=3, jitter=0.2)
    (_, once, first), (_, twice, second) = (played(scenario, every(0.3, 150)) for _ in range(2))
    assert once == twice
    assert first.digest() == second.digest()
    other = played(replace(scenario, seed=4), every(0.3, 150))[2]
    assert other.digest() != first.digest(), "its jitter is another"


def test_a_failed_machine_costs_time_and_no_request() -> None:
    lone = machine("a", 1)
    calm = Scenario(fleet(lone, models=2), "repertory")
    outage = (Outage(5.0, 10.0),)
    storm = Scenario(fleet(replace(lone, outages=outage), models=2), "repertory")
    (_, before, _), (_, after, _) = (played(one, every(0.5, 40, 2)) for one in (calm, storm))
    assert Counter(one.ending for one in after) == Counter(one.ending for one in before)
    waited = [one for one in after if 5.0 < one.at_s < 14.0]
    assert waited
    for one in waited:
        assert one.first_token_s is not None
        assert one.first_token_s > 15.0, "nothing is there to compute it"


def test_machines_that_fail_while_they_load_are_no_models_fault() -> None:
    """A load takes some 2 s: at each outage one is under way."""
    times = tuple(Outage(at_s, 1.0) for at_s in (1.0, 3.0, 5.0, 7.0))
    frail = Scenario(fleet(replace(machine("a", 1), outages=times)), "repertory")
    _, records, _ = played(frail, every(0.5, 40))
    assert {one.ending for one in records} == {Ending.DONE}


def test_machines_fail_by_the_seed_until_the_last_request_has_come() -> None:
    frail = fleet(replace(machine("a", 1), mtbf_s=20.0, repair_s=3.0), machine("b", 1))
    result, records, _ = played(Scenario(frail, "repertory", seed=1), every(1.0, 120))
    assert result.is_whole
    assert len(records) == 120
    stalls = [one.longest_gap_s for one in records if one.longest_gap_s is not None]
    assert stalls, "some stream stood still while its machine was gone"


def test_a_run_that_is_stopped_says_so_and_loses_nobody() -> None:
    records: list[RequestRecord] = []
    scenario = Scenario(FLEETS["llama"], "repertory")
    result = play(
        scenario, every(0.05, 4000), records.append, goes_on=lambda at_s, requests: requests < 500
    )
    assert not result.is_whole
    assert 500 <= result.requests < 4000
    assert len(records) == result.requests
    assert Counter(one.ending for one in records)[Ending.LOST] > 0


def test_what_no_slot_could_hold_is_refused_as_by_the_server() -> None:
    _, (record,), _ = played(
        Scenario(FLEETS["llama"], "repertory"), [Arrival(1.5, "m0", 4000, 200)]
    )
    assert record.ending is Ending.REFUSED
    assert record.status == 400
    assert record.message == "4200 tokens exceed the context of 4096"
    assert record.finished_s == 1.5


def test_a_model_that_the_fleet_does_not_serve_is_an_error_with_its_row() -> None:
    scenario = Scenario(FLEETS["llama"], "repertory")
    with pytest.raises(ConfigError, match=r"request 2 of the workload, at 1 s, is for 'mistral'"):
        played(scenario, [Arrival(0.0, "m0", 10, 10), Arrival(1.0, "mistral", 10, 10)])


def test_a_model_that_can_never_fit_is_named_before_anything_runs() -> None:
    large = model("large", 40 * GIB, buffers_bytes=GIB)
    whole = Fleet("f", (machine(),), (large,))
    (said,) = unfit(whole)
    assert said.startswith("large cannot be served: it needs 41,992 MiB")
    split = replace(large, devices_per_replica=2)
    assert unfit(replace(whole, models=(split,))) == []
    wide = replace(large, devices_per_replica=4)
    assert unfit(replace(whole, models=(wide,)))[0].startswith("large (split over 4) cannot")
