"""Waiting: spaces before whole answers, progress events, and timeouts that count from dispatch."""

import asyncio
import re
from typing import Any

import pytest
from asgi_client import CHAT, EMBED, PLAIN, Client, Reply, app_of, chat_body, run_virtually
from fake_service import HELLO, FakeService, Step

from repertory.domain.errors import LoadFailed, WorkerGone
from repertory.domain.requests import FinishReason
from repertory.gateway import Waiting
from repertory.live.facade import Piece, Progress, Stage

LOADING = Progress(Stage.LOADING, place=2, share=0.25, eta_s=6.5)
PREFILL = Progress(Stage.PREFILL)


def ask(service: FakeService, path: str = CHAT, **fields: Any) -> Reply:
    body = chat_body(**fields)
    if path != CHAT:
        del body["messages"]
        body["prompt" if path == PLAIN else "input"] = "hi"
    return run_virtually(Client(app_of(service)).post(path, body))


@pytest.mark.parametrize("path", [CHAT, PLAIN, EMBED])
def test_a_whole_answer_begins_with_spaces_after_its_grace(path: str) -> None:
    reply = ask(FakeService((52.0, *HELLO)), path)
    assert reply.started_s == Waiting().whole_grace_s == 30.0
    assert [(at_s, part) for at_s, part in reply.chunks[:3]] == [
        (30.0, b" "),
        (40.0, b" "),
        (50.0, b" "),
    ]
    assert "content-length" not in reply.headers
    assert (reply.status, reply.is_complete) == (200, True)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"] == "r1"
    assert reply.json["model"] == "coder"


def test_a_whole_answer_within_its_grace_comes_at_once() -> None:
    reply = ask(FakeService((29.0, *HELLO)))
    assert (reply.started_s, len(reply.chunks)) == (29.0, 1)
    assert reply.headers["content-length"] == str(len(reply.body))


def test_a_failure_within_the_grace_of_a_whole_answer_is_a_real_status() -> None:
    reply = ask(FakeService((29.0, LoadFailed("no"))))
    assert (reply.status, reply.json["error"]["code"]) == (503, "load_failed")


def test_a_later_failure_breaks_a_whole_answer_off() -> None:
    service = FakeService((31.0, WorkerGone("the worker died")))
    reply = ask(service)
    assert (reply.status, reply.is_complete, reply.body.strip()) == (200, False, b"")
    assert service.asked[0].generation.closed.is_set()


class Bug(Exception):
    pass


def test_a_bug_breaks_a_whole_answer_off_and_is_raised_on() -> None:
    client = Client(app_of(FakeService((31.0, Bug()))))
    with pytest.raises(Bug):
        run_virtually(client.post(CHAT, chat_body()))
    assert (client.reply.is_complete, client.reply.body.strip()) == (False, b"")


def test_progress_is_told_each_second_until_the_first_token() -> None:
    steps: tuple[Step, ...] = (
        Progress(Stage.QUEUED, place=3),
        1.5,
        LOADING,
        1.0,
        PREFILL,
        1.0,
        Piece("a", (1,)),
        5.0,
        Piece("b", (2,), FinishReason.STOP),
    )
    options = {"include_progress": True, "include_usage": True}
    reply = ask(FakeService(steps), stream=True, stream_options=options)
    told = [event for event in reply.events if "progress" in event]
    assert [event["progress"] for event in told] == [
        {"stage": "queued", "place": 3, "share": None, "eta_s": None},
        {"stage": "loading", "place": 2, "share": 0.25, "eta_s": 6.5},
        {"stage": "prefill", "place": None, "share": None, "eta_s": None},
    ]
    assert [event["choices"] for event in told] == [[], [], []]
    assert reply.events[:3] == told
    assert [at_s for at_s, _ in reply.chunks][:4] == [1.0, 2.0, 3.0, 3.5]
    assert reply.text == "ab"


@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_nobody_is_told_of_progress_unasked(path: str) -> None:
    reply = ask(FakeService((3.0, *HELLO)), path, stream=True)
    assert b"progress" not in reply.body


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_timeout_counts_from_dispatch(is_streaming: bool) -> None:
    service = FakeService((LOADING, 20.0, PREFILL, 3.0, *HELLO))
    reply = ask(service, timeout=3.5, stream=is_streaming)
    assert "Hello ✓!" in (reply.text if is_streaming else reply.body.decode())
    late = FakeService((LOADING, 2.0, PREFILL, 3.0, *HELLO))
    reply = ask(late, timeout=2.5, stream=is_streaming)
    assert (reply.status, reply.started_s) == (504, 4.5)
    error = reply.json["error"]
    assert (error["type"], error["param"], error["code"]) == (
        "timeout_error",
        "timeout",
        "timeout",
    )
    assert late.asked[0].generation.closed.is_set()


def test_a_timeout_in_the_middle_of_a_stream_is_an_event() -> None:
    service = FakeService((Piece("a", (1,)), 1e9))
    reply = ask(service, timeout=2, stream=True)
    assert reply.events[-1]["error"]["code"] == "timeout"
    assert reply.chunks[-1][0] == 2.0
    assert "[DONE]" not in reply.events


def test_each_generation_has_its_own_time() -> None:
    quick: tuple[Step, ...] = (2.0, *HELLO)
    queued: tuple[Step, ...] = (LOADING, 4.0, PREFILL, 2.0, *HELLO)
    assert ask(FakeService(scripts=[quick, queued]), n=2, timeout=3).status == 200
    stuck: tuple[Step, ...] = (LOADING, 4.0, PREFILL, 1e9)
    assert ask(FakeService(scripts=[quick, stuck]), n=2, timeout=3).status == 504


def test_an_answer_in_time_waits_for_no_clock() -> None:
    async def main() -> float:
        await Client(app_of(FakeService())).post(CHAT, chat_body(timeout=60))
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == 0.0


@pytest.mark.parametrize("path", [CHAT, EMBED])
def test_a_client_that_leaves_among_the_spaces_ends_its_generation(path: str) -> None:
    service = FakeService((1e9,))

    async def main() -> Client:
        client = Client(app_of(service))
        asyncio.get_running_loop().call_later(33.0, client.leaves.set)
        body = chat_body() if path == CHAT else {"model": "coder", "input": "hi"}
        await client.post(path, body)
        assert asyncio.get_running_loop().time() == 33.0
        return client

    assert not run_virtually(main()).reply.is_complete
    assert service.asked[0].generation.closed.is_set()


def test_a_timeout_is_an_outcome_of_its_own() -> None:
    async def main() -> bytes:
        app = app_of(FakeService((1e9,)))
        await Client(app).post(CHAT, chat_body(timeout=1))
        return (await Client(app).get("/metrics")).body

    page = run_virtually(main()).decode()
    assert re.search(r'repertory_requests_total\{[^}]*outcome="timed_out"[^}]*\} 1\.0', page)
