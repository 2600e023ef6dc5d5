"""A run that ends anywhere goes on there; what is measured already is not measured again."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from measuring import CORES, FEW, HERE, NODE, ONE, TWO, measured

from repertory.domain.errors import ConfigError
from repertory.domain.specs import DeviceSpec
from repertory.engines.fake import llama_like, vllm_like
from repertory.live.profile_files import FORMAT, ProfileFile, read_file, write_file
from repertory.profiler.campaign import CoreTime, Ended, begun
from repertory.profiler.plan import Points, items_for, points_for
from repertory.profiler.subjects import Subject
from worlds import GIB, MIB, model

TINY = Points(
    lengths=(50,),
    shares_percent=(100,),
    interruptions=(100,),
    batches=((1, 64),),
    kv_tokens=(256,),
    contexts=((1, 256),),
    resizes=(),
)
ALONE = llama_like([CORES])


class Killed(BaseException):
    """The process ends here."""


def file_at(path: Path) -> ProfileFile:
    read = read_file(path)
    assert isinstance(read, ProfileFile), read
    return read


def test_killed_after_any_item_it_goes_on_with_the_next(tmp_path: Path) -> None:
    whole = measured(tmp_path / "whole.json", TINY, ALONE)
    names = [item.name for item in items_for(ONE, [ONE, TWO], ALONE, TINY)]
    assert list(whole.file.done) == names
    for count in range(1, len(names)):
        path = tmp_path / f"{count}.json"
        seen: list[str] = []

        def kill(ended: Ended, seen: list[str] = seen, count: int = count) -> None:
            seen.append(ended.item.name)
            if len(seen) == count:
                raise Killed

        with pytest.raises(Killed):
            measured(path, TINY, ALONE, told=kill)
        again: list[str] = []
        measured(path, TINY, ALONE, told=lambda ended, again=again: again.append(ended.item.name))
        assert seen + again == names
        assert file_at(path).done == whole.file.done
        readings = file_at(path).readings.devices[0]
        complete = file_at(tmp_path / "whole.json").readings.devices[0]
        assert readings.steps == complete.steps
        assert readings.loads == complete.loads


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    measured(path, TINY, ALONE)
    before = path.read_bytes()
    again: list[Ended] = []
    assert measured(path, TINY, ALONE, told=again.append).left == []
    assert again == []
    assert path.read_bytes() == before


def test_a_coarse_profile_is_a_part_of_the_whole() -> None:
    few = [item.name for item in items_for(ONE, [ONE, TWO], NODE, points_for(True))]
    all_ = [item.name for item in items_for(ONE, [ONE, TWO], NODE, points_for(False))]
    assert set(few) < set(all_)
    assert len(all_) == len(set(all_))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine_build": "another"}, "made by another engine build: another, here a build"),
        ({"machine": "another"}, "made on another machine: another, here a machine"),
        ({"driver": "560"}, "made with another driver: 560, here none"),
        ({"digest": "another"}, "made of another file: another, here digest-of-one"),
        ({"is_exact": True}, "made in mode exact"),
    ],
)
def test_stale_readings_are_named_and_measured_anew(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = tmp_path / "one.json"
    made = measured(path, TINY, ALONE).file
    identity = replace(HERE, **change)  # type: ignore[arg-type]
    write_file(path, replace(made, readings=replace(made.readings, identity=identity)))
    campaign = measured(path, TINY, ALONE)
    assert words in (campaign.stale or "")
    assert file_at(path) == made


def test_a_broken_file_is_named_and_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text("{")
    campaign = measured(path, TINY, ALONE)
    assert "is no profile" in (campaign.stale or "")
    assert len(file_at(path).done) > 5


def test_a_device_that_has_other_cores_now_is_another_device(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    measured(path, TINY, NODE)
    fewer = llama_like([replace(CORES, cores=1), NODE.devices[1]])
    again: list[str] = []
    campaign = measured(path, TINY, fewer, told=lambda ended: again.append(ended.item.name))
    assert campaign.stale == "cpu0 was cpu with 2 cores"
    assert {name.partition(":")[0] for name in again} == {"cpu0"}


def test_what_finds_no_room_is_noted_with_the_arithmetic_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    troubles: list[Ended] = []
    campaign = measured(path, FEW, ALONE, room_bytes=GIB + 200 * MIB, told=troubles.append)
    refused = {ended.item.name for ended in troubles if ended.trouble}
    assert "cpu0: context of 4 x 2048" in refused
    assert "cpu0: preemption at 200 for two, weights stay" in refused
    assert {item.name for item in campaign.left} == refused
    (note,) = [one for one in campaign.file.readings.notes if "4 x 2048" in one]
    assert "MiB weights of one + " in note
    assert "but cpu0 has 1,224 MiB" in note
    measured(path, FEW, ALONE)
    assert not any("but cpu0 has" in one for one in file_at(path).readings.notes)


@pytest.mark.parametrize(("waited_s", "is_noted"), [(0.1, False), (3.0, True)])
def test_what_was_read_while_other_programs_had_the_cores_is_noted(
    tmp_path: Path, waited_s: float, is_noted: bool
) -> None:
    """By how long the worker's threads were ready and had none; each item took one second."""
    asked = itertools.count()
    campaign = measured(
        tmp_path / "one.json",
        TINY,
        ALONE,
        core_time=lambda: CoreTime(ran_s := float(next(asked)), waited_s * ran_s),
    )
    words = ": read beside other programs: of the time that it wanted a core it waited 75 %"
    noted = [one.partition(words)[0] for one in campaign.file.readings.notes if words in one]
    assert noted == (list(campaign.file.done) if is_noted else [])


def test_threads_that_ended_meanwhile_are_no_time_gained() -> None:
    assert CoreTime(1.0, 1.0).waited_share(CoreTime(5.0, 0.5)) == 1.0
    assert CoreTime(1.0, 1.0).waited_share(CoreTime(5.0, 5.0)) == 0.0


def test_a_file_that_cannot_be_written_ends_the_run_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("no folder")
    with pytest.raises(ConfigError, match=r"profiles/one\.json: cannot be written: .*exists"):
        measured(tmp_path / "profiles" / "one.json", TINY, ALONE)


def test_other_engines_are_asked_for_what_they_can() -> None:
    node = vllm_like([DeviceSpec("gpu0", 8 * GIB, backend="fake")])
    names = [item.name for item in items_for(ONE, [ONE, TWO], node, points_for(True))]
    assert not any("resize" in name or "layers" in name or "repacked" in name for name in names)


def test_a_model_that_only_embeds_is_loaded_and_opened(tmp_path: Path) -> None:
    encoder = Subject(model("encoder"), 256, is_generating=False)
    names = [item.name for item in items_for(encoder, [encoder, TWO], NODE, points_for(False))]
    assert all("load" in name or "context" in name for name in names)
    others = items_for(ONE, [ONE, encoder], NODE, points_for(True))
    assert not any("encoder" in item.name for item in others)


def test_claimants_are_the_smallest_and_the_largest() -> None:
    sizes = [Subject(model(f"m{at}", at * 100 * MIB), 256) for at in range(1, 6)]
    twin = Subject(replace(ONE.spec, name="twin"), 256)
    names = [item.name for item in items_for(ONE, [ONE, twin, *sizes], ALONE, TINY)]
    assert [name for name in names if "preemption" in name and "stay" not in name] == [
        "cpu0: preemption at 100 for m1",
        "cpu0: preemption at 100 for m5",
    ]


def test_a_campaign_begins_with_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    made = measured(path, TINY, ALONE).file
    assert made.format == FORMAT
    items = items_for(ONE, [ONE, TWO], ALONE, points_for(True))
    campaign = begun(path, ONE, HERE, items)
    assert campaign.stale is None
    assert 0 < len(campaign.left) < len(items)
