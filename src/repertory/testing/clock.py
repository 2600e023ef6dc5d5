"""An asyncio loop whose clock jumps to the next timer instead of sleeping (trio's autojump).

Time is an integer of nanoseconds, so that a live run under this loop and a simulation agree to
the last digit.  `when_quiet` calls back once no callback is ready at the present instant.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["VirtualLoop", "run_virtual"]

T = TypeVar("T")

_LONGEST_S = 86_400.0
"""Of a run, in virtual seconds: whoever waits for what never comes while something else keeps
beating is told so within seconds of ours."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Virtual time; everything else as asyncio has it."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._quiet: deque[Callable[[], None]] = deque()
        self._exhausted: asyncio.Future[None] | None = None
        super().__init__(_JumpSelector(self))
        self._clock_resolution = 5e-10  # half a nanosecond: timers of one instant, and no others

    def time(self) -> float:
        return self.now_ns / 1e9

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back at this instant, after everything that is ready now."""
        self._quiet.append(callback)

    async def exhausted(self) -> None:
        """Wait until no callback is ready and no timer runs: nothing can happen any more."""
        self._exhausted = self.create_future()
        await self._exhausted

    def wake_exhausted(self) -> bool:
        """Resume whoever waits for the end; false if nobody does."""
        if self._exhausted is None or self._exhausted.done():
            return False
        self._exhausted.set_result(None)
        return True

    def next_quiet(self) -> bool:
        """Schedule one quiet callback; false if there is none."""
        if not self._quiet:
            return False
        self.call_soon(self._quiet.popleft())
        return True


class _JumpSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Called with 0 while callbacks are ready, else with the seconds to the next timer."""
        ready = super().select(0)
        if ready or timeout == 0 or self._loop.next_quiet():
            return ready
        if timeout is None:
            return ready if self._loop.wake_exhausted() else super().select(None)
        scheduled = self._loop._scheduled  # type: ignore[attr-defined]  # the loop's timer heap
        if scheduled[0].when() > _LONGEST_S:
            raise TimeoutError(f"{_LONGEST_S:g} s of virtual time, and still no end")
        self._loop.now_ns = max(self._loop.now_ns, round(scheduled[0].when() * 1e9))
        return ready


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main(loop)` under virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))
