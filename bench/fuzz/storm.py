"""Hundreds of cases from several clients at once; after each hundred, a look at the server."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.fuzz.bodies import MODELS
from bench.fuzz.cases import Manner, case_of
from bench.fuzz.client import HANG_S, Talk, talk
from bench.fuzz.findings import Findings
from bench.fuzz.server import Sample, Watched
from bench.fuzz.verdicts import faults, is_served

__all__ = ["HUNDRED", "Storm", "look"]

CLIENTS = 8
HUNDRED = 100
_POLL_S = 0.01


@dataclass
class Storm:
    """What came of all cases."""

    server: Watched
    findings: Findings
    statuses: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    good: Counter[bool] = field(default_factory=Counter)
    """Requests by the published shapes: served or not."""
    samples: list[Sample] = field(default_factory=list)
    hundreds: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0

    async def run(self, seed: int, numbers: Sequence[int]) -> None:
        began_s = time.monotonic()
        stalled: list[asyncio.Task[None]] = []
        for at in range(0, len(numbers), HUNDRED):
            some = numbers[at : at + HUNDRED]
            cases = [case_of(seed, number) for number in some]
            stalled += [  # they go on beside the next hundreds
                asyncio.create_task(self._judge(seed, case.number))
                for case in cases
                if case.manner is Manner.STALLS
            ]
            quick = [case.number for case in cases if case.manner is not Manner.STALLS]
            await self._spread(seed, quick)
            self.hundreds += 1
            await look(self.server, self.findings, some[0], some[-1])
            self.samples.append(await self.server.sample())
        await asyncio.gather(*stalled)
        self.seconds = time.monotonic() - began_s

    async def _spread(self, seed: int, numbers: Sequence[int]) -> None:
        """The clients take the next case as soon as they are free."""
        waiting = iter(numbers)

        async def client() -> None:
            for number in waiting:
                await self._judge(seed, number)

        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(client())

    async def _judge(self, seed: int, number: int) -> None:
        found = await talk(self.server.host, self.server.port, case_of(seed, number))
        self._count(found)
        for fault in faults(found):
            self.findings.of_case(found.case, fault)

    def _count(self, found: Talk) -> None:
        self.kinds[found.case.kind] += 1
        for answer in found.answers:
            self.statuses[str(answer.status)] += 1
        if not found.answers:
            left = found.case.manner is Manner.LEAVES
            self.statuses["left" if left else "closed unanswered"] += 1
        if found.case.kind == "good":
            self.good[is_served(found)] += 1
        if found.case.manner is not Manner.STALLS:
            self.slowest_s = max(self.slowest_s, found.seconds)


async def look(server: Watched, findings: Findings, first: int, last: int) -> None:
    """1. Nothing is left running.  2. A good request is answered.  3. Nobody died.
    4. Nothing unforeseen was said."""
    end_s = time.monotonic() + HANG_S
    busy = await server.busy()
    while busy and time.monotonic() < end_s:
        await asyncio.sleep(_POLL_S)
        busy = await server.busy()
    if busy:
        findings.of_range(first, last, f"{busy} requests are still running or waiting")
    model = MODELS[last // HUNDRED % len(MODELS)]
    status, answer = await server.chat(model)
    if status != 200 or not answer["usage"]["completion_tokens"]:
        findings.of_range(first, last, f"a good request to {model}: {status} {str(answer)[:300]}")
    died = server.restarts()
    if died:
        findings.of_range(first, last, died)
    words = server.new_words()
    if "Traceback" in words:
        story = words[words.index("Traceback") :][:3000]
        findings.of_range(first, last, f"on standard error:\n{story}")
