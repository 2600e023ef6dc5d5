"""The real engine measured: a worker of its own, in seconds, with models of random weights."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from running import running_engine, spec_of

from accelerating import rpc_server
from few import FEW
from repertory.config import Flags, read_environment, read_memory, serve_config
from repertory.config.serve import Found
from repertory.domain.errors import ConfigError, WorkerGone
from repertory.domain.ladder import Rung
from repertory.domain.readings import Identity
from repertory.live.catalogue import Catalogue
from repertory.live.options import ServeConfig
from repertory.live.profile_files import ProfileFile
from repertory.profiler.campaign import begun
from repertory.profiler.plan import items_for
from repertory.profiler.stand import opened
from repertory.profiler.subjects import Place, Subject
from repertory.profiler.worker import open_stand, profiler_config, subject_of, worker_core_time
from worlds import GIB, MIB


def test_what_a_worker_computes_and_waits_is_read_from_the_kernel(two_tiny: Path) -> None:
    async def run() -> tuple[float, float]:
        before = worker_core_time()
        async with running_engine() as engine:
            await engine.tokenize(str(two_tiny / "two.gguf"), "some words")
            now = worker_core_time()
        return now.ran_s - before.ran_s, now.waited_share(before)

    ran_s, share = asyncio.run(run())
    assert ran_s > 0.0
    assert 0.0 <= share < 1.0


def test_layers_on_an_accelerator(two_tiny: Path, tmp_path: Path) -> None:
    """Any k of n layers, and none; a loopback RPC server stands in for a card."""

    async def run(endpoint: str) -> ProfileFile:
        spec = spec_of(two_tiny / "two.gguf")
        subject = Subject(spec, 1024)
        async with running_engine("--rpc", endpoint) as engine:
            node = await engine.probe()
            rooms = {device.id: GIB for device in node.devices}
            items = [
                item
                for item in items_for(subject, [], node, FEW)
                if not item.device.cores and ("layers" in item.name or "plain" in item.name)
            ]
            campaign = begun(tmp_path / "p.json", subject, Identity("d", "e", "m"), items)
            async with opened(engine, node, rooms) as stand:
                await campaign.run(stand, lambda ended: None)
            assert campaign.left == []
            return campaign.file

    with rpc_server() as device:
        file = asyncio.run(run(device.endpoint))
    card = next(one for one in file.readings.devices if one.backend == "rpc")
    shares = sorted({one.share for one in card.steps})
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert len(shares) == 3
    assert {one.layers for one in card.loads} == {None, 0, 1}
    at_half = [one for one in card.steps if one.layers == 1]
    assert {one.decode for one in at_half} == {True, False}
    assert all(min(one.seconds) > 0.0 for one in card.steps)


def config_of(two_tiny: Path, state: Path, memory_bytes: int) -> ServeConfig:
    return serve_config(
        two_tiny / "one.gguf",
        Flags(memory_bytes=memory_bytes, state_dir=state),
        read_environment({}),
        read_memory(),
        lambda folder: Found((), ()),
    )


def subjects_of(config: ServeConfig) -> list[Subject]:
    look = Catalogue(config.models, config.folders).look()
    return [subject_of(offer) for offer in look.offers.values()]


def test_the_head_is_found_in_the_file(two_tiny: Path, tmp_path: Path) -> None:
    (subject,) = subjects_of(config_of(two_tiny, tmp_path, GIB))
    assert 0 < subject.spec.head_bytes < subject.spec.weights_bytes


def test_a_worker_that_dies_ends_the_run_with_its_reason(two_tiny: Path, tmp_path: Path) -> None:
    async def run() -> None:
        config = config_of(two_tiny, tmp_path, GIB)
        subjects = subjects_of(config)
        async with open_stand(profiler_config(config, subjects, FEW), subjects) as stand:
            place = Place(stand.node.devices[0])
            measured = await stand.load(subjects[0], place.placement)
            assert measured.source is Rung.HOST
            record = json.loads((tmp_path / "profiler/workers/worker.json").read_text())
            os.kill(record["pid"], signal.SIGKILL)
            with contextlib.suppress(WorkerGone):
                await stand.unload(subjects[0])
            await stand.load(subjects[0], place.placement)

    with pytest.raises(WorkerGone, match="SIGKILL"):
        asyncio.run(run())


def test_too_little_memory_is_refused_with_the_arithmetic(two_tiny: Path, tmp_path: Path) -> None:
    async def run() -> None:
        config = config_of(two_tiny, tmp_path, 100 * MIB)
        subjects = subjects_of(config)
        async with open_stand(profiler_config(config, subjects, FEW), subjects):
            pytest.fail("it must not come up")

    with pytest.raises(ConfigError, match=r"(?s)one: .* MiB weights .* for this program and its"):
        asyncio.run(run())


def test_two_at_once_are_refused(two_tiny: Path, tmp_path: Path) -> None:
    async def run() -> None:
        config = config_of(two_tiny, tmp_path, GIB)
        subjects = subjects_of(config)
        config = profiler_config(config, subjects, FEW)
        async with open_stand(config, subjects), open_stand(config, subjects):
            pytest.fail("the second must not come up")

    with pytest.raises(ConfigError, match="another `repertory profile` is at work"):
        asyncio.run(run())
