"""Supervision in virtual time: when workers are started again, how they are ended."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual import run_virtually

from repertory.fleet.child import Child, WorkerCommand
from repertory.fleet.local import Backoff, LocalFleet, Loss, RestartPolicy

COMMAND = WorkerCommand("w", ("worker", "{fd}"))


class FakeWriter:
    """The part of a stream writer that supervision touches."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class FakeChild:
    """Lives until told; `stubborn` ones do not end on SIGTERM."""

    def __init__(self, pid: int = 1000, stubborn: bool = False) -> None:
        self.pid = pid
        self.reader = asyncio.StreamReader()
        self.writer: asyncio.StreamWriter = FakeWriter()  # type: ignore[assignment]
        self.told: list[tuple[float, str]] = []
        self.words = ""
        self._stubborn = stubborn
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    def terminate(self) -> None:
        if not self._code.done():
            self.told.append((asyncio.get_running_loop().time(), "TERM"))
            if not self._stubborn:
                self.end(-15)

    def kill(self) -> None:
        if not self._code.done():
            self.told.append((asyncio.get_running_loop().time(), "KILL"))
            self.end(-9)

    def last_words(self) -> str:
        return self.words


def spawner(
    make: Callable[[int], FakeChild],
) -> Callable[[WorkerCommand, Path], Awaitable[Child]]:
    """Gives `make(number of the start)`."""
    starts = 0

    async def spawn(command: WorkerCommand, folder: Path) -> Child:
        nonlocal starts
        starts += 1
        return make(starts)

    return spawn


# When it is started again.


def pauses(lives_s: list[float], policy: RestartPolicy) -> list[float]:
    """What follows each life, if the lives have these lengths."""
    backoff, now_s, found = Backoff(policy), 0.0, []
    for life_s in lives_s:
        found.append(backoff.died(now_s, now_s + life_s))
        now_s += life_s + found[-1]
    return found


def test_pauses_double_until_the_breaker_opens_and_a_failed_probe_opens_it_again() -> None:
    assert pauses([0.0] * 8, RestartPolicy()) == [0.2, 0.4, 0.8, 1.6, 3.2, 60.0, 60.0, 60.0]


def test_pauses_grow_to_the_longest() -> None:
    patient = RestartPolicy(deaths=100)
    assert pauses([0.0] * 8, patient) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_worker_that_did_its_work_has_recovered() -> None:
    """However often it dies then: generations go on, and each life does some work."""
    assert pauses([0.0] * 3 + [5.0, 0.0], RestartPolicy()) == [0.2, 0.4, 0.8, 0.2, 0.4]
    assert pauses([0.0] * 6 + [5.0, 0.0], RestartPolicy())[5:] == [60.0, 0.2, 0.4]
    assert pauses([15.0] * 20, RestartPolicy()) == [0.2] * 20


@given(st.lists(st.floats(0, 4.9) | st.floats(0, 1000), max_size=40))
def test_in_any_window_there_are_few_starts_that_come_to_nothing(lives_s: list[float]) -> None:
    policy = RestartPolicy()
    starts_s = [0.0]
    for life_s, pause_s in zip(lives_s, pauses(lives_s, policy), strict=True):
        assert 0.2 <= pause_s <= 60.0
        starts_s.append(starts_s[-1] + life_s + pause_s)
    ends = policy.deaths + 1
    for at, (first, last) in enumerate(zip(starts_s, starts_s[ends:], strict=False)):
        if max(lives_s[at : at + ends]) < policy.recovered_s:
            assert last - first > policy.window_s


def test_a_dying_worker_is_started_again_at_the_right_times(tmp_path: Path) -> None:
    ups_s: list[float] = []
    losses: list[Loss] = []

    async def main() -> None:
        done = asyncio.Event()

        def born(child: Child) -> None:
            ups_s.append(asyncio.get_running_loop().time())
            assert isinstance(child, FakeChild)
            child.words = "line\n" * 9 + "boom"
            child.end(-11)

        def lost(loss: Loss) -> None:
            losses.append(loss)
            if len(losses) == 7:
                done.set()

        async with LocalFleet(tmp_path, spawn_child=spawner(FakeChild)) as fleet:
            fleet.keep(COMMAND, on_up=born, on_lost=lost)
            await done.wait()

    run_virtually(main())
    assert ups_s == pytest.approx([0.0, 0.2, 0.6, 1.4, 3.0, 6.2, 66.2])
    assert losses[0] == Loss(
        "w",
        "killed by SIGSEGV; its last words: line | line | line | line | boom; "
        "starts again in 0.2 s",
        0.2,
    )
    assert "it died too often, so the breaker is open: starts again in 60 s" in losses[5].reason
    assert losses[6].retry_s == 60.0


def test_a_worker_that_cannot_start_counts_as_one_that_died(tmp_path: Path) -> None:
    losses: list[Loss] = []

    async def spawn(command: WorkerCommand, folder: Path) -> Child:
        raise FileNotFoundError(2, "No such file or directory")

    async def main() -> None:
        done = asyncio.Event()

        def lost(loss: Loss) -> None:
            losses.append(loss)
            if len(losses) == 6:
                done.set()

        async with LocalFleet(tmp_path, spawn_child=spawn) as fleet:
            fleet.keep(COMMAND, on_up=lambda _: None, on_lost=lost)
            await done.wait()

    run_virtually(main())
    assert losses[0].reason == "did not start: No such file or directory; starts again in 0.2 s"
    assert losses[5].retry_s == 60.0


# How it is ended.


def test_stop_closes_the_socket_then_asks_then_kills(tmp_path: Path) -> None:
    lost: list[Loss] = []

    async def main() -> None:
        children: list[FakeChild] = []
        up = asyncio.Event()

        def make(number: int) -> FakeChild:
            children.append(FakeChild(stubborn=True))
            return children[-1]

        async with LocalFleet(tmp_path, spawn_child=spawner(make), stop_bound_s=5.0) as fleet:
            worker = fleet.keep(COMMAND, on_up=lambda _: up.set(), on_lost=lost.append)
            await up.wait()
            await worker.stop()
            assert children[0].told == [(0.0, "TERM"), (5.0, "KILL")]
            assert children[0].writer.is_closed  # type: ignore[attr-defined]
            await worker.stop()
            fleet.keep(COMMAND, on_up=lambda _: None, on_lost=lost.append)  # the name is free

    run_virtually(main())
    assert lost == []


def test_leaving_the_block_stops_all_at_once(tmp_path: Path) -> None:
    children: list[FakeChild] = []

    async def main() -> None:
        ups = asyncio.Semaphore(0)

        def make(number: int) -> FakeChild:
            children.append(FakeChild(stubborn=number == 1))
            return children[-1]

        async with LocalFleet(tmp_path, spawn_child=spawner(make), stop_bound_s=3.0) as fleet:
            for name in ("a", "b"):
                fleet.keep(
                    WorkerCommand(name, ("w",)),
                    on_up=lambda _: ups.release(),
                    on_lost=lambda loss: pytest.fail(loss.reason),
                )
            await ups.acquire()
            await ups.acquire()
        assert asyncio.get_running_loop().time() == 3.0

    run_virtually(main())
    assert [child.told for child in children] == [[(0.0, "TERM"), (3.0, "KILL")], [(0.0, "TERM")]]


def test_a_stuck_worker_is_killed_and_started_again(tmp_path: Path) -> None:
    losses: list[Loss] = []

    async def main() -> None:
        ups = asyncio.Semaphore(0)
        async with LocalFleet(tmp_path, spawn_child=spawner(FakeChild)) as fleet:
            worker = fleet.keep(COMMAND, on_up=lambda _: ups.release(), on_lost=losses.append)
            worker.kill("not started yet: nothing to kill")
            await ups.acquire()
            worker.kill("no step for 25 s")
            await ups.acquire()

    run_virtually(main())
    assert [loss.reason for loss in losses] == [
        "killed by the server (no step for 25 s); starts again in 0.2 s"
    ]


def test_an_error_of_the_server_s_own_ends_the_fleet_and_its_workers(tmp_path: Path) -> None:
    children: list[FakeChild] = []

    async def main() -> None:
        def make(number: int) -> FakeChild:
            children.append(FakeChild())
            return children[-1]

        def broken(child: Child) -> None:
            raise KeyError("ours")

        async with LocalFleet(tmp_path, spawn_child=spawner(make)) as fleet:
            fleet.keep(COMMAND, on_up=broken, on_lost=lambda _: None)
            await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup) as caught:
        run_virtually(main())
    assert caught.group_contains(KeyError)
    assert children[0].told == [(0.0, "TERM")]


def test_names_are_kept_once_and_are_file_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with LocalFleet(tmp_path, spawn_child=spawner(FakeChild)) as fleet:
            fleet.keep(COMMAND, on_up=lambda _: None, on_lost=lambda _: None)
            with pytest.raises(AssertionError, match="kept already"):
                fleet.keep(COMMAND, on_up=lambda _: None, on_lost=lambda _: None)
            with pytest.raises(AssertionError, match="names no file"):
                fleet.keep(
                    WorkerCommand("../w", ("w",)), on_up=lambda _: None, on_lost=lambda _: None
                )

    run_virtually(main())
