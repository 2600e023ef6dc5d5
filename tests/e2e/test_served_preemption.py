"""Work that weighs more stops what runs, which goes on afterwards on the same connection."""

import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from serving import RunningServer, Start, wait_for

from repertory.core.journal import read_lines
from repertory.engines.gguf.make import make_model

MIB = 1 << 20
LONG: Any = {"prompt": [5, 6, 7], "max_tokens": 1200, "seed": 7}


class Stream:
    """One stream, read on a thread of its own, with the time of each token."""

    def __init__(self, server: RunningServer, model: str, priority: str) -> None:
        self.text = ""
        self.at_s: list[float] = []
        self.finish: str | None = None
        self.error: Exception | None = None
        self._extra = {"ignore_eos": True, "priority": priority}
        self._server, self._model = server, model
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> "Stream":
        self._thread.join(120.0)
        assert not self._thread.is_alive(), "the stream does not end"
        assert self.error is None, self.error
        return self

    def _run(self) -> None:
        try:
            with self._server.client() as client:
                chunks = client.completions.create(
                    model=self._model, stream=True, extra_body=self._extra, **LONG
                )
                for chunk in chunks:
                    self.at_s.append(time.monotonic())
                    self.text += chunk.choices[0].text
                    self.finish = chunk.choices[0].finish_reason
        except openai.APIError as error:
            self.error = error


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, of which one fits."""
    folder = tmp_path_factory.mktemp("cramped")
    for seed, name in enumerate(("left", "right")):
        make_model(folder / f"{name}.gguf", size="50m", seed=seed, name=name)
    return folder


@pytest.mark.timeout(280)
def test_an_interactive_request_stops_a_batch_of_another_model_which_goes_on(
    start: Start, cramped: Path
) -> None:
    server = start(cramped, "--exact", memory="330MiB")
    whole = Stream(server, "left", "batch").join()
    batch = Stream(server, "left", "batch")
    wait_for(lambda: len(batch.at_s) > 300 or batch.error)
    before = len(batch.at_s)
    asked_s = time.monotonic()
    with server.client() as client:
        answer = client.completions.create(model="right", prompt=[8, 9], max_tokens=4)
    told_s = time.monotonic() - asked_s
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert batch.finish is None, "it would have gone on for long"
    batch.join()
    assert batch.text == whole.text, "token for token"
    assert batch.finish == "length"
    left_s = whole.at_s[-1] - whole.at_s[before]
    assert told_s < left_s, "nobody waited for its end"
    page = server.get("/metrics")[1].decode()
    told = server.repertory("why", "left", "--state-dir", str(server.state_dir))
    server.stop()
    lines = [line for path in server.log_files() for line in path.read_bytes().splitlines()]
    log = list(read_lines(lines))
    said = [one for entry in log for one in entry["verdicts"]]
    assert {"preempt", "penalty", "resume"} <= {one["rule"] for one in said}
    penalty = next(one for one in said if one["rule"] == "penalty")
    _check_told(told, page, penalty)
    story = server.repertory(
        "why", penalty["choice"].split()[0], "--state-dir", str(server.state_dir)
    )
    assert "make way for right" in story
    assert "goes on, " in story
    assert penalty["why"] in story


def _check_told(told: str, page: str, penalty: dict[str, Any]) -> None:
    """What was compared, chosen, and measured afterwards is there for people and for machines."""
    assert "make way for right" in told
    assert "* preempt" in told
    assert "wait for their end" in told, "what was not chosen, with its harm"
    assert "penalty left -> " in told
    assert penalty["why"] in told
    assert penalty["measured_s"] > 0
    for kind in ("load", "activate", "prefill", "decode", "resume", "penalty", "memory"):
        assert f'repertory_prediction_error_ratio_count{{kind="{kind}"}}' in page, kind


def test_an_interactive_request_has_the_slot_of_a_batch_of_the_same_model(
    start: Start, tiny_models: Path
) -> None:
    """All of which go on, token for token."""
    server = start(tiny_models, "--exact")
    whole = Stream(server, "ant", "batch").join()
    batches = [Stream(server, "ant", "batch") for _ in range(16)]
    wait_for(lambda: all(one.at_s or one.error for one in batches))
    with server.client() as client:
        client.completions.create(model="ant", prompt=[8, 9], max_tokens=4)
    assert all(one.finish is None for one in batches), "it did not wait for the end of one"
    for one in batches:
        assert one.join().text == whole.text
    server.stop()
    lines = [line for path in server.log_files() for line in path.read_bytes().splitlines()]
    said = [one["choice"] for entry in read_lines(lines) for one in entry["verdicts"]]
    assert [one for one in said if " makes way for " in one]


def test_an_equal_request_waits_for_the_end_of_a_turn(start: Start, cramped: Path) -> None:
    """And is served before the other's end all the same."""
    server = start(cramped, memory="330MiB")
    running = Stream(server, "left", "interactive")
    wait_for(lambda: len(running.at_s) > 10 or running.error)
    with server.client() as client:
        client.completions.create(model="right", prompt=[8, 9], max_tokens=4)
    assert running.join().finish == "length"
