"""What a plan says in sentences."""

from repertory.reports.capacity import conclusions
from repertory.sim.planning.evidence import Evidence, Limit
from repertory.sim.planning.judging import Standing, Trial
from repertory.sim.planning.search import Choice, Judged, Plan
from repertory.sim.planning.trials import Term

TERMS = [Term("TTFT p99", 0.99, 2.0)]


def judged(standing: Standing, load: float, late: dict[Limit, int], busy_s: float) -> Judged:
    evidence = Evidence(late, window_s=10.0, device_s=10.0, busy_s=busy_s)
    trial = Trial((0.9,), (3.0,), evidence, 100)
    return Judged(Choice((("l4", 2),)), 1.6, load, standing, (trial,))


def said(late: dict[Limit, int], busy_s: float) -> str:
    best = judged(Standing.MEETS, 1.0, {}, busy_s)
    breaks = judged(Standing.FAILS, 1.1, late, busy_s)
    plan = Plan(best, 1.05, breaks, (best,), (), 2, is_whole=True)
    return conclusions(plan, TERMS, [0.99])[1]


def test_what_the_fleet_runs_out_of_is_named_with_what_was_waited_for() -> None:
    assert said({Limit.SLOTS: 3, Limit.DISK: 1}, 5.0) == (
        "holds until 1.05 x the load; then runs out of slots: 75 % of late answers waited most for "
        "a free slot of their model"
    )


def test_slots_of_busy_devices_count_as_compute_and_are_still_what_was_waited_for() -> None:
    assert said({Limit.SLOTS: 3, Limit.COMPUTE: 1}, 8.0) == (
        "holds until 1.05 x the load; then runs out of compute: 100 % of late answers waited most "
        "for a free slot of their model, on devices that compute 80 % of the time"
    )
    assert "for the steps that computed them" in said({Limit.SLOTS: 1, Limit.COMPUTE: 3}, 8.0)
