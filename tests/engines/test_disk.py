"""Saved cells on the disk: beyond a worker's death, within a budget, and nothing is believed."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Answer, Listener, Walk, generation, running_worker, spec_of

from repertory.domain.ladder import Rung
from repertory.engines.llamacpp.cells.blob import (
    Spoiled,
    head_of,
    read_content,
    read_head,
    write_blob,
)
from repertory.engines.llamacpp.cells.computed import Computed, Weights
from repertory.engines.llamacpp.cells.disk import DiskKv
from repertory.engines.llamacpp.cells.rates import Copy
from repertory.engines.llamacpp.cells.saved import SavedKv
from repertory.engines.llamacpp.context import SavedSequence, empty_sequence

MIB = 1 << 20
WEIGHTS = Weights("digest", "llama", "plain")
BUILD = "build 1"
LONG = tuple(300 + 11 * n % 500 for n in range(1000))


def sequence_of(size_bytes: int, seed: int = 0) -> SavedSequence:
    sequence = empty_sequence(size_bytes)
    sequence.content[:] = np.random.default_rng(seed).integers(0, 256, size_bytes, np.uint8)
    return sequence


def computed(count: int, begin: int = 0) -> Computed:
    return Computed(tuple(range(begin, begin + count)), count)


def following(one: Computed) -> Computed:
    """What goes on after it."""
    return Computed((*one.tokens, 7), len(one.tokens) + 1)


def written(folder: Path, one: Computed, build: str = BUILD) -> Path:
    sequence = sequence_of(5000)
    head = head_of(build, WEIGHTS, one, sequence, 1.0)
    write_blob(folder / head.name, head, one, sequence)
    return folder / head.name


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, computed(300))
    head, found = read_head(path)
    assert found == computed(300)
    assert path.stat().st_size == head.file_bytes
    assert bytes(read_content(path, head).content) == bytes(sequence_of(5000).content)
    assert path.stat().st_mode & 0o777 == 0o600, "it holds what people said"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0.0, 1.0), cut=st.booleans(), bit=st.integers(0, 7))
def test_a_damaged_file_is_found_out_wherever_it_is_damaged(
    tmp_path_factory: pytest.TempPathFactory, at: float, cut: bool, bit: int
) -> None:
    path = written(tmp_path_factory.mktemp("blob"), computed(300))
    raw = bytearray(path.read_bytes())
    place = min(int(at * len(raw)), len(raw) - 1)
    if cut:
        del raw[place:]
    else:
        raw[place] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(Spoiled):
        read_content(path, read_head(path)[0])


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[..., DiskKv]]:
    opened: list[DiskKv] = []

    def begin(budget_bytes: int = 64 * MIB, build: str = BUILD) -> DiskKv:
        for one in opened:
            one.close()
        opened.append(DiskKv(tmp_path / "kv", budget_bytes, build))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


Opener = Callable[..., DiskKv]


def settled(disk: DiskKv) -> None:
    """Everything that was to be written is."""
    disk.read(lambda: None).result()
    disk.when_idle().result()


def test_what_memory_gives_up_comes_back_from_the_disk(disk_of: Opener) -> None:
    disk = disk_of()
    saved = SavedKv(8000, disk)
    one, other = computed(200), computed(200, begin=5000)
    for each in (one, other):
        saved.put(WEIGHTS, each, sequence_of(5000), 1.0)
        settled(disk)
    assert saved.find(WEIGHTS, following(one), 1, is_exact=False) is None, "memory is for one"
    assert saved.may_fetch(WEIGHTS, following(one))
    saved.fetch(WEIGHTS, following(one), 0).result()
    found = saved.find(WEIGHTS, following(one), 1, is_exact=False)
    assert found is not None
    assert found[1] == 200
    assert found[0].source is Rung.DISK
    assert bytes(found[0].sequence.content) == bytes(sequence_of(5000).content)
    saved.came_back(found[0])
    again = saved.find(WEIGHTS, following(one), 1, is_exact=False)
    assert again is not None
    assert again[0].source is Rung.HOST, "reading it is paid for"


def test_it_survives_a_restart(disk_of: Opener) -> None:
    disk = disk_of()
    SavedKv(8000, disk).put(WEIGHTS, computed(200), sequence_of(5000), 1.0)
    again = SavedKv(8000, disk_of())
    settled(again.disk)
    again.fetch(WEIGHTS, following(computed(200)), 0).result()
    assert again.find(WEIGHTS, following(computed(200)), 1, is_exact=False) is not None
    stranger = Weights("another digest", "llama", "plain")
    assert not again.may_fetch(stranger, following(computed(200)))


def test_nothing_is_left_of_another_build_of_cut_files_or_without_a_budget(
    disk_of: Opener, tmp_path: Path
) -> None:
    disk = disk_of()
    SavedKv(8000, disk).put(WEIGHTS, computed(200), sequence_of(5000), 1.0)
    settled(disk)
    (tmp_path / "kv" / "half.part").write_bytes(b"half")
    (tmp_path / "kv" / "strange.kv").write_bytes(b"REPE-KV1 and so on")
    assert len(list((tmp_path / "kv").iterdir())) == 3
    settled(disk_of(build="build 2"))
    assert not list((tmp_path / "kv").iterdir())
    disk = disk_of()
    SavedKv(8000, disk).put(WEIGHTS, computed(200), sequence_of(5000), 1.0)
    settled(disk)
    settled(disk_of(0))
    assert not (tmp_path / "kv").exists()


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=12))
def test_the_budget_is_kept(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    """The least valuable files go; what is larger than all of it is not written."""
    folder = tmp_path_factory.mktemp("kv")
    disk = DiskKv(folder, 40_000, BUILD)
    saved = SavedKv(1 << 20, disk)
    for at, size in enumerate(sizes):
        saved.put(WEIGHTS, computed(200, begin=1000 * at), sequence_of(size), 1.0)
        settled(disk)
        there = sum(path.stat().st_size for path in folder.iterdir())
        assert there == disk.bytes <= 40_000
    disk.close()


def test_a_full_disk_is_no_trouble(
    disk_of: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half written stays, and what is in memory does."""
    disk = disk_of()
    saved = SavedKv(1 << 20, disk)
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    saved.put(WEIGHTS, computed(200), sequence_of(5000), 1.0)
    settled(disk)
    assert disk.bytes == 0
    assert not list((tmp_path / "kv").iterdir())
    assert saved.find(WEIGHTS, following(computed(200)), 1, is_exact=False) is not None
    monkeypatch.setattr(os, "fsync", real)
    saved.put(WEIGHTS, computed(300), sequence_of(5000), 1.0)
    settled(disk)
    assert disk.bytes > 0


def test_what_goes_on_takes_the_place_of_what_it_goes_on_from(
    disk_of: Opener, tmp_path: Path
) -> None:
    disk = disk_of()
    saved = SavedKv(1 << 20, disk)
    for count in (200, 300, 400):
        saved.put(WEIGHTS, computed(count), sequence_of(10 * count), 1.0)
        settled(disk)
    (path,) = (tmp_path / "kv").iterdir()
    assert read_head(path)[1] == computed(400)


def test_a_slow_disk_is_not_read_where_computing_is_quicker(disk_of: Opener) -> None:
    disk = disk_of()
    saved = SavedKv(8000, disk)
    one = computed(200)
    saved.put(WEIGHTS, one, sequence_of(5000), 1.0)
    settled(disk)
    saved.put(WEIGHTS, computed(200, begin=5000), sequence_of(5000), 1.0)
    settled(disk)
    saved.rates.note_copy(Copy.READ, WEIGHTS, 5000, 10**9)
    saved.rates.note_copy(Copy.BACK, WEIGHTS, 5000, 10)
    saved.rates.note_chunk(WEIGHTS, 64, 1e-3)
    saved.fetch(WEIGHTS, following(one), 0).result()
    assert saved.find(WEIGHTS, following(one), 1, is_exact=False) is None
    saved.put(WEIGHTS, computed(200, begin=9000), sequence_of(5000), 1.0)
    settled(disk)
    assert not saved.may_fetch(WEIGHTS, following(computed(200, begin=9000))), "nor written"


def test_what_does_not_come_back_is_remembered_beyond_a_restart(disk_of: Opener) -> None:
    """Of its architecture, and of this build of the library."""
    disk = disk_of()
    saved = SavedKv(1 << 20, disk)
    saved.put(WEIGHTS, computed(200), sequence_of(5000), 1.0)
    settled(disk)
    found = saved.find(WEIGHTS, following(computed(200)), 1, is_exact=False)
    assert found is not None
    saved.distrust(found[0])
    settled(disk)
    assert disk.bytes == 0
    again = SavedKv(1 << 20, disk_of())
    assert not again.wants(WEIGHTS, 1)
    assert not again.wants(Weights("another file", "llama", "plain"), 1)
    assert again.wants(Weights("another file", "gemma3", "plain"), 1)
    assert SavedKv(1 << 20, disk_of(build="build 2")).wants(WEIGHTS, 1)


async def ask(worker_engine: object, name: str, listener: Listener) -> Answer:
    await worker_engine.submit("r1", generation(name, LONG, 8))  # type: ignore[attr-defined]
    (answer,) = await listener.finish([name])
    return answer


@pytest.mark.parametrize("fault", ["none", "cut", "another build"])
def test_cells_outlive_a_killed_worker(model_file, tmp_path: Path, fault: str) -> None:  # type: ignore[no-untyped-def]
    """The next one finds them; what is spoiled is computed again, with the same answer."""
    flags = ("--exact", "--state-dir", str(tmp_path), "--saved-kv-bytes", str(64 * MIB))
    flags += ("--saved-kv-disk-bytes", str(64 * MIB))

    async def play() -> None:
        path = model_file(size="50m")
        async with running_worker(*flags) as worker:
            walk, listener = Walk(worker.engine, spec_of(path)), Listener(worker.engine)
            await walk.serve(1, 2048)
            expected = await ask(worker.engine, "first", listener)
            gone = await walk.deactivate()
            assert gone.kv_saved_bytes > 8 * MIB * 1000 // 1024
            assert gone.took_ns > gone.kv_saved_ns > 0
            await until(lambda: list((tmp_path / "saved-kv").glob("*.kv")))
            worker.process.send_signal(signal.SIGKILL)
        (file,) = (tmp_path / "saved-kv").glob("*.kv")
        spoil(file, fault)
        async with running_worker(*flags) as worker:
            walk, listener = Walk(worker.engine, spec_of(path)), Listener(worker.engine)
            await walk.serve(1, 2048)
            again = await ask(worker.engine, "again", listener)
            first = again.steps[0]
            assert again.digests == expected.digests
            if fault != "none":
                assert first.reused_tokens == first.restored_bytes == first.restored_ns == 0
                assert not list((tmp_path / "saved-kv").glob("*.kv"))
                return
            assert first.reused_tokens == 896, "whole chunks of a prompt in mode exact"
            assert first.restored_bytes == gone.kv_saved_bytes
            assert first.restored_ns > 0
            assert first.restored_from is Rung.DISK

    asyncio.run(play())


async def until(what: Callable[[], object]) -> None:
    """Another process's file can be seen, but not awaited."""
    for _ in range(3000):
        if what():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited 30 s in vain")


def spoil(path: Path, fault: str) -> None:
    raw = path.read_bytes()
    if fault == "cut":
        path.write_bytes(raw[:-1000])
    elif fault == "another build":
        head, found = read_head(path)
        sequence = read_content(path, head)
        weights = Weights("x")
        other = head_of("an older build", weights, found, sequence, 1.0)
        path.unlink()
        write_blob(path, other, found, sequence)
