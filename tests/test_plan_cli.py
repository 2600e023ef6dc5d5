"""`repertory plan` as a person types it, with real simulations of small fleets."""

import json
from pathlib import Path

import pytest

from fleet_files import MODELS, in_folder, write_asked
from repertory.cli import main
from repertory.config.catalog import parse_catalog
from repertory.domain.errors import ConfigError

Output = pytest.CaptureFixture[str]

CATALOG = """
gpus:
  - {gpu: l4, price: 0.8, per_node: 1-4}
  - {gpu: h100_sxm, price: 3.0}
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    in_folder(tmp_path, monkeypatch)
    (tmp_path / "gpus.yaml").write_text(CATALOG)
    (tmp_path / "models.yaml").write_text(MODELS)
    write_asked(tmp_path / "asked.jsonl", requests=300)
    return tmp_path


def plan(*words: str) -> int:
    fixed = ["--catalog", "gpus.yaml", "--workload", "asked.jsonl", "--models", "models.yaml"]
    return main(["plan", *fixed, *words])


def test_a_small_plan_from_end_to_end(files: Path, capsys: Output) -> None:
    assert plan("--json", "--seeds", "2", "--max-devices", "4") == 0
    once = capsys.readouterr()
    found = json.loads(once.out)
    best = found["plan"]["best"]
    assert found["origin"] == "simulated"
    assert best["standing"] == "meets"
    assert best["choice"]["parts"][0][0] == "l4"
    assert all(share >= 0.99 for one in best["trials"] for share in one["met"])
    assert found["plan"]["holds_load"] >= 1.0
    assert "at most" in once.err
    assert "simulations" in once.err
    assert plan("--json", "--seeds", "2", "--max-devices", "4") == 0
    assert capsys.readouterr().out == once.out, "the same seed, the same bytes"


def test_a_policy_that_knows_its_workload_beforehand_can_plan(files: Path, capsys: Output) -> None:
    words = ("--json", "--policy", "static", "--seeds", "1", "--max-devices", "2")
    assert plan(*words) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "static"


def test_an_objective_that_nobody_reaches_says_how_near_and_what_limits(
    files: Path, capsys: Output
) -> None:
    assert plan("--slo", "tpot_p99<1us", "--seeds", "1", "--max-devices", "2") == 1
    shown = capsys.readouterr().out
    assert "no fleet that was tried meets it; nearest: " in shown
    assert "what limits it is compute" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slo", "fast"], "'fast' is no objective"),
        (["--policy", "repertry"], "did you mean 'repertory'?"),
        (["--catalog", "none.yaml"], "none.yaml: No such file"),
        (["--workload", "none.jsonl"], "none.jsonl: there is no such file"),
    ],
)
def test_whose_fault_it_is(files: Path, capsys: Output, words: list[str], said: str) -> None:
    assert plan(*words) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_never_fits_excludes_a_type_by_name(files: Path, capsys: Output) -> None:
    (files / "models.yaml").write_text("models: {a: {like: llama-3.1-70b}, b: {like: qwen3-4b}}")
    assert plan() == 2
    said = capsys.readouterr().err
    assert "no type of the catalogue can do alone" in said
    assert "l4: a cannot be served: it needs" in said


def test_an_empty_workload_and_one_for_others_are_named(files: Path, capsys: Output) -> None:
    row = {"at_s": 0, "model": "x", "prompt_tokens": 1, "output_tokens": 1}
    (files / "asked.jsonl").write_text(json.dumps(row) + "\n")
    assert plan() == 2
    assert "asks for 'x', which is none of the models: a, b" in capsys.readouterr().err
    (files / "asked.jsonl").write_text("")
    assert plan() != 0
    assert "asked" in capsys.readouterr().err


def test_requests_that_any_fleet_refuses_are_said_before_and_may_be_the_answer(
    files: Path, capsys: Output
) -> None:
    """Longer than their model's context."""
    rows = (files / "asked.jsonl").read_text().splitlines()
    long = json.loads(rows[-1]) | {"prompt_tokens": 5000}
    (files / "asked.jsonl").write_text("\n".join([*rows, json.dumps(long)]) + "\n")
    assert plan("--max-devices", "1") == 0
    said = capsys.readouterr().err
    assert "1 of 301 requests are longer than their model's context" in said
    (files / "asked.jsonl").write_text("\n".join([*rows, *[json.dumps(long)] * 9]) + "\n")
    assert plan("--max-devices", "1") == 2
    said = capsys.readouterr().err
    assert "9 of 309 requests are longer" in said
    assert "more than the 1.00% that may be; give the models more context" in said


def test_a_file_is_the_same_for_every_seed_and_played_once(files: Path, capsys: Output) -> None:
    assert plan("--json", "--seeds", "3", "--max-devices", "1") == 0
    shown = capsys.readouterr()
    assert "every seed plays the same requests of asked: one run of each fleet" in shown.err
    assert len(json.loads(shown.out)["plan"]["best"]["trials"]) == 1


def test_a_warm_up_too_short_for_first_reads_is_said(files: Path, capsys: Output) -> None:
    """8 and 16 GB at 5 GB/s take 4.9 s; of 120 s, 12 warm up, of 12 s, 1.2."""
    assert plan("--max-devices", "1") == 0
    assert "is shorter than" not in capsys.readouterr().err
    write_asked(files / "asked.jsonl", requests=30)
    plan("--max-devices", "1")
    said = capsys.readouterr().err
    assert "the warm-up of 1.16 s is shorter than one node takes to read every model" in said
    assert "(l4 4.88 s" in said


def test_a_node_larger_than_what_may_be_had_is_said(files: Path, capsys: Output) -> None:
    (files / "gpus.yaml").write_text("gpus: [{gpu: h100_sxm, price: 3, per_node: 8}]")
    assert plan("--max-devices", "4") == 2
    said = capsys.readouterr().err
    assert "h100_sxm: a node of it has more devices than the 4 that may be had" in said


def test_of_a_single_request_a_plan_can_be_made(files: Path, capsys: Output) -> None:
    row = {"at_s": 0, "model": "a", "prompt_tokens": 10, "output_tokens": 5}
    (files / "asked.jsonl").write_text(json.dumps(row) + "\n")
    assert plan("--slo", "ttft_p99<60s", "--max-devices", "1") == 0
    assert "cheapest: 1x l4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c.yaml:1: the file is empty; it needs at least 'gpus:'"),
        ("gpus: [{gpu: h101_sxm, price: 1}]", "c.yaml:1:14: 'gpus[0].gpu' is no GPU"),
        ("gpus: [{gpu: l4}]", "c.yaml:1:8: 'gpus[0]' needs 'price', such as 2.49"),
        ("gpus: [{gpu: l4, price: -1}]", "must be a number above 0"),
        ("gpus: [{gpu: l4, price: 1, per_node: 9-2}]", "must be like 8 or 1-8"),
        ("gpus: [{gpu: l4, price: 1}, {gpu: l4, price: 2}]", "is there twice: 'l4'"),
        ("gpus: [{gpu: l4, price: 1, pric: 2}]", "did you mean 'price'?"),
    ],
)
def test_a_wrong_catalogue_says_where(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse_catalog(text, "c.yaml")
    assert said in str(wrong.value)


def test_a_catalogue_makes_whole_nodes_and_knows_constants_of_ones_own() -> None:
    text = """
gpus:
  - {gpu: l4, price: 1, per_node: 4-8}
  - gpu: ours
    price: 2.5
    per_node: 2
    memory: 64GiB
    memory_rate: 1TB/s
    flops: 100T
    link: 16GB/s
"""
    small, ours = parse_catalog(text, "c.yaml")
    assert small.counts(20) == (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
    assert [len(one.node.devices) for one in small.machines(9)] == [5, 4]
    assert ours.counts(5) == (2, 4)
    assert (ours.gpu.memory_bytes, ours.gpu.flops_per_s) == (64 << 30, 100e12)
