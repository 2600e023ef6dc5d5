"""`repertory simulate` as a person types it."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fleet_files import MODELS, in_folder, write_asked
from repertory.cli import main
from repertory.core.journal import read_lines
from repertory.domain.workloads import Ending, Origin
from repertory.sim import many
from repertory.sim.many import Done, Job, run_job, run_many
from repertory.traces.runs import read_run

Output = pytest.CaptureFixture[str]

FLEET = "nodes: [{id: box, devices: [{gpu: l4, count: 2}]}]\n" + MODELS


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    in_folder(tmp_path, monkeypatch)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    write_asked(tmp_path / "asked.jsonl", requests=60)
    return tmp_path


def simulate(*words: str) -> int:
    return main(["simulate", "--fleet", "fleet.yaml", "--workload", "asked.jsonl", *words])


def test_policies_and_seeds_each_write_a_run(files: Path, capsys: Output) -> None:
    assert simulate("--policy", "repertory,repertory:latency", "--seeds", "2") == 0
    shown = capsys.readouterr().out
    assert "simulated times; SLO ttft_p99<2s,tpot_p99<100ms" in shown
    paths = sorted(path.name for path in (files / "runs").iterdir())
    assert paths == [
        "asked-repertory-0.jsonl",
        "asked-repertory-1.jsonl",
        "asked-repertory-latency-0.jsonl",
        "asked-repertory-latency-1.jsonl",
    ]
    run = read_run(files / "runs" / paths[0])
    assert run.header.origin is Origin.SIMULATED
    assert (run.header.system, run.header.seed, run.header.devices) == ("repertory", 0, 2)
    assert run.header.note == ""
    assert {one.ending for one in run.records} == {Ending.DONE}
    assert len(run.records) == 60


def test_the_rules_of_other_systems_play_the_same_workload(files: Path, capsys: Output) -> None:
    names = "lru-count,ollama,static,reactive,sharing,token-level,oracle"
    assert simulate("--json", "--policy", names) == 0
    done = json.loads(capsys.readouterr().out)
    assert [one["policy"] for one in done] == names.split(",")
    assert {one["summary"]["total"]["requests"] for one in done} == {60}
    assert {one["origin"] for one in done} == {"simulated"}
    assert {one["summary"]["total"]["done"] for one in done} == {60}


def test_the_log_is_the_servers_and_its_hash_is_the_same_without_it(
    files: Path, capsys: Output
) -> None:
    assert simulate("--json", "--log", "log.jsonl") == 0
    with_log = json.loads(capsys.readouterr().out)
    first = (files / "runs" / "asked-repertory-0.jsonl").read_bytes()
    assert simulate("--json") == 0
    without = json.loads(capsys.readouterr().out)
    assert with_log[0]["digest"] == without[0]["digest"]
    assert first == (files / "runs" / "asked-repertory-0.jsonl").read_bytes()
    with (files / "log.jsonl").open("rb") as lines:
        steps = [entry["step"] for entry in read_lines(lines)]
    assert steps == list(range(1, with_log[0]["decisions"] + 1))


def test_a_log_begins_with_the_settings_of_its_policy(files: Path, capsys: Output) -> None:
    assert simulate("--json", "--policy", "repertory:latency", "--log", "log.jsonl") == 0
    first = json.loads((files / "log.jsonl").read_bytes().splitlines()[0])
    assert first["header"]["settings"]["favour"] == "latency"


def test_a_recipe_brings_its_models_and_needs_no_data(files: Path, capsys: Output) -> None:
    fleet = files / "sixteen.yaml"
    fleet.write_text("nodes: [{id: box, count: 2, devices: [{gpu: h100_sxm, count: 8}]}]")
    words = ["simulate", "--fleet", str(fleet), "--workload", "week", "--requests", "50"]
    assert main([*words, "--json"]) == 0
    (done,) = json.loads(capsys.readouterr().out)
    assert done["played"]["requests"] == 50


def test_ctrl_c_leaves_a_part_that_says_so(
    files: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first sign of life."""
    jobs: list[Job] = []

    def pressed(
        given: list[Job], most: int, progress: object, is_stopped: Callable[[], bool]
    ) -> list[Done]:
        jobs.extend(given)

        def press(name: str, at_s: float, requests: int) -> None:
            if not is_stopped():
                signal.raise_signal(signal.SIGINT)

        return run_many(given, most, press, is_stopped)

    monkeypatch.setattr(many, "run_many", pressed)
    fleet = files / "sixteen.yaml"
    fleet.write_text("nodes: [{id: box, count: 2, devices: [{gpu: h100_sxm, count: 8}]}]")
    words = ["simulate", "--fleet", str(fleet), "--workload", "week", "--requests", "200000"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "interrupted: runs/week-repertory-0.jsonl ends after" in said
    run = read_run(files / "runs" / "week-repertory-0.jsonl")
    assert run.header.note == f"interrupted after {len(run.records)} requests"
    assert len(run.records) < 200_000
    assert msgspec.json.encode(jobs[0].slo)


def test_a_run_is_the_same_in_a_process_of_its_own(
    files: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "run_many", lambda jobs, *_: [run_job(jobs[0])])
    assert simulate("--json", "-o", "here") == 0
    monkeypatch.undo()
    monkeypatch.chdir(files)
    assert simulate("--json", "-o", "there") == 0
    here, there = (files / name / "asked-repertory-0.jsonl" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--policy", "repertry"], 2, "no policy is called 'repertry'; did you mean 'repertory'?"),
        (["--slo", "fast"], 2, "'fast' is no objective"),
        (["--rate", "2"], 2, "--rate and --days choose of a recipe; a file is played as it is"),
        (["--seeds", "2", "--log", "x"], 2, "choose one policy and one seed"),
        (["--models", "none.yaml"], 2, "none.yaml: No such file or directory"),
        (["--workload", "none.jsonl"], 2, "none.jsonl: there is no such file"),
        (["--workload", "sg-21"], 2, "there is no recipe 'sg-21'"),
        (["--workload", "week", "--days", "x"], 2, "--days 'x' is no range; write it like 7-13"),
        (["--profiles", "."], 2, "no profile there is of a model of the fleet"),
        (["--gpu", "h100", "--tp", "2"], 2, "--gpu, --tp: of one engine alone, with --engine vllm"),
        (["-o", "/dev/null/runs"], 1, "/dev/null/runs"),
    ],
)
def test_whose_fault_it_is(
    files: Path, capsys: Output, words: list[str], code: int, said: str
) -> None:
    assert simulate(*words) == code
    assert said in capsys.readouterr().err


def test_what_can_never_fit_is_said_before_anything_runs(files: Path, capsys: Output) -> None:
    (files / "models.yaml").write_text("models: {huge: {like: llama-3.1-70b}}")
    assert simulate("--models", "models.yaml") == 2
    said = capsys.readouterr().err
    assert "on fleet fleet (2x l4), huge cannot be served: it needs" in said
    assert not (files / "runs").exists()
    (files / "models.yaml").write_text("models: {wide: {like: llama-3.1-70b, devices: 4}}")
    assert simulate("--models", "models.yaml") == 2
    said = capsys.readouterr().err
    assert "wide (split over 4) cannot be served: no machine has so many devices" in said
    assert "at most 2" in said


def test_a_model_that_nobody_serves_is_named_with_its_row(files: Path, capsys: Output) -> None:
    """And no run file is left that would look like a run; the one of before stays."""
    (files / "runs").mkdir()
    (files / "runs/asked-static-0.jsonl").write_text("of before")
    (files / "models.yaml").write_text("models: {a: {like: qwen3-4b}}")
    words = ("--models", "models.yaml", "--policy", "repertory,ollama,static", "--seeds", "2")
    assert simulate(*words) == 1
    assert "request 2 of the workload, at 0.4 s, is for 'b'" in capsys.readouterr().err
    assert [path.name for path in (files / "runs").iterdir()] == ["asked-static-0.jsonl"]
    assert (files / "runs/asked-static-0.jsonl").read_text() == "of before"


def test_a_log_without_its_run_is_not_left(files: Path, capsys: Output) -> None:
    (files / "models.yaml").write_text("models: {a: {like: qwen3-4b}}")
    assert simulate("--models", "models.yaml", "--log", "log.jsonl") == 1
    assert not (files / "log.jsonl").exists()
    assert list((files / "runs").iterdir()) == []


def test_a_log_may_go_to_a_device(files: Path, capsys: Output) -> None:
    assert simulate("--log", "/dev/null", "--requests", "5") == 0
    assert Path("/dev/null").is_char_device()
