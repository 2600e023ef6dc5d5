"""`repertory profile` as a person runs it, killed in the middle, and run again."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import starting, wait_for

from repertory.cli import main
from repertory.live.profile_files import ProfileFile, read_file
from repertory.reports.log_files import decisions

Output = pytest.CaptureFixture[str]


def only(folder: Path) -> ProfileFile:
    (path,) = (folder / "profiles").glob("*.json")
    read = read_file(path)
    assert isinstance(read, ProfileFile), read
    return read


def test_killed_in_the_middle_it_goes_on_and_then_measures_nothing(
    two_tiny: Path, few: None, tmp_path: Path, capsys: Output
) -> None:
    state = tmp_path / "state"
    command = ["profile", "one", "--quick", "--source", str(two_tiny), "--state-dir", str(state)]
    process = subprocess.Popen(
        [sys.executable, "-m", "repertory", *command], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: any((state / "profiles").glob("*.json")))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    begun_with = set(only(state).done)
    assert begun_with

    assert main([*command, "--json", "--plots", str(tmp_path / "plots")]) == 0
    shown = capsys.readouterr()
    assert "one: " in shown.err
    assert " are there" in shown.err
    assert begun_with < set(only(state).done)
    (readings,) = json.loads(shown.out)
    (device,) = readings["devices"]
    assert {one["form"] for one in device["loads"]} == {"plain", "repacked"}
    assert {one["batch"] for one in device["steps"]} >= {1, 2}
    assert [one["stays"] for one in device["cycles"]] == [False, True]
    assert all(one["reused_tokens"] > 64 for one in device["cycles"])
    assert device["links"]
    (kv,) = device["kv"]
    assert kv["tokens"] == 256
    assert min(*kv["out_s"], *kv["in_s"]) > 0.0
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"one-cpu0-preemption.png", "one-cpu0-decode.png", "profiles.md"} <= drawn

    before = sorted((state / "profiles").glob("*.json"))[0].read_bytes()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "one: nothing to measure" in shown.err
    assert shown.out.startswith("MODEL")
    assert sorted((state / "profiles").glob("*.json"))[0].read_bytes() == before

    assert main(["profile", "--show", "--state-dir", str(state)]) == 0
    assert "repacked" in capsys.readouterr().out

    with starting(state) as begin:  # and a server begins with what was measured
        server = begin(two_tiny)
        server.wait_ready()
        server.stop()
    kinds = [decision["event"]["kind"] for decision in decisions(server.log_files())]
    assert kinds.count("ModelProfiled") == 1
