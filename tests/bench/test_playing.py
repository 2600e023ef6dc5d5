"""What a client makes of servers that are slow, refuse, break off, or lie."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import wraps

import pytest
from aiohttp import web

from repertory.bench.asking import Endpoint, greet
from repertory.bench.comparing import rows_of, turns
from repertory.bench.playing import LATE_S, Play, play
from repertory.bench.prompts import Prompts
from repertory.domain.workloads import Arrival, Ending, RequestRecord
from repertory.traces.summary import Slo, summarise

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def awaited(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def played(
    handler: Handler, arrivals: Iterator[Arrival] | list[Arrival], how: Play | None = None
) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    async with serving(handler) as url:
        prompts = Prompts(0, as_text=False)
        await play(Endpoint(url), arrivals, how or Play(timeout_s=5), prompts, records.append)
    return records


def one(at_s: float = 0.0, tokens: int = 3, **more: object) -> Arrival:
    return Arrival(at_s, "m", 4, tokens, **more)  # type: ignore[arg-type]  # test data


async def streamed(request: web.Request, pieces: int, *, ends: bool = True) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    await reply.write(b": wait\n\n")
    for _ in range(pieces):
        chunk = {"choices": [{"text": "x", "finish_reason": None}]}
        await reply.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    if ends:
        usage = {"completion_tokens": pieces, "prompt_tokens": 4}
        last = {"choices": [{"text": "", "finish_reason": "length"}], "usage": usage}
        await reply.write(b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n")
    return reply


async def well(request: web.Request) -> web.StreamResponse:
    return await streamed(request, (await request.json())["max_tokens"])


@awaited
async def test_a_record_has_the_servers_own_id_where_it_tells() -> None:
    """By it the request is found in the server's log."""

    async def named(request: web.Request) -> web.StreamResponse:
        if (await request.json())["max_tokens"] == 2:
            return await streamed(request, 2)
        return web.json_response({}, status=503, headers={"x-request-id": "abc-7"})

    quiet, refused = sorted(await played(named, [one(tokens=2), one()]), key=lambda each: each.at_s)
    assert {quiet.request_id, refused.request_id} == {"r0000000", "abc-7"}


@awaited
async def test_a_request_that_ends_well_has_its_times_and_tokens() -> None:
    (record,) = await played(well, [one(deadline_s=2.0, key="ann", priority="batch")])
    assert record.ending is Ending.DONE
    assert (record.output_tokens, record.status) == (3, 200)
    assert record.first_token_s is not None
    assert record.finished_s is not None
    assert 0 <= record.at_s <= (record.sent_s or 0) <= record.first_token_s <= record.finished_s
    assert (record.deadline_s, record.key, record.priority) == (2.0, "ann", "batch")


@awaited
async def test_waiting_counts_from_when_a_request_was_due_whatever_became_of_others() -> None:
    """The first blocks until the second has come: closed-loop clients would wait for ever."""
    second_came = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        if (await request.json())["max_tokens"] == 1:
            await second_came.wait()
            return await streamed(request, 1)
        second_came.set()
        return await streamed(request, 2)

    records = await played(handler, [one(0.0, tokens=1), one(0.1, tokens=2)])
    assert [record.ending for record in records] == [Ending.DONE, Ending.DONE]


@awaited
async def test_a_refusal_is_none_of_a_failure() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "too busy"}}, status=503)

    (record,) = await played(handler, [one()])
    assert (record.ending, record.message) == (Ending.REFUSED, "503: too busy")
    assert record.first_token_s is None
    assert record.finished_s is not None, "it waits no longer: a queue over time leaves it out"


@pytest.mark.parametrize(
    ("pieces", "ends", "said"),
    [(3, False, "the stream broke off"), (2, True, "2 of 3 tokens"), (0, False, "broke off")],
)
@awaited
async def test_what_breaks_off_or_ends_early_has_failed(pieces: int, ends: bool, said: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await streamed(request, pieces, ends=ends)

    (record,) = await played(handler, [one()])
    assert record.ending is Ending.FAILED
    assert said in record.message


@awaited
async def test_an_error_inside_of_a_stream_has_failed() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        await reply.write(b'data: {"error": {"message": "worker died"}}\n\n')
        return reply

    (record,) = await played(handler, [one()])
    assert record.ending is Ending.FAILED
    assert "worker died" in record.message


@awaited
async def test_what_has_no_end_in_time_is_lost() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    (record,) = await played(handler, [one()], Play(timeout_s=0.1))
    assert record.ending is Ending.LOST


@awaited
async def test_a_server_that_is_not_there_fails_each_request() -> None:
    records: list[RequestRecord] = []
    prompts = Prompts(0, as_text=False)
    await play(Endpoint("http://127.0.0.1:1"), [one()], Play(), prompts, records.append)
    assert records[0].ending is Ending.FAILED
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await greet(Endpoint("http://127.0.0.1:1"))


@awaited
async def test_what_this_client_sent_late_has_failed() -> None:
    """A workload whose next line takes its time is this client's fault."""
    loop = asyncio.get_running_loop()

    def slow() -> Iterator[Arrival]:
        end_s = loop.time() + LATE_S + 0.1
        while loop.time() < end_s:
            pass
        yield one(0.0)

    (record,) = await played(well, slow())
    assert record.ending is Ending.FAILED
    assert "this client was busy" in record.message


@awaited
async def test_of_a_run_that_is_broken_off_what_is_under_way_is_lost() -> None:
    came = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        came.set()
        await asyncio.Event().wait()
        raise AssertionError

    records: list[RequestRecord] = []
    async with serving(handler) as url:
        prompts = Prompts(0, as_text=False)
        playing = play(Endpoint(url), [one(), one(60.0)], Play(), prompts, records.append)
        task = asyncio.ensure_future(playing)
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [record.ending for record in records] == [Ending.LOST]
    assert "broken off" in records[0].message


@awaited
async def test_speed_and_warm_up_are_of_the_runs_own_time() -> None:
    records = await played(well, [one(0.0), one(2.0)], Play(speed=20.0, warmup_s=0.05))
    assert [(record.at_s, record.is_warmup) for record in records] == [(0.0, True), (0.1, False)]
    assert summarise(records, Slo(1.0, 1.0), 1.0).total.requests == 1


def test_prompts_are_as_long_as_wanted_and_share_what_they_say() -> None:
    prompts = Prompts(7, as_text=False)
    first = Arrival(0, "m", 20, 1, prefix_id="p", prefix_tokens=12)
    a, b = prompts.of(first, 0), prompts.of(first, 1)
    assert len(a) == len(b) == 20
    assert a[:12] == b[:12]
    assert a[12:] != b[12:]
    assert prompts.of(first, 0) == a
    assert len(str(Prompts(7, as_text=True).of(first, 0)).split()) == 20


def test_servers_play_in_turns_and_each_goes_first_once() -> None:
    assert list(turns(["a", "b"], 2)) == [(0, "a"), (0, "b"), (1, "b"), (1, "a")]


def test_ratios_are_taken_repeat_by_repeat() -> None:
    def run(ttft_s: float) -> object:
        ends = {"first_token_s": ttft_s, "finished_s": ttft_s + 1}
        record = RequestRecord("r", "m", 0.0, 1, 2, Ending.DONE, **ends)  # type: ignore[arg-type]
        return summarise([record], Slo(1.0, None), 10.0)

    found = {"a": [run(0.1), run(0.2), run(0.4)], "b": [run(0.2), run(0.4), run(0.4)]}
    rows = {row.name: row for row in rows_of(found)}  # type: ignore[arg-type]
    assert rows["TTFT p50, s"].values == {"a": 0.2, "b": 0.4}
    assert rows["TTFT p50, s"].ratios == {"b": 2.0}
