"""Ten times more than the machine can do: refusals with a date, flat memory, one outcome each.

`REPERTORY_FLOOD_S=60 pytest --log-cli-level=info tests/e2e/test_served_overload.py` floods for
longer than the 15 s of `make test`, then stays until the last answer that was promised has come,
and says the figures of docs/results/overload.md.  It takes 3 to 5 minutes.
"""

import asyncio
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from serving import DEADLINE_S, RunningServer, Sampler, Start, wait_for
from test_served_faults import complete

from repertory.core.journal import read_lines

MODEL = "llama-q4"
SECONDS = int(os.environ.get("REPERTORY_FLOOD_S", "15"))
STAYS = "REPERTORY_FLOOD_S" in os.environ
"""Clients wait for their answers; else all leave when the flood ends."""
PER_S, TOKENS = (40, 400) if STAYS else (20, 2000)
"""Over ten times of what two cores can do: some 930 tokens/s in batches of 16.  The queue may be
120 s long; long answers fill it within a short flood.
"""
GROWTH_BYTES = 32 << 20
"""A connection and a waiting request take some 60 KiB; 300 of them, and what Python keeps."""
FLAT_BYTES = 8 << 20
"""Once queue and KV memory are full."""
MEMORY_BYTES = 600 << 20
"""As `serving.MEMORY` has it."""
BODY = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": TOKENS, "ignore_eos": True}


@dataclass
class Flood:
    """What the clients saw.  Times are seconds since each asked."""

    told: Counter[int] = field(default_factory=Counter)
    retry_after_s: list[int] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    complete: int = 0
    broken: list[str] = field(default_factory=list)
    """Answers that ended with an error."""
    flood_s: float = 0.0
    all_s: float = 0.0
    """Until the last answer."""

    async def ask(self, http: aiohttp.ClientSession, url: str) -> None:
        asked_s = time.monotonic()
        async with http.post(url, json={**BODY, "stream": True}) as reply:
            self.told[reply.status] += 1
            if reply.status == 200:
                await self._read(reply, asked_s)
                return
            self.refused_s.append(time.monotonic() - asked_s)
            self.retry_after_s.append(int(reply.headers["retry-after"]))
            error = (await reply.json())["error"]
            assert error["code"] == "rate_limit_exceeded" or reply.status == 503, error

    async def _read(self, reply: aiohttp.ClientResponse, asked_s: float) -> None:
        has_begun = False
        async for line in reply.content:
            if line.startswith(b"event: error"):
                self.broken.append((await reply.content.readline()).decode())
            elif line == b"data: [DONE]\n":
                self.complete += 1
            elif line.startswith(b"data: ") and not has_begun:
                has_begun = True
                self.first_s.append(time.monotonic() - asked_s)


async def pour(server: RunningServer) -> Flood:
    """`PER_S` requests a second, whatever becomes of them."""
    flood = Flood()
    url = f"{server.url}/v1/completions"
    connector = aiohttp.TCPConnector(limit=0)
    patience = aiohttp.ClientTimeout(total=None, sock_read=DEADLINE_S)
    async with aiohttp.ClientSession(
        trust_env=False, connector=connector, timeout=patience
    ) as http:
        tasks: list[asyncio.Task[None]] = []
        began_s = time.monotonic()
        for number in range(PER_S * SECONDS):
            due_s = began_s + number / PER_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.append(asyncio.create_task(flood.ask(http, url)))
        health = await asyncio.to_thread(server.get, "/health")
        assert health[0] == 200, "it is busy, not ill"
        flood.flood_s = time.monotonic() - began_s
        for task in tasks:
            if not STAYS:
                task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended
        flood.all_s = time.monotonic() - began_s
    return flood


@pytest.mark.timeout(300 + 10 * SECONDS)
def test_overload_is_refused_with_a_date_and_leaves_nothing_behind(
    start: Start, four_models: Path
) -> None:
    server = start(four_models)
    assert server.post("/v1/completions", BODY)[0] == 200, "now it knows how long answers are"
    with Sampler(server.process.pid) as sampler:
        wait_for(lambda: sampler.samples)
        flood = asyncio.run(pour(server))
        poured = list(sampler.samples)
        wait_for(lambda: server.ps()["running"] + server.ps()["waiting"] == 0)
        assert complete(server, MODEL)
    logging.getLogger(__name__).info(report(flood, sampler.samples, len(poured)))
    assert flood.told[429] > 0, flood.told
    assert flood.told.keys() <= {200, 429, 503}, flood.told
    assert not flood.broken, "what was promised is kept"
    if STAYS:
        assert flood.complete == flood.told[200]
    own = [one[0] for one in sampler.samples]
    assert max(own) - own[0] < GROWTH_BYTES, own
    assert sampler.peak_bytes < MEMORY_BYTES
    if STAYS:  # by then the worker has the KV memory that so many requests get
        flooded = poured[len(poured) // 4 :]
        for process in (0, 1):
            sizes = [one[process] for one in flooded]
            assert max(sizes) - sizes[0] < FLAT_BYTES, (process, sizes)
    server.stop()
    arrived, settled, dates = story(server)
    assert set(settled.values()) == {1}, "one outcome each"
    assert settled.keys() == arrived
    assert len(arrived) >= PER_S * SECONDS
    assert Counter(flood.retry_after_s) <= dates, "what was told is what the brain reckoned"
    if STAYS:
        assert Counter(flood.retry_after_s) == dates


def report(flood: Flood, samples: Sequence[tuple[int, ...]], poured: int) -> str:
    """For docs/results/overload.md."""
    lines = [
        f"{PER_S * SECONDS} requests of {TOKENS} tokens in {flood.flood_s:.1f} s, "
        f"answered {dict(flood.told)}, complete {flood.complete} in {flood.all_s:.1f} s",
        f"retry-after: {spread(flood.retry_after_s)} s",
        f"refused after: {spread([1e3 * one for one in flood.refused_s])} ms",
        f"first token after: {spread(flood.first_s)} s",
    ]
    for name, process in (("server", 0), ("worker", 1)):
        sizes = [one[process] / 2**20 for one in samples if len(one) > 1]
        marks = [sizes[min(len(sizes) - 1, poured * part // 4)] for part in range(5)]
        quarters = ", ".join(f"{one:.1f}" for one in marks)
        lines.append(
            f"{name}: {quarters} MiB through the flood, {sizes[-1]:.1f} after it; "
            f"the most {max(sizes):.1f}"
        )
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    at = [ordered[math.ceil(part * len(ordered)) - 1] for part in (0.5, 0.99, 1.0)]
    return f"p50 {at[0]:.1f}, p99 {at[1]:.1f}, most {at[2]:.1f} (first {values[0]:.1f})"


def story(server: RunningServer) -> tuple[set[str], Counter[str], Counter[int]]:
    """Who came, how often each was settled, and what the refused were told, by the decision log."""
    arrived: set[str] = set()
    settled: Counter[str] = Counter()
    dates: Counter[int] = Counter()
    for path in server.log_files():
        for entry in read_lines(path.read_bytes().splitlines(keepends=True)):
            if entry["event"]["kind"] == "Arrived":
                arrived.add(entry["event"]["request"]["id"])
            actions: list[dict[str, Any]] = entry["actions"]
            ends = [one["outcome"] for one in actions if one["kind"] == "Settle"]
            settled.update(one["request_id"] for one in ends)
            dates.update(
                max(1, math.ceil(one["retry_after_s"])) for one in ends if one["retry_after_s"]
            )
    return arrived, settled, dates
