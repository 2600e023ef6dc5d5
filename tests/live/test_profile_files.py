"""Files of measured costs: whole or not there, and never a reason to fall."""

import json
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, Identity, LoadReading, Readings
from repertory.domain.specs import DeviceSpec, WeightsForm
from repertory.engines.llamacpp.build import engine_build
from repertory.live.profile_files import (
    FORMAT,
    ProfileFile,
    Refused,
    file_of,
    identity_of,
    read_file,
    read_profiles,
    readings_on,
    write_file,
)

HERE = Identity("0123456789abcdef", "build", "machine")


def readings(identity: Identity = HERE, model: str = "coder") -> Readings:
    load = LoadReading(WeightsForm.PLAIN, Rung.HOST, None, 1.0, 1000, (0.1, 0.2, 0.15), (0.01,))
    device = DeviceReadings("cpu0", "cpu", 2, loads=(load,))
    return Readings(model, identity, 16, 1000, 0, 100, 10, (device,), ("a note",))


def profile(identity: Identity = HERE, done: int = 1) -> ProfileFile:
    return ProfileFile(FORMAT, tuple(f"item {at}" for at in range(done)), readings(identity))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.json"
    write_file(path, profile())
    assert read_file(path) == profile()
    assert [one.name for one in path.parent.iterdir()] == ["one.json"]
    found = read_profiles(path.parent, HERE)
    assert found.readings == {HERE.digest: readings()}
    assert found.refused == ()


def test_no_folder_is_no_profile(tmp_path: Path) -> None:
    found = read_profiles(tmp_path / "none", HERE)
    assert (dict(found.readings), found.refused) == ({}, ())


def test_a_write_that_fails_leaves_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.json"
    write_file(path, profile())

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_file(path, profile(done=2))
    assert read_file(path) == profile()
    assert [one.name for one in tmp_path.iterdir()] == ["one.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine_build": "older"}, "made by another engine build: older, here build"),
        ({"machine": "other"}, "made on another machine: other, here machine"),
        ({"driver": "560.1"}, "made with another driver: 560.1, here none"),
    ],
)
def test_stale_files_are_named_and_not_used(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    identity = replace(HERE, **change)  # type: ignore[arg-type]
    write_file(tmp_path / "one.json", profile(identity))
    found = read_profiles(tmp_path, HERE)
    assert dict(found.readings) == {}
    assert found.refused == (Refused(tmp_path / "one.json", reason),)


def test_the_other_modes_files_are_passed_over(tmp_path: Path) -> None:
    write_file(tmp_path / "exact.json", profile(replace(HERE, is_exact=True)))
    found = read_profiles(tmp_path, HERE)
    assert (dict(found.readings), found.refused) == ({}, ())
    assert read_profiles(tmp_path, replace(HERE, is_exact=True)).readings


def test_a_profile_of_another_version_of_a_file_on_offer_is_named_and_not_used(
    tmp_path: Path,
) -> None:
    write_file(tmp_path / "old.json", profile(replace(HERE, digest="fedcba9876543210")))
    write_file(tmp_path / "new.json", profile())
    found = read_profiles(tmp_path, HERE, {"coder": HERE.digest})
    assert list(found.readings) == [HERE.digest]
    (old,) = found.replaced
    assert old.path.name == "old.json"
    assert old.reason.startswith(
        "made of another version of coder (file fedcba987654, here 0123456789ab): the file was "
        "replaced after it was measured; `repertory profile coder` measures the one"
    )
    assert found.refused == ()


def test_what_is_on_offer_under_another_name_or_not_at_all_is_no_other_version(
    tmp_path: Path,
) -> None:
    """A file that was renamed is the one that was measured: its digest says so."""
    write_file(tmp_path / "one.json", profile())
    for offered in ({}, {"writer": "ffff"}, {"coder": "ffff", "renamed": HERE.digest}):
        found = read_profiles(tmp_path, HERE, offered)
        assert (list(found.readings), found.replaced) == ([HERE.digest], ())


def test_of_two_for_one_model_the_fuller_counts(tmp_path: Path) -> None:
    write_file(tmp_path / "a.json", profile(done=3))
    fuller = ProfileFile(FORMAT, ("1", "2", "3", "4"), readings(model="renamed"))
    write_file(tmp_path / "b.json", fuller)
    write_file(tmp_path / "c.json", profile(done=2))
    assert read_profiles(tmp_path, HERE).readings[HERE.digest].model == "renamed"


def test_of_a_device_of_that_name_that_is_another_nothing_is_known() -> None:
    known = readings()
    device = DeviceSpec("cpu0", 1, cores=2)
    assert readings_on(known, device) is known.devices[0]
    for other in ({"cores": 1}, {"backend": "cuda"}, {"id": "cpu1"}):
        assert readings_on(known, replace(device, **other)) is None  # type: ignore[arg-type]


def test_names_of_files() -> None:
    folder = Path("profiles")
    one = file_of(folder, "org/model:8B Q4", HERE)
    assert one.parent == folder
    assert one.name.startswith("org_model_8B_Q4-0123456789ab-")
    others = [replace(HERE, machine="x"), replace(HERE, is_exact=True), replace(HERE, digest="9")]
    assert len({one, *(file_of(folder, "org/model:8B Q4", other) for other in others)}) == 4
    assert file_of(folder, "org/model:8B Q4", replace(HERE, engine_build="x")) == one
    assert file_of(folder, "../..", HERE).parent == folder


def test_where_we_are_does_not_change_between_two_looks() -> None:
    here = identity_of("digest", is_exact=True)
    assert here == identity_of("digest", is_exact=True)
    assert here.engine_build == engine_build()
    assert "cores" in here.machine
    assert here.is_exact


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is no profile"),
        ("[]", "is no profile"),
        ('{"format": 2, "new": true}', "is of format 2; this program reads 1"),
        ('{"format": 1}', "is no profile: Object missing required field `done`"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "is no profile"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    (refused,) = read_profiles(tmp_path, HERE).refused
    assert refused.path == path
    assert refused.reason.startswith(reason)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"seconds":[0.1,0.2,0.15]', '"seconds":[]', "loads[0].seconds is empty"),
        ("0.15", "-1.0", "loads[0].seconds[2] is -1.0"),
        ("0.15", "0.0", "loads[0].seconds[2] is 0.0"),
        ('"share":1.0', '"share":1.5', "loads[0].share is 1.5"),
        ('"layers":16', '"layers":0', "readings.layers is 0"),
        ('"plain"', '"boiled"', "Invalid enum value 'boiled'"),
        ('"weights_bytes":1000', '"weights_bytes":"many"', "Expected `int`"),
    ],
)
def test_what_no_measurement_gives_is_refused(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    text = msgspec.json.encode(profile()).decode()
    assert old in text
    (tmp_path / "one.json").write_text(text.replace(old, new))
    (refused,) = read_profiles(tmp_path, HERE).refused
    assert reason in refused.reason


def test_a_folder_of_that_name_and_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (refused,) = read_profiles(tmp_path, HERE).refused
    assert "cannot be read" in refused.reason


TEXT = msgspec.json.encode(profile())


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(TEXT) - 1), byte=st.integers(0, 255), is_cut=st.booleans())
def test_no_damage_makes_a_reader_fall(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, is_cut: bool
) -> None:
    """One byte changed, or the end missing: used or refused, and no third."""
    path = tmp_path_factory.mktemp("damage") / "one.json"
    path.write_bytes(TEXT[:at] if is_cut else TEXT[:at] + bytes([byte]) + TEXT[at + 1 :])
    assert isinstance(read_file(path), ProfileFile | Refused)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_file(tmp_path / "one.json", profile())
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["format"] == FORMAT
    assert found["readings"]["devices"][0]["loads"][0]["source"] == "host"
