"""The step loop's lanes: who computes beside whom, on how many threads, and when commands apply."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import cast

import pytest

from repertory.domain.requests import FinishReason
from repertory.engines.contract import Frame, TokenStep
from repertory.engines.llamacpp import steps
from repertory.engines.llamacpp.serving import Serving
from repertory.engines.llamacpp.steps import Cores, StepLoop
from repertory.policy.requests.share import StepKind

PATIENCE_S = 30.0


class Replica:
    """Stands in for a `Serving`: its steps do what a test wants to see."""

    def __init__(self, name: str, count: int, act: Callable[[str, int], None]) -> None:
        self.name = name
        self.left = count
        self.used_ns = self.total_ns = 0
        self.expected_ns = 1_000_000
        self.last = StepKind.DECODE
        self.prefills: set[int] = set()
        self.finishes: set[int] = set()
        """Which of its steps, counted from 1, are prefills, and which end a generation."""
        self.taken: list[tuple[int, int]] = []
        """Threads and sharing of each step."""
        self._act = act

    @property
    def has_work(self) -> bool:
        return self.left > 0

    @property
    def is_idle(self) -> bool:
        return self.left == 0

    @property
    def next(self) -> StepKind:
        is_prefill = len(self.taken) + 1 in self.prefills
        return StepKind.PREFILL if is_prefill else StepKind.DECODE

    def step(self, threads: int, sharing: int) -> tuple[TokenStep, ...]:
        self.taken.append((threads, sharing))
        self._act(self.name, threads)
        self.left -= 1
        self.used_ns += self.expected_ns
        number = len(self.taken)
        self.last = StepKind.PREFILL if number in self.prefills else StepKind.DECODE
        finish = FinishReason.LENGTH if number in self.finishes else None
        return (TokenStep(self.name, (1,), "a", finish),)


class Watch:
    """What is under way at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.threads: dict[str, int] = {}
        self.most_threads = 0
        self.together: set[frozenset[str]] = set()

    @contextmanager
    def over(self, name: str, threads: int) -> Iterator[None]:
        with self._lock:
            assert name not in self.threads, f"two steps of {name} at once"
            self.threads[name] = threads
            self.most_threads = max(self.most_threads, sum(self.threads.values()))
            self.together.add(frozenset(self.threads))
        try:
            yield
        finally:
            with self._lock:
                del self.threads[name]


class Run:
    """A step loop, and what it said."""

    def __init__(self, cores: int, is_moving: Callable[[], bool] = lambda: False) -> None:
        self.frames: list[Frame] = []
        self.watch = Watch()
        self.loop = StepLoop(Cores(cores), self.frames.append, is_moving, "test")

    def open(self, *replicas: Replica) -> None:
        """All at once: their first turns are given with all of them there."""

        def do() -> None:
            for one in replicas:
                self.loop.open(cast("Serving", one))

        self.loop.call(do).result(PATIENCE_S)

    def await_end(self, *replicas: Replica) -> None:
        for one in replicas:
            while one.left:
                self.loop.call(lambda: None, one.name).result(PATIENCE_S)


@pytest.fixture
def runs() -> Iterator[Callable[..., Run]]:
    made: list[Run] = []

    def make(cores: int, is_moving: Callable[[], bool] = lambda: False) -> Run:
        made.append(Run(cores, is_moving))
        return made[-1]

    yield make
    for one in made:
        one.loop.close()


def test_two_models_with_work_compute_at_the_same_time(runs: Callable[..., Run]) -> None:
    run, meeting = runs(2), threading.Barrier(2)

    def meet(_: str, __: int) -> None:
        meeting.wait(PATIENCE_S)  # broken, and the test fails, unless both are in a step

    a, b = Replica("a", 20, meet), Replica("b", 20, meet)
    run.open(a, b)
    run.await_end(a, b)
    assert not meeting.broken
    assert a.taken == b.taken == [(1, 2)] * 20


def test_one_model_has_all_cores(runs: Callable[..., Run]) -> None:
    run = runs(4)
    a = Replica("a", 5, lambda _, __: None)
    run.open(a)
    run.await_end(a)
    assert a.taken == [(4, 1)] * 5


def test_the_step_after_a_first_token_leaves_a_core_to_who_carries_it_out(
    runs: Callable[..., Run],
) -> None:
    run, ended = runs(4), threading.Event()
    a = Replica("a", 6, lambda *_: ended.set() if len(a.taken) == 6 else None)
    a.prefills = {1, 2}
    run.open(a)
    assert ended.wait(PATIENCE_S)
    assert [threads for threads, _ in a.taken] == [4, 4, 3, 4, 4, 4]


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 16])
def test_there_are_never_more_threads_than_cores(runs: Callable[..., Run], cores: int) -> None:
    run = runs(cores)

    def watched(name: str, threads: int) -> None:
        with run.watch.over(name, threads):
            pass

    replicas = [Replica(f"m{number}", 200, watched) for number in range(5)]
    for one in replicas:
        run.open(one)
    run.await_end(*replicas)
    assert run.watch.most_threads <= cores
    assert all(len(names) <= cores for names in run.watch.together)


def test_while_the_mover_works_a_core_is_left(runs: Callable[..., Run]) -> None:
    run = runs(2, lambda: True)

    def watched(name: str, threads: int) -> None:
        with run.watch.over(name, threads):
            pass

    a, b = Replica("a", 100, watched), Replica("b", 100, watched)
    run.open(a, b)
    run.await_end(a, b)
    assert run.watch.most_threads == 1


def test_a_command_waits_for_its_replicas_step_and_not_for_anothers(
    runs: Callable[..., Run],
) -> None:
    run = runs(2)
    is_in, may_go = threading.Event(), threading.Event()

    def stand(_: str, __: int) -> None:
        is_in.set()
        assert may_go.wait(PATIENCE_S)

    a, b = Replica("a", 1, stand), Replica("b", 0, lambda _, __: None)
    run.open(a, b)
    assert is_in.wait(PATIENCE_S)
    told: list[str] = []
    for_a = run.loop.call(lambda: told.append("a"), "a")
    run.loop.call(lambda: told.append("b"), "b").result(PATIENCE_S)
    assert told == ["b"]
    may_go.set()
    for_a.result(PATIENCE_S)
    assert told == ["b", "a"]


def test_who_gets_work_meanwhile_gets_its_share_of_the_cores(runs: Callable[..., Run]) -> None:
    run = runs(2)
    b = Replica("b", 0, lambda _, __: None)

    def act(_: str, __: int) -> None:
        if len(a.taken) == 3:

            def give() -> None:
                b.left = 1

            run.loop.call(give, "b").result(PATIENCE_S)

    a = Replica("a", 50, act)
    run.open(a, b)
    run.await_end(a, b)
    assert a.taken[0] == (2, 1)
    assert b.taken == [(1, 2)] or b.taken == [(2, 1)], "a may have ended first"
    assert len(a.taken) == 50


def test_a_command_for_all_runs_alone_and_commands_keep_their_order(
    runs: Callable[..., Run],
) -> None:
    run = runs(4)
    order: list[str] = []

    def watched(name: str, threads: int) -> None:
        with run.watch.over(name, threads):
            pass

    def alone() -> None:
        assert not run.watch.threads, "something is under way"
        order.append("all")

    replicas = [Replica(f"m{number}", 300, watched) for number in range(3)]
    run.open(*replicas)
    futures = []
    for number in range(20):
        futures.append(run.loop.call(lambda number=number: order.append(f"{number}"), "m0"))
        futures.append(run.loop.call(alone))
    for future in futures:
        future.result(PATIENCE_S)
    assert order == [word for number in range(20) for word in (f"{number}", "all")]
    run.await_end(*replicas)


def test_frames_of_all_lanes_are_in_the_order_of_their_times(runs: Callable[..., Run]) -> None:
    run = runs(4)
    replicas = [Replica(f"m{number}", 500, lambda _, __: None) for number in range(4)]
    run.open(*replicas)
    run.await_end(*replicas)
    times = [frame.at_ns for frame in run.frames]
    assert sum(len(frame.steps) for frame in run.frames) == 2000
    assert times == sorted(times)


def test_a_command_that_fails_tells_its_caller_and_nobody_else(runs: Callable[..., Run]) -> None:
    run = runs(2)

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run.loop.call(fail, "a").result(PATIENCE_S)
    assert run.loop.call(lambda: 7).result(PATIENCE_S) == 7


def test_tokens_of_short_steps_are_told_together_but_never_the_first_and_the_last(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_TELLING_NS", 10**15)
    run = runs(1)
    a = Replica("a", 30, lambda _, __: None)
    a.prefills, a.finishes = {1, 2}, {20}
    run.open(a)
    run.await_end(a)
    told = [len(frame.steps) for frame in run.frames]
    assert sum(told) == 30, "nothing is lost when the turn ends"
    assert {1, 2, 20, 30} <= set(accumulate(told))
    assert len(told) < 30


def test_every_long_step_is_told_at_once(
    runs: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_TELLING_NS", 0)
    run = runs(1)
    a = Replica("a", 30, lambda _, __: None)
    run.open(a)
    run.await_end(a)
    assert [len(frame.steps) for frame in run.frames] == [1] * 30


def test_where_no_step_is_under_way_the_caller_does_it_himself(runs):  # type: ignore[no-untyped-def]
    run = runs(2)
    run.open(Replica("a", 0, lambda *_: None))
    assert run.loop.at_once(threading.get_ident) == threading.get_ident()
    assert run.loop.at_once(threading.get_ident, "a") == threading.get_ident()


def test_what_is_done_at_once_waits_for_the_step_under_way(runs):  # type: ignore[no-untyped-def]
    """Of its replica, or of all; then a step thread does it."""
    run = runs(1)
    has_begun, may_end = threading.Event(), threading.Event()

    def act(name: str, threads: int) -> None:
        has_begun.set()
        assert may_end.wait(PATIENCE_S)

    replica = Replica("a", 1, act)
    run.open(replica)
    assert has_begun.wait(PATIENCE_S)
    assert run.loop.at_once(lambda: replica.left, "b") == 1, "another replica's is not waited for"
    seen: list[int] = []
    asking = threading.Thread(
        target=lambda: seen.append(run.loop.at_once(lambda: replica.left, "a"))
    )
    asking.start()
    assert seen == []
    may_end.set()
    asking.join(PATIENCE_S)
    assert seen == [0]


def test_a_step_begins_after_what_is_done_at_once(runs):  # type: ignore[no-untyped-def]
    run = runs(2)
    order: list[str] = []
    replica = Replica("a", 0, lambda *_: order.append("step"))
    run.open(replica)

    def give() -> None:
        replica.left = 1
        order.append("at once")

    run.loop.at_once(give)
    run.await_end(replica)
    assert order == ["at once", "step"]


def test_what_fails_at_once_is_raised_and_the_loop_goes_on(runs):  # type: ignore[no-untyped-def]
    run = runs(2)

    def fail() -> None:
        raise ValueError("as asked")

    with pytest.raises(ValueError, match="as asked"):
        run.loop.at_once(fail)
    assert run.loop.call(lambda: 7).result(PATIENCE_S) == 7
