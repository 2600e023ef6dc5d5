"""What a stream feels of another model's load.

A loaded 300M q8_0 streams through the real server while a 1.1B q4_0 loads, again and again:
inter-token times from the begin of the load to the end of its activation (times of the decision
log) beside the undisturbed ones of the same streams.  Both on one monotonic clock.
"""

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from bench.checks import Check, at_most, finish, percentile
from repertory.core.journal import read_lines
from repertory.engines.gguf.make import make_model

STREAMS = "streams-300m"
LOADS = "loads-1b"
REPETITIONS = 6
"""The first one opens the file in a throwaway child and is shown apart."""
UNDISTURBED_S = 3.0
DEADLINE_S = 120.0
FACTOR_BAR = 10.0
"""p99 during a load over the undisturbed p99: beyond it a reader sees the stream stand still."""
STALL_BAR_MS = 500.0
"""The longest gap during any load."""
MEMORY = "3GiB"
_MODELS = {
    STREAMS: {"arch": "llama", "size": "300m", "weights": "q8_0", "seed": 1},
    LOADS: {"arch": "llama", "size": "1b", "weights": "q4_0", "seed": 2},
}
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Window:
    """One load, from its decision to the end of the activation."""

    begin_ns: int
    loaded_ns: int
    end_ns: int
    form: str

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9


@dataclass
class Repetition:
    """One stream, and the load in the middle of it."""

    window: Window
    during_ms: list[float]
    beside_ms: list[float]


@dataclass
class Server:
    """`repertory serve` as a child."""

    process: "subprocess.Popen[str]"
    state_dir: Path
    port: int

    def ask(self, method: str, path: str, body: object = None) -> Any:  # JSON
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def wish(self, name: str, wish: str, status: str) -> None:
        self.ask("POST", f"/admin/models/{name}/{wish}")
        wait_for(lambda: self.status(name) == status)

    def status(self, name: str) -> str:
        models = self.ask("GET", "/admin/ps")["models"]
        return next(str(one["status"]) for one in models if one["name"] == name)

    def windows(self) -> list[Window]:
        """Every load of the second model that is over."""
        found: list[Window] = []
        begun: dict[int, tuple[str, int, str]] = {}
        loads: list[tuple[int, int, str]] = []
        with (self.state_dir / "decisions.jsonl").open("rb") as lines:
            for entry in read_lines(lines):
                at_ns = entry["event"]["at_ns"]
                for action in entry["actions"]:
                    if action.get("model") == LOADS and action["kind"] in ("Load", "Activate"):
                        form = action.get("placement", {}).get("form", "")
                        begun[action["action_id"]] = (action["kind"], at_ns, form)
                done = begun.get(entry["event"].get("action_id"))
                if done is None or entry["event"]["kind"] != "TransitionDone":
                    continue
                if done[0] == "Load":
                    loads.append((done[1], at_ns, done[2]))
                else:
                    found.append(Window(loads[-1][0], loads[-1][1], at_ns, loads[-1][2]))
        return found


@dataclass
class Stream:
    """One stream's tokens, as a client sees them come."""

    port: int
    times_ns: list[int] = field(default_factory=list)
    is_cut: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_tokens(self, count: int) -> None:
        wait_for(lambda: len(self.times_ns) >= count)

    def cut(self) -> None:
        self.is_cut = True
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        body = {"model": STREAMS, "prompt": "Once upon a time", "max_tokens": 3500}
        body |= {"stream": True, "ignore_eos": True, "temperature": 0}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        connection.request("POST", "/v1/completions", json.dumps(body))
        reply = connection.getresponse()
        while not self.is_cut and (line := reply.readline()):
            if line.startswith(b"data: {"):
                self.times_ns.append(time.monotonic_ns())
        connection.close()


def wait_for(what: Callable[[], _Value | None]) -> _Value:
    """The first true answer.  Polls: another process's state cannot be awaited."""
    end_s = time.monotonic() + DEADLINE_S
    while not (value := what()):
        if time.monotonic() > end_s:
            sys.exit(f"waited {DEADLINE_S} s in vain")
        time.sleep(0.02)
    return value


@contextmanager
def serving(folder: Path, state_dir: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "repertory", "serve", str(folder), "--port", "0"]
    command += ["--memory", MEMORY, "--state-dir", str(state_dir)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if greeting := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line):
                yield Server(process, state_dir, int(greeting[1]))
                break
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def repeat(server: Server, number: int) -> Repetition:
    """Stream alone, then beside a load, then alone again."""
    stream = Stream(server.port)
    stream.wait_tokens(20)
    wait_for_s(UNDISTURBED_S)
    server.wish(LOADS, "load", "loaded")
    wait_for_s(UNDISTURBED_S / 2)
    stream.cut()
    server.wish(LOADS, "unload", "unloaded")
    window = wait_for(lambda: server.windows()[number : number + 1])[0]
    during: list[float] = []
    beside: list[float] = []
    for before_ns, at_ns in pairwise(stream.times_ns[10:]):
        is_during = at_ns > window.begin_ns and before_ns < window.end_ns
        (during if is_during else beside).append((at_ns - before_ns) / 1e6)
    return Repetition(window, during, beside)


def wait_for_s(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > end_s)


def checks_of(played: list[Repetition]) -> list[Check]:
    """The first load, with its trial, counts for the longest gap only."""
    forms: dict[str, list[float]] = {}
    for one in played[1:]:
        forms.setdefault(one.window.form, []).extend(one.during_ms)
    beside = [gap for one in played for gap in one.beside_ms]
    worst_ms = max(percentile(gaps, 0.99) for gaps in forms.values())
    factor = worst_ms / percentile(beside, 0.99)
    longest = max(gap for one in played for gap in one.during_ms)
    return [
        at_most("p99 inter-token during a load / undisturbed", "x", factor, FACTOR_BAR),
        at_most("longest gap during any load", "ms", longest, STALL_BAR_MS),
    ]


def row(name: str, gaps: list[float]) -> str:
    p50, p99 = percentile(gaps, 0.5), percentile(gaps, 0.99)
    return f"{name:34}{len(gaps):>7}{p50:>10.1f}{p99:>10.1f}{max(gaps):>10.1f}"


def report(played: list[Repetition]) -> None:
    print(f"{'inter-token time, ms':34}{'gaps':>7}{'p50':>10}{'p99':>10}{'longest':>10}")
    print(row("undisturbed", [gap for one in played for gap in one.beside_ms]))
    print(row("first load, with its trial", played[0].during_ms))
    for form in sorted({one.window.form for one in played[1:]}):
        chosen = [one for one in played[1:] if one.window.form == form]
        seconds = statistics.median(one.window.seconds for one in chosen)
        gaps = [gap for one in chosen for gap in one.during_ms]
        print(row(f"{len(chosen)} {form} loads of {seconds:.2f} s", gaps))


def main() -> int:
    """Make the models, serve them, measure; 1 if a bar is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("build/bench/stream.json"))
    options.add_argument("--repetitions", type=int, default=REPETITIONS)
    chosen = options.parse_args()
    folder = chosen.out.parent / "stream-models"
    folder.mkdir(parents=True, exist_ok=True)
    for name, recipe in _MODELS.items():
        if not (folder / f"{name}.gguf").exists():
            make_model(folder / f"{name}.gguf", **recipe)  # type: ignore[arg-type]
    state_dir = chosen.out.parent / f"stream-state-{time.monotonic_ns()}"
    with serving(folder, state_dir) as server:
        server.wish(STREAMS, "load", "loaded")
        server.wish(STREAMS, "pin", "loaded")
        played = [repeat(server, number) for number in range(chosen.repetitions)]
    checks = checks_of(played)
    raw = [
        {
            "form": one.window.form,
            "load_s": (one.window.loaded_ns - one.window.begin_ns) / 1e9,
            "window_s": one.window.seconds,
            "during_ms": one.during_ms,
            "undisturbed_ms": one.beside_ms,
        }
        for one in played
    ]
    report(played)
    return finish(chosen.out, checks, raw)


if __name__ == "__main__":
    sys.exit(main())
