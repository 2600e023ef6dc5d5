"""Memory that runs out, files cut short while they are mapped, clients that do not read."""

import json
import resource
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from serving import DEADLINE_S, RunningServer, Start, wait_for
from test_served_faults import Reader, complete, copy_of

MIB = 1 << 20


def asked(server: RunningServer, model: str) -> tuple[int, Any]:
    return server.post("/v1/completions", {"model": model, "prompt": "hi", "max_tokens": 4})


def address_space_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such process")


def test_a_worker_without_memory_says_so_serves_on_and_recovers_by_itself(
    start: Start, four_models: Path
) -> None:
    """The system refuses the mapping of 58 MiB for a while; no restart when it gives again."""
    server = start(four_models)
    assert complete(server, "llama-q8")
    worker = server.worker_pid()
    no_limit = resource.prlimit(worker, resource.RLIMIT_AS)
    room = address_space_bytes(worker) + 16 * MIB
    resource.prlimit(worker, resource.RLIMIT_AS, (room, no_limit[1]))
    stream = Reader(server, "llama-q8", max_tokens=200)
    status, answer = asked(server, "qwen-q8")
    assert status == 503, answer
    assert answer["error"]["message"]
    assert stream.join().error is None, "what is loaded is served on"
    resource.prlimit(worker, resource.RLIMIT_AS, no_limit)
    wait_for(lambda: asked(server, "qwen-q8")[0] == 200)
    assert server.worker_pid() == worker
    assert server.model("qwen-q8")["fault"] is None


def test_a_file_cut_short_while_it_is_mapped_takes_down_its_own_model_only(
    start: Start, tiny_models: Path, tmp_path: Path
) -> None:
    """Reading beyond its end is a SIGBUS: the worker dies, and the others are up again at once.

    The folder is looked through every 10 s; until then the file's load fails by itself.
    """
    folder = copy_of(tiny_models, tmp_path / "own")
    server = start(folder)
    complete(server, "ant")
    stream = Reader(server, "bee").wait_flowing()
    with (folder / "bee.gguf").open("r+b") as file:
        file.truncate(4096)
    assert stream.join().error is not None
    wait_for(lambda: asked(server, "ant")[0] == 200)
    status, answer = asked(server, "bee")
    assert status in (404, 503)
    assert "bee" in answer["error"]["message"]
    wait_for(lambda: [one["name"] for one in server.ps()["models"]] == ["ant", "cat"], 20.0)
    assert complete(server, "cat")


def begin(server: RunningServer, body: dict[str, Any], *, whole: bool = True) -> socket.socket:
    """A request by hand; without `whole`, the last bytes of its body never come."""
    port = int(server.url.rpartition(":")[2])
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    raw = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n\r\n"
    client.sendall(head.encode() + (raw if whole else raw[:-5]))
    return client


LONG = {"model": "ant", "max_tokens": 3000, "stream": True, "ignore_eos": True}


WIDE = {**LONG, "prompt": "hi", "temperature": 0, "logprobs": 5}
"""Events of half a kilobyte: more of them than sockets hold."""


class SlowReader:
    """Asks for a stream, and reads nothing of it until it is told to."""

    def __init__(self, server: RunningServer, body: dict[str, Any]) -> None:
        where = urlsplit(server.url)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before there is a window
        client.settimeout(DEADLINE_S)
        client.connect((where.hostname, where.port))
        self._client = client
        self._connection = HTTPConnection("127.0.0.1")
        self._connection.sock = client
        headers = {"content-type": "application/json"}
        self._connection.request("POST", "/v1/completions", json.dumps(body), headers)

    def read(self) -> list[Any]:  # Any: JSON
        """All events of the stream."""
        lines = self._connection.getresponse().read().decode().splitlines()
        assert "data: [DONE]" in lines
        self.close()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]
        return [json.loads(one)["choices"][0] for one in data]

    def close(self) -> None:
        """Leave."""
        self._client.close()


def computes(server: RunningServer, model: str) -> bool:
    """Whether its worker made tokens for this model in the last seconds."""
    return bool(server.model(model)["tokens_per_s"] > 0.0)


def test_an_answer_that_nobody_reads_is_not_computed_and_stalls_nobody(
    start: Start, tiny_models: Path
) -> None:
    """It keeps its slot meanwhile, and goes on when it is read: not a token is lost."""
    server = start(tiny_models, "--exact")
    slow = SlowReader(server, WIDE)
    wait_for(lambda: computes(server, "ant"))
    wait_for(lambda: not computes(server, "ant"))
    assert server.model("ant")["running"] == 1
    quick = Reader(server, "ant", max_tokens=400).join()
    assert (quick.error, quick.finish) == (None, "length")
    assert server.model("ant")["running"] == 1
    late = slow.read()
    whole = server.post("/v1/completions", {**WIDE, "stream": False})[1]["choices"][0]
    assert "".join(one["text"] for one in late) == whole["text"]
    tokens = [token for one in late for token in one["logprobs"]["tokens"]]
    assert tokens == whole["logprobs"]["tokens"]
    assert len(tokens) == WIDE["max_tokens"]
    assert late[-1]["finish_reason"] == "length"


def test_a_client_that_does_not_read_may_leave(server: RunningServer) -> None:
    slow = SlowReader(server, WIDE)
    wait_for(lambda: computes(server, "ant"))
    wait_for(lambda: not computes(server, "ant"))
    assert server.model("ant")["running"] == 1
    slow.close()
    wait_for(lambda: server.ps()["running"] == 0)


@pytest.mark.parametrize("stage", ["body", "prefill", "stream"])
def test_a_client_may_leave_at_every_stage(server: RunningServer, stage: str) -> None:
    prompt = [5] * 900 if stage == "prefill" else "hi"
    client = begin(server, {**LONG, "prompt": prompt}, whole=stage != "body")
    if stage == "stream":
        assert client.recv(100)
    client.close()
    assert complete(server, "ant")
    wait_for(lambda: server.ps()["running"] == 0)
    assert "Traceback" not in server.words.text


def test_a_model_that_never_fits_is_marked_and_refused_at_once(
    start: Start, tiny_models: Path, four_models: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_models, tmp_path / "own")
    (folder / "vast.gguf").write_bytes((four_models / "llama-q8.gguf").read_bytes())
    server = start(folder, memory="215MiB")
    listed = {one["id"]: one["status"] for one in json.loads(server.get("/v1/models")[1])["data"]}
    assert (listed["ant"]["value"], listed["vast"]["value"]) == ("unloaded", "too_large")
    assert "the largest device, cpu0, has" in listed["vast"]["fault"]
    assert "fault: vast: cannot be served: it needs" in server.repertory("ps", "--url", server.url)
    assert "warning: vast: cannot be served: it needs" in server.words.text
    status, answer = asked(server, "vast")
    assert status == 503, answer
    assert answer["error"]["message"] == f"vast {listed['vast']['fault']}"
    assert complete(server, "ant")
