from pathlib import Path

import pytest

from repertory.domain.workloads import Ending, Origin, RequestRecord, RunHeader
from repertory.traces.runs import RunFileError, RunWriter, read_run

_HEADER = RunHeader("repertory", Origin.MEASURED, "az23", seed=3, began="2026-11-27T10:00:00Z")
_DONE = RequestRecord(
    "r-1", "a", 0.5, 10, 5, Ending.DONE, sent_s=0.51, first_token_s=1.0, finished_s=3.0
)
_LOST = RequestRecord("r-2", "b", 0.75, 10, 0, Ending.LOST, message="no end in 60 s")


def _written(path: Path) -> Path:
    with path.open("wb") as file:
        writer = RunWriter(file, _HEADER)
        writer.add(_DONE)
        writer.add(_LOST)
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = read_run(_written(tmp_path / "run.jsonl"))
    assert run.header == _HEADER
    assert run.records == (_DONE, _LOST)
    assert not run.is_cut


def test_waiting_is_counted_from_when_the_request_was_due() -> None:
    assert _DONE.ttft_s == pytest.approx(0.5)
    assert _DONE.latency_s == pytest.approx(2.5)
    assert _DONE.tpot_s == pytest.approx(0.5)
    assert _LOST.ttft_s is None
    assert _LOST.latency_s is None
    assert _LOST.tpot_s is None


def test_a_run_that_was_broken_off_is_whole_up_to_there(tmp_path: Path) -> None:
    path = _written(tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    run = read_run(path)
    assert run.records == (_DONE,)
    assert run.is_cut


def test_a_line_in_the_middle_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = _written(tmp_path / "run.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"request_id": 3}\n' + lines[2])
    with pytest.raises(RunFileError, match=r"run\.jsonl:2: this is no request's record"):
        read_run(path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"header": {}}\n'])
def test_a_file_that_is_no_run_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(RunFileError, match=r"other\.jsonl:1: this is no run file"):
        read_run(path)


def test_a_format_of_another_time_is_named(tmp_path: Path) -> None:
    path = _written(tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes().replace(b"repertory run 1", b"repertory run 9"))
    with pytest.raises(RunFileError, match="the format is 'repertory run 9'"):
        read_run(path)
