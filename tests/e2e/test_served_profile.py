"""`repertory profile` as a person runs it, killed in the middle, and run again."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import RunningServer, starting, wait_for

from repertory.cli import main
from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, LoadReading, Readings
from repertory.domain.specs import WeightsForm
from repertory.live.profile_files import (
    FORMAT,
    ProfileFile,
    identity_of,
    profiles_folder,
    read_file,
    write_file,
)
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
    assert told_of_profiles(server) == 1
    assert "profile not used" not in server.words.text


def told_of_profiles(server: RunningServer) -> int:
    kinds = [decision["event"]["kind"] for decision in decisions(server.log_files())]
    return kinds.count("ModelProfiled")


def test_what_was_measured_of_another_version_of_a_file_is_named_at_the_start_and_not_used(
    two_tiny: Path, tmp_path: Path
) -> None:
    here = identity_of("fedcba9876543210", is_exact=False)
    load = LoadReading(WeightsForm.PLAIN, Rung.HOST, None, 1.0, 1000, (0.1, 0.2, 0.15))
    device = DeviceReadings("cpu0", "cpu", 2, loads=(load,))
    old = Readings("one", here, 2, 1000, 0, 0, 100, (device,))
    write_file(profiles_folder(tmp_path) / "old.json", ProfileFile(FORMAT, (), old))
    with starting(tmp_path) as begin:
        server = begin(two_tiny)
        server.wait_ready()
        server.stop()
    assert told_of_profiles(server) == 0
    said = "profile not used: old.json: made of another version of one (file fedcba987654, here "
    assert said in server.words.text
    assert "`repertory profile one` measures the one that is there now" in server.words.text
