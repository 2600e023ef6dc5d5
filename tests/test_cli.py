"""Commands as a person types them: what they print, what they return, whose fault they name."""

import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from repertory import __version__
from repertory.cli import main
from repertory.core import journal
from repertory.domain.actions import Load
from repertory.domain.decisions import Decision, Verdict
from repertory.domain.errors import ConfigError, LoadFailed
from repertory.domain.events import Arrived, ModelAdded
from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, LoadReading, Readings
from repertory.domain.requests import Request
from repertory.domain.settings import Settings
from repertory.domain.specs import ModelSpec, Placement, WeightsForm
from repertory.engines.contract import ModelDescription
from repertory.engines.gguf.make import make_model
from repertory.live.facade import DeviceStatus, ModelStatus, ServiceStatus
from repertory.live.options import ServeConfig
from repertory.live.profile_files import (
    FORMAT,
    ProfileFile,
    identity_of,
    profiles_folder,
    write_file,
)

MIB = 2**20
Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REPERTORY_HOST", "REPERTORY_PORT", "REPERTORY_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.setenv("COLUMNS", "240")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["serve"], 2),
        (["explode"], 2),
        (["ps", "--url", "nonsense"], 2),
        (["ps", "--url", "http://127.0.0.1:1"], 3),
        (["why", "r1"], 4),
    ],
)
def test_exit_codes(arguments: list[str], code: int, capsys: Output) -> None:
    assert main(arguments) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert (shown.out if code == 0 else shown.err) != ""


def test_the_version(capsys: Output) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"repertory {__version__}\n"


# ps

CODER = ModelStatus(
    name="coder",
    aliases=(),
    status="loaded",
    rung="serving",
    device="cpu0",
    is_pinned=True,
    context_tokens=8192,
    running=3,
    waiting=1,
    kv_sequences=4,
    kv_cells=2048,
    predicted_bytes=700 * MIB,
    measured_bytes=690 * MIB,
    weights_bytes=600 * MIB,
    tokens_per_s=42.25,
)
WRITER = replace(
    CODER,
    name="writer",
    status="loading",
    rung="host",
    is_pinned=False,
    kv_sequences=0,
    measured_bytes=None,
    eta_s=3.5,
    fault="writer.gguf: damaged",
)
STATUS = ServiceStatus(
    is_ready=True,
    is_draining=False,
    faults=("the worker was lost once",),
    models=(CODER, WRITER),
    devices=(DeviceStatus("cpu0", "local", "cpu", 2048 * MIB, 700 * MIB, 900 * MIB),),
    waiting=1,
    running=3,
    overhead_bytes=150 * MIB,
    process_bytes=850 * MIB,
    memory_bytes=4096 * MIB,
    tokens_per_s=42.25,
    uptime_s=200.0,
)


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """A server that has one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/admin/ps" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_ps_shows_where_every_model_stands(capsys: Output) -> None:
    with answering(msgspec.json.encode(STATUS)) as url:
        assert main(["ps", "--url", url]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("MODEL STATUS RUNG DEVICE")
    assert lines[1] == "coder loaded serving cpu0 700 MiB 690 MiB 4x2048 3 1 pinned 42.2"
    assert lines[2].startswith("writer loading (3.50 s left) host cpu0")
    assert "local/cpu0 cpu 2.0 GiB 700 MiB 1.3 GiB 900 MiB" in lines
    text = "\n".join(lines)
    assert "3 running, 1 waiting, 42.2 tokens/s, up 3 min 20 s" in text
    assert "memory: processes 850 MiB of 4.0 GiB (overhead 150 MiB)" in text
    assert "fault: the worker was lost once" in text
    assert "fault: writer: writer.gguf: damaged" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"is_ready": False}, "not ready"), ({"is_draining": True}, "draining")],
)
def test_ps_says_when_nothing_is_taken(changes: dict[str, Any], words: str, capsys: Output) -> None:
    with answering(msgspec.json.encode(replace(STATUS, **changes))) as url:
        assert main(["ps", "--url", url]) == 0
    assert words in capsys.readouterr().out


def test_ps_for_machines(capsys: Output) -> None:
    with answering(msgspec.json.encode(STATUS)) as url:
        assert main(["ps", "--url", url, "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=ServiceStatus) == STATUS


def test_ps_finds_the_server_of_the_same_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    with answering(msgspec.json.encode(STATUS)) as url:
        monkeypatch.setenv("REPERTORY_HOST", "0.0.0.0")
        monkeypatch.setenv("REPERTORY_PORT", url.rpartition(":")[2])
        assert main(["ps"]) == 0


def test_ps_of_somebody_elses_server(capsys: Output) -> None:
    with answering(b"{}", 404) as url:
        assert main(["ps", "--url", url]) == 1
    assert "is it a Repertory server?" in capsys.readouterr().err
    with answering(b'{"models": 3}') as url:
        assert main(["ps", "--url", url]) == 1
    assert "not like this version" in capsys.readouterr().err


# why


def write_log(folder: Path) -> None:
    spec = ModelSpec("coder", "d", "coder.gguf", 1, 1, 1, 4096, 1)
    load = Load(1, "coder#1", "coder", "local", Placement(("cpu0",)), Rung.DISK)
    verdict = Verdict("load", "coder", "load coder#1", "1 wait", (), (1,), 1.0)
    decisions = [
        Decision(0, ModelAdded(0, spec), (), ()),
        Decision(1, Arrived(10**9, Request("r1", "coder", 3, 4)), (load,), (verdict,)),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    header = journal.encode_header(journal.Header("0", Settings(), 1))
    lines = [header, *map(journal.encode, decisions), b'{"cut o']
    (folder / "decisions.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize("subject", ["coder", "r1", "chatcmpl-r1"])
def test_why_tells_the_story(subject: str, tmp_path: Path, capsys: Output) -> None:
    write_log(tmp_path)
    assert main(["why", subject, "--state-dir", str(tmp_path)]) == 0
    assert "load coder -> load coder#1" in capsys.readouterr().out


def test_why_for_machines(tmp_path: Path, capsys: Output) -> None:
    write_log(tmp_path / "state-home" / "repertory")
    assert main(["why", "r1", "--json"]) == 0
    story = json.loads(capsys.readouterr().out)
    assert (story["kind"], story["model"]) == ("request", "coder")


def test_why_knows_near_names(tmp_path: Path, capsys: Output) -> None:
    write_log(tmp_path)
    assert main(["why", "codr", "--state-dir", str(tmp_path)]) == 4
    assert "near names: coder" in capsys.readouterr().err
    assert main(["why", "r1", "--state-dir", str(tmp_path / "empty")]) == 4
    assert "no decision log" in capsys.readouterr().err


def test_why_tells_the_latest_run_that_knows_the_subject(tmp_path: Path, capsys: Output) -> None:
    """Action ids and clocks begin anew with each run of the server; its files do too."""
    write_log(tmp_path)
    first = tmp_path / "decisions.jsonl"
    older = first.read_bytes()
    first.rename(tmp_path / "decisions.1.jsonl")
    first.write_bytes(older)
    assert main(["why", "coder", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("load coder -> load coder#1") == 1
    first.write_bytes(older.splitlines(keepends=True)[0])
    assert main(["why", "coder", "--state-dir", str(tmp_path)]) == 0
    assert "load coder -> load coder#1" in capsys.readouterr().out


# models and serve: engines and the live server are stood in for


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def discovering(*names: str) -> Callable[[Path], Any]:
    description = ModelDescription("d", "llama", 50 * MIB, 0, 8, 4096, 8192, 32000, MIB, True)
    models = tuple(
        SimpleNamespace(name=name, location=f"/m/{name}.gguf", description=description)
        for name in names
    )
    excluded = (SimpleNamespace(location="/m/mmproj.gguf", reason="is a projector"),)
    return lambda _: SimpleNamespace(models=models, excluded=excluded)


FILES = "repertory.engines.gguf.files"


def test_models_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output) -> None:
    stand_in(monkeypatch, FILES, discover=discovering("coder", "writer"))
    assert main(["models", "list", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["MODEL", "coder", "writer"]
    assert "50.0 MiB" in shown.out
    assert "not a model: /m/mmproj.gguf: is a projector" in shown.err
    stand_in(monkeypatch, FILES, discover=discovering())
    assert main(["models", "list", str(tmp_path)]) == 4


def test_models_make(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output) -> None:
    made: list[tuple[Path, dict[str, Any]]] = []

    def make_model(path: Path, *, progress: Callable[[int, int], None], **recipe: Any) -> int:
        progress(1, 2)
        made.append((path, recipe))
        return 50 * MIB

    stand_in(monkeypatch, "repertory.engines.gguf.make", make_model=make_model)
    wishes = ["--arch", "qwen3", "--size", "300m", "--type", "q4_0", "--seed", "7"]
    assert main(["models", "make", *wishes, "-o", str(tmp_path)]) == 0
    path = tmp_path / "qwen3-300m-q4_0-7.gguf"
    recipe = {"arch": "qwen3", "size": "300m", "weights": "q4_0", "seed": 7, "name": path.stem}
    assert made == [(path, recipe)]
    assert str(path) in capsys.readouterr().out
    assert main(["models", "make", "--out", str(tmp_path / "no" / "x.gguf")]) == 2
    assert main(["models", "make", "--arch", "mamba"]) == 2


def test_made_models_are_found(tmp_path: Path, capsys: Output) -> None:
    assert main(["models", "make", "--size", "tiny", "-o", str(tmp_path)]) == 0
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    capsys.readouterr()
    assert main(["models", "list", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in found["models"]] == ["llama-tiny-q8_0-0"]
    assert "junk.gguf" in found["excluded"][0]["location"]


def serving(monkeypatch: pytest.MonkeyPatch) -> list[ServeConfig]:
    served: list[ServeConfig] = []

    def run_server(
        config: ServeConfig,
        open_endpoint: Callable[..., Any],
        say: Callable[[str], None],
        source: object,
    ) -> int:
        served.append(config)
        endpoint = open_endpoint(SimpleNamespace(status=None, subscribe=lambda _: None))
        say(f"listening on {endpoint.port}")
        return 0

    importlib.import_module("repertory.live.catalogue")  # it needs more of that module than we give
    stand_in(monkeypatch, "repertory.live.compose", run_server=run_server)
    stand_in(monkeypatch, FILES, discover=discovering("coder"))
    return served


def test_serve_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output) -> None:
    served = serving(monkeypatch)
    flags = ["--port", "0", "--memory", "3GiB", "--exact", "--state-dir", str(tmp_path)]
    assert main(["serve", str(tmp_path), *flags]) == 0
    (config,) = served
    assert [model.name for model in config.models] == ["coder"]
    assert (config.port, config.memory_bytes, config.is_exact) == (0, 3 * 2**30, True)
    assert config.state_dir == tmp_path
    shown = capsys.readouterr().err
    assert "memory: 3.0 GiB (given)" in shown
    assert "not served: /m/mmproj.gguf: is a projector" in shown


def test_serve_refuses_bad_wishes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    served = serving(monkeypatch)
    (tmp_path / "x.yaml").write_text("models: {coder: {path: x.yaml, pinn: true}}")
    assert main(["serve", str(tmp_path / "x.yaml")]) == 2
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'x.yaml'}:1:32: 'models.coder.pinn' is not known here" in shown
    assert main(["serve", str(tmp_path), "--memory", "8"]) == 2
    assert "write it like 8GiB" in capsys.readouterr().err
    assert served == []


# config


def test_the_schema_is_printed(capsys: Output) -> None:
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["models"]


def checked(folder: Path, text: str, capsys: Output, *flags: str) -> tuple[int, str]:
    (folder / "x.yaml").write_text(text)
    code = main(["config", "check", str(folder / "x.yaml"), *flags])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder / "ant.gguf", size="tiny")
    (folder / "bad.gguf").write_bytes(b"junk")
    return folder


ANT = "models: {ant: {path: ant.gguf, pin: true}}\n"


def test_a_configuration_that_is_fine(tiny: Path, capsys: Output) -> None:
    code, shown = checked(tiny, ANT, capsys)
    assert code == 0
    assert f"{tiny / 'x.yaml'}: fine: ant; memory" in shown


def test_all_that_serve_would_refuse_is_said(tiny: Path, capsys: Output) -> None:
    code, shown = checked(tiny, ANT.replace("pin", "pinn") + "port: many\n", capsys)
    assert code == 2
    assert "x.yaml:1:32: 'models.ant.pinn' is not known here; did you mean 'pin'?" in shown
    assert "x.yaml:2:7: 'port' must be a whole number" in shown
    code, shown = checked(tiny, ANT.replace("pin: true", "context: 5000"), capsys)
    assert (code, "more than the 4096 tokens" in shown) == (2, True)
    code, shown = checked(tiny, ANT, capsys, "--memory", "171MiB")
    assert (code, "x.yaml:1:37: the pinned models cannot be" in shown) == (2, True)


def test_what_serve_would_warn_of_is_said(tiny: Path, capsys: Output) -> None:
    text = "models: {ant: {path: ant.gguf}, bad: {path: bad.gguf}}"
    code, shown = checked(tiny, text, capsys, "--memory", "171MiB")
    assert code == 0
    assert "warning: bad will not be served: bad.gguf: is no GGUF file" in shown
    assert "warning: ant: cannot be served: it needs " in shown


def test_only_a_yaml_is_checked(tiny: Path, capsys: Output) -> None:
    assert main(["config", "check", str(tiny)]) == 2
    assert "not a .yaml file" in capsys.readouterr().err


def test_a_refusal_is_an_object_too_where_logs_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    serving(monkeypatch)
    assert main(["serve", str(tmp_path / "nobody"), "--log-format", "json"]) == 2
    entry = json.loads(capsys.readouterr().err)
    assert entry["level"] == "error"
    assert "no such file or folder" in entry["message"]


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("port taken"), 2), (LoadFailed("no device"), 1)]
)
def test_our_errors_are_sentences(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: Output,
) -> None:
    def run_server(*_: object) -> int:
        raise error

    serving(monkeypatch)
    stand_in(monkeypatch, "repertory.live.compose", run_server=run_server)
    assert main(["serve", str(tmp_path), "--port", "0"]) == code
    assert capsys.readouterr().err.endswith(f"repertory: {error}\n")


# profile


def test_profile_names_what_there_is(tmp_path: Path, capsys: Output) -> None:
    make_model(tmp_path / "coder.gguf", size="tiny")
    assert main(["profile", "writer", "--source", str(tmp_path)]) == 4
    assert "there is no model 'writer'; there are coder" in capsys.readouterr().err


def test_profile_of_an_empty_folder(tmp_path: Path, capsys: Output) -> None:
    assert main(["profile", "--source", str(tmp_path)]) == 2
    assert "no GGUF model in here" in capsys.readouterr().err


def test_profile_shows_what_was_measured_and_names_what_is_not_used(
    tmp_path: Path, capsys: Output
) -> None:
    command = ["profile", "--show", "--state-dir", str(tmp_path)]
    assert main(command) == 4
    assert "measure one: repertory profile MODEL" in capsys.readouterr().err
    here = identity_of("digest", is_exact=False)
    load = LoadReading(WeightsForm.PLAIN, Rung.HOST, None, 1.0, MIB, (0.25, 0.5, 0.75))
    device = DeviceReadings("cpu0", "cpu", 2, loads=(load,))
    readings = Readings("coder", here, 2, MIB, 0, 0, 100, (device,), ("a note",))
    folder = profiles_folder(tmp_path)
    write_file(folder / "coder.json", ProfileFile(FORMAT, (), readings))
    stale = replace(readings, identity=replace(here, engine_build="old"))
    write_file(folder / "stale.json", ProfileFile(FORMAT, (), stale))
    (folder / "broken.json").write_text("{")
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "coder" in shown.out
    assert "500.0 ms" in shown.out
    assert "coder: a note" in shown.err
    assert "not used: broken.json: is no profile" in shown.err
    assert "not used: stale.json: made by another engine build: old, here " in shown.err
    assert main([*command, "writer"]) == 4
    capsys.readouterr()
    assert main([*command, "--plots", str(folder / "coder.json" / "plots")]) == 1
    assert "coder.json/plots: cannot be written: Not a directory" in capsys.readouterr().err
    assert main([*command, "coder", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["devices"][0]["loads"][0]["seconds"] == [0.25, 0.5, 0.75]


def test_profile_names_what_was_measured_of_another_version_of_a_file(
    tmp_path: Path, capsys: Output
) -> None:
    make_model(tmp_path / "coder.gguf", size="tiny")
    here = identity_of("fedcba9876543210", is_exact=False)
    load = LoadReading(WeightsForm.PLAIN, Rung.HOST, None, 1.0, MIB, (0.25, 0.5, 0.75))
    device = DeviceReadings("cpu0", "cpu", 2, loads=(load,))
    old = Readings("coder", here, 2, MIB, 0, 0, 100, (device,))
    state = tmp_path / "state"
    write_file(profiles_folder(state) / "coder-old.json", ProfileFile(FORMAT, (), old))
    place = ["--source", str(tmp_path), "--state-dir", str(state)]
    assert main(["profile", "--memory", "100MiB", *place]) == 2, "it is named before all else"
    told = "coder-old.json: made of another version of coder (file fedcba987654, here "
    assert f"stale, not used: {told}" in capsys.readouterr().err
    assert main(["profile", "--show", *place]) == 4
    assert f"not used: {told}" in capsys.readouterr().err
    assert main(["profile", "--show", "--state-dir", str(state)]) == 0, "no file to compare with"
    another = replace(old, identity=replace(here, digest="0123456789abcdef"))
    write_file(profiles_folder(state) / "coder.json", ProfileFile(FORMAT, (), another))
    assert main(["profile", "--show", "--state-dir", str(state)]) == 0
    assert "coder: several versions of its file were measured; --source tells" in (
        capsys.readouterr().err
    )


def test_profile_refuses_too_little_memory_with_the_arithmetic(
    tmp_path: Path, capsys: Output
) -> None:
    make_model(tmp_path / "coder.gguf", size="tiny")
    command = ["profile", "--source", str(tmp_path), "--state-dir", str(tmp_path / "state")]
    assert main([*command, "--memory", "100MiB"]) == 2
    shown = capsys.readouterr().err
    assert "cannot be measured in this memory:\n  coder: " in shown
    assert "give more --memory" in shown
