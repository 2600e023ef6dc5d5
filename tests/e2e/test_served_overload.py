"""Ten times more than the machine can do: refusals with a date, flat memory, one outcome each."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from serving import RunningServer, Start, pss_bytes, wait_for
from test_served_faults import complete

from repertory.core.journal import read_lines

MODEL = "llama-q4"
TOKENS = 2000
"""One answer: seconds of a machine of two cores at its best batch; the queue may be 120 s long."""
PER_S, SECONDS = 20, 15
GROWTH_BYTES = 32 << 20
"""A connection and a waiting request take some 60 KiB; 300 of them, and what Python keeps."""


BODY = {"model": MODEL, "prompt": [5, 6, 7], "max_tokens": TOKENS, "ignore_eos": True}


async def flood(server: RunningServer) -> Counter[int]:
    """Statuses of those that were answered; the rest leaves at the end, as its clients would."""
    told: Counter[int] = Counter()
    began_s = time.monotonic()

    async def one(http: aiohttp.ClientSession) -> None:
        async with http.post(f"{server.url}/v1/completions", json=BODY) as reply:
            told[reply.status] += 1
            if reply.status == 429:
                assert int(reply.headers["retry-after"]) >= 1
                assert (await reply.json())["error"]["code"] == "rate_limit_exceeded"

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(trust_env=False, connector=connector) as http:
        tasks: list[asyncio.Task[None]] = []
        for number in range(PER_S * SECONDS):
            due_s = began_s + number / PER_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.append(asyncio.create_task(one(http)))
        assert server.get("/health")[0] == 200, "it is busy, not ill"
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended
    return told


def test_overload_is_refused_with_a_date_and_leaves_nothing_behind(
    start: Start, four_models: Path
) -> None:
    server = start(four_models)
    assert server.post("/v1/completions", BODY)[0] == 200, "now it knows how long answers are"
    before_bytes = pss_bytes(server.process.pid)
    told = asyncio.run(flood(server))
    assert told[429] > 0, told
    assert told.keys() <= {200, 429}, told
    wait_for(lambda: server.ps()["running"] + server.ps()["waiting"] == 0)
    assert complete(server, MODEL)
    assert pss_bytes(server.process.pid) - before_bytes < GROWTH_BYTES
    server.stop()
    arrived, settled = story(server)
    assert set(settled.values()) == {1}, "one outcome each"
    assert settled.keys() == arrived
    assert len(arrived) >= PER_S * SECONDS


def story(server: RunningServer) -> tuple[set[str], Counter[str]]:
    """Who came, and how often each was settled, by the decision log."""
    arrived: set[str] = set()
    settled: Counter[str] = Counter()
    for path in server.log_files():
        for entry in read_lines(path.read_bytes().splitlines(keepends=True)):
            if entry["event"]["kind"] == "Arrived":
                arrived.add(entry["event"]["request"]["id"])
            actions: list[dict[str, Any]] = entry["actions"]
            ends = [one for one in actions if one["kind"] == "Settle"]
            settled.update(one["outcome"]["request_id"] for one in ends)
    return arrived, settled
