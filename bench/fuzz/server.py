"""The server under fire: started as a person does, and looked at from outside."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from bench.fuzz.cases import Case, request_bytes
from bench.fuzz.client import talk
from bench.serve.systems import System, pss_bytes

__all__ = ["Sample", "Watched"]

_WORKER = "llamacpp.worker"


@dataclass(frozen=True)
class Sample:
    """What the server and its worker hold, while nothing runs."""

    server_bytes: int
    worker_bytes: int
    held_bytes: int
    """Of the worker's, what the models that are up hold: KV memory comes and goes with the load."""
    files: int
    """Open ones of the server, connections among them."""
    threads: int
    """Of both."""


class Watched:
    """A running server: its processes, its words, and good requests to it."""

    def __init__(self, system: System, log: Path) -> None:
        split = urlsplit(system.url)
        assert split.hostname is not None
        assert split.port is not None
        self.host, self.port = split.hostname, split.port
        self.pid = system.pid
        self._log = log
        self._log_at = 0
        self.worker_pid = self._worker()

    async def get(self, path: str) -> Any:  # JSON
        return (await self._ask(request_bytes(path, b"", "GET"), "GET"))[1]

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        return await self._ask(request_bytes(path, json.dumps(body).encode()), "POST")

    async def chat(self, model: str) -> tuple[int, Any]:
        """A good request."""
        messages = [{"role": "user", "content": "Say something good."}]
        body = {"model": model, "messages": messages, "max_tokens": 6, "temperature": 0}
        return await self.post("/v1/chat/completions", body)

    async def busy(self) -> int:
        """Requests that the server thinks are running or waiting, in total and by model."""
        status = await self.get("/admin/ps")
        rows = [status, *status["models"]]
        return sum(int(row["running"]) + int(row["waiting"]) for row in rows)

    async def sample(self) -> Sample:
        models = (await self.get("/admin/ps"))["models"]
        both = [psutil.Process(self.pid), psutil.Process(self.worker_pid)]
        return Sample(
            server_bytes=pss_bytes(self.pid),
            worker_bytes=pss_bytes(self.worker_pid),
            held_bytes=sum(int(one["measured_bytes"] or 0) for one in models),
            files=len(os.listdir(f"/proc/{self.pid}/fd")),
            threads=sum(one.num_threads() for one in both),
        )

    def restarts(self) -> str:
        """What died since it was last asked; empty: nothing."""
        if not psutil.pid_exists(self.pid):
            return "the server is gone"
        was, self.worker_pid = self.worker_pid, self._worker()
        return f"worker {was} is gone" if was and was != self.worker_pid else ""

    def new_words(self) -> str:
        """What it said on standard error since it was last asked."""
        with self._log.open("rb") as file:
            file.seek(self._log_at)
            said = file.read()
        self._log_at += len(said)
        return said.decode("utf-8", "replace")

    async def _ask(self, raw: bytes, method: str) -> tuple[int, Any]:
        """(0, what went wrong) if no answer came."""
        found = await talk(self.host, self.port, Case(-1, "good", (raw,), (method,)))
        if found.trouble or not found.answers:
            return 0, found.trouble or "no answer"
        return found.answers[0].status, json.loads(found.answers[0].body)

    def _worker(self) -> int:
        for child in psutil.Process(self.pid).children():
            try:
                if _WORKER in " ".join(child.cmdline()):
                    return child.pid
            except psutil.NoSuchProcess:
                continue
        return 0
