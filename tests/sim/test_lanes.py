"""Two models side by side on two cores, as our worker steps them, against figures by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from repertory.domain.actions import Activate, Load, Resize
from repertory.domain.fleets import Machine, Toll
from repertory.domain.ladder import Rung
from repertory.domain.specs import DeviceSpec, KvShape, ModelSpec, Placement
from repertory.engines.fake import llama_like
from repertory.engines.node_model import Job, NodeModel, Output, TransitionEnd
from repertory.engines.step_loop import one_core
from repertory.perf.profiles import Law, Profile, StepLaw, prior_profile, straight
from repertory.policy.requests.share import StepKind
from worlds import GIB, model

NODE = llama_like([DeviceSpec("dev0", 8 * GIB, cores=2)])
HERE = Placement(("dev0",))
STEP_S = 0.01
HERE_ALONE = Machine(
    node=NODE,
    gpus={},
    disk_bytes_per_s=1e9,
    bus_bytes_per_s=1e9,
    cache_bytes=8 * GIB,
    chunk_tokens=256,
    lanes=1,
    is_warm=True,
)
PROMPT_BESIDE = one_core(StepKind.PREFILL, 1, is_beside=True)
SINGLE_BESIDE = one_core(StepKind.DECODE, 1, is_beside=True)
SINGLE = one_core(StepKind.DECODE, 1, is_beside=False)


def even(spec: ModelSpec, device: DeviceSpec) -> Profile:
    """Every step takes 10 ms, whatever it computes."""
    known = prior_profile(spec, device)
    law = StepLaw(straight(STEP_S, 0.0))
    laws = dict.fromkeys(known.decode, law)
    return replace(known, prefill=laws, decode=laws)


def serving(
    names: str,
    profile: Callable[[ModelSpec, DeviceSpec], Profile] = even,
    machine: Machine | None = None,
) -> tuple[NodeModel, int]:
    worker, at_ns = NodeModel(NODE, profile, machine=machine, width=2), 0
    numbers: Iterator[int] = iter(range(100))
    for name in names:
        spec = model(name, GIB // 4)
        for action in (
            Load(next(numbers), name, name, NODE.id, HERE, Rung.DISK),
            Activate(next(numbers), name, name, NODE.id, KvShape(4, 2048)),
        ):
            worker.transit(at_ns, action, spec)
            at_ns = worker.next_at_ns or at_ns
            worker.advance(at_ns)
    return worker, at_ns


def ends(worker: NodeModel, began_ns: int) -> dict[str, float]:
    """When each generation ends, in steps of 10 ms since then."""
    found = {}
    while (at_ns := worker.next_at_ns) is not None:
        for one in worker.advance(at_ns):
            if isinstance(one, Output) and one.is_last:
                found[one.generation_id] = (one.at_ns - began_ns) / 1e9 / STEP_S
    return found


def test_one_alone_has_both_cores_but_for_the_step_after_its_first_token() -> None:
    """A core is left to those who carry it out."""
    worker, now_ns = serving("ab")
    worker.submit(now_ns, "a", Job("g", 10, 11))
    assert ends(worker, now_ns)["g"] == pytest.approx(10.0 + SINGLE)


def test_who_comes_during_a_prompt_ends_the_turn_and_both_cores_are_taken_anew() -> None:
    worker, now_ns = serving("a")
    worker.submit(now_ns, "a", Job("g", 10, 11))
    worker.advance(now_ns + 5_000_000)
    worker.submit(now_ns + 5_000_000, "a", Job("h", 128, 1))
    took = ends(worker, now_ns)["g"]
    assert took == pytest.approx(11.0 + SINGLE), "once, after the newcomer's first token"


def test_two_side_by_side_are_slower_each_and_done_before_turns_would_be() -> None:
    worker, now_ns = serving("ab")
    for name in "ab":
        worker.submit(now_ns, name, Job(name, 10, 11))
    took = PROMPT_BESIDE + 10 * SINGLE_BESIDE
    assert ends(worker, now_ns) == {"a": pytest.approx(took), "b": pytest.approx(took)}
    assert took < 22.0


def test_a_third_waits_for_a_turn_and_nobody_starves() -> None:
    worker, now_ns = serving("abc")
    for name in "abc":
        worker.submit(now_ns, name, Job(name, 10, 41))
    found = ends(worker, now_ns)
    assert len(found) == 3
    assert max(found.values()) < 3 * 41.0
    assert min(found.values()) > 40.0 * SINGLE_BESIDE


def test_each_has_its_part_of_the_devices_time() -> None:
    """Two share ten seconds by five each, not ten each."""
    worker, now_ns = serving("ab")
    for name in "ab":
        worker.submit(now_ns, name, Job(name, 10, 41))
    end_s = max(ends(worker, now_ns).values()) * STEP_S
    assert sum(worker.step_seconds().values()) == pytest.approx(end_s, rel=0.05)


def test_a_load_begins_between_two_steps_and_leaves_one_core_to_steps() -> None:
    worker, now_ns = serving("ab")
    worker.submit(now_ns, "a", Job("g", 10, 400))
    worker.advance(now_ns + 25_000_000)
    began_ns = now_ns + 25_000_000
    load = Load(50, "c", "c", NODE.id, HERE, Rung.DISK)
    worker.transit(began_ns, load, model("c", GIB // 4))
    (end,) = moves(worker)
    assert end.at_ns - began_ns == end.took_ns + 7_500_000, "its wait is no part of what it took"
    worker.catch_up(end.at_ns)
    steps = worker.produced("g") - 2
    assert steps == pytest.approx(end.took_ns / 1e9 / STEP_S / SINGLE, abs=1.5)


def test_a_resize_moves_cells_between_two_steps_and_frees_the_old_ones_beside_the_next() -> None:
    """Which has one core, and goes on for 6.5 ms when it is over."""
    worker, now_ns = serving("ab")
    worker.submit(now_ns, "a", Job("g", 10, 400))
    worker.advance(now_ns + 25_000_000)
    began_ns = now_ns + 25_000_000
    resize = Resize(50, "a", "a", NODE.id, KvShape(8, 2048))
    worker.transit(began_ns, resize, model("a", GIB // 4))
    (end,) = moves(worker)
    assert end.at_ns - began_ns == end.took_ns
    worker.catch_up(end.at_ns)
    before = worker.produced("g")
    left_ns = round(STEP_S * SINGLE * 1e9) - 6_000_000
    worker.catch_up(end.at_ns + left_ns - 1)
    assert worker.produced("g") == before
    worker.catch_up(end.at_ns + left_ns)
    assert worker.produced("g") == before + 1


def resize_ns(worker: NodeModel, at_ns: int, kv: KvShape) -> int:
    worker.transit(at_ns, Resize(60, "a", "a", NODE.id, kv), model("a", GIB // 4))
    (end,) = moves(worker)
    return end.took_ns


def test_a_resize_copies_the_cells_that_are_computed_whatever_the_new_shape() -> None:
    """Of what runs there, and what was left in free slots."""
    spec = model("a", GIB // 4)

    def copying(spec: ModelSpec, device: DeviceSpec) -> Profile:
        return replace(even(spec, device), activate=Law(0.001, 0.0), move_kv=Law(0.0, 1e-9))

    def after(*tokens: int) -> int:
        worker, at_ns = serving("a", copying)
        for number, prompt in enumerate(tokens):
            worker.submit(at_ns, "a", Job(f"g{number}", prompt, 2))
            while (next_ns := worker.next_at_ns) is not None:
                at_ns = next_ns
                worker.advance(at_ns)
        return resize_ns(worker, at_ns, KvShape(8, 2048))

    assert after() == 2_000_000, "the last of them frees what was there"
    each_ns = spec.kv_bytes_per_token
    assert after(98) - after() == pytest.approx(100 * each_ns, abs=2)
    assert after(98, 198) - after() == pytest.approx(300 * each_ns, abs=2)
    assert after(*[98] * 9) == after(*[98] * 4), "there are four slots"


def beside(toll: Toll, *tokens: int) -> dict[str, float]:
    """When each ends of so many that come at once to a worker of a machine with this toll."""
    worker, at_ns = NodeModel(NODE, even, machine=replace(HERE_ALONE, toll=toll)), 0
    spec = model("a", GIB // 4)
    for action in (
        Load(1, "a", "a", NODE.id, HERE, Rung.HOST),
        Activate(2, "a", "a", NODE.id, KvShape(4, 2048)),
    ):
        worker.transit(at_ns, action, spec)
        at_ns = worker.next_at_ns or at_ns
        worker.advance(at_ns)
    for number, count in enumerate(tokens):
        worker.submit(at_ns, "a", Job(f"g{number}", 200, count))
    return ends(worker, at_ns)


def test_a_prompt_pays_its_toll_once_in_however_many_chunks() -> None:
    assert beside(Toll(), 1) == {"g0": pytest.approx(1.0)}
    assert beside(Toll(prompt_s=0.005), 1) == {"g0": pytest.approx(1.5)}


def test_a_request_that_ends_is_paid_for_by_the_next_step_if_there_is_one() -> None:
    free, paid = beside(Toll(), 3, 9), beside(Toll(request_s=0.005), 3, 9)
    assert paid["g0"] == free["g0"]
    assert paid["g1"] - free["g1"] == pytest.approx(0.5), "and nobody pays for the last"


def test_cold_memory_takes_longer_and_what_was_freed_just_before_is_warm() -> None:
    worker, at_ns = serving("a", machine=replace(HERE_ALONE, toll=Toll(cold_s_per_byte=1e-9)))
    wide = KvShape(16, 2048)
    first_ns = resize_ns(worker, at_ns, wide)
    again = [resize_ns(worker, at_ns + first_ns, one) for one in (KvShape(4, 2048), wide)]
    assert first_ns - again[1] > 100_000_000


def moves(worker: NodeModel) -> list[TransitionEnd]:
    while (at_ns := worker.next_at_ns) is not None:
        found = [one for one in worker.advance(at_ns) if isinstance(one, TransitionEnd)]
        if found:
            return found
    return []
