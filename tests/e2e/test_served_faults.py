"""Broken on purpose: workers, files, ports, servers.  What is not at fault goes on."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from lying import with_lying_words
from reading import Reader
from serving import (
    DEADLINE_S,
    RunningServer,
    Start,
    Words,
    children_of,
    command_of,
    descendants,
    is_alive,
    launch,
    wait_for,
)

from repertory.engines.gguf.make import make_model


def complete(server: RunningServer, model: str) -> str:
    with server.client() as client:
        answer = client.completions.create(model=model, prompt="hi", max_tokens=4)
    assert answer.choices[0].finish_reason
    return answer.choices[0].text


def copy_of(folder: Path, target: Path) -> Path:
    """Models that a test may break."""
    target.mkdir()
    for path in sorted(folder.glob("*.gguf")):
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_killed_worker_takes_no_stream_with_it(start: Start, tiny_models: Path) -> None:
    """They go on where they stood, on the same connection: in mode `exact` with the same text."""
    server = start(tiny_models, "--exact")
    names = ("ant", "bee", "ant", "cat")
    whole = {name: Reader(server, name).join() for name in set(names)}
    running = [Reader(server, name) for name in names]
    for kill in range(1, 4):
        wait_for(lambda: all(one.tokens > 400 * kill or one.error for one in running))  # noqa: B023
        worker = server.worker_pid()
        os.kill(worker, signal.SIGKILL)
        status, health = wait_for(lambda: _unhealthy(server))
        assert (status, health) == (503, True), "it says what happened"
        server.wait_ready()
        assert server.worker_pid() != worker
    late = Reader(server, "cat", max_tokens=8)
    for name, stream in zip(names, running, strict=True):
        assert stream.join().error is None, stream.error
        assert stream.finish == "length"
        assert stream.text == whole[name].text
    assert late.join().error is None, late.error
    assert complete(server, "ant")


def test_without_exactness_a_killed_workers_streams_go_on_too(
    start: Start, tiny_models: Path
) -> None:
    server = start(tiny_models)
    running = [Reader(server, name) for name in ("ant", "bee")]
    for stream in running:
        stream.wait_flowing()
    os.kill(server.worker_pid(), signal.SIGKILL)
    for stream in running:
        assert stream.join().error is None, stream.error
        assert stream.finish == "length"
    assert len(running[0].text) > 1000


def _unhealthy(server: RunningServer) -> tuple[int, bool] | None:
    status, page = server.get("/health")
    return None if status == 200 else (status, b"SIGKILL" in page)


def test_a_stopped_worker_is_found_and_started_again(start: Start, tiny_models: Path) -> None:
    """Silent for 10 s, looked at every second: gone within 12 s, and back soon after; what it ran
    goes on where it stood, in mode `exact` with the same text.
    """
    server = start(tiny_models, "--exact")
    names = ("ant", "bee")
    whole = [Reader(server, name) for name in names]
    for stream in whole:
        assert stream.join().error is None
    running = [Reader(server, name).wait_flowing() for name in names]
    worker = server.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    wait_for(lambda: not is_alive(worker), 14.0)
    for stream, reference in zip(running, whole, strict=True):
        assert stream.join().error is None, stream.error
        assert stream.finish == "length"
        assert stream.text == reference.text
    assert "no sign of life" in server.words.text
    server.wait_ready()
    assert complete(server, "ant")


def test_broken_files_have_their_reasons_and_others_are_served(
    start: Start, tiny_models: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_models, tmp_path / "mixed")
    whole = (folder / "bee.gguf").read_bytes()
    (folder / "bee.gguf").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.gguf").write_bytes(bytes(range(256)) * 400)
    (folder / "empty.gguf").write_bytes(b"")
    server = start(folder)
    assert [one["name"] for one in server.ps()["models"]] == ["ant", "cat"]
    for name in ("bee", "noise", "empty"):
        status, answer = server.post("/v1/completions", {"model": name, "prompt": "hi"})
        assert status == 404
        assert "is not served" in answer["error"]["message"]
        assert f"not served: {folder / name}" in server.words.text or name in server.words.text
    assert complete(server, "ant")


def test_files_that_vanish_or_change_are_errors_of_their_models_only(
    start: Start, tiny_models: Path, tmp_path: Path
) -> None:
    """The folder is looked through again every 10 s; until then a load finds out by itself."""
    folder = copy_of(tiny_models, tmp_path / "own")
    make_model(folder / "dog.gguf", size="tiny", seed=4)
    server = start(folder)
    complete(server, "bee")
    before = greedy(server, "dog")[1]["choices"][0]["text"]
    for name in ("bee", "cat"):
        (folder / f"{name}.gguf").unlink()
    make_model(tmp_path / "new.gguf", size="tiny", seed=77)
    (tmp_path / "new.gguf").replace(folder / "dog.gguf")
    status, answer = greedy(server, "cat")
    assert status in (404, 503)
    assert "cat" in answer["error"]["message"]
    assert complete(server, "ant")
    wait_for(lambda: [one["name"] for one in server.ps()["models"]] == ["ant", "dog"], 20.0)
    wait_for(lambda: greedy(server, "dog")[1]["choices"][0]["text"] != before)
    assert complete(server, "ant")


def greedy(server: RunningServer, model: str, prompt: object = "hi") -> tuple[int, Any]:
    wishes = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
    return server.post("/v1/completions", {"model": model, "prompt": prompt, **wishes})


def test_a_load_that_fails_leaves_a_reason_and_a_working_server(
    start: Start, tiny_models: Path, tmp_path: Path
) -> None:
    """The head is whole, so the file is on offer; its tensors are not what the library wants."""
    folder = copy_of(tiny_models, tmp_path / "own")
    raw = (folder / "bee.gguf").read_bytes()
    (folder / "bee.gguf").write_bytes(raw.replace(b"blk.0.ffn_up.weight", b"blk.0.ffn_xx.weight"))
    server = start(folder)
    for status, answer in (greedy(server, "bee"), greedy(server, "bee", [5, 6])):
        assert (status, answer["error"]["code"]) == (503, "load_failed"), answer
        assert "ffn_up" in answer["error"]["message"], answer
    assert server.model("bee")["status"] == "failed"
    assert "ffn_up" in server.model("bee")["fault"]
    assert complete(server, "ant")


def test_a_file_that_kills_the_trial_is_quarantined(
    start: Start, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial's own process is killed from here; no hook for it is shipped."""
    server = start(tiny_models)
    asked: list[tuple[int, Any]] = []
    body = {"model": "bee", "prompt": [5, 6, 7], "max_tokens": 4}  # ids: the load is what tries it
    asking = threading.Thread(target=lambda: asked.append(server.post("/v1/completions", body)))
    asking.start()
    os.kill(wait_for(lambda: _trial_of(server)), signal.SIGSEGV)
    asking.join(DEADLINE_S)
    status, answer = asked[0]
    assert (status, answer["error"]["code"]) == (503, "quarantined")
    assert "quarantined" in answer["error"]["message"]
    assert "SIGSEGV" in server.model("bee")["fault"]
    assert complete(server, "ant")


def test_lying_words_are_refused_by_name_until_the_file_is_replaced(
    start: Start, tiny_models: Path, tmp_path: Path
) -> None:
    """Rendering, tokenising and loading alike; a neighbour's stream goes on, also over that."""
    folder = copy_of(tiny_models, tmp_path / "own")
    with_lying_words(tiny_models / "bee.gguf", folder / "bee.gguf")
    server = start(folder)
    worker = server.worker_pid()
    stream = Reader(server, "ant").wait_flowing()
    _refuses_lying_words(server)
    assert stream.join().error is None
    assert stream.finish == "length"
    assert server.worker_pid() == worker
    server.stop()
    again = start(folder)
    _refuses_lying_words(again)
    (tmp_path / "good").write_bytes((tiny_models / "bee.gguf").read_bytes())
    (tmp_path / "good").replace(folder / "bee.gguf")
    wait_for(lambda: greedy(again, "bee")[0] == 200)


def _refuses_lying_words(server: RunningServer) -> None:
    chat = {"model": "bee", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    for status, answer in (
        server.post("/v1/chat/completions", chat),
        server.post("/tokenize", {"model": "bee", "prompt": "hi"}),
        greedy(server, "bee"),
        greedy(server, "bee", [5, 6]),
        greedy(server, "bee", [5, 6]),
    ):
        assert (status, answer["error"]["code"]) == (503, "quarantined"), answer
        assert "bee.gguf is quarantined" in answer["error"]["message"]
        assert "SIGABRT" in answer["error"]["message"]
        assert "Replace the file" in answer["error"]["message"]


def _trial_of(server: RunningServer) -> int | None:
    children = children_of(server.worker_pid())
    return next((pid for pid in children if "llamacpp.trial" in command_of(pid)), None)


def ends(process: "subprocess.Popen[str]") -> tuple[int, str]:
    words = Words(process)
    try:
        return process.wait(DEADLINE_S), words.text
    finally:
        process.kill()
        process.wait()
        words.close()


def test_a_taken_port_is_said_at_once(start: Start, tiny_models: Path, tmp_path: Path) -> None:
    port = start(tiny_models).url.rpartition(":")[2]
    code, words = ends(launch(tiny_models, tmp_path / "other", "--port", port))
    assert code == 2
    assert "choose another --port" in words


def test_a_state_folder_belongs_to_one_server(start: Start, tiny_models: Path) -> None:
    server = start(tiny_models)
    code, words = ends(launch(tiny_models, server.state_dir))
    assert code == 2
    assert str(server.state_dir) in words
    assert complete(server, "ant")


def test_too_little_memory_is_refused_with_the_arithmetic(
    tiny_models: Path, tmp_path: Path
) -> None:
    code, words = ends(launch(tiny_models, tmp_path / "state", memory="100MiB"))
    assert code == 2
    assert "100 MiB - " in words
    assert "Traceback" not in words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_lets_streams_end(
    start: Start, tiny_models: Path, number: signal.Signals
) -> None:
    server = start(tiny_models)
    stream = Reader(server, "ant", max_tokens=300).wait_flowing()
    server.process.send_signal(number)
    wait_for(lambda: "draining" in server.words.text)
    assert stream.join().error is None
    assert stream.finish == "length"
    assert server.process.wait(DEADLINE_S) == 0


def test_a_second_signal_stops_at_once_and_tells_those_who_wait(
    start: Start, tiny_models: Path
) -> None:
    server = start(tiny_models)
    stream = Reader(server, "ant").wait_flowing()
    os.kill(server.worker_pid(), signal.SIGSTOP)
    waiting = Reader(server, "bee")
    wait_for(lambda: server.model("bee")["waiting"] == 1)
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "draining" in server.words.text)
    server.process.send_signal(signal.SIGTERM)
    for one in (stream, waiting):
        assert "shutting down" in str(one.join().error)
    assert server.process.wait(DEADLINE_S) == 0
    assert "Traceback" not in server.words.text


@pytest.mark.parametrize("is_stuck", [False, True])
def test_a_killed_server_leaves_no_worker_and_the_next_one_serves(
    start: Start, tiny_models: Path, is_stuck: bool
) -> None:
    """Nor anything else of it: no process, no shared memory, no file that was not there before."""
    shared = set(os.listdir("/dev/shm"))
    server = start(tiny_models)
    stream = Reader(server, "ant").wait_flowing()
    files = set(os.listdir(server.state_dir))
    below = descendants(server.process.pid)
    assert server.worker_pid() in below
    if is_stuck:  # it could not end itself
        os.kill(server.worker_pid(), signal.SIGSTOP)
    server.process.kill()
    server.process.wait(DEADLINE_S)
    wait_for(lambda: not [pid for pid in below if is_alive(pid)])
    assert stream.join().error is not None, "its connection is gone"
    again = start(tiny_models)
    assert complete(again, "ant")
    assert set(os.listdir(again.state_dir)) - files <= {"decisions.1.jsonl"}, "older decisions"
    assert set(os.listdir("/dev/shm")) <= shared
