"""What kills workers is found and fails alone; everybody else goes on, to the bit.

The test plays the kernel: it kills the worker while the one request, or the one load, is at it.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from play import Answered, Asked
from reading import Reader
from serving import (
    DEADLINE_S,
    RunningServer,
    Start,
    children_of,
    command_of,
    wait_for,
)

from repertory.core.journal import read_lines

LONG_TOKENS = 1200
"""Of a stream that is there at each of three deaths, on a quick machine too."""
POISON_TOKENS = 3500
"""A second and more of computing until its first token: time to kill the worker at it."""


def log_of(state_dir: Path) -> list[dict[str, Any]]:
    """Every decision so far that has reached the disk."""
    lines = [
        line
        for path in sorted(state_dir.glob("decisions*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]
    return list(read_lines(lines))


def losses_in(log: list[dict[str, Any]]) -> int:
    return sum(entry["event"]["kind"] == "WorkerLost" for entry in log)


def is_tried_alone(log: list[dict[str, Any]], prompt_tokens: int) -> bool:
    """The request with so many tokens runs and has made none, while all others have that run."""
    sizes: dict[str, int] = {}
    silent: set[str] = set()
    for entry in log:
        event = entry["event"]
        if event["kind"] == "Arrived":
            sizes[event["request"]["id"]] = event["request"]["prompt_tokens"]
        elif event["kind"] in ("FirstToken", "Finished"):
            silent.discard(event["request_id"])
        elif event["kind"] == "WorkerLost":
            silent.clear()
        silent |= {one["request_id"] for one in entry["actions"] if one["kind"] == "Dispatch"}
    return [sizes[name] for name in silent] == [prompt_tokens]


@pytest.mark.timeout(200)
def test_a_poison_request_fails_alone_and_live_streams_go_on(
    start: Start, four_models: Path
) -> None:
    """Three workers die at it: once in company, twice while it is the one on trial."""
    server = start(four_models, "--exact", memory="700MiB")
    names = ("llama-q8", "qwen-q8")
    whole = [Reader(server, name, LONG_TOKENS) for name in names]
    for stream in whole:
        assert stream.join().error is None, stream.error
    streams = [Reader(server, name, LONG_TOKENS).wait_flowing() for name in names]
    poison = Reader(server, "llama-q8", 8, [*range(300, 300 + POISON_TOKENS)])
    for loss in range(3):
        wait_for(lambda: is_tried_alone(log_of(server.state_dir), POISON_TOKENS))
        os.kill(server.worker_pid(), signal.SIGKILL)
        wait_for(lambda: losses_in(log_of(server.state_dir)) > loss)  # noqa: B023
        assert all(stream.finish is None for stream in streams), "they were there at each death"
    error = str(poison.join().error)
    assert "it killed 2 workers" in error, error
    assert error.count("SIGKILL") == 2, "how they died"
    for stream, reference in zip(streams, whole, strict=True):
        assert stream.join().error is None, stream.error
        assert stream.text == reference.text
    late = Reader(server, "llama-q8", 8)
    assert late.join().error is None, "its model is no less for it"
    assert losses_in(log_of(server.state_dir)) == 3


def test_a_model_that_kills_whoever_brings_it_up_is_given_up_and_others_go_on(
    start: Start, tiny_models: Path
) -> None:
    """Killed while its first load is under way, which the worker begins with a trial of the file.

    By ids, for words would be tried before the load.
    """
    server = start(tiny_models, "--exact")
    whole = Reader(server, "ant").join()
    stream = Reader(server, "ant").wait_flowing()
    asked: list[tuple[int, Any]] = []
    body = {"model": "bee", "prompt": [5, 6, 7], "max_tokens": 4}
    asking = threading.Thread(target=lambda: asked.append(server.post("/v1/completions", body)))
    asking.start()
    for loss in range(2):
        os.kill(wait_for(lambda: _worker_at_a_trial(server, "bee.gguf")), signal.SIGKILL)
        wait_for(lambda: losses_in(log_of(server.state_dir)) > loss)  # noqa: B023
    asking.join(DEADLINE_S)
    status, answer = asked[0]
    assert (status, answer["error"]["code"]) == (503, "quarantined"), answer
    assert "bringing it up killed 2 workers" in answer["error"]["message"]
    assert answer["error"]["message"].count("SIGKILL") == 2, "what they died of"
    assert server.model("bee")["status"] == "failed"
    assert stream.join().error is None, stream.error
    assert stream.text == whole.text
    assert Reader(server, "cat", 8).join().error is None
    told = server.repertory("why", "bee", "--state-dir", str(server.state_dir))
    assert "bringing it up killed 2 workers" in told


def _worker_at_a_trial(server: RunningServer, file: str) -> int | None:
    for worker in children_of(server.process.pid):
        commands = [command_of(child) for child in children_of(worker)]
        if any("llamacpp.trial" in one and file in one for one in commands):
            return worker
    return None


def workload() -> list[Asked]:
    """Long enough answers that a worker's death finds them in the middle."""
    luck = random.Random(20261127)
    return [
        Asked(
            luck.choice(("llama-q8", "qwen-q4")),
            tuple(luck.randrange(300, 30_000) for _ in range(luck.choice((5, 140, 300)))),
            luck.choice((20, 40)),
            number,
        )
        for number in range(10)
    ]


def play(folder: Path, state_dir: Path, faults: int) -> list[Answered]:
    """The live server without HTTP, whose worker dies so often, in turn by SIGKILL and stuck."""
    state_dir.mkdir()
    requests, answers = state_dir / "requests.json", state_dir / "answers.json"
    requests.write_bytes(msgspec.json.encode(workload()))
    command = [sys.executable, str(Path(__file__).with_name("play.py")), str(folder)]
    command += [str(state_dir), str(500 << 20), "exact", str(requests), str(answers)]
    process = subprocess.Popen(command)
    try:
        for fault in range(faults):
            wait_for(lambda: _ended(state_dir) > 3 * fault + 1)  # noqa: B023
            (worker,) = (
                pid for pid in children_of(process.pid) if "llamacpp.worker" in command_of(pid)
            )
            os.kill(worker, signal.SIGSTOP if fault == 1 else signal.SIGKILL)
            wait_for(lambda: losses_in(log_of(state_dir)) > fault)  # noqa: B023
        assert process.wait(100) == 0
    finally:
        process.kill()
        process.wait()
    assert losses_in(log_of(state_dir)) == faults
    return msgspec.json.decode(answers.read_bytes(), type=list[Answered])


def _ended(state_dir: Path) -> int:
    return sum(entry["event"]["kind"] == "Finished" for entry in log_of(state_dir))


@pytest.mark.timeout(200)
def test_in_mode_exact_dying_and_stuck_workers_change_no_logit(
    four_models: Path, tmp_path: Path
) -> None:
    calm = play(four_models, tmp_path / "calm", faults=0)
    storm = play(four_models, tmp_path / "storm", faults=2)
    assert [one.error for one in storm if one.error] == []
    for asked, got, wanted in zip(workload(), storm, calm, strict=True):
        story = f"request {asked.seed} of {asked.model}, {len(asked.prompt)} tokens"
        assert len(got.tokens) == asked.max_tokens, story
        assert got.tokens == wanted.tokens, story
        assert got.digests == wanted.digests, story
