"""The doctor says what is so, and only that: each rule on a machine that has the trouble."""

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repertory.cli import main
from repertory.config import MemoryReading
from repertory.config.ports import listener_of
from repertory.doctor.disks import ModelFile, Place, file_system, read_place, read_speed, refusal
from repertory.doctor.findings import Level
from repertory.doctor.machine import Machine, read_machine, read_quota
from repertory.doctor.probe import LibraryReport, ask_library
from repertory.doctor.rules import Readings, findings
from repertory.domain.settings import Favour
from repertory.engines.gguf.make import make_model
from repertory.fleet.identity import hold_state
from repertory.live.fit import Room
from repertory.live.options import ServeConfig
from worlds import GIB, MIB, model

MACHINE = Machine(
    cores_present=8,
    cores_usable=8,
    cpu_quota=None,
    load=0.1,
    features=frozenset({"avx2", "fma", "f16c"}),
    swap_bytes=GIB,
    swap_used_bytes=0,
    overcommit=0,
    huge_pages="madvise",
    clock_source="tsc",
    open_files=4096,
    locked_bytes=None,
    gpu_nodes=(),
)
LIBRARY = LibraryReport(
    build="llama.cpp",
    system="CPU : AVX2 = 1 | FMA = 1 | F16C = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | X = 0",
    backends=["CPU"],
    accelerators=[],
    maps_files=True,
    resident={},
)
CODER = ModelFile(
    "coder", Path("/m/coder.gguf"), 4 * GIB, {"q8_0": 4 * GIB}, 0, 8000, "ext4", None, None
)
CONFIG = ServeConfig(
    models=(),
    folders=(),
    devices=None,
    memory_bytes=8 * GIB,
    memory_story="8.0 GiB (given)",
    host_memory_bytes=None,
    favour=Favour.BALANCED,
    host="127.0.0.1",
    port=7373,
    state_dir=Path("/s"),
    is_exact=False,
)
FINE = Readings(
    machine=MACHINE,
    memory=MemoryReading(64 * MIB, 16 * GIB, 24 * GIB),
    library=LIBRARY,
    state=Place(Path("/s"), Path("/"), "ext4", 100 * GIB, None),
    state_owner=None,
    address="127.0.0.1:7373",
    port_owner=None,
    config=CONFIG,
    room=Room({"cpu0": 8 * GIB}, ""),
    specs=(model("coder", 4 * GIB),),
    files=(CODER,),
)


def test_nothing_is_said_of_a_machine_that_is_fine() -> None:
    assert findings(FINE) == ()


def machine(**changes: Any) -> Readings:
    return replace(FINE, machine=replace(MACHINE, **changes))


def file(**changes: Any) -> Readings:
    return replace(FINE, files=(replace(CODER, **changes),))


EXACT = replace(CONFIG, is_exact=True)
QUARTER = {"formats": {"q4_0": 4 * GIB}}
PINNED = (model("coder", 7 * GIB, is_pinned=True), model("writer", 6 * GIB, is_pinned=True))


@pytest.mark.parametrize(
    ("seen", "level", "words"),
    [
        (replace(FINE, complaints=("x.yaml:1:1: wrong",)), "fails", "x.yaml:1:1: wrong"),
        (replace(FINE, excluded=(("bad", "no GGUF"),)), "fails", "bad will not be served"),
        (replace(FINE, library="died with signal 11: oh"), "fails", "library died with signal 11"),
        (replace(FINE, state_owner="42"), "fails", "process id 42"),
        (replace(FINE, port_owner="process 43 (x)"), "fails", "process 43 (x) listens there"),
        (
            replace(FINE, specs=PINNED, pinned=tuple((one, "") for one in PINNED)),
            "fails",
            "together 13,",
        ),
        (replace(FINE, specs=(model("huge", 9 * GIB),)), "fails", "cannot be served: it needs"),
        (file(refusal="Permission denied"), "fails", "cannot be read: Permission denied"),
        (
            replace(FINE, state=replace(FINE.state, refusal="Read-only file system")),
            "fails",
            "Read-only file system",
        ),
        (
            machine(features=MACHINE.features | {"avx512f", "avx512_vnni"}),
            "slow",
            "without AVX512, AVX512_VNNI",
        ),
        (machine(gpu_nodes=("nvidia0",)), "slow", "/dev/nvidia0"),
        (machine(cpu_quota=1.5), "slow", "1.5 cores' time"),
        (machine(load=6.0), "slow", "6.0 of 8 cores busy"),
        (machine(swap_used_bytes=GIB), "slow", "1.0 GiB of swap"),
        (
            replace(FINE, specs=(model("coder", 5 * GIB), model("writer", 4 * GIB))),
            "slow",
            "coder (5,160 MiB) and writer (4,136 MiB) do not fit together",
        ),
        (file(file_system="nfs4"), "slow", "nfs4"),
        (file(file_system="fuse.sshfs"), "slow", "fuse.sshfs"),
        (file(**QUARTER), "slow", "not repacked for this CPU"),
        (
            replace(file(**QUARTER, repacked_bytes=GIB), config=EXACT),
            "slow",
            "not repacked in the mode exact",
        ),
        (
            replace(
                file(bytes_per_s=100e6),
                library=LibraryReport("", LIBRARY.system, [], [], True, {"/m/coder.gguf": 0.25}),
            ),
            "slow",
            "takes about 32.2",
        ),
        (file(file_system="overlay"), "note", "overlay"),
        (replace(file(formats={"f16": 4 * GIB}), config=EXACT), "note", "not exact"),
        (file(vocabulary_tokens=128_000), "note", "top_p"),
        (machine(cores_usable=4), "note", "4 of 8 cores"),
        (machine(clock_source="hpet"), "note", "hpet"),
        (machine(overcommit=2), "note", "vm.overcommit_memory=2"),
        (machine(huge_pages="never"), "note", "huge pages are off"),
        (machine(open_files=256), "note", "256 files"),
        (
            replace(FINE, specs=tuple(model(name, 3 * GIB) for name in "abc")),
            "note",
            "all 3 models together",
        ),
        (replace(FINE, state=replace(FINE.state, free_bytes=MIB)), "note", "1.0 MiB are free"),
    ],
)
def test_each_trouble_is_found_and_nothing_else(seen: Readings, level: str, words: str) -> None:
    (finding,) = findings(seen)
    assert finding.level is Level(level)
    assert words in finding.what
    assert finding.advice


def test_weights_that_are_repacked_are_no_trouble() -> None:
    assert findings(file(**QUARTER, repacked_bytes=4 * GIB)) == ()


def test_the_worst_comes_first() -> None:
    seen = replace(machine(open_files=256, swap_used_bytes=GIB), state_owner="42")
    levels = [finding.level for finding in findings(seen)]
    assert levels == [Level.FAILS, Level.SLOW, Level.NOTE]


# What is read.


def test_a_crash_of_the_library_is_a_finding() -> None:
    script = "import os; os.write(2, b'the last words'); os.abort()"
    report = ask_library([], (sys.executable, "-c", script))
    assert isinstance(report, str)
    assert "died with signal 6: the last words" in report
    assert "something else" in str(ask_library([], (sys.executable, "-c", "print(7)")))
    assert "could not be started" in str(ask_library([], ("/nowhere/python",)))


def test_the_library_is_asked_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    make_model(path, size="tiny")
    report = ask_library([path])
    assert isinstance(report, LibraryReport), report
    assert "CPU" in report.backends
    assert report.features
    assert 0.0 <= report.resident[str(path)] <= 1.0


def test_cpu_limits_are_read_up_to_the_root(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/a/b"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    assert read_quota(tmp_path) is None
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    assert read_quota(tmp_path) == 1.5
    old = tmp_path / "sys/fs/cgroup/cpu/x"
    old.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/x\n")
    (old / "cpu.cfs_quota_us").write_text("50000\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert read_quota(tmp_path) == 0.5


def test_this_machine_can_be_read() -> None:
    here = read_machine()
    assert 1 <= here.cores_usable <= here.cores_present


def test_the_file_system_is_that_of_the_deepest_mount(tmp_path: Path) -> None:
    inner = tmp_path / "my models"
    inner.mkdir()
    mounts = tmp_path / "mounts"
    spaced = str(inner).replace(" ", "\\040")
    mounts.write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:3 / {spaced} rw shared:1 - nfs4 host:/x rw\n"
    )
    assert file_system(inner / "x.gguf", mounts) == "nfs4"
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "nowhere") == ""


def test_places_and_files_are_looked_at_and_left_alone(tmp_path: Path) -> None:
    place = read_place(tmp_path / "a" / "b")
    assert (place.nearest, place.refusal) == (tmp_path, None)
    assert list(tmp_path.iterdir()) == []
    assert read_place(Path("/proc/nowhere")).refusal is not None
    assert refusal(tmp_path / "nobody") == "No such file or directory"
    small = tmp_path / "small"
    small.write_bytes(b"x")
    assert read_speed(small) is None


def test_the_listener_of_a_port_is_named() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        assert listener_of(port) is None, "bound is not yet listening"
        listening.listen()
        owner = listener_of(port)
    assert owner is not None
    assert owner.startswith("process ")
    assert "pytest" in owner


# As a person sees it.


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REPERTORY_HOST", "REPERTORY_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REPERTORY_PORT", "0")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "models"
    folder.mkdir()
    make_model(folder / "ant.gguf", size="tiny")
    return folder


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def failures(report: dict[str, Any]) -> list[str]:
    return [one["what"] for one in report["findings"] if one["level"] == "fails"]


def test_a_folder_that_can_be_served(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = asked(capsys, str(tiny), "--memory", "1GiB")
    assert failures(report) == []
    assert code == 0
    facts = {(one["part"], one["name"]) for one in report["facts"]}
    assert {("cpu", "cores"), ("library", "build"), ("models", "ant")} <= facts


def test_a_folder_that_is_served_already(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tiny.parent / "taken"
    with hold_state(state):
        code, report = asked(capsys, str(tiny), "--state-dir", str(state), "--memory", "1GiB")
    assert code == 1
    assert any("process id" in one for one in failures(report))


def test_a_configuration_that_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny / "x.yaml"
    path.write_text("models: {ant: {path: ant.gguf, pinn: true, ttl: soon}}")
    code, report = asked(capsys, str(path))
    assert code == 1
    assert len(failures(report)) == 2
    assert all(str(path) in one for one in failures(report))


def test_a_damaged_file_is_found(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "bad.gguf").write_bytes(b"junk")
    code, report = asked(capsys, str(tiny), "--memory", "1GiB")
    assert code == 1
    assert failures(report) == ["bad will not be served: bad.gguf: is no GGUF file"]


def test_a_person_gets_a_table_and_sentences(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "bad.gguf").write_bytes(b"junk")
    assert main(["doctor", str(tiny), "--memory", "1GiB"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("PART")
    assert "fails: bad will not be served" in shown
    assert "  -> mend or remove the file" in shown
