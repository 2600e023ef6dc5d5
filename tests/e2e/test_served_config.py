"""A real server and its configuration: edits while it serves, refusals, logs for machines."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import DEADLINE_S, RunningServer, Start, is_alive, wait_for

TEXT = """\
models:
  ant: {path: ant.gguf, aliases: [a], pin: true}
  bee: {path: bee.gguf}
"""


@pytest.fixture
def path(tiny_models: Path, tmp_path: Path) -> Path:
    for file in tiny_models.iterdir():
        (tmp_path / file.name).symlink_to(file)
    path = tmp_path / "r.yaml"
    path.write_text(TEXT)
    return path


def refused(source: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "repertory", "serve", str(source), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def faults(server: RunningServer) -> list[str]:
    status, body = server.get("/health")
    assert status == 200, "a bad edit takes nobody out of a balancer"
    return list(json.loads(body)["faults"])


def test_an_edit_is_taken_in_while_an_answer_streams(path: Path, start: Start) -> None:
    server = start(path)
    server.wait_status("ant", "loaded")
    worker = server.worker_pid()
    wishes: Any = {"prompt": "x", "max_tokens": 3000, "extra_body": {"ignore_eos": True}}
    with server.client() as client:
        stream = iter(client.completions.create(model="a", stream=True, **wishes))
        next(stream)
        path.write_text(TEXT.replace("[a]", "[aa]") + "favour: latency\nexact: true\n")
        wait_for(lambda: "configuration read again" in server.words.text)
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
    said = server.words.text
    assert "ant changed (aliases); favour is now latency; exact can only change with a" in said
    assert server.model("ant")["aliases"] == ["aa"]
    assert server.worker_pid() == worker
    assert server.post("/v1/completions", {"model": "a", "prompt": "x"})[0] == 404
    lines = server.log_files()[0].read_text().splitlines()
    assert any('"SettingsChanged"' in line for line in lines)
    assert sum('"Load",' in line for line in lines) == 1, "a changed alias unloads nothing"


def test_a_broken_edit_is_shown_until_it_is_mended(path: Path, start: Start) -> None:
    server = start(path)
    path.write_text(TEXT + "favor: latency\n")
    (fault,) = wait_for(lambda: faults(server))
    assert "r.yaml:4:1: 'favor' is not known here; did you mean 'favour'?" in fault
    assert fault in server.repertory("ps", "--url", server.url)
    path.write_text(TEXT)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: not faults(server))
    assert (
        server.post("/v1/completions", {"model": "bee", "prompt": "x", "max_tokens": 1})[0] == 200
    )


def test_pinned_models_that_cannot_be_loaded_together_are_refused(
    four_models: Path, tmp_path: Path
) -> None:
    """187 MiB of weights in 300 MiB, less what server and worker take: 150 to 220 MiB."""
    names = sorted(file.stem for file in four_models.iterdir())
    lines = [f"  {name}: {{path: {four_models}/{name}.gguf, pin: true}}" for name in names]
    path = tmp_path / "pinned.yaml"
    path.write_text("\n".join(["models:", *lines, "memory: 300MiB", ""]))
    said = refused(path, "--port", "0", "--state-dir", str(tmp_path / "state"))
    assert "the pinned models cannot be loaded together" in said
    assert "for server and worker" in said
    assert "to mend it: unpin some of qwen-q8, llama-q8, qwen-q4, llama-q4" in said


def test_a_context_beyond_the_training_is_refused_before_anything_is_started(path: Path) -> None:
    path.write_text(TEXT.replace("bee.gguf", "bee.gguf, context: 5000"))
    said = refused(path, "--port", "0", "--state-dir", str(path.parent / "state"))
    assert "r.yaml:3:34: 'models.bee.context' 5000 is more than the 4096 tokens" in said
    assert not (path.parent / "state").exists()


def test_a_second_server_is_told_whose_folder_and_port_it_is(path: Path, start: Start) -> None:
    server = start(path)
    said = refused(path, "--port", "0", "--state-dir", str(server.state_dir))
    assert f"process id {server.process.pid}" in said
    port = server.url.rpartition(":")[2]
    said = refused(path, "--port", port, "--state-dir", str(path.parent / "other"))
    assert f"process {server.process.pid} (" in said
    assert "choose another --port" in said


def test_logs_for_machines_are_one_object_a_line(path: Path, start: Start) -> None:
    server = start(path, "--log-format", "json")
    body = {"model": "bee", "prompt": "a secret of mine", "max_tokens": 1}
    assert server.post("/v1/completions", body)[0] == 200
    server.stop()
    entries = [json.loads(line) for line in server.words.lines]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    (request,) = [entry for entry in entries if entry["message"] == "request"]
    assert (request["model"], request["status"], request["output_tokens"]) == ("bee", 200, 1)
    assert "secret" not in server.words.text


def test_a_closed_terminal_stops_the_server(path: Path, tmp_path: Path) -> None:
    """SIGHUP without a terminal asks for the configuration; a hang-up of its own one does not."""
    arguments = ["serve", str(path), "--port", "0", "--state-dir", str(tmp_path / "state")]
    script = (
        "import os, pty, sys\n"
        "pid, terminal = pty.fork()\n"
        "if pid == 0:\n"
        "    os.execv(sys.executable, [sys.executable, '-m', 'repertory', *sys.argv[1:]])\n"
        "text = b''\n"
        "while b'serving ' not in text:\n"
        "    text += os.read(terminal, 4096)\n"
        "os.close(terminal)\n"
        "print(pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    pid, code = map(int, done.stdout.split())
    assert code == 0
    assert not is_alive(pid)
