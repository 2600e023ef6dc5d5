"""`repertory report`: files in, a page out, and what is said of files that are none."""

from pathlib import Path

import pytest

from repertory.cli import main
from tests.reports.paging import (
    Reader,
    a_small_log,
    a_small_run,
    header,
    record,
    write_log,
    write_run,
)


def report(*arguments: str | Path) -> int:
    return main(["report", *map(str, arguments)])


def test_a_page_of_a_run_and_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run.jsonl", header(), a_small_run())
    log = write_log(tmp_path / "log.jsonl", a_small_log())
    out = tmp_path / "report.html"
    assert report(run, "--log", log, "-o", out, "--slo", "ttft_p90<3s") == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{out}  ")
    assert not told.err
    text = Reader(out.read_text()).text
    assert "SLO: first tokens under 3 s (90 %)." in text
    assert "✓ SLO met" in text
    for title in ("What was where", "Demand and queue", "Decisions by reason", "Failures"):
        assert title in text


def test_folders_of_runs_and_of_a_server(tmp_path: Path) -> None:
    runs, state, out = tmp_path / "runs", tmp_path / "state", tmp_path / "page.html"
    runs.mkdir()
    state.mkdir()
    for seed in range(3):
        write_run(runs / f"{seed}.jsonl", header(seed=seed), a_small_run())
    steps = a_small_log()
    whole = write_log(state / "decisions.jsonl", steps).read_bytes().splitlines(keepends=True)
    rotated = whole[0].replace(b'"first_step":1', b'"first_step":6')
    (state / "decisions.1.jsonl").write_bytes(b"".join(whole[:6]))
    (state / "decisions.jsonl").write_bytes(rotated + b"".join(whole[6:]))
    for log in (state, state / "decisions.jsonl"):
        assert report(runs, "--log", log, "-o", out) == 0
        text = Reader(out.read_text()).text
        assert "6 requests in 3 runs of 1 system" in text
        assert "a: serving for 16.00 s" in text
        assert "Mind" not in text


def test_a_log_alone_makes_a_page(tmp_path: Path) -> None:
    log, out = write_log(tmp_path / "log.jsonl", a_small_log()), tmp_path / "page.html"
    assert report("--log", log, "-o", out) == 0
    assert "What was where" in Reader(out.read_text()).text


def test_what_readers_must_know_is_said_on_the_terminal_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run.jsonl", header(), [record(0, 1.0), record(1, 2.0)])
    run.write_bytes(run.read_bytes()[:-20])
    assert report(run, "-o", tmp_path / "page.html") == 0
    assert "run.jsonl was cut off in the middle of a line" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "of which runs?"),
        (("none.jsonl",), 1, "none.jsonl: cannot be read: No such file"),
        (("text.jsonl",), 1, "text.jsonl:1: this is no run file"),
        (("bad.jsonl",), 1, "bad.jsonl:3: this is no request's record"),
        (("empty",), 2, "no run file (*.jsonl) is in this folder"),
        (("run.jsonl", "--log", "run.jsonl"), 1, "this is no line of a decision log"),
        (("run.jsonl", "--log", "empty"), 2, "no decision log is in this folder"),
        (("run.jsonl", "--slo", "fast"), 2, "'fast' is no objective"),
        (("run.jsonl", "-o", "no/where.html"), 1, "no/where.html: cannot be written"),
    ],
)
def test_what_cannot_be_is_said_with_whose_fault(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jsonl").write_text("hello\n")
    run = write_run(tmp_path / "run.jsonl", header(), a_small_run())
    lines = run.read_bytes().splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_bytes(lines[0] + lines[1] + b'{"x": 1}\n' + lines[2])
    assert report(*arguments) == code
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_a_large_run_makes_a_small_page(tmp_path: Path) -> None:
    """Of 30,000 requests for 40 models; what is drawn does not grow with them."""
    records = (record(at, at / 50, 0.2 + at % 7, model=f"m{at % 40}") for at in range(30_000))
    run, out = write_run(tmp_path / "run.jsonl", header(), records), tmp_path / "page.html"
    assert report(run, "-o", out) == 0
    assert out.stat().st_size < 200_000
    assert "28 models with fewer requests are not drawn." in Reader(out.read_text()).text
