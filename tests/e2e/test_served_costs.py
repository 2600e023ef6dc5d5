"""What the whole server makes of measured costs: it corrects what became wrong, carries it over to
models that nobody measured, and decides by it.
"""

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from reading import Reader
from serving import RunningServer, Start, starting, wait_for

from few import FEW
from repertory.cli import main
from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, typical_s
from repertory.domain.specs import WeightsForm
from repertory.engines.gguf.make import make_model
from repertory.live.profile_files import ProfileFile, read_file, write_file
from repertory.reports.log_files import decisions

Verdict = dict[str, Any]  # Any: of a decoded log line
POINTS = replace(FEW, lengths=(50, 300))
"""A law of prompts takes two lengths."""
ROOM_FOR_ONE = "330MiB"
PROMPT = range(5, 105)
ONE_CORE = """\
models:
  left: {{path: {models}/left.gguf}}
  tall: {{path: {models}/tall.gguf}}
devices:
  - {{id: cpu0, cores: [0], memory: 560MiB}}
"""
"""The prior is one for two cores."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of 50M and one of 300M."""
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "left.gguf", size="50m", seed=1, name="left")
    make_model(folder / "right.gguf", size="50m", seed=2, name="right")
    make_model(folder / "tall.gguf", size="300m", seed=3, name="tall")
    return folder


def measure(source: Path, state: Path, *names: str) -> None:
    """As a person does it, but for fewer points."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repertory.profiler.plan.points_for", lambda is_quick: POINTS)
        assert main(["profile", *names, "--source", str(source), "--state-dir", str(state)]) == 0


@pytest.fixture(scope="module")
def pair(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the two small ones."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("left", "right"):
        (folder / f"{name}.gguf").symlink_to(models / f"{name}.gguf")
    return folder


@pytest.fixture(scope="module")
def measured(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with their profiles."""
    state = tmp_path_factory.mktemp("measured")
    measure(pair, state)
    return state


def stretched(read: DeviceReadings, loads: float, steps: float) -> DeviceReadings:
    """As of a machine on which these take so many times what they take here."""

    def by(factor: float, seconds: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(factor * one for one in seconds)

    return replace(
        read,
        loads=tuple(replace(one, seconds=by(loads, one.seconds)) for one in read.loads),
        steps=tuple(replace(one, seconds=by(steps, one.seconds)) for one in read.steps),
    )


def claim(measured: Path, state: Path, *, loads: float = 1.0, steps: float = 1.0) -> None:
    """Profiles that are said to be of this machine, and are of one so many times slower."""
    for path in sorted((measured / "profiles").glob("*.json")):
        file = read_file(path)
        assert isinstance(file, ProfileFile), file
        devices = tuple(stretched(one, loads, steps) for one in file.readings.devices)
        readings = replace(file.readings, devices=devices)
        write_file(state / "profiles" / path.name, replace(file, readings=readings))


def promised_load_s(state: Path, name: str) -> float:
    """From main memory, by the profile."""
    (path,) = (state / "profiles").glob(f"{name}-*.json")
    file = read_file(path)
    assert isinstance(file, ProfileFile), file
    way = Rung.HOST, WeightsForm.PLAIN
    loads = [one for device in file.readings.devices for one in device.loads]
    return next(typical_s(one.seconds) for one in loads if (one.source, one.form) == way)


def verdicts(server: RunningServer, rule: str) -> list[Verdict]:
    log = decisions(server.log_files())
    return [one for entry in log for one in entry["verdicts"] if one["rule"] == rule]


def loads_of(server: RunningServer, model: str) -> list[tuple[Verdict, float]]:
    """The verdict of each load, and the seconds that it took."""
    events = [entry["event"] for entry in decisions(server.log_files())]
    ends = [one for one in events if one["kind"] == "TransitionDone"]
    took = {one["action_id"]: one["measured"]["took_ns"] / 1e9 for one in ends}
    said = [one for one in verdicts(server, "load") if one["subject"] == model]
    return [(one, took[one["action_ids"][0]]) for one in said]


def off(predicted_s: float, measured_s: float) -> float:
    """How many times too much, or too little."""
    return max(predicted_s, measured_s) / min(predicted_s, measured_s)


def ask(server: RunningServer, model: str, max_tokens: int = 24) -> Reader:
    reader = Reader(server, model, max_tokens, PROMPT).join()
    assert reader.error is None, reader.error
    return reader


def why(server: RunningServer, subject: str) -> str:
    return server.repertory("why", subject, "--state-dir", str(server.state_dir))


@pytest.mark.timeout(280)
def test_a_machine_slower_than_its_profile_is_noticed_and_then_predicted_as_it_is(
    pair: Path, measured: Path, start: Start, tmp_path: Path
) -> None:
    """Its profile says that loads and steps take an eighth of what they take."""
    claim(measured, tmp_path / "state", loads=0.125, steps=0.125)
    server = start(pair)
    for _ in range(4):
        ask(server, "left", max_tokens=64)
        server.wish("left", "unload")
        wait_for(lambda: "left" not in server.loaded())
    page = server.get("/metrics")[1].decode()
    told = why(server, "left")
    server.stop()

    drifts = [one["choice"] for one in verdicts(server, "drift")]
    assert [one for one in drifts if one.startswith("load takes ")], told
    assert [one for one in drifts if one.startswith("computing takes ")], told
    assert all(f"drift left -> {one}" in told for one in drifts)
    assert f'repertory_cost_drifts_total{{model="left"}} {len(drifts)}.0' in page
    loads = loads_of(server, "left")
    assert [one["basis"] for one, _ in loads] == ["profile", *["measured"] * 3]
    last, took_s = loads[-1]
    promised_s = promised_load_s(tmp_path / "state", "left")
    assert off(last["predicted_s"], took_s) < off(promised_s, took_s)
    for rule in ("prefill", "decode"):
        first, *_, last = verdicts(server, rule)
        assert (first["basis"], last["basis"]) == ("profile", "measured")
        now = off(last["predicted_s"], last["measured_s"])
        assert now < off(first["predicted_s"], first["measured_s"]), rule


@pytest.mark.timeout(280)
def test_a_model_that_nobody_measured_is_predicted_by_what_another_was(
    models: Path, tmp_path: Path
) -> None:
    """Its prompts; on one core, of which the prior knows nothing.  Steps of a small model have a
    fixed part that is carried over by the byte: they are not safely nearer.
    """
    config = tmp_path / "x.yaml"
    config.write_text(ONE_CORE.format(models=models))
    measure(config, tmp_path / "some", "left")
    found: dict[str, Verdict] = {}
    for name in ("some", "none"):
        with starting(tmp_path / name) as begin:
            server = begin(config, memory="800MiB")
            ask(server, "tall")
        found[name] = verdicts(server, "prefill")[0]
        assert found[name]["basis"] == "prior", "itself it was never measured"
    # Of both runs: what it takes has nothing to do with what was predicted.
    took_s = sqrt(found["some"]["measured_s"] * found["none"]["measured_s"])
    wrong = {name: off(one["predicted_s"], took_s) for name, one in found.items()}
    assert wrong["some"] < wrong["none"], found


@pytest.mark.timeout(280)
@pytest.mark.parametrize("loads", [1.0, 2000.0])
def test_what_loads_were_measured_to_take_decides_whether_running_work_is_stopped(
    pair: Path, measured: Path, start: Start, tmp_path: Path, loads: float
) -> None:
    """The same requests with two profiles: where loads are dear, the batch is let end."""
    claim(measured, tmp_path / "state", loads=loads)
    server = start(pair, memory=ROOM_FOR_ONE)
    Reader(server, "left", 1200, PROMPT, priority="batch").join()
    batch = Reader(server, "left", 1200, PROMPT, priority="batch")  # its length is known by now
    wait_for(lambda: batch.tokens > 50 or batch.error)
    ask(server, "right", max_tokens=4)
    was_stopped = batch.finish is None
    assert batch.join().finish == "length"
    told = why(server, "right")
    server.stop()
    assert was_stopped is (loads == 1.0), told
    (drain, *_) = verdicts(server, "drain")
    assert {one["name"] for one in drain["options"]} == {"preempt", "wait for their end"}
    assert drain["basis"] == "profile"
    assert ("1 generations of left/1 make way for right" in told) is was_stopped
    if not was_stopped:
        assert "* wait for their end" in told
