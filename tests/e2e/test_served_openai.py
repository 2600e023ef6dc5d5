"""The official client against the real server with the real engine."""

import asyncio
import os
import signal
from typing import Any

import openai
import pytest
from serving import RunningServer, wait_for

CHAT: Any = [{"role": "user", "content": "What is a repertory theatre?"}]


def ask(server: RunningServer, model: str = "ant", **wishes: Any) -> Any:
    with server.client() as client:
        wanted = {"max_tokens": 16, "seed": 5, "extra_body": {"ignore_eos": True}, **wishes}
        answer = client.chat.completions.create(model=model, messages=CHAT, **wanted)
        return list(answer) if wishes.get("stream") else answer


def test_every_model_is_listed_and_known_by_its_name(server: RunningServer) -> None:
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["ant", "bee", "cat"]
        assert client.models.retrieve("bee").id == "bee"


def test_a_chat_and_a_completion_are_answered(server: RunningServer) -> None:
    answer = ask(server)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 16
    assert answer.usage.prompt_tokens > 0
    with server.client() as client:
        plain = client.completions.create(model="bee", prompt="Once upon", max_tokens=4)
    assert plain.usage is not None
    assert plain.usage.completion_tokens <= 4


def test_a_stream_says_what_the_whole_says(server: RunningServer) -> None:
    whole = ask(server).choices[0].message.content
    chunks = ask(server, stream=True, stream_options={"include_usage": True})
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == whole
    assert chunks[-1].usage.completion_tokens == 16
    silent = ask(server, stream=True)
    assert all(chunk.usage is None for chunk in silent)


def test_equal_seeds_are_equal_and_others_differ(server: RunningServer) -> None:
    texts = [ask(server, seed=seed).choices[0].message.content for seed in (11, 11, 12)]
    assert texts[0] == texts[1] != texts[2]


def test_an_answer_ends_before_a_stop_string(server: RunningServer) -> None:
    whole = ask(server, max_tokens=24).choices[0].message.content
    stop = whole[10:13]
    short = ask(server, max_tokens=24, stop=[stop]).choices[0]
    assert short.message.content == whole[: whole.index(stop)]
    assert short.finish_reason == "stop"


def test_clients_of_the_async_kind_are_served_together(server: RunningServer) -> None:
    async def main() -> list[Any]:
        async with server.async_client() as client:
            asked = [
                client.chat.completions.create(model=model, messages=CHAT, max_tokens=8)
                for model in ("ant", "bee", "cat") * 4
            ]
            return await asyncio.gather(*asked)

    assert len(asyncio.run(main())) == 12


REFUSED: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("unknown model", {"model": "ants"}, 404, "model"),
    ("prompt over the context", {"prompt": [1] * 5000}, 400, "prompt"),
    ("no room for the answer", {"max_tokens": 5000}, 400, "max_tokens"),
    ("id outside of the vocabulary", {"prompt": [1, 10**9]}, 400, "prompt"),
    ("negative id", {"prompt": [1, -2]}, 400, "prompt[1]"),
    ("temperature out of range", {"temperature": 9}, 400, "temperature"),
    ("a number as prompt", {"prompt": 7}, 400, "prompt"),
    ("no model", {"model": None}, 400, "model"),
]


@pytest.mark.parametrize(
    ("wishes", "status", "field"), [one[1:] for one in REFUSED], ids=[one[0] for one in REFUSED]
)
def test_what_is_wrong_is_named_and_nothing_is_loaded_for_it(
    server: RunningServer, wishes: dict[str, Any], status: int, field: str | None
) -> None:
    for name in server.loaded():
        server.wish(name, "unload")
        server.wait_status(name, "unloaded")
    body = {"model": "ant", "prompt": "hi", "max_tokens": 4, **wishes}
    got, answer = server.post("/v1/completions", body)
    assert (got, answer["error"]["param"]) == (status, field), answer
    assert server.loaded() == []


def test_a_chat_over_the_context_names_its_messages(server: RunningServer) -> None:
    long = [{"role": "user", "content": "word " * 20_000}]
    status, answer = server.post("/v1/chat/completions", {"model": "cat", "messages": long})
    assert (status, answer["error"]["param"]) == (400, "messages")
    assert answer["error"]["code"] == "context_length_exceeded"


def test_an_unknown_model_has_near_names(server: RunningServer) -> None:
    with server.client() as client, pytest.raises(openai.NotFoundError, match="'ant'"):
        client.chat.completions.create(model="antt", messages=CHAT)


def test_a_body_that_is_no_json_is_refused(server: RunningServer) -> None:
    status, answer = server.post("/v1/completions", b'{"model": "ant", "prompt": ')
    assert status == 400
    assert "JSON" in answer["error"]["message"]


def test_a_client_that_leaves_frees_its_slot(server: RunningServer) -> None:
    with server.client() as client:
        stream = client.completions.create(
            model="bee",
            prompt="hi",
            max_tokens=3000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        assert server.ps()["running"] == 1
        stream.close()
    wait_for(lambda: server.ps()["running"] == 0)


def test_a_client_that_leaves_while_it_waits_cancels_no_load_of_others(
    server: RunningServer,
) -> None:
    """The worker is held up meanwhile, so both wait until it may go on; ids need no tokenizer."""
    server.wish("cat", "unload")
    server.wait_status("cat", "unloaded")
    worker = server.worker_pid()

    def waiting(requests: int) -> bool:
        return bool(server.model("cat")["waiting"] == requests)

    async def main() -> Any:
        async with server.async_client() as client:

            async def one() -> Any:
                return await client.completions.create(
                    model="cat", prompt=[1, 2, 3], max_tokens=8, extra_body={"ignore_eos": True}
                )

            leaving, staying = asyncio.ensure_future(one()), asyncio.ensure_future(one())
            await asyncio.to_thread(wait_for, lambda: waiting(2))
            leaving.cancel()
            await asyncio.to_thread(wait_for, lambda: waiting(1))
            os.kill(worker, signal.SIGCONT)
            return await staying

    os.kill(worker, signal.SIGSTOP)
    try:
        assert asyncio.run(main()).usage.completion_tokens == 8
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_for(lambda: server.ps()["running"] == 0)


def test_health_and_metrics_load_nothing(server: RunningServer) -> None:
    for name in server.loaded():
        server.wish(name, "unload")
        server.wait_status(name, "unloaded")
    assert server.get("/health")[0] == 200
    status, page = server.get("/metrics")
    assert status == 200
    assert b'repertory_models{rung="' in page
    assert server.loaded() == []


def test_an_operator_loads_pins_and_unloads(server: RunningServer) -> None:
    server.wish("ant", "load")
    server.wait_status("ant", "loaded")
    server.wish("ant", "pin")
    wait_for(lambda: server.model("ant")["is_pinned"])
    server.wish("ant", "unpin")
    server.wish("ant", "unload")
    server.wait_status("ant", "unloaded")
    assert server.post("/admin/models/ant/explode")[0] == 404
    assert server.post("/admin/models/nobody/load")[0] == 404
