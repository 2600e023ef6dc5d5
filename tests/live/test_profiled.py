"""Measured costs reach the brain, at the start and while the server serves."""

from dataclasses import replace
from pathlib import Path

from repertory.domain.ladder import Rung
from repertory.domain.readings import DeviceReadings, LoadReading, Readings
from repertory.domain.specs import DeviceSpec, WeightsForm
from repertory.engines.fake import llama_like
from repertory.live.profile_files import (
    FORMAT,
    ProfileFile,
    identity_of,
    profiles_folder,
    write_file,
)
from repertory.live.profiled import Profiled
from worlds import GIB, MIB

NODE = llama_like([DeviceSpec("cpu0", GIB, cores=2), DeviceSpec("cpu1", GIB, cores=1)])
LOAD = LoadReading(WeightsForm.PLAIN, Rung.HOST, None, 1.0, MIB, (0.25, 0.5, 0.75))
HERE = identity_of("digest-a", is_exact=False)
A = Readings(
    "a",
    HERE,
    2,
    MIB,
    0,
    0,
    100,
    (DeviceReadings("cpu0", "cpu", 2, (LOAD,)), DeviceReadings("cpu1", "cpu", 2, (LOAD,))),
)


def put(state_dir: Path, name: str, readings: Readings, done: int = 0) -> None:
    done_names = tuple(f"item {at}" for at in range(done))
    write_file(profiles_folder(state_dir) / name, ProfileFile(FORMAT, done_names, readings))


def test_what_was_measured_on_these_devices_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.json", A)
    profiled = Profiled(tmp_path, False, say=lambda words: None)
    assert profiled.look()
    (event,) = profiled.events(7, NODE)  # `cpu1` has other cores now
    assert (event.at_ns, event.digest, event.readings) == (7, "digest-a", A.devices[0])


def test_without_profiles_nothing_is_told(tmp_path: Path) -> None:
    profiled = Profiled(tmp_path, False, say=lambda words: None)
    assert not profiled.look()
    assert profiled.events(7, NODE) == []


def test_what_is_measured_while_we_serve_is_told_once(tmp_path: Path) -> None:
    profiled = Profiled(tmp_path, False, say=lambda words: None)
    assert not profiled.look()
    put(tmp_path, "a.json", A)
    assert not profiled.look()  # it may still be written to
    assert profiled.look()
    assert not profiled.look()
    more = replace(A, devices=(replace(A.devices[0], loads=(LOAD, LOAD)),))
    put(tmp_path, "a.json", more, done=1)
    assert [profiled.look(), profiled.look(), profiled.look()] == [False, True, False]
    assert profiled.events(7, NODE)[0].readings == more.devices[0]


def test_what_is_not_used_is_said_once_with_the_reason(tmp_path: Path) -> None:
    said: list[str] = []
    put(tmp_path, "a.json", replace(A, identity=replace(HERE, engine_build="old")))
    put(tmp_path, "exact.json", replace(A, identity=replace(HERE, is_exact=True)))
    (profiles_folder(tmp_path) / "broken.json").write_text("{")
    profiled = Profiled(tmp_path, False, said.append)
    assert not profiled.look()
    assert len(said) == 2
    assert said[0].startswith("profile not used: a.json: made by another engine build: old, here ")
    put(tmp_path, "b.json", A)
    assert [profiled.look(), profiled.look()] == [False, True]
    assert len(said) == 2


def test_a_profile_of_another_version_of_a_file_is_named_and_comes_back_with_that_file(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    offered = {"a": "digest-b"}
    put(tmp_path, "a.json", A)
    profiled = Profiled(tmp_path, False, said.append, lambda: offered)
    assert not profiled.look()
    (words,) = said
    assert words.startswith("profile not used: a.json: made of another version of a (file digest-a")
    assert "`repertory profile a` measures the one that is there now" in words
    assert not profiled.look()
    offered["a"] = "digest-a"
    assert profiled.look()
    assert [one.digest for one in profiled.events(7, NODE)] == ["digest-a"]
    assert len(said) == 1
