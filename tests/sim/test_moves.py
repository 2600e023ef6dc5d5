"""Moves that share ways, against figures reckoned by hand."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleets import MACHINE, SPEC
from repertory.domain.actions import Action, Drop, Load, Stage
from repertory.domain.ladder import Rung
from repertory.domain.specs import Placement
from repertory.engines.moves import Move, Moves, PageCache, Warmth
from repertory.engines.node_model import NodeModel, TransitionEnd
from repertory.perf.datasheets import datasheet_profile


def move(number: int, size_bytes: float, ways: Mapping[str, float], most: float = 1e9) -> Move:
    return Move(Stage(number, f"r{number}", "m", "n"), 1, size_bytes, most, ways)


def ended(rooms: dict[str, float], asked: list[tuple[int, Move]]) -> dict[int, int]:
    """When each ends, all on movers of their own."""
    moves, ends = Moves(rooms), dict[int, int]()
    waiting = list(asked)
    while waiting or moves.next_at_ns is not None:
        next_ns = moves.next_at_ns
        if waiting and (next_ns is None or waiting[0][0] < next_ns):
            at_ns, one = waiting.pop(0)
            moves.begin(at_ns, str(one.transition.action_id), one)
            continue
        assert next_ns is not None
        for one in moves.advance(next_ns):
            ends[one.transition.action_id] = one.end_ns
    return ends


def test_two_loads_over_one_disk_share_its_bandwidth() -> None:
    """10 bytes/ns: the first has 490 of its 1,000 when the second joins at 51 (both begin to send
    a nanosecond after they were asked for); then 5 each; then the second has all of it."""
    disk = {"disk": 1.0}
    got = ended({"disk": 10.0}, [(0, move(1, 1000.0, disk)), (49, move(2, 1000.0, disk))])
    assert got == {1: 152, 2: 201}


def test_what_one_cannot_use_the_others_get() -> None:
    """A third of 12 is 4; the first can take 2, so that the others have 5 each."""
    disk = {"disk": 1.0}
    asked = [
        (0, move(1, 200.0, disk, most=2.0)),
        (0, move(2, 500.0, disk)),
        (0, move(3, 500.0, disk)),
    ]
    assert ended({"disk": 12.0}, asked) == {1: 101, 2: 101, 3: 101}


def test_a_narrow_way_of_one_leaves_the_shared_way_to_the_other() -> None:
    """The bus has 10; the link of the first has 3: the second has 7."""
    asked = [
        (0, move(1, 300.0, {"bus": 1.0, "link": 1.0})),
        (0, move(2, 700.0, {"bus": 1.0})),
    ]
    assert ended({"bus": 10.0, "link": 3.0}, asked) == {1: 101, 2: 101}


def test_bytes_that_are_split_over_two_links_pass_twice_as_fast() -> None:
    both = {"a": 0.5, "b": 0.5}
    assert ended({"a": 5.0, "b": 5.0}, [(0, move(1, 1000.0, both))]) == {1: 101}


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(1, 5000), st.floats(0.5, 20.0)),
        min_size=1,
        max_size=8,
    )
)
def test_nobody_is_faster_than_alone_and_no_way_carries_more_than_it_can(
    asked: list[tuple[int, int, float]],
) -> None:
    disk = {"disk": 1.0}
    moves = [
        (at_ns, move(number, size, disk, most))
        for number, (at_ns, size, most) in enumerate(sorted(asked))
    ]
    sizes = {one.transition.action_id: one.size_bytes for _, one in moves}
    got = ended({"disk": 7.0}, moves)
    assert got.keys() == sizes.keys(), "each ends, once"
    for at_ns, one in moves:
        name = one.transition.action_id
        assert got[name] >= at_ns + sizes[name] / min(7.0, one.most_bytes_per_ns) - 1
    first = min(at_ns for at_ns, _ in moves)
    assert max(got.values()) >= first + sum(sizes.values()) / 7.0 - 1


def test_a_mover_makes_one_move_at_a_time() -> None:
    moves = Moves({"disk": 10.0})
    moves.begin(0, "gpu0", move(1, 100.0, {"disk": 1.0}))
    moves.begin(0, "gpu0", move(2, 100.0, {"disk": 1.0}))
    ends = []
    while moves.next_at_ns is not None:
        ends += [one.end_ns for one in moves.advance(moves.next_at_ns)]
    assert ends == [11, 22]


def test_the_page_cache_keeps_what_was_read_last() -> None:
    cache = PageCache(100)
    cache.read("a", 60)
    cache.read("b", 40)
    cache.read("a", 60)
    cache.read("c", 30)
    assert [cache.holds(name) for name in "abc"] == [True, False, True]
    cache.read("huge", 101)
    assert not cache.holds("huge")


def run(worker: NodeModel, actions: list[Action]) -> list[TransitionEnd]:
    for action in actions:
        worker.transit(0, action, SPEC)  # type: ignore[arg-type]  # all of them are transitions
    ends: list[TransitionEnd] = []
    while worker.next_at_ns is not None:
        ends += [one for one in worker.advance(worker.next_at_ns) if isinstance(one, TransitionEnd)]
    return ends


def load(number: int, device: str) -> Load:
    name = f"m/{number}"
    return Load(number, name, "m", MACHINE.node.id, Placement((device,)), Rung.DISK)


def worker() -> NodeModel:
    def profile(spec: object, device: object) -> object:
        return datasheet_profile(SPEC, MACHINE.gpus["box/gpu0"], MACHINE.disk_bytes_per_s)

    return NodeModel(MACHINE.node, profile, machine=MACHINE)  # type: ignore[arg-type]


def test_loads_of_two_gpus_share_the_disk_of_their_machine() -> None:
    """20 GB over 10 GB/s: 2 s alone; two at once take 4, for the page cache has neither yet."""
    (alone,) = run(worker(), [load(1, "box/gpu0")])
    assert alone.took_ns == pytest.approx(2.1e9, rel=1e-6), "0.1 s to open it"
    both = run(worker(), [load(1, "box/gpu0"), load(2, "box/gpu1")])
    assert [one.took_ns for one in both] == pytest.approx([4.1e9, 4.1e9], rel=1e-6)
    assert [one.measured.source for one in both] == [Rung.DISK, Rung.DISK]


def test_a_load_says_where_its_bytes_really_came_from() -> None:
    """After the disk, the page cache; after another file that needed the room, the disk again."""
    one = worker()
    first = run(one, [load(1, "box/gpu0")])[0]
    second = run(one, [Drop(2, "m/1", "m", "box"), load(3, "box/gpu0")])[-1]
    assert first.measured.source is Rung.DISK
    assert second.measured.source is Rung.HOST
    assert second.took_ns < first.took_ns


MIB, SECOND_NS = 1 << 20, 1_000_000_000


def test_what_was_in_use_within_a_second_is_warm() -> None:
    memory = Warmth(1e-9)
    assert memory.take(0, 72 * MIB) == 64 * MIB, "8 MiB are there"
    memory.give(SECOND_NS, 72 * MIB)
    assert memory.take(2 * SECOND_NS, 72 * MIB) == 0
    memory.give(3 * SECOND_NS, 72 * MIB)
    assert memory.take(4 * SECOND_NS + 1, 72 * MIB) == 64 * MIB


def test_what_is_held_is_not_there_for_another() -> None:
    memory = Warmth(1e-9)
    memory.take(0, 8 * MIB)
    assert memory.take(1, 16 * MIB) == 8 * MIB
    assert memory.take(2, 4 * MIB) == 0, "8 MiB beyond what is held"


@given(st.lists(st.tuples(st.integers(0, SECOND_NS), st.integers(1, 64 * MIB)), max_size=20))
def test_no_more_is_cold_than_is_taken(asked: list[tuple[int, int]]) -> None:
    memory, at_ns, held = Warmth(1e-9), 0, list[int]()
    for wait_ns, size_bytes in asked:
        at_ns += wait_ns
        if len(held) > 2:
            memory.give(at_ns, held.pop(0))
        assert 0 <= memory.take(at_ns, size_bytes) <= size_bytes
        held.append(size_bytes)
