"""Open loop: every request at its time, whatever became of those before it.

Waiting counts from when a request was due.  A client that falls behind its own schedule would make
a server look better than it is: what was sent late is a failure, and says so.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from repertory.bench.asking import Endpoint, Heard, Wanted, ask, session
from repertory.bench.prompts import Prompts
from repertory.domain.workloads import Arrival, Ending, RequestRecord

__all__ = ["LATE_S", "Play", "play"]

LATE_S = 0.25
"""Sent so long after its time, a request counts as failed.  A loaded loop is late by milliseconds.
"""
_REFUSALS = (429, 503)


@dataclass(frozen=True, slots=True)
class Play:
    """How a workload is played."""

    speed: float = 1.0
    """Times are divided by it."""
    warmup_s: float = 0.0
    """What is due before, in seconds of the run, is marked and does not count."""
    timeout_s: float = 600.0
    """A request that has not ended by then is lost."""
    seed: int = 0


async def play(
    to: Endpoint,
    arrivals: Iterable[Arrival],
    how: Play,
    prompts: Prompts,
    told: Callable[[RequestRecord], None],
) -> None:
    """`told` gets each request's record when it has ended; returns when all have.

    Cancelled, it tells of all that were sent and have no end yet that they are lost.
    """
    loop = asyncio.get_running_loop()
    under_way: dict[asyncio.Task[None], _Sent] = {}
    async with session() as http:
        began_s = loop.time()

        async def one(sent: _Sent, wanted: Wanted) -> None:
            heard = await ask(http, to, wanted, how.timeout_s)
            told(sent.record(heard, began_s, loop.time(), how))

        try:
            for number, arrival in enumerate(arrivals):
                due_s = arrival.at_s / how.speed
                wanted = Wanted(
                    arrival.model,
                    prompts.of(arrival, number),
                    arrival.output_tokens,
                    arrival.priority,
                    arrival.deadline_s,
                    arrival.key,
                )
                await asyncio.sleep(max(0.0, began_s + due_s - loop.time()))
                sent = _Sent(number, arrival, due_s, loop.time() - began_s)
                task = loop.create_task(one(sent, wanted))
                under_way[task] = sent
                task.add_done_callback(under_way.pop)
            while under_way:
                await asyncio.wait(list(under_way))
        finally:
            for task, sent in list(under_way.items()):
                task.cancel()
                told(sent.lost(how))


@dataclass(frozen=True, slots=True)
class _Sent:
    number: int
    arrival: Arrival
    due_s: float
    sent_s: float

    def record(self, heard: Heard, began_s: float, ended_s: float, how: Play) -> RequestRecord:
        ending, message = self._ending(heard)
        last_s = heard.last_s
        if last_s is None or ending is not Ending.DONE:
            last_s = ended_s
        unheard = self.lost(how)
        return replace(
            unheard,
            request_id=heard.request_id or unheard.request_id,
            ending=ending,
            message=message,
            output_tokens=heard.tokens if heard.tokens is not None else heard.pieces,
            first_token_s=None if heard.first_s is None else heard.first_s - began_s,
            finished_s=None if ending is Ending.LOST else last_s - began_s,
            longest_gap_s=heard.longest_gap_s,
            status=heard.status,
        )

    def lost(self, how: Play) -> RequestRecord:
        """As long as nothing is known of its end."""
        one = self.arrival
        return RequestRecord(
            f"r{self.number:07d}",
            one.model,
            self.due_s,
            one.prompt_tokens,
            0,
            Ending.LOST,
            sent_s=self.sent_s,
            message="the run was broken off before its end",
            priority=one.priority,
            key=one.key,
            deadline_s=one.deadline_s,
            is_warmup=self.due_s < how.warmup_s,
        )

    def _ending(self, heard: Heard) -> tuple[Ending, str]:
        """1. What the server refuses it refuses, also if it was sent late.
        2. No end in time: lost.  Anything else that went wrong: failed.
        3. Fewer tokens than wanted: failed, for less work was measured.
        4. Sent late: failed; the fault is this client's.
        """
        if heard.status in _REFUSALS:  # 1
            return Ending.REFUSED, heard.failure or ""
        if heard.failure is not None:  # 2
            is_lost = heard.failure.startswith("no end within")
            return Ending.LOST if is_lost else Ending.FAILED, heard.failure
        wanted = self.arrival.output_tokens
        if heard.tokens is not None and heard.tokens != wanted:  # 3
            return Ending.FAILED, f"{heard.tokens} of {wanted} tokens"
        if heard.first_s is None:
            return Ending.FAILED, "it ended without a token"
        behind_s = self.sent_s - self.due_s
        if behind_s > LATE_S:  # 4
            return Ending.FAILED, f"this client was busy, and sent it {behind_s:.2f} s late"
        return Ending.DONE, ""
