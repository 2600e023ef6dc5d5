"""`repertory replay`, and a server's log as a fleet, as a person types them."""

from pathlib import Path

import pytest

from core.test_replay import logged
from repertory.cli import main
from repertory.core.journal import Header, encode_header, read_lines
from repertory.domain.settings import Settings
from test_simulate_cli import Output, files, simulate

__all__ = ["files"]


def write(folder: Path, lines: list[bytes], version: str = "0.1.0") -> Path:
    path = folder / "decisions.jsonl"
    path.write_bytes(encode_header(Header(version, Settings(), 1)) + b"".join(lines))
    return path


def test_a_recorded_run_comes_out_the_same(tmp_path: Path, capsys: Output) -> None:
    path = write(tmp_path, logged("llama", 1, requests=30))
    assert main(["replay", str(path)]) == 0
    assert "decisions came out the same, byte for byte" in capsys.readouterr().out
    assert main(["replay", "--state-dir", str(tmp_path)]) == 0


def test_a_difference_and_another_version_are_named(tmp_path: Path, capsys: Output) -> None:
    lines = logged("llama", 1, requests=30)
    at = next(at for at, line in enumerate(lines) if b'["Load",' in line)
    lines[at] = lines[at].replace(b'"replica_id":"', b'"replica_id":"x', 1)
    assert main(["replay", str(write(tmp_path, lines, "9.9"))]) == 1
    shown = capsys.readouterr().err
    assert f"decision {at + 1}, " in shown
    assert "the log is of version 9.9" in shown


def test_a_log_with_missing_decisions_is_named(tmp_path: Path, capsys: Output) -> None:
    lines = logged("llama", 1, requests=30)
    assert main(["replay", str(write(tmp_path, [*lines[:9], *lines[11:]]))]) == 1
    assert "decisions 10 to 11 are missing" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "no log\n"])
def test_what_is_no_log_is_named(tmp_path: Path, text: str, capsys: Output) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(text)
    assert main(["replay", str(path)]) == 1
    assert f"{path}: it is no decision log" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none.jsonl")]) == 4


def test_a_simulations_log_replays_with_its_fleet(files: Path, capsys: Output) -> None:
    assert simulate("--log", "log.jsonl") == 0
    capsys.readouterr()
    assert main(["replay", "log.jsonl"]) == 2
    assert "name it with --fleet" in capsys.readouterr().err
    assert main(["replay", "log.jsonl", "--fleet", "fleet.yaml"]) == 0


def test_a_servers_log_is_a_fleet_with_its_settings_and_models(files: Path, capsys: Output) -> None:
    write(files, logged("llama", 1, requests=30))
    flags = ["--fleet", "decisions.jsonl", "--workload", "asked.jsonl", "--log", "log.jsonl"]
    assert main(["simulate", *flags]) == 0
    lines = (files / "log.jsonl").read_bytes().splitlines(keepends=True)
    arrived = [one["event"] for one in read_lines(lines) if one["event"]["kind"] == "Arrived"]
    assert {one["request"]["max_tokens"] for one in arrived} == {30}, "as bench asks"
    capsys.readouterr()
    assert main(["replay", "log.jsonl"]) == 0, "it begins with what the server was told"


def test_a_log_without_a_worker_is_no_fleet(files: Path, capsys: Output) -> None:
    write(files, [])
    flags = ["--fleet", "decisions.jsonl", "--workload", "asked.jsonl"]
    assert main(["simulate", *flags]) == 2
    assert "no worker was up in it before the first request" in capsys.readouterr().err
