"""`repertory serve` as a person starts it: a child process, asked over HTTP.

Waiting here is polling with a deadline: another process's state can be seen, but not awaited.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from openai import AsyncOpenAI, OpenAI

FOUR = (
    ("llama-q8", "llama", "q8_0"),
    ("llama-q4", "llama", "q4_0"),
    ("qwen-q8", "qwen3", "q8_0"),
    ("qwen-q4", "qwen3", "q4_0"),
)
"""Two architectures, two ways to store weights: 187 MiB together."""
MEMORY = "600MiB"
DEADLINE_S = 60.0
_POLL_S = 0.02
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_Value = TypeVar("_Value")


def wait_for(what: Callable[[], _Value | None], deadline_s: float = DEADLINE_S) -> _Value:
    """The first true answer; fails with the last false one after the deadline."""
    end_s = time.monotonic() + deadline_s
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end_s, f"waited {deadline_s} s in vain: {value!r}"
        time.sleep(_POLL_S)


class Start(Protocol):
    def __call__(self, source: Path, *flags: str, memory: str = MEMORY) -> "RunningServer": ...


@contextmanager
def starting(state_dir: Path) -> Iterator[Start]:
    """Servers that share a state folder; at the end each still up is stopped, and must end well."""
    started: list[RunningServer] = []

    def begin(source: Path, *flags: str, memory: str = MEMORY) -> RunningServer:
        server = RunningServer(launch(source, state_dir, *flags, memory=memory), state_dir)
        started.append(server)
        server.url = server.words.url()
        return server

    try:
        yield begin
        for server in started:
            server.stop()
    finally:
        for server in started:
            server.process.kill()
            server.process.wait(DEADLINE_S)
            server.words.close()


def launch(
    source: Path, state_dir: Path, *flags: str, memory: str = MEMORY
) -> "subprocess.Popen[str]":
    """The bare child process."""
    command = [sys.executable, "-m", "repertory", "serve", str(source), "--port", "0"]
    command += ["--memory", memory, "--state-dir", str(state_dir), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


class Words:
    """What a server says on standard error, read by a thread."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.lines: list[str] = []
        self._process = process
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def url(self) -> str:
        """From the greeting: it comes when requests can be answered."""
        wait_for(lambda: "serving " in self.text or self._process.poll() is not None)
        found = re.search(r"(http://\S+)/v1", self.text)
        assert found, f"no greeting: {self.text}"
        return found[1]

    def close(self) -> None:
        self._thread.join(DEADLINE_S)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        self.lines.extend(iter(self._process.stderr.readline, ""))


@dataclass
class RunningServer:
    """A server, what it says, and where it keeps its state."""

    process: "subprocess.Popen[str]"
    state_dir: Path
    url: str = ""
    words: Words = field(init=False)

    def __post_init__(self) -> None:
        self.words = Words(self.process)

    def client(self, timeout_s: float = DEADLINE_S) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0, timeout=timeout_s)

    def async_client(self, timeout_s: float = DEADLINE_S) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0, timeout=timeout_s)

    def get(self, path: str) -> tuple[int, bytes]:
        return _ask(f"{self.url}{path}", None)

    def post(self, path: str, body: object = None) -> tuple[int, Any]:  # Any: JSON
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = _ask(f"{self.url}{path}", raw)
        return status, json.loads(answer)

    def ps(self) -> dict[str, Any]:
        return json.loads(self.get("/admin/ps")[1])  # type: ignore[no-any-return]

    def model(self, name: str) -> dict[str, Any]:
        return next(one for one in self.ps()["models"] if one["name"] == name)

    def loaded(self) -> list[str]:
        return [one["name"] for one in self.ps()["models"] if one["rung"] in ("device", "serving")]

    def wish(self, name: str, wish: str) -> None:
        assert self.post(f"/admin/models/{name}/{wish}")[0] == 202

    def wait_status(self, name: str, status: str) -> None:
        wait_for(lambda: self.model(name)["status"] == status)

    def worker_pid(self) -> int:
        """The worker, once it is up."""
        return wait_for(self._worker_pid)

    def _worker_pid(self) -> int | None:
        children = children_of(self.process.pid)
        return next((pid for pid in children if "llamacpp.worker" in command_of(pid)), None)

    def wait_ready(self) -> None:
        wait_for(lambda: self.get("/health")[0] == 200)

    def stop(self, deadline_s: float = DEADLINE_S) -> None:
        """SIGTERM; it must end well and leave no process behind."""
        if self.process.returncode is not None:
            return
        below = descendants(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(deadline_s) == 0, self.words.text
        assert not [pid for pid in below if is_alive(pid)], "a child outlived its server"
        assert "Traceback" not in self.words.text, self.words.text

    def log_files(self) -> list[Path]:
        return sorted(self.state_dir.glob("decisions*.jsonl"))

    def repertory(self, *arguments: str) -> str:
        """What another command prints about this server."""
        command = [sys.executable, "-m", "repertory", *arguments]
        environment = {**os.environ, "COLUMNS": "200"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, env=environment, check=True
        )
        return done.stdout


def _ask(url: str, body: bytes | None) -> tuple[int, bytes]:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    try:
        with _NO_PROXY.open(request, timeout=DEADLINE_S) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in _listed(f"/proc/{pid}/task"):
        found += [int(one) for one in _text(f"/proc/{pid}/task/{task}/children").split()]
    return sorted(found)


def descendants(pid: int) -> list[int]:
    below = children_of(pid)
    return below + [deeper for child in below for deeper in descendants(child)]


def command_of(pid: int) -> str:
    return _text(f"/proc/{pid}/cmdline").replace("\0", " ")


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    stat = _text(f"/proc/{pid}/stat")
    return bool(stat) and stat.rpartition(")")[2].split()[0] != "Z"


def pss_bytes(pid: int) -> int:
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


class Sampler:
    """All memory of a process and those below it, ten times a second (worker.md, Memory)."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[int, ...]] = []
        """PSS of each process."""
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak_bytes(self) -> int:
        return max(sum(one) for one in self.samples)

    def _run(self) -> None:
        while not self._done.wait(0.1):
            pids = [self._pid, *descendants(self._pid)]
            self.samples.append(tuple(pss_bytes(pid) for pid in pids))
