import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from repertory.cli import main
from repertory.domain.workloads import Arrival
from repertory.traces import recipes
from repertory.traces.files import read_workload
from repertory.traces.recipes import Recipe, RecipeModel
from repertory.traces.streams import Days


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REPERTORY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["w.jsonl", "w.jsonl.gz", "w.parquet"])
def test_make_writes_a_file_that_describe_and_plot_read(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", "make", "week", "-o", name, "--requests", "2000", "--seed", "3"]) == 0
    assert "2,000 requests" in capsys.readouterr().out
    assert main(["trace", "describe", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["requests"] == 2000
    assert found["is_part"] is False
    assert main(["trace", "describe", name]) == 0
    told = capsys.readouterr().out
    assert "2,000 requests" in told
    assert "steady-route" in told
    assert main(["trace", "plot", name, "-o", "w.png"]) == 0
    assert Path("w.png").read_bytes().startswith(b"\x89PNG")


def test_the_default_needs_no_data_and_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "make", "--requests", "10", "--days", "2"]) == 0
    assert capsys.readouterr().out.startswith("week.jsonl  10 requests")
    assert len(list(read_workload(Path("week.jsonl")))) == 10


def test_many_models_are_cut_on_the_screen_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "describe", "tail-100", "--rate", "1", "--days", "0-0"]) == 0
    assert "more models; --json has all of them" in capsys.readouterr().out
    assert main(["trace", "plot", "tail-100", "--requests", "5000"]) == 0
    assert Path("tail-100.png").exists()


def test_the_environment_names_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPERTORY_DATA", "nowhere")
    assert main(["trace", "make", "az23"]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["make", "weak"], 2, "there is no recipe 'weak'"),
        (["make", "sg-20"], 2, "--data DIR or REPERTORY_DATA"),
        (["make", "week", "-o", "w.txt"], 2, "name it .jsonl"),
        (["make", "week", "--days", "monday"], 2, "write two days like 7-13"),
        (["make", "week", "--requests", "5", "-o", "no/w.jsonl"], 1, "cannot be written"),
        (["describe", "none.jsonl"], 2, "cannot be read: No such file"),
        (["describe", "none.txt"], 2, "a workload is a .jsonl"),
        (["describe", "none.jsonl", "--days", "1"], 2, "are for recipes"),
        (["plot", "week", "--requests", "5", "-o", "no/w.png"], 1, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", *arguments]) == code
    assert words in capsys.readouterr().err


class _Pressed:
    """A stream in the middle of which Ctrl-C is pressed."""

    name = "pressed"

    def arrivals(self, seed: int, days: Days, share: float) -> Iterator[Arrival]:
        for at in range(1_000_000):
            if at == 100:
                os.kill(os.getpid(), signal.SIGINT)
            yield Arrival(float(at), "a", 10, 5)


def _pressed(data: Path | None) -> Recipe:
    streams: Any = [_Pressed()]
    models = (RecipeModel("a", "7B"),)
    return Recipe("pressed", "", models, (0, 0), lambda days: 1.0, lambda: streams)


def test_ctrl_c_leaves_a_file_that_says_that_it_is_a_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "pressed", _pressed)
    assert main(["trace", "make", "pressed", "-o", "part.jsonl"]) == 1
    assert "the end of part.jsonl says that it is a part" in capsys.readouterr().err
    last = Path("part.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["partial"].startswith("interrupted after 1")
    assert main(["trace", "describe", "part.jsonl"]) == 0
    captured = capsys.readouterr()
    assert "(a part)" in captured.out
    assert "this is a part only" in captured.err


def test_ctrl_c_gives_a_description_that_says_that_it_is_a_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "pressed", _pressed)
    before = signal.getsignal(signal.SIGINT)
    assert main(["trace", "describe", "pressed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_part"] is True
    assert found["total"]["requests"] < 1000
    assert signal.getsignal(signal.SIGINT) is before


def test_a_workload_shorter_than_a_minute_has_no_busiest_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = '{"at_s":%s,"model":"m","prompt_tokens":1,"output_tokens":1}\n'
    Path("w.jsonl").write_text("".join(row % (at / 100) for at in range(1000)))
    assert main(["trace", "describe", "w.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[3:5] == ["100", "-"]


def test_a_file_whose_name_has_no_ending_is_not_taken_for_a_recipe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("mine").write_text("{}")
    assert main(["trace", "describe", "mine"]) == 2
    assert "mine is there, but a file's name ends in .jsonl" in capsys.readouterr().err
