"""An answer's way to its client: streams, grace, keep-alives, leaving, slow readers, failures."""

import asyncio
from typing import Any

import pytest
from asgi_client import CHAT, PLAIN, Client, Reply, app_of, chat_body, run_virtually
from fake_service import HELLO, FakeService, Step

from repertory.domain.errors import (
    EngineError,
    LoadFailed,
    OutOfMemory,
    Overloaded,
    Quarantined,
    WorkerGone,
)
from repertory.domain.requests import FinishReason
from repertory.gateway import Limits, Waiting
from repertory.live.facade import Piece


def ask(service: FakeService, path: str = CHAT, **fields: Any) -> Reply:
    body = chat_body(**fields)
    if path == PLAIN:
        del body["messages"]
        body.setdefault("prompt", "hi")
    return run_virtually(Client(app_of(service)).post(path, body))


def test_a_chat_comes_whole_with_its_usage() -> None:
    reply = ask(FakeService())
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.headers["x-request-id"] == "r1"
    assert reply.json == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "coder",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello ✓!", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }


def test_a_plain_completion_comes_whole() -> None:
    reply = ask(FakeService(), PLAIN, model="gpt-4o-mini")
    assert reply.json["object"] == "text_completion"
    assert reply.json["model"] == "gpt-4o-mini", "the client's own word for it"
    assert reply.json["choices"] == [
        {"index": 0, "text": "Hello ✓!", "finish_reason": "stop", "logprobs": None}
    ]


def test_a_chat_streams() -> None:
    reply = ask(FakeService(), stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.is_complete
    *events, done = reply.events
    assert done == "[DONE]"
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:] == [{"content": "Hel"}, {"content": "lo ✓"}, {"content": "!"}]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
    assert all("usage" not in event for event in events)
    assert {(event["id"], event["object"]) for event in events} == {
        ("chatcmpl-r1", "chat.completion.chunk")
    }


def test_usage_comes_last_where_asked_for() -> None:
    reply = ask(FakeService(), PLAIN, stream=True, stream_options={"include_usage": True})
    *events, usage, done = reply.events
    assert done == "[DONE]"
    assert [event["usage"] for event in events] == [None] * len(events)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert reply.text == "Hello ✓!"


def test_a_last_piece_without_text_still_says_why_it_ended() -> None:
    steps: tuple[Step, ...] = (Piece("a", (1,)), Piece("", (), FinishReason.LENGTH))
    *_, last, _done = ask(FakeService(steps), stream=True).events
    assert last["choices"][0] == {
        "index": 0,
        "delta": {},
        "finish_reason": "length",
        "logprobs": None,
    }


def test_nothing_is_sent_in_the_grace_time_and_comments_after_it() -> None:
    reply = ask(FakeService((32.0, *HELLO)), stream=True)
    assert reply.started_s == Waiting().grace_s == 5.0
    comments = [at_s for at_s, chunk in reply.chunks if chunk == b": keep-alive\n\n"]
    assert comments == [5.0, 15.0, 25.0]
    assert reply.text == "Hello ✓!"


def test_a_silence_in_the_middle_is_kept_alive_too() -> None:
    steps: tuple[Step, ...] = (1.0, Piece("a", (1,)), 21.0, Piece("b", (2,), FinishReason.STOP))
    reply = ask(FakeService(steps), stream=True)
    comments = [at_s for at_s, chunk in reply.chunks if chunk.startswith(b":")]
    assert (reply.started_s, comments) == (1.0, [11.0, 21.0])
    assert reply.text == "ab"


def test_a_failure_in_the_grace_time_is_a_real_status() -> None:
    reply = ask(FakeService((4.9, LoadFailed("coder.gguf: holds no weights"))), stream=True)
    assert (reply.status, reply.headers["content-type"]) == (503, "application/json")
    assert reply.json["error"] == {
        "message": "coder.gguf: holds no weights",
        "type": "engine_error",
        "param": None,
        "code": "load_failed",
    }


@pytest.mark.parametrize("steps", [(6.0,), (Piece("a", (1,)),)], ids=["waiting", "midway"])
def test_a_later_failure_is_an_event_and_the_end(steps: tuple[Step, ...]) -> None:
    reply = ask(FakeService((*steps, WorkerGone("the worker died; ask again"))), stream=True)
    assert reply.status == 200
    assert reply.is_complete
    assert reply.events[-1] == {
        "error": {
            "message": "the worker died; ask again",
            "type": "engine_error",
            "param": None,
            "code": "worker_gone",
        }
    }
    assert "[DONE]" not in reply.events


@pytest.mark.parametrize("is_streaming", [False, True])
def test_an_answer_that_breaks_off_is_never_taken_for_a_whole_one(is_streaming: bool) -> None:
    reply = ask(FakeService((Piece("a", (1,)),)), stream=is_streaming)
    error = reply.events[-1] if is_streaming else reply.json
    assert "broke off" in error["error"]["message"]
    assert reply.status == (200 if is_streaming else 503)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (LoadFailed("no"), 503, "load_failed"),
        (OutOfMemory("7 GiB"), 503, "out_of_memory"),
        (Quarantined("no"), 503, "quarantined"),
        (WorkerGone("no"), 503, "worker_gone"),
        (EngineError("no"), 503, "engine_failed"),
        (Overloaded("busy", 2.1), 429, "rate_limit_exceeded"),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_refusals_have_openais_shape(
    error: Exception, status: int, code: str, is_late: bool
) -> None:
    service = FakeService((error,)) if is_late else FakeService(refusal=error)
    reply = ask(service)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert reply.headers.get("retry-after") == ("3" if status == 429 else None)


def test_retry_after_is_never_zero() -> None:
    assert ask(FakeService(refusal=Overloaded("busy", 0.0))).headers["retry-after"] == "1"


class Bug(Exception):
    pass


@pytest.mark.parametrize("steps", [(Bug(),), (Piece("a", (1,)), Bug())], ids=["first", "midway"])
@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_bug_of_ours_is_told_and_raised_on(steps: tuple[Step, ...], is_streaming: bool) -> None:
    service = FakeService(steps)
    client = Client(app_of(service))
    with pytest.raises(Bug):
        run_virtually(client.post(CHAT, chat_body(stream=is_streaming)))
    reply = client.reply
    error = reply.events[-1] if reply.status == 200 else reply.json
    assert error["error"]["code"] == "internal_error"
    assert reply.is_complete
    assert service.asked[0].generation.closed.is_set()


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize(
    "steps", [(1e9,), (Piece("a", (1,)), 1e9)], ids=["before the first token", "midway"]
)
def test_a_client_that_leaves_ends_its_generation(
    steps: tuple[Step, ...], is_streaming: bool
) -> None:
    service = FakeService(steps)

    async def main() -> Client:
        client = Client(app_of(service))
        asyncio.get_running_loop().call_later(3.0, client.leaves.set)
        await client.post(CHAT, chat_body(stream=is_streaming))
        assert asyncio.get_running_loop().time() == 3.0
        return client

    client = run_virtually(main())
    assert service.asked[0].generation.closed.is_set()
    assert not client.reply.is_complete
    assert service.wishes == [], "no load is cancelled for it"


def test_a_server_that_stops_ends_its_generations() -> None:
    service = FakeService((1e9,))

    async def main() -> None:
        task = asyncio.create_task(Client(app_of(service)).post(CHAT, chat_body(stream=True)))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtually(main())
    assert service.asked[0].generation.closed.is_set()


def test_a_slow_reader_slows_its_own_iteration_only() -> None:
    endless = [Piece("x", (1,))] * 1000
    service = FakeService((*endless, Piece("", (), FinishReason.STOP)))

    async def main() -> tuple[int, Reply]:
        reads = asyncio.Event()
        slow = Client(app_of(service), reads=reads)
        task = asyncio.create_task(slow.post(CHAT, chat_body(stream=True)))
        await asyncio.sleep(1.0)
        taken = service.asked[0].generation.taken
        reads.set()
        return taken, await task

    taken, reply = run_virtually(main())
    assert taken == 1
    assert reply.text == "x" * 1000


@pytest.mark.parametrize("is_progress", [False, True], ids=["silent", "talking"])
@pytest.mark.parametrize("steps", [(1e9,), (Piece("a", (1,)), 1e9)], ids=["waiting", "streaming"])
def test_a_client_that_takes_nothing_for_two_minutes_has_left(
    steps: tuple[Step, ...], is_progress: bool
) -> None:
    """Whatever is written to it: a token, a comment or progress."""
    service = FakeService(steps)
    aborted = asyncio.Event()

    async def main() -> float:
        client = Client(app_of(service), reads=asyncio.Event(), aborted=aborted)
        options = {"stream_options": {"include_progress": True}} if is_progress else {}
        await client.post(CHAT, chat_body(stream=True, **options))
        assert client.reply.started_s is None
        return asyncio.get_running_loop().time()

    ended_s = run_virtually(main())
    first_write_s = 0.0 if len(steps) > 1 else 1.0 if is_progress else 5.0
    assert ended_s == first_write_s + Waiting().stall_s
    assert service.asked[0].generation.closed.is_set()
    assert aborted.is_set(), "what is unsent would keep the connection"


def test_a_client_that_takes_something_now_and_then_is_never_dropped() -> None:
    pieces = [Piece("x", (1,))] * 20
    service = FakeService((*pieces, Piece("", (), FinishReason.STOP)))

    async def main() -> Reply:
        client = Client(app_of(service), reads=asyncio.Event(), patience_s=59.0)
        return await client.post(CHAT, chat_body(stream=True))

    reply = run_virtually(main())
    assert reply.text == "x" * 20
    assert reply.is_complete


def test_the_metrics_know_who_took_nothing() -> None:
    app = app_of(FakeService((Piece("a", (1,)), 1e9)))

    async def main() -> str:
        await Client(app, reads=asyncio.Event()).post(CHAT, chat_body(stream=True))
        return (await Client(app).get("/metrics")).body.decode()

    assert 'outcome="stalled"' in run_virtually(main())


def test_times_are_settable() -> None:
    limits = Limits(waiting=Waiting(grace_s=1.0, keep_alive_s=2.0))
    client = Client(app_of(FakeService((4.0, *HELLO)), limits))
    reply = run_virtually(client.post(CHAT, chat_body(stream=True)))
    assert [at_s for at_s, _ in reply.chunks][:2] == [1.0, 3.0]


@pytest.mark.parametrize("path", [CHAT, PLAIN])
def test_pieces_that_came_together_are_written_together_each_as_its_own_event(path: str) -> None:
    alone = ask(FakeService(), path, stream=True)
    together = ask(FakeService(comes_at_once=True), path, stream=True)
    assert together.events == alone.events
    assert len([body for _, body in together.chunks if body]) == 2, "all pieces, and the end"
    assert len([body for _, body in alone.chunks if body]) == 4


def test_what_came_before_a_failure_is_written_before_it() -> None:
    steps = (*HELLO[:2], EngineError("it broke"))
    reply = ask(FakeService(steps=steps, comes_at_once=True), PLAIN, stream=True)
    first, failure = [one for one in reply.events if one != "[DONE]"]
    assert first["choices"][0]["text"] == "Hel"
    assert "it broke" in failure["error"]["message"]
