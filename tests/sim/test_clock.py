"""The virtual loop: time jumps, never sleeps, never goes back, and knows when nothing is left."""

import asyncio

import pytest

from repertory.testing.clock import VirtualLoop, run_virtual


def test_time_jumps_to_the_next_timer_to_the_nanosecond() -> None:
    async def main(loop: VirtualLoop) -> list[int]:
        seen = []
        for seconds in (3600.0, 0.000000001, 0.25):
            await asyncio.sleep(seconds)
            seen.append(loop.now_ns)
        return seen

    assert run_virtual(main) == [3_600_000_000_000, 3_600_000_000_001, 3_600_250_000_001]


def test_a_timer_of_the_past_does_not_turn_time_back() -> None:
    async def main(loop: VirtualLoop) -> int:
        await asyncio.sleep(10.0)
        done = loop.create_future()
        loop.call_at(1.0, done.set_result, None)
        await done
        return loop.now_ns

    assert run_virtual(main) == 10_000_000_000


def test_quiet_callbacks_come_after_everything_that_is_ready_one_at_a_time() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        seen: list[str] = []
        loop.when_quiet(lambda: (seen.append("quiet"), loop.call_soon(seen.append, "after"))[0])
        loop.when_quiet(lambda: seen.append("quiet too"))
        loop.call_soon(lambda: loop.call_soon(seen.append, "ready"))
        await asyncio.sleep(1.0)
        return seen

    assert run_virtual(main) == ["ready", "quiet", "after", "quiet too"]


def test_exhausted_returns_when_no_timer_is_left() -> None:
    async def main(loop: VirtualLoop) -> int:
        loop.call_at(5.0, lambda: None)
        await loop.exhausted()
        return loop.now_ns

    assert run_virtual(main) == 5_000_000_000


def test_whoever_waits_in_vain_while_something_beats_is_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        async def beat() -> None:
            for _ in range(10_000):
                await asyncio.sleep(60)

        beating = asyncio.create_task(beat())
        await loop.create_future()
        beating.cancel()

    with pytest.raises(TimeoutError, match="virtual time"):
        run_virtual(main)
