"""The servers that are compared, as children of the benchmark, and what they take."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Ours", "System", "family_cpu_s", "llama_server", "pss_bytes", "repertory"]

_START_S = 120.0
_POLL_S = 0.02
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class System:
    """A server that listens."""

    name: str
    url: str
    pid: int

    def request(self, method: str, path: str, body: object = None) -> Any:  # JSON
        raw = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        wanted = urllib.request.Request(f"{self.url}{path}", raw, headers, method=method)
        with _OPENER.open(wanted, timeout=_START_S) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def memory_bytes(self) -> int:
        """PSS of the server and everything below it."""
        return sum(pss_bytes(pid) for pid in self._family())

    def cpu_s(self) -> dict[int, float]:
        """CPU seconds so far of the server and of each process below it."""
        return {pid: family_cpu_s(pid) for pid in self._family()}

    def _family(self) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            return [self.pid, *(one.pid for one in parent.children(recursive=True))]
        return []


class Ours(System):
    """Repertory, with its operator's wishes."""

    def wish(self, model: str, wish: str, status: str) -> None:
        """Ask for it and wait until it is so."""
        self.request("POST", f"/admin/models/{model}/{wish}")
        wait_for(lambda: self.status(model) == status)

    def status(self, model: str) -> str:
        models = self.request("GET", "/admin/ps")["models"]
        return next(str(one["status"]) for one in models if one["name"] == model)


def wait_for(what: Any) -> Any:  # Any: a callable's answer
    """The first true answer.  Polls: another process's state cannot be awaited."""
    end_s = time.monotonic() + _START_S
    while not (value := what()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"waited {_START_S:.0f} s in vain")
        time.sleep(_POLL_S)
    return value


@contextlib.contextmanager
def repertory(
    source: Path,
    state_dir: Path,
    *flags: str,
    before: Sequence[str] = (),
    program: Sequence[str] = ("-m", "repertory"),
) -> Iterator[Ours]:
    """`before`: what starts it, as `env` or `taskset` do."""
    command = [*before, sys.executable, *program, "serve", str(source), "--port", "0"]
    command += ["--state-dir", str(state_dir), *flags]
    state_dir.mkdir(parents=True, exist_ok=True)
    log = (state_dir / "server.log").open("w+")
    with _child(command, log) as process:
        url = wait_for(lambda: _greeting(process, Path(log.name)))
        yield Ours("repertory", url, process.pid)


def _greeting(process: "subprocess.Popen[bytes]", log: Path) -> str | None:
    text = log.read_text()
    if process.poll() is not None:
        raise RuntimeError(f"the server ended:\n{text[-2000:]}")
    found = re.search(r"at (http://\S+)/v1", text)
    return found[1] if found else None


@contextlib.contextmanager
def llama_server(binary: Path, log: Path, arguments: Sequence[str]) -> Iterator[System]:
    """With a model, or as a router; it answers `/health` when it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(binary), "--host", "127.0.0.1", "--port", str(port), "--no-webui", *arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    with _child(command, log.open("w")) as process:
        system = System("llama-server", f"http://127.0.0.1:{port}", process.pid)
        wait_for(lambda: _is_healthy(system, process, log))
        yield system


def _is_healthy(system: System, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"llama-server ended:\n{log.read_text()[-2000:]}")
    try:
        system.request("GET", "/health")
    except (urllib.error.URLError, ConnectionError, OSError):
        return False
    return True


@contextlib.contextmanager
def _child(command: Sequence[str], log: Any) -> Iterator["subprocess.Popen[bytes]"]:  # Any: a file
    with log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        below: list[psutil.Process] = []
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                below = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for one in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def family_cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0
