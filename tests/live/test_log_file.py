"""The decision log on disk: bounded, readable whatever happens to the disk, never in the way."""

import json
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from repertory.cli import main
from repertory.core.journal import encode, first_step, read_lines
from repertory.domain.decisions import Decision
from repertory.domain.events import ModelAdded, SettingsChanged
from repertory.domain.settings import Favour, Settings
from repertory.live import log_file
from repertory.live.log_file import MOST_FILES, LogFile
from worlds import model


def decision(step: int) -> Decision:
    return Decision(step, ModelAdded(step, model(f"m{step:06d}")), (), ())


def files(folder: Path) -> list[Path]:
    """The newest first."""
    older = [folder / f"decisions.{number}.jsonl" for number in range(1, MOST_FILES + 2)]
    return [path for path in (folder / "decisions.jsonl", *older) if path.exists()]


def steps(path: Path) -> list[int]:
    return [entry["step"] for entry in read_lines(path.read_bytes().splitlines(keepends=True))]


def headers(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["header"] for line in lines if "header" in line]


def write(folder: Path, decisions: list[Decision], rotate_bytes: int = 1 << 20) -> LogFile:
    log = LogFile(folder, Settings(), rotate_bytes=rotate_bytes)
    for one in decisions:
        log.record(one)
    log.close()
    return log


def test_it_rotates_while_it_is_written_and_loses_no_step(tmp_path: Path) -> None:
    write(tmp_path, [decision(step) for step in range(1, 61)], rotate_bytes=8192)
    found = files(tmp_path)
    assert len(found) > 1
    assert [step for path in reversed(found) for step in steps(path)] == [*range(1, 61)]


def test_a_burst_is_written_together_and_closing_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_GATHER_S", 1e6)
    puts: list[int] = []
    put = LogFile._put

    def counted(self: LogFile, text: bytearray, begin: int) -> None:
        puts.append(len(text))
        put(self, text, begin)

    monkeypatch.setattr(LogFile, "_put", counted)
    write(tmp_path, [decision(step) for step in range(1, 61)])
    assert steps(tmp_path / "decisions.jsonl") == [*range(1, 61)]
    assert len(puts) == 1


def test_all_files_together_are_bounded(tmp_path: Path) -> None:
    limit, longest = 4096, len(encode(decision(1))) + 1000
    write(tmp_path, [decision(step) for step in range(1, 1001)], rotate_bytes=limit)
    found = files(tmp_path)
    assert len(found) == MOST_FILES
    assert all(path.stat().st_size <= limit + longest for path in found)
    assert steps(found[0])[-1] == 1000


def test_every_file_begins_with_a_header_of_its_own_first_step(tmp_path: Path) -> None:
    write(tmp_path, [decision(step) for step in range(1, 61)], rotate_bytes=8192)
    for path in files(tmp_path):
        with path.open("rb") as lines:
            assert first_step(lines.readline()) == steps(path)[0]


def test_the_settings_of_a_later_file_are_those_in_force_then(tmp_path: Path) -> None:
    changed = SettingsChanged(20, Settings(favour=Favour.LATENCY))
    decisions = [decision(step) for step in range(1, 41)]
    decisions[19] = Decision(20, changed, (), ())
    write(tmp_path, decisions, rotate_bytes=4096)
    for path in files(tmp_path):
        (header,) = headers(path)
        expected = "balanced" if header["first_step"] <= 20 else "latency"
        assert header["settings"]["favour"] == expected


def test_a_start_begins_a_new_file(tmp_path: Path) -> None:
    write(tmp_path, [decision(1)])
    write(tmp_path, [decision(1), decision(2)])
    assert [steps(path) for path in files(tmp_path)] == [[1, 2], [1]]


def test_why_reads_a_run_over_all_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [decision(step) for step in range(1, 61)], rotate_bytes=8192)
    for name in ("m000001", "m000060"):
        assert main(["why", name, "--state-dir", str(tmp_path)]) == 0
        assert f"model {name}" in capsys.readouterr().out


@contextmanager
def full_disk(log: LogFile) -> Iterator[None]:
    """The kernel takes 50 bytes more of that file, half a line, and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 50, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def written(log: LogFile, decisions: list[Decision]) -> None:
    """At once, on this thread."""
    for one in decisions:
        log._write([one])


def test_a_full_disk_is_said_once_counted_and_goes_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = LogFile(tmp_path, Settings())
    written(log, [decision(step) for step in range(1, 4)])
    with full_disk(log):
        written(log, [decision(step) for step in range(4, 10)])
        assert steps(log.path) == [1, 2, 3]
        assert log.path.read_bytes().endswith(b"\n"), "half a line would end every reading"
    assert log.dropped == 6
    assert log.fault is not None
    assert "cannot be written" in log.fault
    written(log, [decision(step) for step in range(10, 13)])
    log.close()
    assert log.fault is None
    assert log.dropped == 6
    said = [(one.levelno, one.getMessage()) for one in caplog.records]
    assert [level for level, _ in said] == [logging.ERROR, logging.WARNING]
    assert "6 are missing" in said[1][1]
    assert steps(log.path) == [1, 2, 3, 10, 11, 12]
    first, gap = headers(log.path)
    assert (first["first_step"], first["missing"]) == (1, 0)
    assert (gap["first_step"], gap["missing"]) == (10, 6)


def test_why_goes_on_after_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(tmp_path, Settings())
    written(log, [decision(step) for step in range(1, 4)])
    with full_disk(log):
        written(log, [decision(step) for step in range(4, 7)])
    written(log, [decision(step) for step in range(7, 10)])
    log.close()
    for name, code in (("m000002", 0), ("m000005", 4), ("m000008", 0)):
        assert main(["why", name, "--state-dir", str(tmp_path)]) == code
    assert "nothing about 'm000005'" in capsys.readouterr().err


def test_decisions_that_the_disk_is_too_slow_for_are_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_WAITING", 0)
    log = LogFile(tmp_path, Settings())
    log.record(decision(1))
    log.close()
    assert log.dropped == 1
