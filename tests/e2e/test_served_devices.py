"""CPU core sets as devices, threads in total, and a server that rests."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving import RunningServer, Start, wait_for

TWO_SETS = """\
models:
  one: {{path: {0}/llama-q8.gguf}}
  two: {{path: {0}/qwen-q8.gguf}}
devices:
  - {{id: left, cores: [{1}], memory: {3}}}
  - {{id: right, cores: [{2}], memory: {3}}}
"""


SAMPLES = 200
"""Some milliseconds apart: reading the states of all threads takes as long."""
ROOM_FOR_ONE = "150MiB"
"""A model is placed where there is room: with room for both, the first set would get both."""


def threads_at_work(pid: int) -> int:
    """Threads of a process that the kernel runs or would run now, but for the first: it passes
    frames.
    """
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        if task.name == str(pid):
            continue
        try:
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:  # it ended meanwhile
            continue
    return states.count("R")


def stream(server: RunningServer, model: str, is_enough: threading.Event) -> int:
    """One answer after the other, until it is enough; how many chunks came."""
    chunks = 0
    with server.client() as client:
        while not is_enough.is_set():
            answer = client.completions.create(
                model=model,
                prompt="hi",
                max_tokens=1000,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            for _ in answer:
                chunks += 1
                if is_enough.is_set():
                    answer.close()
                    break
    return chunks


@contextmanager
def streaming(server: RunningServer, *models: str) -> Iterator[None]:
    """A stream of each model is running inside, whatever the machine's speed."""
    is_enough = threading.Event()
    with ThreadPoolExecutor(len(models)) as clients:
        streams = [clients.submit(stream, server, name, is_enough) for name in models]
        try:
            wait_for(lambda: all(server.model(name)["running"] for name in models))
            yield
        finally:
            is_enough.set()
        assert all(one.result(60) > 0 for one in streams)


TWO_CORES = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is no two sets")


def two_sets(models: Path, folder: Path) -> Path:
    """A core each, and room for one model on either."""
    first, second, *_ = sorted(os.sched_getaffinity(0))
    config = folder / "repertory.yaml"
    config.write_text(TWO_SETS.format(models, first, second, ROOM_FOR_ONE))
    return config


@TWO_CORES
def test_two_core_sets_serve_two_models_at_once(
    start: Start, four_models: Path, tmp_path: Path
) -> None:
    server = start(two_sets(four_models, tmp_path))
    assert [one["id"] for one in server.ps()["devices"]] == ["left", "right"]
    with streaming(server, "one", "two"):
        places = {server.model(name)["device"] for name in ("one", "two")}
    assert places == {"left", "right"}


def test_compute_threads_never_exceed_the_cores(start: Start, tiny_models: Path) -> None:
    """Seen from outside while three models run at once.  One more thread may be caught that moves
    or tokenises, and in one look of twenty another one.
    """
    server = start(tiny_models)
    cores = len(os.sched_getaffinity(0))
    worker = server.worker_pid()
    with streaming(server, "ant", "bee", "cat"):
        seen = [threads_at_work(worker) for _ in range(SAMPLES)]
    usual = sorted(seen)[: -SAMPLES // 20]
    assert max(usual) <= cores + 1, seen
    assert sum(seen) / len(seen) <= cores, seen


@TWO_CORES
def test_a_model_with_a_long_queue_is_served_by_both_core_sets(
    start: Start, four_models: Path, tmp_path: Path
) -> None:
    """Room for a few slots on each; both replicas compute from the pages of one file."""
    server = start(two_sets(four_models, tmp_path))
    with streaming(server, *["one"] * 40):
        wait_for(lambda: server.model("one")["device"] == "left, right")
